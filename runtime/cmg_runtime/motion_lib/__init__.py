"""TWIST's motion library on the generator, as an Isaac Gym environment calls it."""

from cmg_runtime.motion_lib.library import MotionLibCMG, create_motion_lib_cmg

__all__ = ["MotionLibCMG", "create_motion_lib_cmg"]
