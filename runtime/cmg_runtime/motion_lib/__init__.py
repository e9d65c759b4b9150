"""TWIST's motion library on the generator, as an Isaac Gym environment calls it."""

from cmg_runtime.motion_lib.creation import create_motion_lib_cmg
from cmg_runtime.motion_lib.library import MotionLibCMG

__all__ = ["MotionLibCMG", "create_motion_lib_cmg"]
