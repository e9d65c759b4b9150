"""Checkpoints whose numbers are not what they are taken for: other units, other orders of joints, nothing learned.

Most are the bundled one, whose units are known, altered as a mistake would alter it."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cmg_export.build
import cmg_export.read.joints
from cmg_export.__main__ import main
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.folder.manifest import Manifest
from make_checkpoint import make_checkpoint

BUNDLED = Path(__file__).resolve().parents[3] / "CMG_Ref" / "runs" / "g1_neutral"
DEGREES = 180 / math.pi
JOINTS = len(JOINT_NAMES)

needs_g1 = pytest.mark.skipif(
    importlib.util.find_spec("mjlab") is None or importlib.util.find_spec("mujoco") is None,
    reason="mjlab's G1 model is not installed",
)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Manifest]:
    """Of every engine that would be built from now on, what is known about it. Nothing is built."""
    begun: list[Manifest] = []

    def begin(_: Path, __: Any, ___: Any, about: Manifest, *____: Any) -> None:
        begun.append(about)
        raise OSError("far enough")

    monkeypatch.setattr(cmg_export.build, "_build", begin)
    return begun


def alter(folder: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """The bundled checkpoint, its bank and its card's default pose with ``edit`` applied to them, in ``folder``."""
    content = read_pt(BUNDLED / "cmg_final.pt")
    with np.load(BUNDLED / "bank.npz") as arrays:
        bank = arrays["motion"]
    values = {key: np.array(content["stats"][key], dtype=np.float64) for key in STATS}
    values["bank"] = bank.astype(np.float64)
    edit(values)
    folder.mkdir()
    stats = {**content["stats"], **{key: values[key].astype(np.float32) for key in STATS}}
    torch.save({"model_state_dict": content["model_state_dict"], "stats": stats}, folder / "cmg_final.pt")
    if "bank" in values:
        np.savez(folder / "bank.npz", motion=values["bank"].astype(np.float32))
    if values.pop("card", True) is not None:
        shutil.copy(BUNDLED / "card.json", folder)
    return folder / "cmg_final.pt"


STATS = ("motion_mean", "motion_std", "command_min", "command_max")
POSITIONS, VELOCITIES, ALL = slice(0, JOINTS), slice(JOINTS, 2 * JOINTS), slice(0, 2 * JOINTS)


def scaled(keys: str, part: slice, factor: float) -> Callable[[dict[str, Any]], None]:
    """Multiply a part of each row of these arrays; a bank that does not fit the stats any more is left out."""

    def edit(values: dict[str, Any]) -> None:
        if "bank" not in keys:
            del values["bank"]
        if "command" in keys:
            values["card"] = None  # whose command range would not be the stats' any more
        for key in keys.split():
            values[key][..., part] *= factor

    return edit


def breadth_first(keys: str) -> Callable[[dict[str, Any]], None]:
    """List joints as Isaac Lab does: by their number of joints from the pelvis."""

    def depth(name: str) -> int:
        chains = (
            ("hip_pitch", "hip_roll", "hip_yaw", "knee", "ankle_pitch", "ankle_roll"),
            ("waist_yaw", "waist_roll", "waist_pitch", "shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow",
             "wrist_roll", "wrist_pitch", "wrist_yaw"),
        )  # fmt: skip
        return next(chain.index(part) for chain in chains for part in chain if part in name)

    order = sorted(range(JOINTS), key=lambda joint: depth(JOINT_NAMES[joint]))

    def edit(values: dict[str, Any]) -> None:
        for key in keys.split():
            values[key] = values[key][..., order + [JOINTS + joint for joint in order]]
        if "bank" not in keys:
            del values["bank"]

    return edit


