"""The example environment on both packages: robots, look-aheads, draws, episodes, against what the library answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chain_urdf import write_urdf
from dropin_case import DEVICES, g1_case
from engine_folder import SEED
from examples.mimic_env import MimicCfg, MimicEnv

pytestmark = pytest.mark.slow

NUM_ENVS = 4
LENGTH = 16
AHEAD = (1, 3, 8)

MakeEnv = Callable[..., MimicEnv]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[("pregenerated", "torch"), ("realtime", "onnx")], ids=lambda param: param[0])
def make_env(request: pytest.FixtureRequest, tmp_path: Path, device: str) -> MakeEnv:
    """The environment of a 23-joint G1, with other settings where they are given."""
    case, (mode, backend) = g1_case(23), request.param
    backend = backend if device == "cpu" else "torch"  # where ONNX Runtime has CUDA's provider is another test's matter
    urdf = write_urdf(case.chain, case.manifest.joint_names, tmp_path / "g1.urdf")

    def make(**settings: Any) -> MimicEnv:
        torch.manual_seed(SEED)
        sizes: dict[str, Any] = {"num_envs": NUM_ENVS, "num_motions": 12, "motion_length": LENGTH, "look_ahead": AHEAD}
        return MimicEnv(MimicCfg(case.folder, urdf, device=device, mode=mode, backend=backend, **sizes, **settings))

    return make


def idle(env: MimicEnv) -> torch.Tensor:
    return torch.zeros(env.num_envs, env.num_dof, device=env.device)


def test_episodes_begin_on_the_reference_and_leave_the_others_alone(make_env: MakeEnv) -> None:
    env = make_env()
    for _ in range(2):
        env.step(idle(env))
    before = env.dof_states.clone().view(NUM_ENVS, -1), env.root_states.clone()
    env.reset_idx(torch.tensor([0, 2], device=env.device))
    env.gym.refresh_dof_state_tensor(env.sim)
    env.gym.refresh_actor_root_state_tensor(env.sim)
    torch.testing.assert_close(env.dof_pos[[0, 2]], env.ref_dof_pos[[0, 2]], atol=1e-5, rtol=0)
    where = env.ref_root_pos + env.origins
    torch.testing.assert_close(env.root_states[[0, 2], :3], where[[0, 2]], atol=1e-4, rtol=0)
    cosine = (env.root_states[[0, 2], 3:7] * env.ref_root_rot[[0, 2]]).sum(1).abs()
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)
    assert env.dof_states.view(NUM_ENVS, -1)[[1, 3]].equal(before[0][[1, 3]])
    assert env.root_states[[1, 3]].equal(before[1][[1, 3]])


def test_what_is_seen_ahead_comes(make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env(max_body_error=1e6, max_height_error=1e6)
    # From the motions' first frames on: networks of random weights soon come to rest.
    monkeypatch.setattr(env.motion_lib, "sample_time", lambda ids: torch.zeros(len(ids), device=env.device))
    env.reset_idx(torch.arange(NUM_ENVS, device=env.device))
    joints = slice(7, 7 + env.num_dof)
    seen = [env.reference_ahead()[:, :, joints]]
    came = [env.ref_dof_pos.clone()]
    for _ in range(LENGTH - 1):  # one more step would end the episodes
        observations, _, ended = env.step(idle(env))
        assert observations.isfinite().all() and not ended.any()
        seen.append(env.reference_ahead()[:, :, joints])
        came.append(env.ref_dof_pos.clone())
    assert (came[0] - came[1]).abs().max() > 0.01  # it moves, by much more than is allowed below
    for place, frames in enumerate(AHEAD):
        for now in range(LENGTH - frames):
            torch.testing.assert_close(seen[now][:, place], came[now + frames], atol=2e-4, rtol=0)


def test_motions_that_end_early_come_more_often(make_env: MakeEnv) -> None:
    env = make_env()
    first = env.motion_ids.clone()
    env.max_torques.zero_()
    env.root_states[:, 2] += 1.0  # off the ground by more than is allowed
    env.gym.set_actor_root_state_tensor(env.sim, env.root_states)
    _, _, ended = env.step(idle(env))
    assert ended.all() and (env.episode_length == 0).all()
    expected = torch.ones_like(env.difficulty)
    for motion in first.tolist():
        expected[motion] *= 1 + env.cfg.curriculum_gain
    torch.testing.assert_close(env.difficulty, expected)
    free = [motion for motion in range(env.motion_lib.num_motions()) if motion not in env.motion_ids.tolist()]
    env.difficulty.zero_()
    env.difficulty[free[0]] = 1.0
    env.reset_idx(torch.tensor([1], device=env.device))
    assert env.motion_ids[1] == free[0]


@pytest.mark.filterwarnings("ignore:motion library in realtime mode")  # the clocks jump, which is counted
def test_episodes_end_and_begin_again_after_clocks_at_random(make_env: MakeEnv) -> None:
    env = make_env(max_body_error=1e6, max_height_error=1e6)
    clocks = torch.arange(NUM_ENVS, device=env.device) * LENGTH // NUM_ENVS  # as rsl_rl sets them, once
    env.episode_length = clocks.clone()
    for step in range(1, LENGTH + 1):
        observations, _, ended = env.step(idle(env))
        assert observations.isfinite().all()
        assert ended.tolist() == (clocks + step == LENGTH).tolist()
        torch.testing.assert_close(env.dof_pos[ended], env.ref_dof_pos[ended], atol=1e-5, rtol=0)
        assert (env.episode_length[ended] == 0).all()
    assert env.motion_lib.report().past_end == 0
