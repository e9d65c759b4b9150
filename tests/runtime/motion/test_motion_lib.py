"""MotionLibCMG against plain float64 trajectories, called as a TWIST-style mimic environment calls it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime.motion_lib import MotionLibCMG, create_motion_lib_cmg
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES
from dropin_case import Case, assert_frames, at_times, g1_case, library_truth, plain_trajectory, walked
from engine_folder import no_waiting

NUM_ENVS = 32
DT = 0.02
OFFSETS = [1, *range(5, 100, 5)]
"""Frames that TWIST looks ahead: 20 of them."""


@pytest.fixture
def case() -> Case:
    return g1_case()


def config(case: Case, **changes: Any) -> SimpleNamespace:
    settings: dict[str, Any] = {
        **{"use_cmg": True, "cmg_model_path": str(case.folder), "cmg_data_path": None, "cmg_mode": "pregenerated"},
        **{"cmg_num_motions": 48, "cmg_motion_length": 60, "cmg_backend": "torch"},
        **{"dof_dim": 29, "fps": 50.0, "key_bodies": list(KEY_BODIES)},
        **changes,
    }
    return SimpleNamespace(motion=SimpleNamespace(**settings))


class MimicEnv:
    """What a TWIST environment does with its motion library, and nothing else. Every answer goes to ``check``."""

    def __init__(self, case: Case, check: Any, seed: int, falls: float = 0.02, **changes: Any) -> None:
        self.lib = create_motion_lib_cmg(config(case, **changes), NUM_ENVS, "cpu")
        self.check, self.falls, self.random = check, falls, torch.Generator().manual_seed(seed)
        lengths = [self.lib.get_motion_length(i) for i in range(self.lib.num_motions())]
        self.max_episode_length_s = max(lengths).item()
        self.key_body_ids = self.lib.get_key_body_idx(key_body_names=list(KEY_BODIES))
        self.motion_ids = torch.zeros(NUM_ENVS, dtype=torch.int64)
        self.time_offsets, self.episode_length = torch.zeros(NUM_ENVS), torch.zeros(NUM_ENVS)
        self.offsets = torch.tensor(OFFSETS, dtype=torch.int)
        self.reset_idx(torch.arange(NUM_ENVS))

    def ask(self, motion_ids: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = times.clone()
        out = self.lib.calc_motion_frame(motion_ids, times)
        assert torch.equal(given, times), "motion_times were changed"
        self.check(self, motion_ids, times, out)
        out[0][:, 2] += 0.05  # as TWIST does, in place: must not reach what the library keeps
        return out

    def times(self) -> torch.Tensor:
        return self.episode_length * DT + self.time_offsets

    def reset_idx(self, env_ids: torch.Tensor) -> None:
        if len(env_ids) == 0:
            return
        self.motion_difficulty = 1 + 8 * torch.rand(self.lib.num_motions(), generator=self.random)
        motion_ids = self.lib.reset(env_ids, motion_difficulty=self.motion_difficulty)
        times = self.lib.sample_time(motion_ids)
        self.motion_ids[env_ids], self.time_offsets[env_ids], self.episode_length[env_ids] = motion_ids, times, 0
        self.ask(motion_ids, times)

    def step(self, reset: bool = True) -> tuple[torch.Tensor, ...]:
        self.episode_length += 1
        self.lib.step()
        now = self.ask(self.motion_ids, self.times())
        if reset:
            over = self.episode_length * DT >= self.lib.get_motion_length(self.motion_ids)
            fallen = torch.rand(NUM_ENVS, generator=self.random) < self.falls
            self.reset_idx((over | fallen).nonzero().flatten())
        times = self.offsets * DT + self.times().unsqueeze(-1)
        ids = torch.broadcast_to(self.motion_ids.unsqueeze(-1), times.shape)
        ahead = self.ask(ids.flatten(), times.flatten())
        assert ahead[6][:, self.key_body_ids].shape == (NUM_ENVS * len(OFFSETS), len(KEY_BODIES), 3)
        return now


def test_a_twist_environment_on_pregenerated_motions(case: Case, seed: int) -> None:
    truth: list[Any] = []
    asked, checked = itertools.count(), []

    def check(env: MimicEnv, ids: torch.Tensor, times: torch.Tensor, out: tuple[torch.Tensor, ...]) -> None:
        if not truth:
            truth.append(library_truth(case, env.lib, 2 * 60 + 96))
        if next(asked) % 7 == 0 or len(times) < NUM_ENVS:
            assert_frames(out, at_times(truth[0], ids.numpy(), times.numpy(), 50.0))
            checked.append(len(times))

    env = MimicEnv(case, check, seed)
    assert env.lib.num_motions() == 48 and env.max_episode_length_s == pytest.approx(1.2)
    assert env.lib.get_total_length() == pytest.approx(48 * 1.2)
    assert len(set(env.lib.get_motion_names())) == 48
    for _ in range(250):
        env.step()
    assert len(checked) > 75
    assert env.lib.report() == (0, 0, 0)  # nobody looked past what was generated


def test_a_viewer_plays_on_past_the_end(case: Case, seed: int) -> None:
    """Without resets time grows: the motion repeats, and the root goes on from where it was."""
    answers = []

    def check(env: MimicEnv, ids: torch.Tensor, times: torch.Tensor, out: tuple[torch.Tensor, ...]) -> None:
        answers.append((ids.numpy(), times.numpy().copy(), [field.clone() for field in out]))

    env = MimicEnv(case, check, seed, cmg_num_motions=5, cmg_motion_length=10)
    truth = library_truth(case, env.lib, 2 * 10 + 96)
    previous = None
    for _ in range(300):
        out = env.step(reset=False)
        if previous is not None:
            moved = (out[0][:, :2] - previous[:, :2]).norm(dim=1)
            assert (moved < 0.1).all()  # metres a frame: the root never jumps
        previous = out[0].clone()
    for ids, times, out in answers[::40]:
        assert_frames(out, at_times(truth, ids, times, 50.0), 1e-3)
    assert answers[-1][1].max() > 3 * 115 * DT
    with pytest.warns(RuntimeWarning, match="past_end"):
        assert env.lib.report().past_end > 0


class RealtimeTruth:
    """Every environment's motion state, root and command ramp, in float64, one frame at a time."""

    def __init__(self, case: Case, bodies: tuple[str, ...]) -> None:
        self.case, self.bodies, self.motion = case, bodies, torch.zeros(NUM_ENVS, 58, dtype=torch.float64)
        self.pose, self.start, self.target = (np.zeros((NUM_ENVS, 3)) for _ in range(3))
        self.since = np.zeros(NUM_ENVS)

    def command(self, offset: float) -> np.ndarray:
        share = np.minimum((self.since + offset) / 25, 1)[:, None]
        return (1 - share) * self.start + share * self.target

    def begin(self, env_ids: torch.Tensor, motion: torch.Tensor, commands: torch.Tensor) -> None:
        """An episode, which knows nothing of the one before."""
        self.motion[env_ids], self.pose[env_ids.numpy()] = motion.double(), 0
        self.start[env_ids.numpy()] = self.target[env_ids.numpy()] = commands.numpy()

    def retarget(self, env_ids: np.ndarray, commands: np.ndarray) -> None:
        self.start[env_ids], self.since[env_ids], self.target[env_ids] = self.command(0)[env_ids], 0, commands

    def ahead(self, frames: int) -> Any:
        """A trajectory from the current frame, moved to where each root is."""
        commands = np.stack([self.command(k) for k in range(frames)])
        trajectory = plain_trajectory(self.case, self.bodies, self.motion, commands)
        x, y, yaw = self.pose.T
        c, s = np.cos(yaw), np.sin(yaw)

        def placed(vectors: np.ndarray) -> np.ndarray:
            a, b, rest = vectors[..., 0], vectors[..., 1], vectors[..., 2]
            return np.stack([c * a - s * b, s * a + c * b, rest], -1)

        root_pos = placed(trajectory.root_pos) + np.stack([x, y, 0 * x], 1)
        return trajectory._replace(root_pos=root_pos, root_vel=placed(trajectory.root_vel), yaw=trajectory.yaw + yaw)

    def step(self) -> None:
        command = self.command(1)
        self.motion = self.case.truth.step(self.motion, torch.from_numpy(command))
        self.pose = walked(self.pose, command, DT)
        self.since += 1