def without_card(edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def both(values: dict[str, Any]) -> None:
        edit(values)
        values["card"] = None

    return both


MEAN_STD = "motion_mean motion_std"
MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "all in degrees": (scaled(MEAN_STD, ALL, DEGREES), "the mean pose has .* within if it is in degrees"),
    "all in degrees, with bank": (scaled(f"{MEAN_STD} bank", ALL, DEGREES), "the mean pose has"),
    "positions deviate in degrees": (scaled("motion_std", POSITIONS, DEGREES), "motion_std of"),
    "velocities in degrees": (scaled(MEAN_STD, VELOCITIES, DEGREES), "velocity's motion_std of .*knee"),
    "velocities of another clock": (
        scaled(MEAN_STD, VELOCITIES, 4.0),
        "joint velocities that are 3.* times the change",
    ),
    "velocities in turns": (scaled(MEAN_STD, VELOCITIES, 1 / 2 / math.pi), "joint velocities that are 0.1"),
    "bank in degrees": (scaled("bank", POSITIONS, DEGREES), "a state is .* deviations|bank.npz has"),
    "bank some times too wide": (scaled("bank", POSITIONS, 4.0), "bank.npz has .* in state"),
    "bank of another clock": (scaled("bank", VELOCITIES, 10.0), "bank.npz has .* rad/s in state"),
    "yaw in degrees": (scaled("command_min command_max", slice(2, 3), DEGREES), "commands have a yaw rate"),
    "another order": (breadth_first(f"{MEAN_STD} bank"), "lists the joints of .* breadth first"),
    "another order, no default pose": (without_card(breadth_first(MEAN_STD)), "it plays .* beyond joint limits"),
    "bank of another order": (breadth_first("bank"), "bank.npz has"),
}


@needs_g1
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_numbers_are_refused_where_the_robot_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], built: list[Manifest], mistake: str
) -> None:
    edit, said = MISTAKES[mistake]
    path = alter(tmp_path / "run", edit)
    capsys.readouterr()
    assert main([str(path), "--out", str(tmp_path / "engine"), "--tensorrt.library", "none"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"cmg_export: {path.parent}") and err.count("\n") == 1, err
    assert re.search(said, err), err
    assert not built and not (tmp_path / "engine").exists()


@needs_g1
def test_kilometres_an_hour_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], built: list[Manifest]
) -> None:
    """5 m/s is a speed that a robot may run at, but these feet go back at 1.5; so do those of one half trained."""
    path = alter(tmp_path / "run", scaled("command_min command_max", slice(0, 2), 3.6))
    main([str(path), "--out", str(tmp_path / "engine"), "--tensorrt.library", "none"])
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("cmg_export: warning: its feet go at 0.3") and len(built) == 1
    assert str(built[0].source["doubt"]) in err[0]


