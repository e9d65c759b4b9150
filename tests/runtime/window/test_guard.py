"""The numerical guard, by making frames bad: they are replaced and counted, and no other environment notices."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import Engine, EngineError, load_engine
from cmg_runtime.backends import backend_class
from cmg_runtime.folder.limits import limits
from devices import DEVICES
from engine_folder import Truth, no_waiting, state
from python_process import run_python
from window_case import assert_same, everything, load, motions_of, quiet_report, random_robot_case

ROOT = Path(__file__).resolve().parents[3]
INTERPRETED = ROOT / "tests" / "cases" / "interpreted_guard.py"
NUM_ENVS, BAD_ENV, JOINTS = 9, 4, 5
PRIME = 2654435761
"""Of the rule in the module's documentation, spelled out once more."""
WATCHED, QUIET_S = 256, 10.0
"""Steps between two looks at the counter, and seconds between two warnings."""


class Spoiler:
    """Makes one value of the network's result another, in rows whose yaw rate is above a threshold: in steps, rebuilds,
    rollouts and pools alike, and within CUDA graphs. Off until a value is given."""

    def __init__(self, device: str) -> None:
        self.above, self.column, self.value = (torch.full((), value, device=device) for value in (math.inf, 0, 0.0))

    def on(self, above: float, column: int = 0, value: float = 0.0) -> None:
        for tensor, given in ((self.above, above), (self.column, column), (self.value, value)):
            tensor.fill_(given)

    def spoil(self, command: torch.Tensor, out: torch.Tensor) -> None:
        here = torch.arange(out.shape[1], device=out.device) == self.column
        out.copy_(torch.where((command[:, 2:] > self.above) & here, self.value, out))


