"""Commands drawn by every strategy, and the smoother, against their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from CMG_Ref.utils.cmg_motion_generator import CommandSmoother
from CMG_Ref.utils.command_sampler import CommandSampler
from cmg_runtime import inputs
from cmg_runtime.commands.sampler import PRESETS, STAGES, STRATEGIES, get_stage_sampler
from cmg_runtime.errors import EngineError

RANGES = ((-1.5, 3.0), (-0.8, 0.8), (-0.8, 0.8))
OF_STAGES = {
    "stage1_basic": ((0.3, 2.0), (0.0, 0.0), (0.0, 0.0)),
    "stage2_turn": ((0.3, 2.0), (0.0, 0.0), (-0.5, 0.5)),
    "stage3_strafe": ((0.0, 2.0), (-0.5, 0.5), (-0.5, 0.5)),
    "stage4_mixed": ((-1.0, 3.0), (-0.8, 0.8), (-0.8, 0.8)),
}
N = 4001


def sampler(seed: int, **ranges: tuple[float, float]) -> CommandSampler:
    return CommandSampler(7, "cpu", seed=seed, **ranges)


def assert_fills(commands: torch.Tensor, ranges: tuple[tuple[float, float], ...]) -> None:
    """Within the ranges and spread over all of them."""
    for column, (low, high) in zip(commands.unbind(1), ranges):
        slack = 1e-6 + 0.01 * (high - low)
        assert low - 1e-6 <= column.min() <= low + slack
        assert high - slack <= column.max() <= high + 1e-6
        assert abs(float(column.mean()) - (low + high) / 2) < 1e-6 + 0.03 * (high - low)


def test_stages_uniform_and_presets_fill_their_ranges(seed: int) -> None:
    assert set(STAGES) == set(OF_STAGES)
    for stage, ranges in OF_STAGES.items():
        commands = sampler(seed).sample_batch(N, stage)
        assert commands.shape == (N, 3) and commands.dtype == torch.float32
        assert_fills(commands, ranges)
        assert_fills(get_stage_sampler(stage, N, "cpu", seed).sample_uniform(), ranges)
    for strategy in ("uniform", "uniform_random", "mixed"):
        assert_fills(sampler(seed).sample_batch(N, strategy), RANGES)
    for preset, ranges in PRESETS.items():
        assert_fills(sampler(seed).sample_batch(N, preset), ranges)
        assert sampler(seed).sample_preset(preset).shape == (7, 3)
    left, right = sampler(seed).sample_batch(N, "turn_left"), sampler(seed).sample_batch(N, "turn_right")
    assert (left[:, 2] > 0).all() and (right[:, 2] < 0).all() and (left[:, :2] == 0).all()
    assert (sampler(seed).sample_batch(N, "backward")[:, 0] < 0).all()


def test_difficulty_scales_the_ranges(seed: int) -> None:
    for difficulty in (0.0, 0.37, 1.0):
        scales = (0.5 + 0.5 * difficulty, difficulty, 0.3 + 0.7 * difficulty)
        expected = tuple((scale * low, scale * high) for scale, (low, high) in zip(scales, RANGES))
        assert_fills(sampler(seed).sample_batch(N, "curriculum", difficulty), expected)
    away_from_zero = sampler(seed, vx_range=(0.4, 2.0), vy_range=(-0.6, -0.2))
    easy = away_from_zero.sample_batch(N, "curriculum", 0.0)
    assert_fills(easy, ((0.4, 1.2), (-0.2, -0.2), (-0.24, 0.24)))  # never outside the sampler's own ranges


def test_truncated_normal_has_the_distribution(seed: int) -> None:
    mean, std = torch.tensor([1.0, -0.6, 0.0]), torch.tensor([2.0, 0.4, 0.1])
    commands = CommandSampler(20000, "cpu", seed=seed).sample_distribution("truncated_normal", mean, std).double()
    for column, (low, high), m, s in zip(commands.unbind(1), RANGES, mean.double(), std.double()):
        assert low <= column.min() and column.max() <= high
        points = torch.stack([torch.tensor(low), torch.tensor(high), m - s, m, m + 0.5 * s]).double()
        below = torch.special.ndtr((points - m) / s)  # of the whole normal distribution
        for x, expected in zip(points[2:], (below[2:] - below[0]) / (below[1] - below[0])):
            assert not low < x < high or abs((column <= x).double().mean() - expected) < 0.02
    default = sampler(seed).sample_batch(20000, "truncated_normal")
    assert abs(float(default[:, 0].mean()) - 0.75) < 0.05
    assert float(default[:, 0].std()) < 4.5 / 4  # what the tails lost
    far = sampler(seed).sample_distribution(mean=[-100.0, 0.0, 100.0], std=[0.1, 0.0, 0.1])
    assert torch.allclose(far, torch.tensor([-1.5, 0.0, 0.8]).expand(7, 3))


def test_sequences_join_their_draws_by_straight_lines(seed: int) -> None:
    duration, interval = 73, 20
    for mode in ("uniform", "curriculum", "preset:forward", "stage2_turn"):
        sequence = sampler(seed).sample_sequence(duration, interval, mode)
        assert sequence.shape == (7, duration, 3) and sequence.dtype == torch.float32
        keys = sequence[:, ::interval]
        for t in range(duration):
            k, part = divmod(t, interval)
            after = keys[:, min(k + 1, keys.shape[1] - 1)]
            expected = keys[:, k] + part / interval * (after - keys[:, k])
            assert torch.allclose(sequence[:, t], expected, atol=1e-5), (mode, t)
    hard = sampler(seed).sample_sequence(200, 50, "curriculum")
    assert (hard[:, 0, 1] == 0).all() and (hard[:, 199, 1] != 0).all()
    assert sampler(seed).sample_sequence(3, 50).shape == (7, 3, 3)


def test_a_seed_repeats_and_another_does_not(seed: int) -> None:
    for strategy in STRATEGIES:
        one, same, other = (sampler(s).sample_batch(50, strategy, 0.5) for s in (seed, seed, seed + 1))
        assert torch.equal(one, same), strategy
        assert not torch.equal(one, other), strategy
    before, one = torch.get_rng_state(), sampler(seed)
    sampler(seed).sample_batch(50)
    assert torch.equal(before, torch.get_rng_state())
    assert one.sample_uniform().shape == (7, 3)  # env_ids choose how many
    assert one.sample_uniform([1, 5]).shape == (2, 3)
    assert one.sample_curriculum(0.5, torch.tensor([0])).shape == (1, 3)
    assert one.sample_sequence(4, 2, env_ids=[0, 3, 6]).shape == (3, 4, 3)
    assert one.sample_batch(0).shape == (0, 3)


def test_bad_input_is_refused(seed: int) -> None:
    one, smoother = sampler(seed), CommandSmoother(3, 4, "cpu")
    refused: list[tuple[Any, str]] = [
        (lambda: sampler(seed, vx_range=(1.0, 0.0)), "vx_range"),
        (lambda: sampler(seed, vy_range=(0.0, math.nan)), "vy_range"),
        (lambda: sampler(seed, yaw_range=(0.0,)), "yaw_range"),  # pyright: ignore
        (lambda: CommandSampler(0, "cpu"), "num_envs"),
        (lambda: one.sample_batch(3, "stage9"), "unknown strategy 'stage9'; expected one of uniform"),
        (lambda: one.sample_batch(-1), "n is -1"),
        (lambda: one.sample_curriculum(1.1), "difficulty"),
        (lambda: one.sample_curriculum(math.nan), "difficulty"),
        (lambda: one.sample_preset("moonwalk"), "unknown preset"),
        (lambda: get_stage_sampler("stage0", 3, "cpu"), "unknown stage"),
        (lambda: one.sample_distribution(std=[0.1, -0.1, 0.1]), "std"),
        (lambda: one.sample_sequence(0), "duration"),
        (lambda: one.sample_uniform([9]), "env_ids"),
        (lambda: CommandSmoother(3, 0, "cpu"), "interpolation_steps"),
        (lambda: smoother.set_target([math.nan, 0.0, 0.0]), "target_cmd has entries that are NaN"),
        (lambda: smoother.get_current([3]), "env_ids has 3"),
    ]
    for call, message in refused:
        with pytest.raises(EngineError, match=message):
            call()


def test_the_smoother_is_a_straight_line(generator: torch.Generator) -> None:
    steps, first, second = 5, torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    with torch.inference_mode():  # it works outside as well
        smoother = CommandSmoother(4, steps, "cpu")
    assert torch.equal(smoother.get_current(), torch.zeros(4, 3))
    smoother.set_target(first)
    for call in range(steps + 3):
        smoother.set_target(first)  # the same again: it goes on
        assert torch.allclose(smoother.get_current(), min(call / steps, 1.0) * first, atol=1e-6)
    smoother.set_target(second)
    smoother.get_current()
    halfway = first + 1 / steps * (second - first)
    smoother.set_target(torch.zeros(2, 3), [1, 3])  # in the middle of a ramp: no jump
    for call in range(steps + 2):
        now = smoother.get_current()
        others = first + min((call + 1) / steps, 1.0) * (second - first)
        assert torch.allclose(now[[0, 2]], others[[0, 2]], atol=1e-6)
        assert torch.allclose(now[[1, 3]], max(1 - call / steps, 0.0) * halfway[[1, 3]], atol=1e-6)


def test_the_smoother_moves_only_those_asked_for() -> None:
    smoother = CommandSmoother(3, 4, "cpu")
    smoother.set_target([1.0, 2.0, 3.0])
    for _ in range(3):
        row = smoother.get_current([1])
    assert torch.allclose(row, torch.tensor([[0.5, 1.0, 1.5]]))
    now = smoother.get_current(torch.tensor([True, False, False]))
    assert torch.allclose(now[:, 0], torch.tensor([0.0, 0.75, 0.0]))
    assert torch.allclose(smoother.get_current()[:, 0], torch.tensor([0.25, 0.75, 0.0]))


def test_the_smoother_goes_on_where_the_target_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    smoother, target, rows = CommandSmoother(3, 4, "cpu"), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 3)
    rows[1:] = math.nan
    smoother.set_target(target)
    smoother.set_target(rows, torch.tensor([True, False, False]))  # rows that are not chosen may hold anything
    with pytest.raises(EngineError, match="NaN"):
        smoother.set_target(rows, torch.tensor([True, True, False]))
    monkeypatch.setattr(inputs, "require_finite", lambda tensor, name: None)  # as on a GPU
    for given, expected in (
        (rows, [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
        (target, [[1.0, 2.0, 3.0]] * 3),
    ):
        smoother.set_target(given)
        for _ in range(5):
            now = smoother.get_current()
        assert torch.equal(now, torch.tensor(expected))
