"""What pictures of a robot have in common: floor, sky, light, and MuJoCo's renderer without a display."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmg_export.errors import ExportError

Colour = tuple[float, float, float]
FLOOR = "drawn_floor"
"""Name of the floor's geom."""


@dataclass(frozen=True)
class Look:
    """Colours, 0 to 1: the sky above and at the horizon, and both kinds of the floor's tiles, ``tile`` m wide."""

    sky_top: Colour
    sky_horizon: Colour
    floor_dark: Colour
    floor_light: Colour
    tile: float


def furnish(mujoco: Any, spec: Any, size: tuple[int, int], look: Look) -> None:
    """Give a robot's model a floor, which touches nothing, a sky and light, in place of what it brings.

    Args:
        mujoco: the module, which is imported with a drawing library.
        spec: of the model; its first body carries the light along.
        size: (width, height) of the largest picture, pixels.
        look: in which colours.
    """
    spec.visual.global_.offwidth, spec.visual.global_.offheight = size
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.offsamples = 0  # pictures are drawn larger and reduced, which costs less
    spec.visual.map.shadowclip = 2.0
    spec.visual.headlight.ambient[:] = 0.42
    spec.visual.headlight.diffuse[:] = 0.28
    spec.visual.headlight.specular[:] = 0.0
    spec.visual.rgba.haze[:] = (*look.sky_horizon, 1.0)
    spec.add_texture(
        name="drawn_sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=look.sky_top, rgb2=look.sky_horizon, width=256, height=1536,
    )  # fmt: skip
    spec.add_texture(
        name=FLOOR, type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=look.floor_dark, rgb2=look.floor_light, width=256, height=256,
    )  # fmt: skip
    textures = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
    textures[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = FLOOR
    repeat = [1 / (2 * look.tile)] * 2  # the checker is two tiles wide
    spec.add_material(name=FLOOR, textures=textures, texrepeat=repeat, texuniform=True, specular=0, shininess=0)
    spec.worldbody.add_geom(
        name=FLOOR, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.5], material=FLOOR, contype=0, conaffinity=0
    )
    for light in spec.lights:  # the model's own, which lights the floor unevenly
        light.active = False
    spec.worldbody.bodies[0].add_light(
        pos=[1.6, -1.2, 2.6], dir=[-0.5, 0.35, -0.8], mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=True, diffuse=[0.75, 0.75, 0.72],
        specular=[0.15, 0.15, 0.15],
    )  # fmt: skip


def open_renderer(mujoco: Any, model: Any, size: tuple[int, int]) -> Any:
    """MuJoCo's renderer, to be closed.

    Raises:
        ExportError: it cannot draw here.
    """
    width, height = size
    try:
        return mujoco.Renderer(model, height, width)
    except Exception as error:  # whatever the drawing library of this machine raises
        raise ExportError(
            f"MuJoCo cannot draw with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({type(error).__name__}: {error}); "
            "expected osmesa (CPU) or egl (GPU)"
        ) from None


def add_rod(
    mujoco: Any, scene: Any, ends: tuple[Any, Any], radius: float, colour: Colour, glow: float, arrow: bool = False
) -> None:
    """Draw a rod, or an arrow, between two points, m, in the scene that is being made."""
    shape = mujoco.mjtGeom.mjGEOM_ARROW if arrow else mujoco.mjtGeom.mjGEOM_CAPSULE
    geom = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(geom, shape, np.zeros(3), np.zeros(3), np.zeros(9), np.array((*colour, 1.0), np.float32))
    mujoco.mjv_connector(geom, shape, radius, *(np.asarray(end, dtype=float) for end in ends))
    geom.emission = glow
    scene.ngeom += 1
