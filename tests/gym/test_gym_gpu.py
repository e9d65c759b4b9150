"""The training task on a GPU: the generator's backends in it, what a training does with it, and the time share."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("mjlab", reason="mjlab is not installed")

from mjlab.rl import RslRlVecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmg_export.bench import __main__ as bench
from cmg_export.parity import Truth
from cmg_gym.observations import reference
from cmg_gym.rl_cfg import make_rl_cfg
from cmg_gym.runner import ResidualRunner, checkpoints
from gym_case import CHECKPOINT, current_motion, follow_rollout, make_env, make_g1_engine

# In one process: each that opens an environment compiles for minutes.
pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gym-gpu")]

NUM_ENVS = 70


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("engine")
    return folder, make_g1_engine(folder)


def test_reference_is_a_plain_rollout(engine: tuple[Path, Truth], seed: int, generator: torch.Generator) -> None:
    env = make_env(engine[0], NUM_ENVS, seed, play=True, gravity=False, device="cuda", cmg_backend="fused")
    term = reference(env, "reference")
    assert term.engine.backend_name == "fused"
    follow_rollout(env, engine[1], generator)
    term.use_backend("torch")
    assert term.engine.backend_name == "torch"
    follow_rollout(env, engine[1], generator)
    env.close()


def test_training_runs_and_resumes(engine: tuple[Path, Truth], seed: int, tmp_path: Path) -> None:
    env = RslRlVecEnvWrapper(make_env(engine[0], NUM_ENVS, seed, play=False, device="cuda"))
    term = reference(env.unwrapped, "reference")
    with torch.inference_mode():
        for _ in range(45):  # past two rounds of commands; without a policy most robots fall
            observations, _, _, _ = env.step(0.5 * torch.randn(NUM_ENVS, 29, device="cuda"))
        env.reset()
        # A robot begins in the state of the current frame, but for noise.
        joints = term.robot.data.joint_pos - current_motion(term)[:, :29]
        assert float(joints.abs().mean()) < 0.05
        assert all(bool(torch.isfinite(observations[group]).all()) for group in ("actor", "critic"))
    assert term.engine.report().frames_replaced == 0
    ResidualRunner(env, asdict(make_rl_cfg()), str(tmp_path), "cuda").learn(2)
    resumed = ResidualRunner(env, asdict(make_rl_cfg()), str(tmp_path), "cuda")
    resumed.load(str(checkpoints(tmp_path)[-1]))
    resumed.learn(3)
    assert checkpoints(tmp_path)[-1].name == "model_2.pt" and (tmp_path / "policy" / "policy.onnx").exists()
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = [event.value for tag in ("Loss/value", "Loss/surrogate") for event in events.Scalars(tag)]
    assert len(losses) >= 4 and all(map(math.isfinite, losses))
    env.close()


def test_shares_are_measured(engine: tuple[Path, Truth], tmp_path: Path) -> None:
    """How long things take is not looked at; what is counted is."""
    options = ["--sections", "time-share", "--engine", str(engine[0]), "--checkpoint", str(CHECKPOINT)]
    few = ["--time-share.steps", "1", "--time-share.warm-up", "1", "--time-share.textbook-envs", "2"]
    more = ["--num-envs", str(NUM_ENVS), "--backends", "fused", "torch", "--device", "cuda", "--out", str(tmp_path)]
    assert bench.main([*options, *few, *more]) == 0
    shares = json.loads((tmp_path / "bench.json").read_text())["time_share"]["shares"]
    assert [share["backend"] for share in shares] == ["fused", "torch"]
    for share in shares:
        assert 0 < share["reference"] < share["step"] and 0 < share["queued"] < share["step"]
