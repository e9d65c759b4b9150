"""The robot's pose, frame by frame, by differential inverse kinematics (mink)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from CMG_Ref import mujoco_import
from CMG_Ref.dataloader.clips import FPS, Clip, quaternions
from CMG_Ref.dataloader.retarget.bodies import CHAIN
from CMG_Ref.dataloader.retarget.feet import FootPath, foot_path
from CMG_Ref.dataloader.retarget.person import SIDES, Person, smooth
from CMG_Ref.robot_g1 import JOINT_NAMES, default_dof_pos
from CMG_Ref.robot_g1.chain import FEET

_MODEL = "asset_zoo/robots/unitree_g1/xmls/g1.xml"
_HIPS = np.array([0.0, 0.0, -0.1027])  # midway between the axes of the hips' pitch, in the pelvis's frame, m
_HIP_ROLL = np.array([0.0, 0.1165, -0.1332])  # the left hip's roll axis there
_REACH = 0.616  # m from there to the ankle with the knee as straight as it may be
_LEAST_KNEE = 0.25  # rad: a straight knee cannot be moved on; costs 5 mm of the leg
_SETTLE = 0.003  # m that the hips are above the person's
_TILT = 0.08  # rad that the torso leans forward on average, and the pelvis half as much: a recording does not tell it
_ARMS = slice(15, None)  # of the joints
_SHOULDER = np.array([0.004, 0.1468, 0.245])  # the left one, in the torso's frame, m
_UPPER_ARM, _FOREARM = 0.186, 0.184  # m
_CLEAR = 0.12  # of an upper arm's length that the elbow stays beside the shoulder: clear of the trunk
_POSTURE = {"wrist": 1.0, "knee": 0.1, "hip_yaw": 0.05, "shoulder_yaw": 0.08, "shoulder_roll": 0.08, "": 0.03}
"""How much a joint is drawn to the standing pose, by what its name has in it; the first that fits."""
_STEPS_FIRST, _STEPS = 80, 12  # of the solver in a frame, at most
_SOLVED = 0.02  # rad/s or m/s; slower steps end it


class RobotSolver:
    """The G1 of mjlab with the tasks that draw it after a person.

    Raises:
        ValueError: one line; what has to be installed.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("mjlab")
        path = Path((found.submodule_search_locations or [""])[0] if found else "") / _MODEL
        try:
            mujoco = mujoco_import.for_models()
            mink: Any = importlib.import_module("mink")
            importlib.import_module("daqp")
        except ImportError as error:
            raise ValueError(f"retargeting needs mink and daqp ({error}); pip install mink==1.3.0 daqp") from None
        if not path.is_file():
            raise ValueError("retargeting needs the G1's model that mjlab has, and it is not here; pip install mjlab")
        self._mink, model = mink, mujoco.MjModel.from_xml_path(str(path))
        for side in SIDES:
            model.jnt_range[model.joint(f"{side}_knee_joint").id, 0] = _LEAST_KNEE
        self._address = [int(model.joint(name).qposadr[0]) for name in JOINT_NAMES]
        self._configuration, self._limits = mink.Configuration(model), [mink.ConfigurationLimit(model)]
        self._start = np.zeros(model.nq)
        self._start[self._address] = default_dof_pos()
        self._start[3] = 1
        cost = np.zeros(model.nv)
        for name in JOINT_NAMES:
            cost[model.joint(name).dofadr[0]] = next(v for key, v in _POSTURE.items() if key in name)
        self._posture = mink.PostureTask(model, cost=cost)
        self._posture.set_target(self._start)
        self._tasks: dict[str, Any] = {
            body: mink.FrameTask(body, "body", position_cost=place, orientation_cost=turn, lm_damping=1.0)
            for body, place, turn in (("pelvis", [30, 30, 15], 12), ("torso_link", 0, 4), *((f, 120, 25) for f in FEET))
        }
        for body in (f"{side}_{part}_link" for side in SIDES for part in ("elbow", "wrist_yaw")):
            in_torso = (body, "body", "torso_link", "body")
            self._tasks[body] = mink.RelativeFrameTask(*in_torso, position_cost=2.0, orientation_cost=0)

    def __call__(self, person: Person, name: str) -> Clip:
        """The robot's motion after a person's; the name is for the clip and the progress."""
        heading = smooth(person.heading(), 1.5)
        feet = {side: foot_path(person, side, heading) for side in SIDES}
        pelvis, torso = _leaning(person.turns["pelvis"], _TILT / 2), _leaning(person.turns["chest"], _TILT)
        place = _pelvis_path(person, pelvis, feet)
        origin, nowhere, level = place[0] * [1, 1, 0], np.zeros_like(place), Rotation.identity(len(place))
        targets = {"pelvis": (place - origin, pelvis), "torso_link": (nowhere, torso)}
        grips = {}
        for (side, foot), body in zip(feet.items(), FEET, strict=True):
            targets[body] = (foot.position - origin, foot.rotation)
            # In the air a foot may turn if that helps it to its place.
            grips[body] = 4 + 21 * gaussian_filter1d(maximum_filter1d(foot.stands.astype(float), 5), 3)
            elbow, hand = _arm(person, side, torso)
            targets |= {f"{side}_elbow_link": (elbow, level), f"{side}_wrist_yaw_link": (hand, level)}
        poses = np.tile(self._start, (len(place), 1))
        poses[0, :3], poses[0, 3:7] = place[0] - origin, quaternions(pelvis[:1])[0]
        self._configuration.update(poses[0])
        for t in tqdm(range(len(place)), name, leave=False, disable=None):
            for body, (places, turns) in targets.items():
                turn = self._mink.SO3(quaternions(turns[t : t + 1])[0])
                self._tasks[body].set_target(self._mink.SE3.from_rotation_and_translation(turn, places[t]))
            for body, grip in grips.items():
                self._tasks[body].set_orientation_cost(grip[t])
            self._settle(_STEPS if t else _STEPS_FIRST)
            poses[t] = self._configuration.q
        dof_pos = poses[:, self._address]
        dof_pos[:, _ARMS] = smooth(dof_pos[:, _ARMS], 6)  # where an arm is straight, its shoulder turns in one frame
        dof_pos = np.clip(dof_pos, CHAIN.joint_lower, CHAIN.joint_upper)  # rounding errors, too, may be beyond
        return Clip(name, FPS, JOINT_NAMES, dof_pos, poses[:, :3], poses[:, 3:7])

    def _settle(self, most_steps: int) -> None:
        tasks, options = [*self._tasks.values(), self._posture], {"damping": 1e-3, "limits": self._limits}
        for _ in range(most_steps):
            velocity = self._mink.solve_ik(self._configuration, tasks, 1 / FPS, "daqp", **options)
            self._configuration.integrate_inplace(velocity, 1 / FPS)
            if np.abs(velocity).max() < _SOLVED:
                return


