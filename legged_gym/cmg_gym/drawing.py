"""How MuJoCo draws without a display. Must come before anything imports mujoco."""

from __future__ import annotations

import ctypes.util
import os

# Loaded after mujoco, the LLVM inside Triton, which this imports, crashes on the one inside OSMesa.
import tensordict  # noqa: F401
import torch


def choose_renderer() -> None:
    """EGL on a machine with a GPU, else OSMesa, else nothing, unless ``MUJOCO_GL`` says otherwise.

    mjlab's own choice is EGL everywhere, and without it mujoco cannot be imported.
    """
    if torch.cuda.is_available() and ctypes.util.find_library("EGL"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("MUJOCO_GL", "osmesa" if ctypes.util.find_library("OSMesa") else "disable")
