"""The motion library and the generator on CUDA: the same values, and no waiting for the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmg_runtime.motion_generator import CMGMotionGenerator
from cmg_runtime.motion_lib import MotionLibCMG
from dropin_case import assert_frames, at_times, g1_case, plain_trajectory
from engine_folder import no_waiting

pytestmark = pytest.mark.gpu

NUM_ENVS = 300
OFFSETS = torch.tensor([1, *range(5, 100, 5)])


@pytest.mark.parametrize("mode", ["pregenerated", "realtime"])
def test_a_training_step_never_waits(mode: str) -> None:
    case = g1_case()
    lib = MotionLibCMG(
        case.folder, None, 64, 50, NUM_ENVS, "cuda", mode=mode, backend="torch", precision="fp32", command_ramp_s=0.0
    )
    everyone = torch.arange(NUM_ENVS, device="cuda")
    some, difficulty = everyone[::17].clone(), torch.rand(lib.num_motions(), device="cuda") + 1
    offsets = OFFSETS.cuda()
    ids = lib.reset(everyone, motion_difficulty=difficulty)

    def training_step() -> tuple[torch.Tensor, ...]:
        ids[some] = lib.reset(some, motion_difficulty=difficulty)
        lib.sample_time(ids)
        lib.get_motion_length(ids)
        lib.step()
        times = offsets * 0.02 + torch.full((NUM_ENVS, 1), 0.02, device="cuda")
        return lib.calc_motion_frame(ids.repeat_interleave(len(OFFSETS)), times.flatten())

    training_step()
    with no_waiting():
        out = training_step()
    assert all(field.device.type == "cuda" for field in out)
    lib.reset(everyone)
    times = torch.linspace(0, 1.9, NUM_ENVS, device="cuda")
    ids = torch.arange(NUM_ENVS, device="cuda") % lib.num_motions()
    start = lib.calc_motion_frame(ids, torch.zeros_like(times))
    commands = np.broadcast_to(lib.get_motion_command(ids).double().cpu().numpy(), (97, NUM_ENVS, 3))
    truth = plain_trajectory(case, lib.body_names, torch.cat([start[4], start[5]], 1).cpu(), commands)
    expected = at_times(truth, np.arange(NUM_ENVS), times.cpu().numpy(), 50.0)
    assert_frames(tuple(field.cpu() for field in lib.calc_motion_frame(ids, times)), expected, 1e-3)


def test_the_generator_never_waits_in_realtime() -> None:
    case = g1_case()
    generator = CMGMotionGenerator(case.folder, None, NUM_ENVS, "cuda", "realtime", backend="torch", precision="fp32")
    random = torch.Generator().manual_seed(1)
    start, commands = case.truth.states(NUM_ENVS, random).cuda(), case.truth.commands(NUM_ENVS, random).cuda()
    some = torch.arange(0, NUM_ENVS, 7, device="cuda")
    generator.reset(init_motion=start, commands=commands)
    generator.get_motion()
    with no_waiting():
        motion = torch.cat(generator.get_motion(), 1)
        generator.update_commands(commands[: len(some)], some)
        generator.get_motion(some)
        generator.reset(some, start[: len(some)])
        generator.get_motion()
    assert case.truth.error(motion, case.truth.step(start, commands)) < 1e-5
    assert generator.get_performance_stats()["avg_inference_ms"] > 0
