"""A robot's MJCF -> the kinematic chain and sole geometry of the manifest.

Bodies that no joint of the motion state turns are fixed in the pose that they have with their own joints at 0.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmg_export.errors import RobotError
from cmg_export.read.soles import body_spheres, sole_body_ids
from CMG_Ref import mujoco_import
from cmg_runtime.folder.robot import KinematicChain

UNLIMITED = 1e6
"""Joint limit, rad, of a joint that has none (JSON has no infinity)."""

_ATTRIBUTE = {
    "dir": re.compile(r"""\b(?:mesh|texture|asset)dir\s*=\s*["']([^"']*)"""),
    "file": re.compile(r"""\bfile\s*=\s*["']([^"']+)"""),
}
"""Of an MJCF's elements: folders that files are in, relative to the first MJCF's, and files."""

_G1_MODEL = "asset_zoo/robots/unitree_g1/xmls/g1.xml"
"""Within mjlab's package."""

_G1_POINTS = {
    "left_rubber_hand": ("left_wrist_yaw_link", (0.0415, 0.003, 0.0)),
    "right_rubber_hand": ("right_wrist_yaw_link", (0.0415, -0.003, 0.0)),
    "head_link": ("torso_link", (0.004, 0.0, -0.044)),
    "head_mocap": ("torso_link", (0.0, 0.0, 0.4)),
}
"""Bodies of the G1's URDFs, fixed to others, that its MJCF folds into their parents. Motion trackers ask for them."""


def g1_model() -> Path | None:
    """mjlab's model of the Unitree G1, found without importing mjlab; None where mjlab or mujoco is not installed."""
    spec = importlib.util.find_spec("mjlab") if importlib.util.find_spec("mujoco") else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / _G1_MODEL
        if path.is_file():
            return path
    return None


def model_files(path: Path) -> dict[str, Path]:
    """An MJCF file and the files that it names, by their names in it: what a robot that is read from it depends on."""
    found, left, folders = {path.name: path}, [path], [path.parent]
    while left:
        text = left.pop().read_text(encoding="utf-8", errors="ignore")
        folders += [path.parent / name for name in _ATTRIBUTE["dir"].findall(text)]
        for name in _ATTRIBUTE["file"].findall(text):
            file = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if file is not None and name not in found:
                found[name] = file
                left += [file] if file.suffix == ".xml" else []
    return found


