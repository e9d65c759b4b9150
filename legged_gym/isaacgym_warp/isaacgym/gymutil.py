"""Command lines, settings from dictionaries, and lines drawn in the viewer, by the names of Isaac Gym's ``gymutil``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isaacgym.structs import GymError, SimParams, SimType, Struct, Transform, Vec3

Color = tuple[float, float, float]


def parse_device_str(device_str: str) -> tuple[str, int]:
    """Kind and index of ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        GymError: it is none of these.
    """
    kind, _, index = device_str.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise GymError(f"invalid device {device_str!r}; expected cpu, cuda or cuda:INDEX")
    return kind, int(index or 0)


def parse_arguments(
    description: str = "Isaac Gym Example",
    headless: bool = False,
    no_graphics: bool = False,
    custom_parameters: Sequence[Mapping[str, Any]] = (),
) -> argparse.Namespace:
    """Read the command line: where physics and tensors are, and a program's own options.

    Args:
        headless: whether there is ``--headless``.
        no_graphics: whether there is ``--nographics``, which implies ``--headless``.
        custom_parameters: a dictionary an option: ``name``, ``type`` or ``action``, and ``default`` and ``help``.

    Returns:
        The options, and what follows from them: ``sim_device_type``, ``compute_device_id``, ``use_gpu``,
        ``use_gpu_pipeline``, ``physics_engine``.
    """
    parser = argparse.ArgumentParser(description=description)
    if headless:
        parser.add_argument("--headless", action="store_true", help="run without a viewer")
    if no_graphics:
        parser.add_argument("--nographics", action="store_true", help="run without a viewer and without rendering")
    parser.add_argument("--sim_device", default="cuda:0", help="where physics runs: cpu, cuda or cuda:INDEX")
    parser.add_argument("--pipeline", default="gpu", help="where tensors are: cpu or gpu")
    parser.add_argument(
        "--graphics_device_id", type=int, default=0, help="what the viewer is drawn by; -1 for no viewer"
    )
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument("--flex", action="store_true", help="refused: MuJoCo Warp is the only engine here")
    engine.add_argument("--physx", action="store_true", help="accepted: MuJoCo Warp takes PhysX's place")
    parser.add_argument("--num_threads", type=int, default=0, help="kept, and not used")
    parser.add_argument("--subscenes", type=int, default=0, help="kept, and not used")
    parser.add_argument("--slices", type=int, help="kept, and not used")
    for parameter in custom_parameters:
        _add_parameter(parser, parameter)

    args = parser.parse_args()
    args.sim_device_type, args.compute_device_id = parse_device_str(args.sim_device)
    pipeline = args.pipeline.lower()
    if pipeline not in ("cpu", "gpu", "cuda"):
        parser.error(f"--pipeline {args.pipeline}: expected cpu or gpu")
    if args.flex:
        parser.error("--flex: MuJoCo Warp is the only engine here; leave it out")
    args.use_gpu = args.sim_device_type == "cuda"
    if pipeline != "cpu" and not args.use_gpu:
        print("Physics on the CPU has its tensors there: --pipeline cpu is used")
        args.pipeline = pipeline = "cpu"
    args.use_gpu_pipeline = pipeline != "cpu"
    args.physics_engine = SimType.SIM_PHYSX
    if no_graphics and args.nographics:
        args.headless = True
    if args.slices is None:
        args.slices = args.subscenes
    return args


def _add_parameter(parser: argparse.ArgumentParser, parameter: Mapping[str, Any]) -> None:
    """Add an option that a program describes by a dictionary."""
    options = {key: value for key, value in parameter.items() if key != "name"}
    unknown = sorted(set(options) - {"type", "action", "default", "help"})
    if "name" not in parameter or not {"type", "action"} & set(options) or unknown:
        raise GymError(
            f"a custom parameter has name, type or action, and default and help if it likes, not {dict(parameter)}"
        )
    parser.add_argument(parameter["name"], **options)


def parse_sim_config(sim_cfg: Mapping[str, Any], sim_params: SimParams) -> None:
    """Set a simulation's parameters from a dictionary.

    Args:
        sim_cfg: numbers; ``gravity`` as a list; ``physx``, ``flex`` and ``mujoco`` as dictionaries. Of other names a
            warning is given.
    """
    _set_fields(sim_cfg, sim_params, "sim")


def _set_fields(values: Mapping[str, Any], params: Struct, path: str) -> None:
    for name, value in values.items():
        if not hasattr(params, name):
            warnings.warn(f"{path}.{name} is no parameter of the simulation; it is left out", stacklevel=3)
        elif isinstance(value, Mapping):
            _set_fields(value, getattr(params, name), f"{path}.{name}")
        else:
            setattr(params, name, Vec3(*value) if name == "gravity" else value)


class LineGeometry:
    """Coloured line segments in a frame of their own.

    Attributes:
        verts: ends of the segments, float32 [num_lines, 2, 3] (m).
        line_colors: red, green and blue of each, 0 to 1, float32 [num_lines, 3].
    """

    def __init__(self, verts: Any, line_colors: Any, pose: Transform | None = None) -> None:
        self.verts = np.asarray(verts, np.float32).reshape(-1, 2, 3)
        if pose is not None:
            self.verts = self.instance_verts(pose)
        self.line_colors = np.broadcast_to(np.asarray(line_colors, np.float32), (len(self.verts), 3)).copy()

    def vertices(self) -> np.ndarray:
        return self.verts

    def colors(self) -> np.ndarray:
        return self.line_colors

    def num_lines(self) -> int:
        return len(self.verts)

    def instance_verts(self, pose: Transform | None = None) -> np.ndarray:
        """The segments' ends at a pose, float32 [num_lines, 2, 3]."""
        if pose is None:
            return self.verts
        axes = [[*pose.transform_vector(Vec3(*unit))] for unit in np.eye(3)]  # a row each: the turned x, y and z
        return (self.verts @ np.array(axes) + [*pose.p]).astype(np.float32)


