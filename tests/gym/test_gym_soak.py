"""A long run of the training environment finds what it looks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cmg_gym import soak

pytestmark = pytest.mark.xdist_group("gym")


class Steps:
    """An environment that keeps something of every step, and from some step on shows what is not finite."""

    num_envs, num_actions, device, cfg = 3, 2, "cpu", SimpleNamespace(seed=0)

    def __init__(self, keep: bool = False, wrong_from: int = 10**9) -> None:
        self._keep, self._wrong_from, self._kept, self._made = keep, wrong_from, [], 0

    def step(self, actions: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, dict[str, Any]]:
        observation = actions.clone()
        if self._keep:
            self._kept.append(observation)
        if self._made >= self._wrong_from:
            observation[1, 0] = torch.nan
        self._made += 1
        return {"actor": observation}, torch.zeros(3), torch.tensor([0, 1, 0]), {}

    def episode_statistics(self) -> dict[str, float]:
        return {}


def run(**settings: Any) -> soak.Seen:
    env: Any = Steps(**settings)
    return soak.worn(env, 6000, 60.0)


def test_a_run_that_stays_as_it_was() -> None:
    seen = run()
    assert (seen.steps, seen.episodes, seen.not_finite) == (6000, 6000, 0)
    assert len(seen.memory) == 3 and len(seen.tenths()) == 10
    failures = [failure for failure in soak.judged(seen) if not failure.startswith("a step takes")]
    assert failures == []
    assert "6000 steps of 3 robots" in soak.table(seen, 3)


def test_what_is_kept_and_what_is_not_finite_is_found() -> None:
    assert any("the number of live tensors grew" in failure for failure in soak.judged(run(keep=True)))
    seen = run(wrong_from=5990)
    assert seen.not_finite == 10
    assert any("not finite" in failure for failure in soak.judged(seen))


def test_steps_that_take_longer_are_found() -> None:
    seen = soak.Seen(times=[100.0] * 9 + [130.0])
    assert any("130 us at the end" in failure for failure in soak.judged(seen))


def test_it_ends_in_time_with_what_it_has() -> None:
    env: Any = Steps()
    seen = soak.worn(env, 10**9, 0.5)
    assert 0 < seen.steps < 10**9 and len(seen.memory) >= 2
