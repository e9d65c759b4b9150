"""Pregenerated motions against plain float64 trajectories, called as a TWIST-style mimic environment calls them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from dropin_case import Case, assert_frames, at_times, g1_case, library_truth
from mimic_case import DT, LINKS, NUM_ENVS, MimicEnv

KNOWN = LINKS[1:-1]


@pytest.fixture
def case() -> Case:
    return g1_case()


def of_known_links(out: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Without the links that the engine's robot does not have, which read NaN."""
    assert torch.isnan(out[6][:, [0, -1]]).all()
    return (*out[:6], out[6][:, 1:-1])


def test_a_twist_environment_on_pregenerated_motions(case: Case, seed: int) -> None:
    truth: list[Any] = []
    asked, checked = itertools.count(), []

    def check(env: MimicEnv, what: str, env_ids: torch.Tensor, times: torch.Tensor, out: Any) -> None:
        if not truth:
            truth.append(library_truth(case, env.lib, 2 * 60 + 96, KNOWN))
        if next(asked) % 7 == 0 or len(times) < NUM_ENVS:
            ids = env.motion_ids[env_ids].numpy()
            assert_frames(of_known_links(out), at_times(truth[0], ids, times.numpy(), 50.0))
            checked.append(len(times))

    env = MimicEnv(case, check, seed)
    assert env.lib.num_motions() == 48 and env.max_episode_length_s == pytest.approx(1.2)
    assert env.lib.get_total_length() == pytest.approx(48 * 1.2)
    assert len(set(env.lib.get_motion_names())) == 48
    env.start_at_random_clocks()
    for _ in range(250):
        env.step()
    assert len(checked) > 75
    assert env.lib.report() == (0, 0, 0, 0)  # nobody looked past what was generated


def test_a_viewer_plays_on_past_the_end(case: Case, seed: int) -> None:
    """Without resets time grows: the motion repeats, and the root goes on from where it was."""
    answers = []

    def check(env: MimicEnv, what: str, env_ids: torch.Tensor, times: torch.Tensor, out: Any) -> None:
        kept = [field.clone() for field in of_known_links(out)]
        answers.append((env.motion_ids[env_ids].numpy(), times.numpy().copy(), kept))

    env = MimicEnv(case, check, seed, cmg_num_motions=5, cmg_motion_length=10)
    truth = library_truth(case, env.lib, 2 * 10 + 96, KNOWN)
    previous = None
    for _ in range(300):
        out = env.step(reset=False)
        if previous is not None:
            moved = (out[0][:, :2] - previous[:, :2]).norm(dim=1)
            assert (moved < 0.1).all()  # metres a frame: the root never jumps
        previous = out[0].clone()
    for ids, times, out in answers[::40]:
        assert_frames(tuple(out), at_times(truth, ids, times, 50.0), 1e-3)
    assert answers[-1][1].max() > 3 * 115 * DT
    with pytest.warns(RuntimeWarning, match="past_end"):
        assert env.lib.report().past_end > 0