@pytest.mark.parametrize("known", [pytest.param(True, marks=needs_g1), False])
def test_the_bundled_checkpoint_is_beyond_doubt(
    capsys: pytest.CaptureFixture[str],
    built: list[Manifest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    known: bool,
) -> None:
    if not known:
        monkeypatch.setattr(cmg_export.read.joints, "g1_model", lambda: None)
    args = ["--out", str(tmp_path / "engine"), "--tensorrt.library", "none"]
    main([str(BUNDLED / "cmg_final.pt"), *args])
    assert capsys.readouterr().err == "cmg_export: far enough\n"
    assert (built[0].robot is not None) == known and built[0].source["doubt"] is None
    if known:
        return
    main([str(alter(tmp_path / "run", scaled(MEAN_STD, ALL, DEGREES))), *args])  # warned of; nothing is proved
    warning, end = capsys.readouterr().err.splitlines()
    assert warning.startswith("cmg_export: warning: the mean pose has") and "--robot" in warning
    assert end == "cmg_export: far enough" and str(built[1].source["doubt"]) in warning


def robot_file(path: Path, limits: np.ndarray) -> Path:
    """A row of hinges, each with its limits, rad."""
    bodies = "".join(
        f'<body name="body_{i}" pos="0 0 .1"><joint name="joint_{i}" axis="0 1 0" range="{low} {high}"/>'
        '<geom size=".01"/>'
        for i, (low, high) in enumerate(limits)
    )
    path.write_text(
        '<mujoco><compiler angle="radian" autolimits="true"/><worldbody><body name="root"><freejoint/>'
        f'<geom size=".01"/>{bodies}{"</body>" * len(limits)}</body></worldbody></mujoco>'
    )
    return path


@pytest.mark.parametrize("case", ["within", "mean", "deviation", "what it plays", "bank", "default pose"])
def test_a_robots_own_limits_are_the_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], built: list[Manifest], rng: np.random.Generator, case: str
) -> None:
    """Limits, stats and weights are random; a tenth of a radian beyond is let through, a little more is not."""
    count = 3
    made = make_checkpoint(tmp_path / "run", num_joints=count, hidden_dim=8, seed=int(rng.integers(1000)), gain=0.3)
    lower = rng.uniform(-0.9, -0.6, count)
    limits = np.stack([lower, lower + rng.uniform(1.0, 1.6, count)], axis=1)
    joint, middle = int(rng.integers(count)), limits.mean(axis=1)
    stats, state = dict(made.stats), made.model.state_dict()
    stats["motion_mean"] = np.concatenate([middle, np.zeros(count)]).astype(np.float32)
    stats["motion_std"] = np.concatenate([np.full(count, 0.1), np.ones(count)]).astype(np.float32)
    beyond, said = 0.13, "beyond"
    if case == "within":
        stats["motion_mean"][joint] = limits[joint, 1] + 0.05
        state["layers.2.expert_biases.0"][:] = 0
    elif case == "mean":
        stats["motion_mean"][joint], said = limits[joint, 1] + beyond, "the mean pose has joint_"
    elif case == "deviation":
        stats["motion_std"][joint], said = np.ptp(limits[joint]) / 2 + beyond, "motion_std of joint_"
    elif case == "what it plays":  # the stats are as they should be
        for expert in range(4):
            state[f"layers.2.expert_biases.{expert}"][joint] += 10 * (np.ptp(limits[joint]) / 2 + beyond + 0.4)
        said = "it plays 100% of its frames beyond joint limits, joint_"
    elif case == "bank":
        bank = np.tile(stats["motion_mean"], (9, 1))
        bank[rng.integers(9), joint] = limits[joint, 0] - 0.5 - beyond
        np.savez(tmp_path / "run" / "bank.npz", motion=bank)
        said = "bank.npz has joint_"
    else:
        pose = middle.copy()
        pose[joint] = limits[joint, 0] - beyond
        (tmp_path / "run" / "card.json").write_text(f'{{"default_dof_pos": {pose.tolist()}}}')
        said = "default_dof_pos has joint_"
    torch.save({"model_state_dict": state, "stats": stats}, made.path)
    robot = robot_file(tmp_path / "robot.xml", limits)
    main([str(made.path), "--robot", str(robot), "--out", str(tmp_path / "out"), "--tensorrt.library", "none"])
    err = capsys.readouterr().err
    if case == "within":
        assert err.endswith("cmg_export: far enough\n") and len(built) == 1  # if these are feet, they stand still
    else:
        assert err.startswith(f"cmg_export: {made.path}: {said}{joint if said.endswith('_') else ''}"), err
        assert err.count("\n") == 1 and not built


@pytest.mark.parametrize("learned", [True, False])
def test_a_network_without_biases_is_one_and_a_constant_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, learned: bool
) -> None:
    """Without biases the mean pose under no command is answered with the mean pose, which is what an untrained network
    would say; here half of the rollouts of parity come to rest in it."""
    made = make_checkpoint(tmp_path / "run", num_joints=4, hidden_dim=16, num_layers=3, seed=seed, gain=0.1)
    state = made.model.state_dict()
    for name, values in state.items():
        if ("bias" in name) == learned:
            values.zero_()  # the biases; or all weights, so that only biases are left
    stats = {**made.stats, "command_min": -made.stats["command_max"]}
    torch.save({"model_state_dict": state, "stats": stats}, made.path)
    args = [str(made.path), "--out", str(tmp_path / "out"), "--precision", "fp32", "--tensorrt.library", "none"]
    status, err = main(args), capsys.readouterr().err
    if learned:
        assert (status, err) == (0, "")
    else:
        assert status == 2 and err.count("\n") == 1 and "answers 256 random states and commands alike" in err
        assert not (tmp_path / "out").exists()