@pytest.fixture
def spoilers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Spoiler]:
    """Of each device type. Every engine that is loaded meanwhile is subject to them."""
    made = {device: Spoiler(device) for device in ["cpu"] + ["cuda"] * torch.cuda.is_available()}
    kind = backend_class("torch")
    step = kind.step

    def spoiled(self: Any, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        step(self, motion, command, out)
        made[out.device.type].spoil(command, out)

    monkeypatch.setattr(kind, "step", spoiled)
    return made


def started(device: str, horizon: int, generator: torch.Generator) -> tuple[Engine, Truth, float]:
    """An engine of which one environment turns faster than a threshold, which is returned, and all others slower."""
    truth = random_robot_case()[1]
    engine = load(device, "torch", NUM_ENVS, "fp32", horizon=horizon, command_ramp_s=0.0)
    command = truth.commands(NUM_ENVS, generator)
    low, high = (float(bound[2]) for bound in (truth.low, truth.high))
    command[:, 2] = low + 0.5 * (high - low) * torch.rand(NUM_ENVS, generator=generator)
    command[BAD_ENV, 2] = low + 0.9 * (high - low)
    engine.reset(motion=engine.bank[torch.randint(40, (NUM_ENVS,), generator=generator)], command=command)
    return engine, truth, low + 0.7 * (high - low)


def bad_values(engine: Engine) -> list[tuple[int, float]]:
    """(column, value): not finite, and just beyond each kind of limit."""
    low, high = limits(engine.manifest, engine.bank)
    beyond = [(1, float(high[1]) * (1 + 1e-6) + 1e-6), (2, float(low[2]) * (1 + 1e-6) - 1e-6)]
    beyond += [(JOINTS + 3, float(high[JOINTS + 3]) * (1 + 1e-6)), (JOINTS, float(low[JOINTS]) * (1 + 1e-6))]
    return [(0, math.nan), (3, math.inf), (4, -math.inf), (7, math.nan), (JOINTS + 1, 1e30), *beyond]


@pytest.mark.parametrize("horizon", [1, 2, 7])
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_frame_is_replaced_from_the_bank_and_nobody_else_notices(
    device: str, horizon: int, spoilers: dict[str, Spoiler], generator: torch.Generator
) -> None:
    start, pair = generator.get_state(), []
    for _ in range(2):
        generator.set_state(start)
        pair.append(started(device, horizon, generator))
    (engine, truth, above), (same, _, _) = pair
    spoiler, replaced, frame = spoilers[device], 0, 0
    others = torch.arange(NUM_ENVS) != BAD_ENV
    for column, value in bad_values(engine):
        spoiler.on(above, column, value)
        engine.step()  # the window's far end is bad from now on; without a window, the current frame
        spoiler.on(math.inf)
        same.step()
        frame, replaced = frame + 1, replaced + 1
        expected, seen = everything(same), everything(engine)
        assert_same(seen, expected, others)
        assert all(torch.isfinite(value).all() for value in seen.values())
        newest = motions_of(seen)[:, -1]
        row = (frame + horizon - 1 + PRIME * BAD_ENV) % len(engine.bank)
        assert torch.equal(newest[BAD_ENV], engine.bank[row].cpu())
        if horizon > 1:  # the root goes on as if nothing were, and stands on the ground
            for name in ("root_rot", "root_ang_vel"):
                assert torch.equal(seen[name], expected[name]), name
            assert torch.equal(seen["root_pos"][..., :2], expected["root_pos"][..., :2])
        for one in (engine, same):  # and the motion from there on is the network's
            one.step()
        frame += 1
        last = motions_of(everything(engine))[:, -1]
        wanted = truth.step(newest[BAD_ENV][None], engine.command[BAD_ENV][None])
        assert truth.error(last[BAD_ENV][None], wanted) < 1e-5
    with pytest.warns(RuntimeWarning, match=f"{replaced} generated frames were bad and replaced"):
        assert engine.report().frames_replaced == replaced
    assert same.report().frames_replaced == 0


@pytest.mark.parametrize("horizon", [1, 2, 7])
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_frame_of_an_environment_that_does_not_move_is_thrown_away_and_not_counted(
    device: str, horizon: int, spoilers: dict[str, Spoiler], generator: torch.Generator
) -> None:
    engine, _, above = started(device, horizon, generator)
    before, others = everything(engine), torch.arange(NUM_ENVS) != BAD_ENV
    spoilers[device].on(above, 0, math.nan)
    for _ in range(5):
        engine.step(others.to(device))
    assert_same(everything(engine), before, BAD_ENV)
    assert quiet_report(engine).frames_replaced == 0
    for frame in (1, 2):  # of its own
        engine.step(~others if frame == 1 else None)
        newest = motions_of(everything(engine))[BAD_ENV, -1]
        row = (frame + horizon - 1 + PRIME * BAD_ENV) % len(engine.bank)
        assert torch.equal(newest, engine.bank[row].cpu())
        assert quiet_report(engine).frames_replaced == frame


@pytest.mark.parametrize("device", DEVICES)
def test_rebuilds_rollouts_and_pools_are_guarded(
    device: str, spoilers: dict[str, Spoiler], generator: torch.Generator
) -> None:
    horizon = 6
    engine, truth, above = started(device, horizon, generator)
    spoiler, bank = spoilers[device], engine.bank.cpu()
    for _ in range(3):
        engine.step()
    spoiler.on(above, 2, math.nan)
    before, command = state(engine), engine.command.clone()
    command[:, 0] *= 0.5
    engine.set_command(command)
    motions = motions_of(everything(engine))
    assert torch.equal(state(engine), before)
    for ahead in range(1, horizon):
        assert torch.equal(motions[BAD_ENV, ahead], bank[(3 + ahead + PRIME * BAD_ENV) % len(bank)])
    others = [i for i in range(NUM_ENVS) if i != BAD_ENV]
    last = truth.step(motions[others, -2], engine.command[others])
    assert truth.error(motions[others, -1], last) < 1e-5
    straight = engine.command[[BAD_ENV, 0]].cpu()
    rolled = engine.rollout(bank[:2], straight, num_frames=3).cpu()
    pool = engine.make_pool(2, 4, straight, bank[:2]).frames([0, 0, 0, 1], [1, 2, 3, 1])
    pooled = torch.cat([pool.dof_pos, pool.dof_vel], dim=1).cpu()
    for motions in (torch.cat([rolled[0, 1:], rolled[1, 1:2]]), pooled):
        assert torch.equal(motions[:3], bank[torch.arange(1, 4) % len(bank)])
        assert truth.error(motions[3:], truth.step(bank[1:2], straight[1:])) < 1e-5
    with pytest.warns(RuntimeWarning):
        assert engine.report().frames_replaced == horizon - 1 + 2 * 3


def test_warnings_come_at_once_and_not_too_often(
    spoilers: dict[str, Spoiler], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    engine, _, above = started("cpu", 1, generator)

    def warned(steps: int) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                engine.step()
        assert all(item.category is RuntimeWarning and item.filename == __file__ for item in caught)
        return [str(item.message) for item in caught]

    assert warned(2 * WATCHED) == []
    spoilers["cpu"].on(above, 0, math.nan)
    (first,) = warned(WATCHED)
    assert f": {WATCHED} generated frames were not finite or beyond the limits" in first
    assert "\n" not in first and repr(engine) in first and "see report()" in first
    assert warned(5 * WATCHED) == []  # 10 s have to pass
    now += QUIET_S + 0.1
    (second,) = warned(WATCHED)
    assert f": {6 * WATCHED} generated frames" in second and f"({7 * WATCHED} so far)" in second
    spoilers["cpu"].on(math.inf)
    now += 1000
    assert warned(3 * WATCHED) == []  # nothing new


@pytest.mark.gpu
def test_on_a_gpu_the_warning_comes_without_waiting(spoilers: dict[str, Spoiler], generator: torch.Generator) -> None:
    engine, _, above = started("cuda", 5, generator)
    spoilers["cuda"].on(above, 0, math.nan)
    with no_waiting(), pytest.warns(RuntimeWarning, match="generated frames were not finite"):
        for _ in range(20):
            for _ in range(WATCHED):
                engine.step()


def test_limits_of_a_robot_and_of_a_bank() -> None:
    engine, n = load(), JOINTS
    robot, stats, bank = engine.manifest.robot, engine.manifest.stats, engine.bank.numpy()
    assert robot is not None
    low, high = (bound.double().numpy() for bound in limits(engine.manifest, engine.bank))
    mean, std = np.array(stats.motion_mean), np.array(stats.motion_std)
    lower = np.minimum(np.array(robot.joint_lower) - 0.5, mean[:n] - 8 * std[:n])
    np.testing.assert_allclose(low[:n], np.minimum(lower, bank.min(axis=0)[:n]), rtol=1e-6, atol=1e-6)
    fastest = np.maximum(mean[n:] + np.maximum(50 * std[n:], 50.0), bank.max(axis=0)[n:])
    np.testing.assert_allclose(high[n:], np.minimum(fastest, 100.0), rtol=1e-6, atol=1e-6)


def test_no_stats_and_no_bank_make_room_for_themselves(rng: np.random.Generator) -> None:
    """Whatever they say, a joint with limits stays within half a turn of them, another one within two turns."""
    engine = load()
    manifest, bank, robot = engine.manifest, engine.bank, engine.manifest.robot
    assert robot is not None
    in_degrees = dataclasses.replace(manifest.stats, motion_std=tuple(map(math.degrees, manifest.stats.motion_std)))
    wide = dataclasses.replace(manifest, stats=in_degrees)
    low, high = (bound.numpy() for bound in limits(wide, bank))
    np.testing.assert_allclose(low, [*(np.array(robot.joint_lower) - math.pi), *[-100.0] * JOINTS], rtol=1e-6)
    np.testing.assert_allclose(high, [*(np.array(robot.joint_upper) + math.pi), *[100.0] * JOINTS], rtol=1e-6)
    joint, row = int(rng.integers(JOINTS)), int(rng.integers(len(bank)))
    for column, value in ((joint, robot.joint_upper[joint] + 3.2), (JOINTS + joint, -101.0)):
        far = bank.clone()
        far[row, column] = value
        message = f"^[^\n]*state {row} of its bank has .* at {manifest.joint_names[joint]}[^\n]*$"
        with pytest.raises(EngineError, match=message):
            limits(manifest, far)
    far = bank.clone()
    far[row, joint] = robot.joint_upper[joint] + 3.1  # of another variant of the robot
    assert float(limits(manifest, far)[1][joint]) == float(far[row, joint])
    # Of a joint without limits nothing is proved: the bank is gone on from, and a warning tells.
    nobody = dataclasses.replace(wide, robot=None)
    assert float(limits(nobody, bank)[1][joint]) == pytest.approx(4 * math.pi)
    turning = dataclasses.replace(robot, joint_lower=(-1e6,) * JOINTS, joint_upper=(1e6,) * JOINTS)
    far[row, joint] = 13.0
    for unlimited in (nobody, dataclasses.replace(wide, robot=turning)):
        with pytest.warns(RuntimeWarning, match=f"state {row} of its bank has dof_pos 13 at"):
            assert float(limits(unlimited, far)[1][joint]) == 13.0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_in_tritons_interpreter() -> None:
    words = *["-m", "pytest", "-q", "-p", "no:cacheprovider"], str(INTERPRETED)
    done = run_python(*words, cwd=ROOT, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_wild_motion_of_the_bundled_checkpoint_is_replaced(tmp_path: Path) -> None:
    """A real one, of g1_neutral: reversed in the middle of a stride, it puts a hip 0.7 rad beyond its limit. Once, and
    all is well."""
    from gym_case import CHECKPOINT, make_engine

    truth = make_engine(tmp_path, CHECKPOINT.parents[1] / "g1_neutral" / CHECKPOINT.name)
    stride, forward, reverse = 293, [0.99, -0.52, -0.80], [-0.70, -0.55, 0.17]  # of the bank; m/s, m/s, rad/s
    engine = load_engine(tmp_path, 2, horizon=96, command_ramp_s=0.5)
    engine.reset(motion=engine.bank[stride], command=forward)
    assert quiet_report(engine).frames_replaced == 0
    engine.set_command(reverse)
    assert quiet_report(engine).frames_replaced == engine.num_envs
    seen, (low, high) = motions_of(everything(engine)), limits(engine.manifest, engine.bank)
    assert bool(((seen >= low) & (seen <= high)).all())
    replaced = (seen[:, 1:, None] == engine.bank).all(dim=3).any(dim=2).nonzero()[:, 1] + 1
    assert replaced.tolist() == [int(replaced[0])] * engine.num_envs
    # The truth, from the frame before: under the command on its way, it goes there too.
    share = min(int(replaced[0]) / (0.5 * engine.fps), 1.0)
    command = torch.lerp(torch.tensor(forward), torch.tensor(reverse), share).double()
    expected = truth.step(seen[:, int(replaced[0]) - 1].double(), command.expand(2, 3))
    assert not bool(((expected >= low) & (expected <= high)).all(dim=1).any())
