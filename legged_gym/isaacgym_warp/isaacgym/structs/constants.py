"""Enumerations, by the names of Isaac Gym's documentation.

The documentation gives values only for the contact collection, flags and axes. Those of drive modes and image types are
known from public code; keys have GLFW's codes; all others are counted in the documentation's order.
"""

import string
from enum import IntEnum

import numpy as np


class SimType(IntEnum):
    SIM_PHYSX = 0
    SIM_FLEX = 1


class UpAxis(IntEnum):
    UP_AXIS_Y = 0
    UP_AXIS_Z = 1


class DofDriveMode(IntEnum):
    DOF_MODE_NONE = 0
    DOF_MODE_POS = 1
    DOF_MODE_VEL = 2
    DOF_MODE_EFFORT = 3


class DofType(IntEnum):
    DOF_INVALID = 0
    DOF_ROTATION = 1
    DOF_TRANSLATION = 2


class JointType(IntEnum):
    JOINT_INVALID = 0
    JOINT_FIXED = 1
    JOINT_REVOLUTE = 2
    JOINT_PRISMATIC = 3
    JOINT_BALL = 4
    JOINT_PLANAR = 5
    JOINT_FLOATING = 6


class CoordinateSpace(IntEnum):
    ENV_SPACE = 0
    LOCAL_SPACE = 1
    GLOBAL_SPACE = 2


class IndexDomain(IntEnum):
    DOMAIN_ACTOR = 0
    DOMAIN_ENV = 1
    DOMAIN_SIM = 2


class ContactCollection(IntEnum):
    CC_NEVER = 0
    CC_LAST_SUBSTEP = 1
    CC_ALL_SUBSTEPS = 2


class ImageType(IntEnum):
    IMAGE_COLOR = 0
    IMAGE_DEPTH = 1
    IMAGE_SEGMENTATION = 2
    IMAGE_OPTICAL_FLOW = 3


class CameraFollowMode(IntEnum):
    FOLLOW_POSITION = 0
    FOLLOW_TRANSFORM = 1


class MeshType(IntEnum):
    MESH_NONE = 0
    MESH_COLLISION = 1
    MESH_VISUAL = 2
    MESH_VISUAL_AND_COLLISION = 3


class MeshNormalMode(IntEnum):
    FROM_ASSET = 0
    COMPUTE_PER_VERTEX = 1
    COMPUTE_PER_FACE = 2


class TensorDataType(IntEnum):
    DTYPE_FLOAT32 = 0
    DTYPE_UINT32 = 1
    DTYPE_UINT64 = 2
    DTYPE_UINT8 = 3
    DTYPE_INT16 = 4


MouseInput = IntEnum(
    "MouseInput",
    [f"MOUSE_{side}_BUTTON" for side in ("LEFT", "RIGHT", "MIDDLE", "FORWARD", "BACK")]
    + [f"MOUSE_{motion}_{way}" for motion in ("SCROLL", "MOVE") for way in ("RIGHT", "LEFT", "UP", "DOWN")],
    start=0,
)

_CHARACTERS = {
    "SPACE": " ", "APOSTROPHE": "'", "COMMA": ",", "MINUS": "-", "PERIOD": ".", "SLASH": "/", "SEMICOLON": ";",
    "EQUAL": "=", "LEFT_BRACKET": "[", "BACKSLASH": "\\", "RIGHT_BRACKET": "]", "GRAVE_ACCENT": "`",
}  # fmt: skip
_RUNS = {
    256: "ESCAPE ENTER TAB BACKSPACE INSERT DEL RIGHT LEFT DOWN UP PAGE_UP PAGE_DOWN HOME END",
    280: "CAPS_LOCK SCROLL_LOCK NUM_LOCK PRINT_SCREEN PAUSE",
    290: "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F12",
    320: "NUMPAD_0 NUMPAD_1 NUMPAD_2 NUMPAD_3 NUMPAD_4 NUMPAD_5 NUMPAD_6 NUMPAD_7 NUMPAD_8 NUMPAD_9",
    330: "NUMPAD_DEL NUMPAD_DIVIDE NUMPAD_MULTIPLY NUMPAD_SUBTRACT NUMPAD_ADD NUMPAD_ENTER NUMPAD_EQUAL",
    340: "LEFT_SHIFT LEFT_CONTROL LEFT_ALT LEFT_SUPER RIGHT_SHIFT RIGHT_CONTROL RIGHT_ALT RIGHT_SUPER MENU",
}

KeyboardInput = IntEnum(
    "KeyboardInput",
    {f"KEY_{name}": ord(character) for name, character in _CHARACTERS.items()}
    | {f"KEY_{character}": ord(character) for character in string.digits + string.ascii_uppercase}
    | {f"KEY_{name}": start + place for start, names in _RUNS.items() for place, name in enumerate(names.split())},
)
"""Values are GLFW's key codes, which is what MuJoCo's viewer reports."""

ENUMERATIONS = (
    SimType, UpAxis, DofDriveMode, DofType, JointType, CoordinateSpace, IndexDomain, ContactCollection, ImageType,
    CameraFollowMode, MeshType, MeshNormalMode, TensorDataType, MouseInput, KeyboardInput,
)  # fmt: skip
"""All of them; :mod:`isaacgym.gymapi` has their members as names of its own."""

INVALID_HANDLE = -1
DEFAULT_VIEWER_WIDTH, DEFAULT_VIEWER_HEIGHT = 1600, 900
STATE_NONE, STATE_POS, STATE_VEL, STATE_ALL = 0, 1, 2, 3
RIGID_BODY_NONE, RIGID_BODY_DISABLE_GRAVITY, RIGID_BODY_DISABLE_SIMULATION = 0, 1, 2
AXIS_NONE, AXIS_X, AXIS_Y, AXIS_Z, AXIS_TRANSLATION = 0, 1, 2, 4, 7
AXIS_TWIST, AXIS_SWING_1, AXIS_SWING_2, AXIS_ROTATION, AXIS_ALL = 8, 16, 32, 56, 63

DOF_DTYPE = np.dtype(
    [("hasLimits", "?"), ("lower", "f4"), ("upper", "f4"), ("driveMode", "i4"), ("velocity", "f4"), ("effort", "f4")]
    + [(name, "f4") for name in ("stiffness", "damping", "friction", "armature")],
    align=True,
)
"""A row of ``get_asset_dof_properties``. Positions in rad or m, velocity in rad/s or m/s, effort in N m or N."""

DOF_STATE_DTYPE = np.dtype([("pos", "f4"), ("vel", "f4")])
"""A row of ``get_actor_dof_states``."""
