"""The kernels' arithmetic in Triton's interpreter, on a CPU. Run by test_fused.py in a process of its own, because
Triton reads ``TRITON_INTERPRET`` when kernels are defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from cmg_export.read.robot import RobotModel
from cmg_runtime.backends.fused import launch
from cmg_runtime.backends.fused.capacity import Device
from cmg_runtime.backends.fused.tiles import ANY, FINISHES, FIRSTS, GATES, MIDDLES, FrameConfig, Tiles
from cmg_runtime.window.plain.rows import FrameWriter
from cmg_runtime.window.triton.body_walk import heading, sin_cos
from cmg_runtime.window.triton.rows import TritonFrameWriter
from engine_folder import TOLERANCE
from fused_case import fused_network, manifest_of_robot, poisoned, use_both
from random_robot import random_robot

CPU = torch.device("cpu")

NETWORKS = [
    # rows, joints, command, hidden, gate's hidden, experts, layers
    (1, 29, 3, 70, None, 3, 3),
    (63, 29, 3, 64, None, 4, 3),
    (70, 5, 3, 33, 90, 4, 4),
    (9, 6, 2, 40, None, 2, 2),
    (7, 5, 3, 32, None, 3, 1),
    (5, 3, 4, 70, None, 1, 3),
    (3, 29, 3, 64, None, 7, 3),  # too wide to put the last layer behind the middle one
    (3, 70, 3, 48, None, 2, 3),
]
SIZES = ("num_joints", "command_dim", "hidden_dim", "gating_hidden_dim", "num_experts", "num_layers")


@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])  # pointers, descriptors
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_one_frame(
    case: tuple[int, ...],
    precision: str,
    capability: tuple[int, int],
    seed: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Device, "of", lambda device: Device(101_376, capability, interpreted=True))
    rows, *sizes = case
    network, truth = fused_network(precision, rows, CPU, seed, **dict(zip(SIZES, sizes, strict=True)))
    motion, command = truth.states(rows, generator), truth.commands(rows, generator)
    out = poisoned(motion)
    network(motion, command, out)
    assert truth.error(out, truth.step(motion, command)) < TOLERANCE[precision]


@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])
def test_any_of_the_tiles_that_may_be_tried(
    capability: tuple[int, int],
    seed: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps along K that do not divide a layer's width among them."""
    monkeypatch.setattr(Device, "of", lambda device: Device(101_376, capability, interpreted=True))

    def one_of(options: Sequence[Any]) -> Any:
        return options[int(rng.integers(len(options)))]

    for precision, middles in MIDDLES.items():
        for hidden, middle in ((160, max(middles, key=lambda tiles: tiles.block_k)), (90, one_of(middles))):
            config = FrameConfig(one_of(GATES), one_of(FIRSTS), middle, one_of(FINISHES))
            tiles = Tiles(((ANY, config),))
            network, truth = fused_network(precision, 70, CPU, seed, tiles, hidden_dim=hidden, num_experts=2)
            motion, command = truth.states(70, generator), truth.commands(70, generator)
            out = poisoned(motion)
            network(motion, command, out)
            assert truth.error(out, truth.step(motion, command)) < TOLERANCE[precision], config


def test_rows_apart_in_memory_and_several_passes(
    seed: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "MAX_ROWS", 128)
    network, truth = fused_network("fp32", 7, CPU, seed, num_joints=5, hidden_dim=32, num_experts=2)
    motion, command = truth.states(150, generator), truth.commands(150, generator)
    wide_motion, wide_command, wide_out = torch.randn(150, 17), torch.randn(150, 11), torch.randn(150, 13)
    wide_motion[:, 3:13], wide_command[:, 5:8] = motion, command
    before = wide_out.clone()
    network(wide_motion[:, 3:13], wide_command[:, 5:8], wide_out[:, 1:11])
    assert truth.error(wide_out[:, 1:11], truth.step(motion, command)) < TOLERANCE["fp32"]
    assert torch.equal(wide_out[:, 11:], before[:, 11:]) and torch.equal(wide_out[:, 0], before[:, 0])