@pytest.mark.slow
def test_a_twist_environment_in_realtime(case: Case, seed: int) -> None:
    truth, asked, checked = RealtimeTruth(case, KEY_BODIES), itertools.count(), []

    def check(env: MimicEnv, ids: torch.Tensor, times: torch.Tensor, out: tuple[torch.Tensor, ...]) -> None:
        if len(times) <= NUM_ENVS and (env.episode_length[ids] == 0).all():  # a reset's answers: the truth starts there
            truth.begin(ids, torch.cat([out[4], out[5]], 1), env.lib.get_motion_command(ids))
            np.testing.assert_allclose(out[0][:, :2], 0, atol=1e-6)
            return
        if next(asked) % 43 and len(checked) > 3:
            return
        ahead = truth.ahead(96)
        elapsed = times.numpy() - env.episode_length[ids].numpy() * DT
        expected = at_times(ahead, ids.numpy(), elapsed, 50.0)
        current = elapsed < 1e-4  # the climb there needs the frame before, which a trajectory from here does not have
        expected[2][current, 2] = out[2].numpy()[current, 2]
        assert_frames(out, expected, 1e-3)
        checked.append(len(times))

    env = MimicEnv(case, check, seed, falls=0.002, cmg_mode="realtime", cmg_motion_length=150)
    assert env.lib.num_motions() == NUM_ENVS
    random = np.random.default_rng(seed)
    low, high = case.truth.low.numpy(), case.truth.high.numpy()
    for step in range(250):
        if step % 40 == 20:  # new commands on the way, for some
            chosen = random.permutation(NUM_ENVS)[:9]
            commands = (low + (high - low) * random.random((9, 3))).astype(np.float32)
            env.lib.update_commands(commands, chosen)
            truth.retarget(chosen, commands)
        truth.step()
        env.step()
    assert len(checked) > 10
    assert env.lib.report() == (0, 0, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["pregenerated", "realtime"])
