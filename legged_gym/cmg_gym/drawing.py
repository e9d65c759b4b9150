"""How MuJoCo draws without a display. Must come before anything imports mujoco."""

from __future__ import annotations

import torch

from CMG_Ref import mujoco_import
from cmg_runtime.errors import EngineError


def choose_renderer() -> bool:
    """EGL on a machine with a GPU, else OSMesa, else nothing, unless ``MUJOCO_GL`` says otherwise; whether it draws.

    mjlab's own choice is EGL everywhere, and without it mujoco cannot be imported.
    """
    return mujoco_import.choose_renderer(("egl", "osmesa") if torch.cuda.is_available() else ("osmesa",))


def require_renderer() -> None:
    """Refuse to draw where MuJoCo cannot.

    Raises:
        EngineError: says what to install.
    """
    if not choose_renderer():
        raise EngineError("MuJoCo cannot draw here; install OSMesa (Debian, Ubuntu: apt-get install libosmesa6)")
