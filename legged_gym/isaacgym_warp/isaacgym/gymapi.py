"""Isaac Gym's core API, as ``from isaacgym import gymapi``: structures, constants, and ``Gym``, which does the work."""

from torch import Tensor as Tensor

from isaacgym.asset import Asset as Asset
from isaacgym.gym import Gym
from isaacgym.sim import Sim as Sim
from isaacgym.structs import *  # noqa: F403
from isaacgym.structs import ENUMERATIONS
from isaacgym.viewer import Viewer as Viewer
from isaacgym.worlds import Env as Env

for _enumeration in ENUMERATIONS:
    globals().update(_enumeration.__members__)

_GYM = Gym()


def acquire_gym() -> Gym:
    """The one object whose methods are the API."""
    return _GYM