def test_a_row_that_is_not_finite_stays_alone_and_visible(seed: int, generator: torch.Generator) -> None:
    network, truth = fused_network("fp16", 5, CPU, seed, num_joints=5, hidden_dim=32, num_experts=2)
    motion, command = truth.states(5, generator), truth.commands(5, generator)
    motion[2, 3] = float("nan")
    out = torch.zeros_like(motion)
    network(motion, command, out)
    assert torch.isnan(out[2]).all()
    others = [0, 1, 3, 4]
    assert truth.error(out[others], truth.step(motion[others], command[others])) < TOLERANCE["fp16"]


@pytest.mark.parametrize("keys, ramp_frames", [("all", 25.0), ("some", 0.4), ("none", 0.0)])
def test_rows_of_the_window(
    keys: str,
    ramp_frames: float,
    tmp_path: Any,
    rng: np.random.Generator,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the torch writer, which is tested against MuJoCo and a plain integration in float64."""
    if keys == "some":  # as of a ring that 32 bits cannot index
        monkeypatch.setattr("cmg_runtime.window.triton.rows.MOST_INT32", 0)
    robot = random_robot(rng, tmp_path / "robot.xml", num_bodies=8)
    manifest = manifest_of_robot(RobotModel(robot.path).chain(robot.joint_names))
    chosen = tuple({"all": range(8), "some": rng.permutation(8)[:3].tolist() + [0, 4, 4], "none": ()}[keys])
    writers = FrameWriter(manifest, chosen, CPU), TritonFrameWriter(manifest, chosen, CPU)
    num_envs, horizon = 19, int(rng.integers(2, 6))
    ids = torch.tensor([5, 0, num_envs, num_envs - 1, num_envs])
    use_both(*writers, CPU, num_envs, horizon, ramp_frames, ids, 4, horizon - 1, generator)


def test_sines_and_headings(rng: np.random.Generator) -> None:
    """Against float64, on angles of every quarter; and on angles that are not finite or too large to mean anything."""
    usual = rng.uniform(-4 * np.pi, 4 * np.pi, 200)
    quarters = np.arange(-8, 9) * np.pi / 2
    angles = torch.tensor(np.concatenate([usual, quarters, rng.uniform(-8e3, 8e3, 39)]), dtype=torch.float32)
    sin, cos, yaw = (torch.empty(256) for _ in range(3))
    evaluate[(1,)](angles, sin, cos, yaw, BLOCK=256)  # pyright: ignore[reportArgumentType]
    wide = angles.double()
    np.testing.assert_allclose(sin, wide.sin(), atol=3e-7)
    np.testing.assert_allclose(cos, wide.cos(), atol=3e-7)
    difference = (yaw.double() - 2 * torch.atan2(sin.double(), cos.double())).numpy()
    np.testing.assert_allclose(difference, 0, atol=1e-6)

    strange = torch.tensor([np.nan, 1e9, -1e30, 0.0] * 64)
    evaluate[(1,)](strange, sin, cos, yaw, BLOCK=256)  # pyright: ignore[reportArgumentType]
    assert torch.isnan(sin[0]) and torch.isnan(cos[0])
    assert (sin[1:3].abs() <= 1).all() and (cos[1:3].abs() <= 1).all()
    assert (sin[3], cos[3], yaw[3]) == (0, 1, 0)


@triton.jit
def evaluate(angles, sin, cos, yaw, BLOCK: tl.constexpr):  # pyright: ignore[reportGeneralTypeIssues]
    lanes = tl.arange(0, BLOCK)
    s, c = sin_cos(tl.load(angles + lanes))
    tl.store(sin + lanes, s)
    tl.store(cos + lanes, c)
    tl.store(yaw + lanes, heading(c, s))
