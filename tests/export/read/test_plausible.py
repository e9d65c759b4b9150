"""Checkpoints whose numbers are not what they are taken for: other units, other orders of joints, nothing learned.

Most are the bundled one, whose units are known, altered as a mistake would alter it."""

from __future__ import annotations

import contextlib
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
from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.folder.manifest import Artifact, Manifest, file_sha256, read_manifest
from make_checkpoint import make_checkpoint, save_checkpoint

BUNDLED = Path(__file__).resolve().parents[3] / "CMG_Ref" / "runs" / "g1_neutral"
DEGREES = 180 / math.pi
JOINTS = len(JOINT_NAMES)

needs_g1 = pytest.mark.skipif(
    importlib.util.find_spec("mjlab") is None or importlib.util.find_spec("mujoco") is None,
    reason="mjlab's G1 model is not installed",
)

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def built(monkeypatch: Patch) -> list[Manifest]:
    """Of every engine that would be built from now on, what is known about it. Nothing is built."""
    begun: list[Manifest] = []

    def begin(_: Path, __: Any, about: Manifest, *___: Any) -> None:
        begun.append(about)
        raise OSError("far enough")

    monkeypatch.setattr(cmg_export.build, "reference_beside", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(cmg_export.build, "compile_artifacts", begin)
    return begun


def alter(folder: Path, keys: str, edit: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The bundled checkpoint in ``folder``, with ``edit`` applied to these of its arrays.

    A bank that is not among them is left out, for it would not fit the stats any more; so is the card with its command
    range and default pose, where keys name it or a limit of the commands.
    """
    content = read_pt(BUNDLED / "cmg_final.pt")
    with np.load(BUNDLED / "bank.npz") as arrays:
        values = {**content["stats"], "bank": arrays["motion"]}
    for key in set(keys.split()) - {"card"}:
        values[key] = edit(np.array(values[key], dtype=np.float64)).astype(np.float32)
    folder.mkdir()
    bank = values.pop("bank")
    torch.save({"model_state_dict": content["model_state_dict"], "stats": values}, folder / "cmg_final.pt")
    if "bank" in keys:
        np.savez(folder / "bank.npz", motion=bank)
    if "command" not in keys and "card" not in keys:
        shutil.copy(BUNDLED / "card.json", folder)
    return folder / "cmg_final.pt"


POSITIONS, VELOCITIES, ALL = slice(0, JOINTS), slice(JOINTS, 2 * JOINTS), slice(0, 2 * JOINTS)


def scaled(part: slice, factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        values[..., part] *= factor
        return values

    return edit


def breadth_first(values: np.ndarray) -> np.ndarray:
    """List joints as Isaac Lab does: by their number of joints from the pelvis."""
    leg = "hip_pitch hip_roll hip_yaw knee ankle_pitch ankle_roll"
    waist, arm = "waist_yaw waist_roll waist_pitch", "shoulder_pitch shoulder_roll shoulder_yaw elbow"
    arm = f"{waist} {arm} wrist_roll wrist_pitch wrist_yaw"
    depths = {part: depth for chain in (leg, arm) for depth, part in enumerate(chain.split())}
    order = sorted(range(JOINTS), key=lambda joint: next(depths[part] for part in depths if part in JOINT_NAMES[joint]))
    return values[..., order + [JOINTS + joint for joint in order]]


MEAN_STD = "motion_mean motion_std"
MISTAKES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
    "all in degrees": (MEAN_STD, scaled(ALL, DEGREES), "the mean pose has .* within if it is in degrees"),
    "all in degrees, with bank": (f"{MEAN_STD} bank", scaled(ALL, DEGREES), "the mean pose has"),
    "positions deviate in degrees": ("motion_std", scaled(POSITIONS, DEGREES), "motion_std of"),
    "velocities in degrees": (MEAN_STD, scaled(VELOCITIES, DEGREES), "velocity's motion_std of .*knee"),
    "velocities of another clock": (MEAN_STD, scaled(VELOCITIES, 4.0), "velocities that are 3.* times the change"),
    "velocities in turns": (MEAN_STD, scaled(VELOCITIES, 1 / 2 / math.pi), "joint velocities that are 0.1"),
    "bank in degrees": ("bank", scaled(POSITIONS, DEGREES), "a state is .* deviations|bank.npz has"),
    "bank some times too wide": ("bank", scaled(POSITIONS, 4.0), "bank.npz has .* in state"),
    "bank of another clock": ("bank", scaled(VELOCITIES, 10.0), "bank.npz has .* rad/s in state"),
    "yaw in degrees": ("command_min command_max", scaled(slice(2, 3), DEGREES), "commands have a yaw rate"),
    "another order": (f"{MEAN_STD} bank", breadth_first, "lists the joints of .* breadth first"),
    "another order, no default pose": (f"{MEAN_STD} card", breadth_first, "it plays .* beyond joint limits"),
    "bank of another order": ("bank", breadth_first, "bank.npz has"),
}
"""The arrays, what a mistake makes of them, and what is said."""


def build(capsys: Capture, path: Path, *options: object) -> tuple[int, str]:
    """Exit status and stderr of the command line, with the engine beside the checkpoint's folder."""
    out = path.parents[1] / "engine"
    status = main([str(path), "--out", str(out), "--tensorrt.library", "none", *map(str, options)])
    assert status == 0 or not out.exists()
    return status, capsys.readouterr().err


@pytest.mark.slow
@needs_g1
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistaken_numbers_are_refused_where_the_robot_is_known(
    tmp_path: Path, capsys: Capture, built: list[Manifest], mistake: str
) -> None:
    keys, edit, said = MISTAKES[mistake]
    status, err = build(capsys, alter(tmp_path / "run", keys, edit))
    assert status == 2 and err.startswith(f"cmg_export: {tmp_path / 'run'}") and err.count("\n") == 1, err
    assert re.search(said, err) and not built, err


@needs_g1
def test_kilometres_an_hour_are_warned_of(tmp_path: Path, capsys: Capture, built: list[Manifest]) -> None:
    """5 m/s is a speed that a robot may run at, but these feet go back at 1.5; so do those of one half trained."""
    _, err = build(capsys, alter(tmp_path / "run", "command_min command_max", scaled(slice(0, 2), 3.6)))
    assert err.startswith("cmg_export: warning: its feet go at 0.3") and len(built) == 1
    assert str(built[0].source["doubt"]) in err.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("known", [pytest.param(True, marks=needs_g1), False])
def test_the_bundled_checkpoint_is_beyond_doubt(
    capsys: Capture, built: list[Manifest], monkeypatch: Patch, tmp_path: Path, known: bool
) -> None:
    if not known:
        monkeypatch.setattr(cmg_export.read.joints, "g1_model", lambda: None)
    assert build(capsys, alter(tmp_path / "run", "", np.array)) == (2, "cmg_export: far enough\n")
    assert (built[0].robot is not None) == known and built[0].source["doubt"] is None
    if not known:  # a mistake is warned of; nothing is proved
        warning, end = build(capsys, alter(tmp_path / "wrong", MEAN_STD, scaled(ALL, DEGREES)))[1].splitlines()
        assert warning.startswith("cmg_export: warning: the mean pose has") and "--robot" in warning
        assert end == "cmg_export: far enough" and str(built[1].source["doubt"]) in warning


def robot_file(path: Path, limits: np.ndarray) -> Path:
    """A row of hinges, each with its limits, rad."""
    joint = '<joint name="joint_{}" axis="0 1 0" range="{} {}"/><geom size=".01"/>'
    bodies = "".join('<body pos="0 0 .1">' + joint.format(i, *pair) for i, pair in enumerate(limits))
    path.write_text(
        '<mujoco><compiler angle="radian" autolimits="true"/><worldbody><body><freejoint/><geom size=".01"/>'
        f"{bodies}{'</body>' * len(limits)}</body></worldbody></mujoco>"
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("case", ["within", "mean", "deviation", "what it plays", "bank", "default pose"])
def test_a_robots_own_limits_are_the_bar(
    tmp_path: Path, capsys: Capture, built: list[Manifest], rng: np.random.Generator, case: str
) -> None:
    """Limits, stats and weights are random; a tenth of a radian beyond is let through, a little more is not."""
    count, beyond = 3, 0.13
    made = make_checkpoint(tmp_path / "run", num_joints=count, hidden_dim=8, seed=int(rng.integers(1000)), gain=0.3)
    lower = rng.uniform(-0.9, -0.6, count)
    limits = np.stack([lower, lower + rng.uniform(1.0, 1.6, count)], axis=1)
    joint, middle, half = int(rng.integers(count)), limits.mean(axis=1), np.ptp(limits, axis=1) / 2
    stats, state = dict(made.stats), made.model.state_dict()
    mean = stats["motion_mean"] = np.concatenate([middle, np.zeros(count)]).astype(np.float32)
    stats["motion_std"] = np.concatenate([np.full(count, 0.1), np.ones(count)]).astype(np.float32)
    if case == "within":
        mean[joint] = limits[joint, 1] + 0.05
        state["layers.2.expert_biases.0"][:] = 0
    elif case == "mean":
        mean[joint] = limits[joint, 1] + beyond
    elif case == "deviation":
        stats["motion_std"][joint] = half[joint] + beyond
    elif case == "what it plays":  # the stats are as they should be
        for expert in range(4):
            state[f"layers.2.expert_biases.{expert}"][joint] += 10 * (half[joint] + beyond + 0.4)
    elif case == "bank":
        bank = np.tile(mean, (9, 1))
        bank[rng.integers(9), joint] = limits[joint, 0] - 0.5 - beyond
        np.savez(tmp_path / "run" / "bank.npz", motion=bank)
    else:
        middle[joint] = limits[joint, 0] - beyond
        (tmp_path / "run" / "card.json").write_text(f'{{"default_dof_pos": {middle.tolist()}}}')
    torch.save({"model_state_dict": state, "stats": stats}, made.path)
    _, err = build(capsys, made.path, "--robot", robot_file(tmp_path / "robot.xml", limits))
    saying = {"mean": "the mean pose has ", "deviation": "motion_std of ", "bank": "bank.npz has "}
    saying |= {
        "default pose": "default_dof_pos has ",
        "what it plays": "it plays 100% of its frames beyond joint limits, ",
    }
    if case == "within":
        assert err.endswith("cmg_export: far enough\n") and len(built) == 1  # if these are feet, they stand still
    else:
        assert err.startswith(f"cmg_export: {made.path}: {saying[case]}joint_{joint}"), err
        assert err.count("\n") == 1 and not built


@pytest.mark.parametrize("learned", [True, False])
def test_a_network_without_biases_is_one_and_a_constant_is_none(
    tmp_path: Path, capsys: Capture, monkeypatch: Patch, seed: int, learned: bool
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

    def weights_alone(folder: Path, weights: dict[str, np.ndarray], *_: Any) -> list[Artifact]:
        np.savez(folder / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
        return [Artifact("torch_fp32", "torch", "fp32", "weights.npz", file_sha256(folder / "weights.npz"))]

    monkeypatch.setattr(cmg_export.build, "compile_artifacts", weights_alone)
    status, err = build(capsys, made.path)
    if learned:
        assert (status, err) == (0, "")
        assert read_manifest(tmp_path / "engine").artifacts[0].parity["status"] == "passed"
    else:
        assert status == 2 and err.count("\n") == 1 and "answers 256 random states and commands alike" in err


SAMPLES: dict[str, tuple[str, Any]] = {
    "as they are": ("", lambda motion, command: (motion, command)),
    "others, as many": ("", lambda motion, command: (motion[::2], command * 0.9)),
    "degrees": ("motion_", lambda motion, command: (np.degrees(motion), command)),
    "velocities in degrees": ("motion_std", lambda motion, command: (motion * [1, 1, 1, 57.3, 57.3, 57.3], command)),
    "another order": ("motion_mean", lambda motion, command: (motion[:, [1, 2, 0, 4, 5, 3]], command)),
    "turns in degrees": ("command_max[2]", lambda motion, command: (motion, command * [1, 1, 57.3])),
    "km/h in the stats": ("command_max[0]", lambda motion, command: (motion, command / [4.2, 1, 1])),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_stats_that_contradict_the_samples_beside_them(
    tmp_path: Path, seed: int, rng: np.random.Generator, case: str
) -> None:
    said, edit = SAMPLES[case]
    made = make_checkpoint(tmp_path, "bare+data", num_joints=3, hidden_dim=8, seed=seed)
    made.stats["motion_mean"][:3], made.stats["motion_std"][:3] = rng.permutation([-0.9, 0.1, 0.8]), 0.2
    made.stats["command_min"][:], made.stats["command_max"][:] = -1.5, 2.0
    _, data = save_checkpoint(tmp_path, made.model.state_dict(), made.stats, "bare+data")
    assert data is not None
    content = torch.load(data, weights_only=False)
    for sample in content["samples"]:
        altered = edit(sample["motion"].astype(np.float64), sample["command"].astype(np.float64))
        sample["motion"], sample["command"] = (values.astype(np.float32) for values in altered)
    torch.save(content, data)
    if said:
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(data))}.*\Z") as caught:
            load_checkpoint(made.path, data)
        assert said in str(caught.value) and "in the samples beside them" in str(caught.value)
    else:
        load_checkpoint(made.path, data)