class RobotModel:
    """A robot read from an MJCF file, with all of its joints at 0.

    Args:
        path: the MJCF file. Whatever is not below the root body is ignored; the root body is the one with a free joint,
            or the first body of the world.

    Raises:
        RobotError: mujoco is not installed, or cannot read the file, or finds no body in it.
    """

    def __init__(self, path: Path) -> None:
        try:
            mujoco = mujoco_import.for_models()
        except ImportError:
            raise RobotError("mujoco is not installed, and --robot needs it; pip install mujoco") from None
        self._mujoco = mujoco
        self._path = path
        self._model, self.name = self._compile(discard_visual=True)
        if not (self._model.geom_bodyid > 0).any():  # nothing collides: take the soles from what is drawn
            self._model, self.name = self._compile(discard_visual=False)
        self._data: Any = mujoco.MjData(self._model)
        self._data.qpos[:] = 0
        for joint in range(self._model.njnt):  # the identity, where a joint's position holds a quaternion
            kind, address = self._model.jnt_type[joint], self._model.jnt_qposadr[joint]
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                self._data.qpos[address + 3] = 1
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                self._data.qpos[address] = 1
        mujoco.mj_kinematics(self._model, self._data)
        self._bodies = self._robot_bodies()

    def _compile(self, discard_visual: bool) -> tuple[Any, str]:
        if not self._path.is_file():
            raise RobotError(f"cannot read {self._path} (no such file); expected a robot's MJCF")
        # Without a handler, mujoco writes its warnings to a file in the working directory.
        self._mujoco.set_mju_user_warning(lambda message: None)
        try:
            spec = self._mujoco.MjSpec.from_file(str(self._path))
            spec.compiler.discardvisual = discard_visual
            if discard_visual:
                try:
                    return _without_visual(spec.copy()).compile(), spec.modelname or self._path.stem
                except Exception:  # something needs what is only drawn; MuJoCo finds out what may go
                    pass
            return spec.compile(), spec.modelname or self._path.stem
        except Exception as error:  # mujoco raises several types, all about the file
            raise RobotError(f"mujoco cannot read {self._path} ({' '.join(str(error).split())})") from None
        finally:
            self._mujoco.set_mju_user_warning(None)

    def _robot_bodies(self) -> list[int]:
        """The root body and everything below it; MuJoCo's order has parents before children."""
        model = self._model
        free_joint = self._mujoco.mjtJoint.mjJNT_FREE
        free = [int(model.jnt_bodyid[j]) for j in range(model.njnt) if model.jnt_type[j] == free_joint]
        if len(free) > 1 or model.nbody < 2:
            raise RobotError(f"{self._path} has {len(free)} free bodies; expected one robot, name a model of it alone")
        root = free[0] if free else 1
        bodies = [root]
        for body in range(root + 1, model.nbody):
            if int(model.body_parentid[body]) in bodies:
                bodies.append(body)
        return bodies

    def hinge_names(self) -> tuple[str, ...]:
        """Names of the robot's hinge joints in the model's order."""
        return tuple(self._model.joint(j).name for body in self._bodies for j in self._joints(body) if self._hinge(j))

    def _joints(self, body: int) -> list[int]:
        first = int(self._model.body_jntadr[body])
        return list(range(first, first + int(self._model.body_jntnum[body])))

    def _hinge(self, joint: int) -> bool:
        return self._model.jnt_type[joint] == self._mujoco.mjtJoint.mjJNT_HINGE

    def chain(self, joint_names: Sequence[str]) -> KinematicChain:
        """The kinematic chain for a motion state with these joints, in this order.

        Raises:
            RobotError: a joint is not in the model or is no hinge, or a body has two of them.
        """
        model = self._model
        rows: dict[str, list[Any]] = {key: [] for key in ("name", "parent", "pos", "quat", "joint", "axis", "anchor")}
        limits: dict[str, tuple[float, float]] = {}
        for body in self._bodies:
            joint = self._moving_joint(body, joint_names)
            pos, quat = self._pose_in_parent(body)
            rows["name"].append(model.body(body).name or f"body_{body}")
            rows["parent"].append(-1 if body == self._bodies[0] else self._bodies.index(int(model.body_parentid[body])))
            rows["pos"].append(_rounded(pos))
            rows["quat"].append(_rounded(quat))
            if joint is None:
                rows["joint"].append(-1)
                rows["axis"].append((0.0, 0.0, 0.0))
                rows["anchor"].append((0.0, 0.0, 0.0))
                continue
            name = model.joint(joint).name
            rows["joint"].append(list(joint_names).index(name))
            rows["axis"].append(_rounded(model.jnt_axis[joint]))
            rows["anchor"].append(_rounded(model.jnt_pos[joint]))
            limited = bool(model.jnt_limited[joint])
            low, high = model.jnt_range[joint] if limited else (-UNLIMITED, UNLIMITED)
            limits[name] = (float(low), float(high))
        missing = [name for name in joint_names if name not in limits]
        if missing:
            raise RobotError(
                f"{self._path} has no hinge joint {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}; "
                "expected the joints of the motion state (joint_names in card.json)"
            )
        if self.name.startswith("g1"):
            _add_fixed_points(rows)
        sole_bodies, sole_points, sole_radii = self._soles()
        return KinematicChain(
            name=self.name,
            body_names=tuple(rows["name"]),
            body_parents=tuple(rows["parent"]),
            body_pos=tuple(rows["pos"]),
            body_quat=tuple(rows["quat"]),
            body_joints=tuple(rows["joint"]),
            joint_axes=tuple(rows["axis"]),
            joint_anchors=tuple(rows["anchor"]),
            joint_lower=tuple(limits[name][0] for name in joint_names),
            joint_upper=tuple(limits[name][1] for name in joint_names),
            sole_bodies=sole_bodies,
            sole_points=sole_points,
            sole_radii=sole_radii,
        )

    def _moving_joint(self, body: int, joint_names: Sequence[str]) -> int | None:
        moving = [j for j in self._joints(body) if self._model.joint(j).name in joint_names]
        name = self._model.body(body).name
        if moving and body == self._bodies[0]:
            raise RobotError(f"{self._path}: the motion state's joints turn the root body {name}; expected none to")
        if len(moving) > 1:
            raise RobotError(f"{self._path}: body {name} has {len(moving)} of the motion state's joints; expected one")
        if moving and not self._hinge(moving[0]):
            joint = self._model.joint(moving[0]).name
            raise RobotError(f"{self._path}: joint {joint} is no hinge; expected hinges only")
        return moving[0] if moving else None

    def _pose_in_parent(self, body: int) -> tuple[np.ndarray, np.ndarray]:
        """Position and (w, x, y, z) in the parent's frame with all joints at 0; the root stands at the origin."""
        pos, quat = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])
        if body != self._bodies[0]:
            inverse = np.zeros(3), np.zeros(4)
            parent = int(self._model.body_parentid[body])
            self._mujoco.mju_negPose(*inverse, self._data.xpos[parent], self._data.xquat[parent])
            self._mujoco.mju_mulPose(pos, quat, *inverse, self._data.xpos[body], self._data.xquat[body])
        return pos, quat

    def _soles(self) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...], tuple[float, ...]]:
        spheres = {body: body_spheres(self._model, body) for body in self._bodies}
        feet = sole_body_ids(spheres, self._data.xpos, self._data.xmat)
        found = [
            (self._bodies.index(body), _rounded(centre), round(float(radius), 9))
            for body in feet
            for centre, radius in spheres[body]
        ]
        unique = list(dict.fromkeys(found))
        return tuple(s[0] for s in unique), tuple(s[1] for s in unique), tuple(s[2] for s in unique)


def _without_visual(spec: Any) -> Any:
    """Take out geoms that touch nothing, and their meshes: MuJoCo reads all of them, 0.6 s for a G1, before it discards
    them. Bodies that have no mass without them get a little; nothing here asks for masses."""
    for geom in [geom for geom in spec.geoms if not geom.contype and not geom.conaffinity]:
        spec.delete(geom)
    used = {geom.meshname for geom in spec.geoms}
    for mesh in [mesh for mesh in spec.meshes if mesh.name not in used]:
        spec.delete(mesh)
    spec.compiler.boundmass = spec.compiler.boundinertia = 1e-6
    return spec


def _add_fixed_points(rows: dict[str, list[Any]]) -> None:
    for name, (parent, offset) in _G1_POINTS.items():
        if parent in rows["name"] and name not in rows["name"]:
            rows["parent"].append(rows["name"].index(parent))
            rows["name"].append(name)
            rows["pos"].append(offset)
            rows["quat"].append((1.0, 0.0, 0.0, 0.0))
            rows["joint"].append(-1)
            rows["axis"].append((0.0, 0.0, 0.0))
            rows["anchor"].append((0.0, 0.0, 0.0))


def _rounded(values: Any) -> tuple[float, ...]:
    """To nanometres and 1e-9 of a quaternion: shorter in the file, and 0 for what is zero but for rounding."""
    return tuple(round(float(value), 9) + 0.0 for value in values)