class AxesGeometry(LineGeometry):
    """The axes x, y and z in red, green and blue."""

    def __init__(self, scale: float = 1.0, pose: Transform | None = None) -> None:
        ends = scale * np.eye(3)
        super().__init__(np.stack([np.zeros((3, 3)), ends], axis=1), np.eye(3), pose)


class WireframeBBoxGeometry(LineGeometry):
    """The edges of a box between two corners, ``bbox`` [2, 3] (m)."""

    def __init__(self, bbox: Any, pose: Transform | None = None, color: Color | None = None) -> None:
        corners = np.asarray(bbox, float)
        bits = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, -1).T
        pairs = [(a, b) for a in bits for b in bits if (b - a).sum() == 1 and (b >= a).all()]
        ends = np.array([[np.where(bit, corners[1], corners[0]) for bit in pair] for pair in pairs])
        super().__init__(ends, color or (1.0, 0.0, 0.0), pose)


class WireframeBoxGeometry(WireframeBBoxGeometry):
    """The edges of a box of given sides (m) about the origin."""

    def __init__(
        self,
        xdim: float = 1,
        ydim: float = 1,
        zdim: float = 1,
        pose: Transform | None = None,
        color: Color | None = None,
    ) -> None:
        half = 0.5 * np.array([xdim, ydim, zdim])
        super().__init__([-half, half], pose, color)


class WireframeSphereGeometry(LineGeometry):
    """Circles of latitude in ``color2`` and of longitude in ``color`` on a sphere."""

    def __init__(
        self,
        radius: float = 1.0,
        num_lats: int = 8,
        num_lons: int = 8,
        pose: Transform | None = None,
        color: Color | None = None,
        color2: Color | None = None,
    ) -> None:
        lats, lons = np.linspace(0.0, np.pi, num_lats + 1), np.linspace(0.0, 2.0 * np.pi, num_lons + 1)
        x, y = np.outer(np.sin(lats), np.cos(lons)), np.outer(np.sin(lats), np.sin(lons))
        grid = radius * np.stack([x, y, np.broadcast_to(np.cos(lats)[:, None], x.shape)], axis=-1)
        down = np.stack([grid[:-1, :-1], grid[1:, :-1]], axis=2).reshape(-1, 2, 3)
        around = np.stack([grid[1:-1, :-1], grid[1:-1, 1:]], axis=2).reshape(-1, 2, 3)
        color = color or (1.0, 0.0, 0.0)
        colors = [*[color] * len(down), *[color2 or color] * len(around)]
        super().__init__(np.concatenate([down, around]), colors, pose)


def draw_lines(geom: LineGeometry, gym: Any, viewer: Any, env: Any, pose: Transform | None) -> None:
    """Draw a geometry at a pose in an environment, until ``gym.clear_lines``."""
    gym.add_lines(viewer, env, geom.num_lines(), geom.instance_verts(pose), geom.colors())


def draw_line(p1: Vec3, p2: Vec3, color: Vec3, gym: Any, viewer: Any, env: Any) -> None:
    """Draw one segment in an environment, until ``gym.clear_lines``."""
    gym.add_lines(viewer, env, 1, np.array([[[*p1], [*p2]]], np.float32), np.array([[*color]], np.float32))