def test_a_training_step_on_a_gpu_never_waits_and_has_the_same_values(case: Case, mode: str) -> None:
    num_envs = 300
    settings: dict[str, Any] = {"mode": mode, "backend": "torch", "precision": "fp32", "command_ramp_s": 0.0}
    lib = MotionLibCMG(case.folder, None, 64, 50, num_envs, "cuda", **settings)
    everyone = torch.arange(num_envs, device="cuda")
    some, difficulty = everyone[::17].clone(), torch.rand(lib.num_motions(), device="cuda") + 1
    offsets = torch.tensor(OFFSETS, device="cuda")
    ids = lib.reset(everyone, motion_difficulty=difficulty)

    def training_step() -> tuple[torch.Tensor, ...]:
        ids[some] = lib.reset(some, motion_difficulty=difficulty)
        lib.sample_time(ids)
        lib.get_motion_length(ids)
        lib.step()
        times = offsets * DT + torch.full((num_envs, 1), DT, device="cuda")
        return lib.calc_motion_frame(ids.repeat_interleave(len(OFFSETS)), times.flatten())

    training_step()
    with no_waiting():
        out = training_step()
    assert all(field.device.type == "cuda" for field in out)
    lib.reset(everyone)
    times = torch.linspace(0, 1.9, num_envs, device="cuda")
    ids = torch.arange(num_envs, device="cuda") % lib.num_motions()
    expected = at_times(library_truth(case, lib, 97), ids.cpu().numpy(), times.cpu().numpy(), 50.0)
    assert_frames(tuple(field.cpu() for field in lib.calc_motion_frame(ids, times)), expected, 1e-3)