def _leaning(turns: Rotation, tilt: float) -> Rotation:
    """The same headings and sway, with another median pitch (rad) and without a median roll."""
    angles = turns.as_euler("ZYX")
    angles[:, 0] = np.unwrap(angles[:, 0])
    angles[:, 1:] += [tilt, 0.0] - np.median(angles[:, 1:], axis=0)
    angles = smooth(angles, 7)
    angles[:, 1:] = np.clip(angles[:, 1:], (-0.4, -0.35), (0.6, 0.35))
    return Rotation.from_euler("ZYX", angles)


def _pelvis_path(person: Person, pelvis: Rotation, feet: dict[str, FootPath]) -> np.ndarray:
    """[T, 3]: as high as the person's hips, and lower where a foot would else be out of reach."""
    place = smooth(person.points["hips"], 8) + [0, 0, _SETTLE] - pelvis.apply(_HIPS)
    drop = np.zeros(len(place))
    for side, sign in zip(SIDES, (1, -1), strict=True):
        leg = feet[side].position - place - pelvis.apply(_HIP_ROLL * [1, sign, 1])
        down = np.sqrt(np.maximum(_REACH**2 - np.square(leg[:, :2]).sum(axis=1), 0.2))
        drop = np.maximum(drop, -leg[:, 2] - down)
    place[:, 2] -= gaussian_filter1d(maximum_filter1d(drop, 7), 3)
    return place


def _arm(person: Person, side: str, torso: Rotation) -> tuple[np.ndarray, np.ndarray]:
    """Elbow and hand [T, 3] in the torso's frame, m: the person's directions in the world, the robot's lengths."""
    sign = 1 if side == SIDES[0] else -1
    upper, fore = (torso.inv().apply(person.arms[f"{side}_{part}"]) for part in ("upper", "fore"))
    upper[:, 1] = sign * np.maximum(sign * upper[:, 1], _CLEAR)
    elbow = _SHOULDER * [1, sign, 1] + _UPPER_ARM * smooth(upper / np.linalg.norm(upper, axis=1, keepdims=True), 6)
    return elbow, elbow + _FOREARM * smooth(fore, 6)
