"""The reference implementation's motion generator, on compiled engines."""

from cmg_runtime.motion_generator.generator import CMGMotionGenerator

__all__ = ["CMGMotionGenerator"]
