"""``CMGMotionGenerator`` and ``CommandSmoother`` under the path that existing training code imports them from."""

from cmg_runtime.commands.smoother import CommandSmoother
from cmg_runtime.motion_generator import CMGMotionGenerator

__all__ = ["CMGMotionGenerator", "CommandSmoother"]
