"""Isaac Gym's core API, as ``from isaacgym import gymapi``: structures, constants, and ``Gym``, which does the work."""

from isaacgym.gym import Gym
from isaacgym.structs import *  # noqa: F403
from isaacgym.structs import ENUMERATIONS

for _enumeration in ENUMERATIONS:
    globals().update(_enumeration.__members__)

_GYM = Gym()


def acquire_gym() -> Gym:
    """The one object whose methods are the API."""
    return _GYM
