"""The training task on a GPU: the generator's backends in it, and what a training does with it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("mjlab", reason="mjlab is not installed")

from mjlab.rl import RslRlVecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmg_gym.learning.runner import ResidualRunner, checkpoints
from cmg_gym.mdp.reference_command import reference
from cmg_gym.rl_cfg import make_rl_cfg
from gym_case import current_motion, follow_rollout, g1_engine, make_env

# In one process: each that opens an environment compiles for minutes.
pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gym-gpu")]

NUM_ENVS = 70


def test_reference_is_a_plain_rollout(seed: int, generator: torch.Generator) -> None:
    folder, truth = g1_engine()
    env = make_env(folder, NUM_ENVS, seed, play=True, gravity=False, device="cuda", cmg_backend="fused")
    term = reference(env)
    assert term.engine.backend_name == "fused"
    follow_rollout(env, truth, generator)
    term.use_backend("torch")
    assert term.engine.backend_name == "torch"
    follow_rollout(env, truth, generator)
    env.close()


def test_training_runs_and_resumes(seed: int, tmp_path: Path) -> None:
    env = RslRlVecEnvWrapper(make_env(g1_engine()[0], NUM_ENVS, seed, play=False, device="cuda"))
    term = reference(env.unwrapped)
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
