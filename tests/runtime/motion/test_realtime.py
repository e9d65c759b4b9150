"""Realtime motions beside an engine that is stepped by hand, and beside plain float64 trajectories."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_runtime import load_engine
from cmg_runtime.errors import EngineError
from cmg_runtime.motion_lib import MotionLibCMG
from dropin_case import MODES, Case, assert_frames, at_times, g1_case, library_truth
from engine_folder import no_waiting, with_fused
from mimic_case import DT, LINKS, NUM_ENVS, OFFSETS, MimicEnv

KNOWN = LINKS[1:-1]


@pytest.fixture
def case() -> Case:
    return g1_case()


@pytest.fixture(params=["torch", "fused"])
def gpu_case(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> tuple[Case, str]:
    """A case whose folder has the backend, and the backend."""
    folder = shutil.copytree(case.folder, tmp_path / "engine")
    return case._replace(folder=with_fused(folder) if request.param == "fused" else folder), request.param


def make(case: Case, **changes: Any) -> MotionLibCMG:
    settings: dict[str, Any] = {"num_envs": 4, "motion_length": 50, "horizon": 8, "device": "cpu", "mode": "realtime"}
    return MotionLibCMG(case.folder, **{"backend": "torch", **settings, **changes})


class ByHand:
    """An engine with an environment's windows: begun where the library's motions begin, stepped once a step."""

    def __init__(self, case: Case) -> None:
        self.engine = load_engine(
            case.folder, NUM_ENVS, "cpu", "torch", horizon=96, command_ramp_s=0.5, key_bodies=KNOWN
        )
        self.engine.reset()
        self.checked = 0

    def check(self, env: MimicEnv, what: str, env_ids: torch.Tensor, times: torch.Tensor, out: Any) -> None:
        assert len(env.motion_ids[env_ids].unique()) == len(env_ids.unique()), "environments share a motion"
        engine, motion = self.engine, torch.cat([out[4], out[5]], 1)
        if what == "reset":
            commands = env.lib.get_motion_command(env.motion_ids[env_ids])
            engine.reset(env_ids, motion, commands)
            offsets = [0]
        elif what == "now":
            engine.step()
            offsets = [0]
        else:
            offsets = OFFSETS
        frames = [field[env_ids.unique()].flatten(0, 1) for field in engine.future(offsets)]
        dof_pos, dof_vel, root_pos, root_rot, root_vel, turning, bodies = frames
        expected = (root_pos, root_rot.roll(-1, 1), root_vel, turning, dof_pos, dof_vel, bodies)
        for field, other in zip((*out[:6], out[6][:, 1:-1]), expected):
            torch.testing.assert_close(field, other, rtol=1e-4, atol=1e-4)
        self.checked += 1


@pytest.mark.slow
@pytest.mark.parametrize("steered", [False, True])
def test_a_twist_environment_in_realtime(case: Case, seed: int, steered: bool) -> None:
    by_hand = ByHand(case)
    env = MimicEnv(case, by_hand.check, seed, steered=steered, cmg_mode="realtime", cmg_motion_length=40)
    assert env.lib.num_motions() == 2 * NUM_ENVS and env.max_episode_length_s == pytest.approx(0.8)
    random = np.random.default_rng(seed)
    low, high = case.truth.low.numpy(), case.truth.high.numpy()
    for step in range(160):
        if steered and step % 40 == 20:  # new commands on the way, for some
            chosen = random.permutation(NUM_ENVS)[:9]
            commands = (low + (high - low) * random.random((9, 3))).astype(np.float32)
            env.lib.update_commands(commands, chosen)
            by_hand.engine.set_command(commands, chosen)
        env.step()
    assert by_hand.checked > 2 * 160
    assert env.lib.report() == (0, 0, 0, 0)


def test_clocks_that_start_at_random_go_on_by_a_frame_a_step(case: Case, seed: int) -> None:
    def check(env: MimicEnv, what: str, env_ids: torch.Tensor, times: torch.Tensor, out: Any) -> None:
        if by_hand is not None:
            by_hand.check(env, what, env_ids, times, out)

    by_hand = None
    env = MimicEnv(case, check, seed, falls=0.0, cmg_mode="realtime", cmg_motion_length=3000)
    env.step()
    env.start_at_random_clocks()
    first = env.step(reset=False)
    second = env.step(reset=False)
    by_hand = ByHand(case)
    commands = env.lib.get_motion_command(env.motion_ids)
    motion, poses = torch.cat([second[4], second[5]], 1), (second[0], second[1].roll(1, 1))
    by_hand.engine.reset(None, motion, commands, *(poses[0] * torch.tensor([1.0, 1.0, 0.0]), poses[1]))
    for _ in range(30):
        env.step(reset=False)
    assert by_hand.checked == 60
    far = first[0][:, :2].norm(dim=1)
    assert (far < 4 * 0.02 * case.truth.high.abs().max()).float().mean() > 0.9  # and they have stayed where they were
    report = env.lib.report()
    assert NUM_ENVS * 0.9 <= report.jumped <= NUM_ENVS and report[1:] == (0, 0, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("control_dt", [0.01, 0.03, 0.04])
def test_any_control_rate(case: Case, mode: str, control_dt: float, seed: int) -> None:
    """Frames pass in their own time, whatever the steps; and each motion at its own pace."""
    lib = make(case, mode=mode, control_dt=control_dt, horizon=40, num_motions=8)
    truth = library_truth(case, lib, 136)
    random = np.random.default_rng(seed)
    offsets, frame = np.array([1, 3, 12]), np.zeros(8, dtype=np.int64)
    for step in range(60):
        named = np.flatnonzero(random.random(8) < 0.7)
        frame[named] += 1
        ahead = (frame[named, None] + offsets[None]) * control_dt
        for times in (frame[named, None] * control_dt, ahead):
            ids = np.repeat(named, times.shape[1])
            asked = times.flatten().astype(np.float32)
            out = lib.calc_motion_frame(ids, asked)
            if step % 9 == 8 or step == 0:
                assert_frames(out, at_times(truth, ids, asked, 50.0), 1e-3)
    assert lib.report() == (0, 0, 0, 0)


def test_a_clock_that_runs_for_long_keeps_its_pace(case: Case, generator: torch.Generator) -> None:
    """After twenty minutes float32 has left of a time what is a hundredth of a frame; and a jump back is to the time
    that was asked for."""
    lib = make(case)
    began, frame = library_truth(case, lib, 130), 60_000
    ids, out = torch.arange(8), lib.calc_motion_frame(range(8), [frame * DT] * 8)  # a jump: the motions begin there
    now, offset = frame, torch.tensor([0])
    for now in range(frame + 1, frame + 120):
        for offset in (torch.tensor([0]), torch.tensor([1, 7])):
            times = (offset * DT + torch.tensor(now) * DT).repeat_interleave(8)
            out = lib.calc_motion_frame(ids.repeat(len(offset)), times)
    last = ((now - frame + offset) * DT).repeat_interleave(8).numpy()
    assert_frames(out, at_times(began, ids.repeat(2).numpy(), last, 50.0), 1e-3)
    assert lib.report() == (8, 0, 0, 0)
    lib.calc_motion_frame(ids, torch.rand(8, generator=generator))
    assert lib.report() == (16, 0, 0, 0)


def test_where_time_jumps_the_motion_goes_on(case: Case) -> None:
    lib = make(case)
    ids = lib.sample_motions(4)
    walked = []
    for frame in range(20):
        walked.append([field.clone() for field in lib.calc_motion_frame(ids, torch.full((4,), frame * DT))])
    at = lib.calc_motion_frame(ids, torch.full((4,), 19 * DT))
    window = lib.calc_motion_frame(ids.repeat(8), (12 + torch.arange(8).repeat_interleave(4)) * DT)
    oldest = [field[:4] for field in window]  # the window is the last 8 of the frames: 12 to 19
    for field, other in zip(at, walked[-1]):
        assert torch.equal(field, other)

    far = lib.calc_motion_frame(ids[:2], torch.tensor([31.4, 31.4]))  # forward: from where the window is
    for field, other in zip(far, oldest):
        assert torch.equal(field, other[:2])
    again = lib.calc_motion_frame(ids[2:], torch.zeros(2))  # back to 0, as a hard sync does: at the origin again
    assert torch.equal(again[4], oldest[4][2:]) and torch.equal(again[5], oldest[5][2:])
    torch.testing.assert_close(again[0][:, :2], torch.zeros(2, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(again[1], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(2, 4), atol=1e-6, rtol=0)
    commands = lib.get_motion_command(ids)
    torch.testing.assert_close(again[2][:, :2], commands[2:, :2], atol=1e-5, rtol=0)

    for now, frames in ((31.4, slice(0, 2)), (0.0, slice(2, 4))):  # and from there on frame by frame
        later = lib.calc_motion_frame(ids[frames], torch.full((2,), now + 7 * DT))
        torch.testing.assert_close(later[4], walked[19][4][frames])
        began, way = walked[12][0][frames], (walked[19][0] - walked[12][0])[frames]
        moved = later[0] - (began if now else again[0])
        torch.testing.assert_close(moved[:, :2].norm(dim=1), way[:, :2].norm(dim=1), atol=1e-4, rtol=0)
        torch.testing.assert_close(moved[:, 2], way[:, 2], atol=1e-4, rtol=0)
    assert lib.report() == (4, 0, 0, 0)


def test_a_viewers_key_shows_another_motion(case: Case) -> None:
    lib = make(case)
    ids = lib.sample_motions(4)
    previous = torch.zeros(4, 3)
    for frame in range(30):
        if frame == 15:  # as TWIST's viewer does, whatever others have
            ids[0] = (ids[0] + 1) % lib.num_motions()
        out = lib.calc_motion_frame(ids.repeat(2), (frame + torch.tensor([0, 5]).repeat_interleave(4)) * DT)
        yaw = 2 * torch.atan2(out[1][:4, 2], out[1][:4, 3])
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        vx, vy, rate = lib.get_motion_command(ids).unbind(1)
        velocity = torch.stack([cos * vx - sin * vy, sin * vx + cos * vy], 1)
        torch.testing.assert_close(out[2][:4, :2], velocity, atol=1e-4, rtol=0)
        torch.testing.assert_close(out[3][:4, 2], rate, atol=1e-5, rtol=0)
        if frame > 16:
            step = (out[0][:4] - previous)[:, :2].norm(dim=1)
            torch.testing.assert_close(step, torch.hypot(vx, vy) * DT, atol=2e-4, rtol=0)
        previous = out[0][:4].clone()


def test_difficult_motions_are_drawn_more_often(case: Case, seed: int) -> None:
    """Half of 80 motions weigh nine times what the others do. With 40 in use, four of which are let go of at a time,
    the share h of those in use settles where what is drawn is what is let go of: 9 (1 - h) / (9 (1 - h) + h) = h, a
    little below 0.75, for none is drawn twice."""
    lib = make(case, num_envs=40, horizon=2, seed=seed % 1000)
    random = np.random.default_rng(seed)
    weights = torch.ones(80)
    heavy = torch.tensor(random.permutation(80)[:40])
    weights[heavy] = 9
    is_heavy, ids, share = weights > 1, lib.sample_motions(40), []
    for step in range(150):
        lib.calc_motion_frame(ids, torch.zeros(40))
        some = torch.tensor(random.permutation(40)[:4])
        ids[some] = lib.sample_motions(4, motion_difficulty=weights)
        assert len(ids.unique()) == 40
        if step >= 50:
            share.append(float(is_heavy[ids].float().mean()))
    assert abs(np.mean(share) - 0.74) < 0.06


def test_easy_motions_come_first_in_a_curriculum(case: Case) -> None:
    lib = make(case, num_envs=40, horizon=2)
    commands = lib.motion_commands.abs()
    order = (commands / commands.amax(dim=0)).amax(dim=1).argsort()
    assert set(lib.sample_motions(20, curriculum_level=0.0).tolist()) == set(order[:20].tolist())  # a quarter
    assert set(lib.sample_motions(7, curriculum_level=0.0).tolist()) == set(order[20:27].tolist())  # and then the next
    some = set(lib.sample_motions(40, curriculum_level=1.0).tolist())
    assert not some & set(order[:27].tolist())  # those are taken
    with pytest.raises(EngineError, match="n is 81; expected at most 80"):
        lib.sample_motions(81)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_a_training_step_on_a_gpu_never_waits_and_has_the_same_values(gpu_case: tuple[Case, str], mode: str) -> None:
    (case, backend), num_envs = gpu_case, 300
    settings: dict[str, Any] = {"mode": mode, "backend": backend, "precision": "fp32", "horizon": 96, "num_motions": 64}
    lib = make(case, num_envs=num_envs, device="cuda", **settings)
    everyone = torch.arange(num_envs, device="cuda")
    some, difficulty = everyone[::17].clone(), torch.rand(lib.num_motions(), device="cuda") + 1
    offsets = torch.tensor(OFFSETS, device="cuda")
    ids = lib.sample_motions(num_envs, motion_difficulty=difficulty)
    episode_length = torch.zeros(num_envs, device="cuda")

    def training_step() -> tuple[torch.Tensor, ...]:
        episode_length.add_(1)
        lib.calc_motion_frame(ids, episode_length * DT)
        ids[some] = lib.sample_motions(len(some), motion_difficulty=difficulty)
        episode_length.index_fill_(0, some, 0.0)
        lib.calc_motion_frame(ids[some], lib.sample_time(ids[some]))
        lib.get_motion_length(ids)
        times = offsets * DT + (episode_length * DT).unsqueeze(1)
        return lib.calc_motion_frame(ids.repeat_interleave(len(OFFSETS)), times.flatten())

    training_step()
    with no_waiting():
        out = training_step()
    assert all(field.device.type == "cuda" for field in out)
    if mode == "realtime":
        assert len(ids.unique()) == num_envs and lib.report() == (0, 0, 0, 0)
    truth = library_truth(case, lib, 110)  # which starts all motions at time 0
    for frame in range(12):
        times = torch.linspace(0, 1.9, len(truth.yaw[0]), device="cuda") + frame * DT
        ids = torch.arange(len(times), device="cuda")
        both = torch.cat([torch.full_like(times, frame * DT), times])
        found = tuple(field.cpu() for field in lib.calc_motion_frame(ids.repeat(2), both))
    assert_frames(found, at_times(truth, ids.repeat(2).cpu().numpy(), both.cpu().numpy(), 50.0), 1e-3)


@pytest.mark.gpu
def test_queries_in_a_cuda_graph(gpu_case: tuple[Case, str]) -> None:
    """A query, captured once: each replay moves the motions on, as the same calls without a graph do."""
    case, backend = gpu_case
    libs = [make(case, num_envs=16, device="cuda", backend=backend) for _ in range(2)]
    ids = [lib.sample_motions(16) for lib in libs]
    assert torch.equal(*ids)
    motions = ids[0].repeat_interleave(4)
    clock, offsets = torch.zeros((), device="cuda"), torch.tensor([0.0, 1.0, 5.0, 7.0], device="cuda")

    def query(lib: MotionLibCMG) -> tuple[torch.Tensor, ...]:
        clock.add_(1)
        return lib.calc_motion_frame(motions, ((clock + offsets) * DT).repeat(16))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            query(libs[0])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = query(libs[0])
    for _ in range(20):
        graph.replay()
    clock.zero_()
    for _ in range(23):
        expected = query(libs[1])
    for field, other in zip(captured, expected):
        torch.testing.assert_close(field, other, rtol=1e-5, atol=1e-5)
    assert libs[0].report() == libs[1].report() == (0, 0, 0, 0)
