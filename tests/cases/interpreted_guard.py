"""The guard's kernel in Triton's interpreter, against its plain torch form. Run by test_guard.py in a process of its
own; see interpreted_kernels.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmg_runtime.guard import Guard
from cmg_runtime.window.triton.guard import replace_bad_rows


@pytest.mark.parametrize("advance", [False, True])
@pytest.mark.parametrize("width, num_envs", [(58, 37), (10, 16), (4, 1), (64, 3)])
def test_bad_rows(
    width: int, num_envs: int, advance: bool, rng: np.random.Generator, generator: torch.Generator
) -> None:
    bank = torch.randn(11, width, generator=generator)
    high = 1 + torch.rand(width, generator=generator)
    pair = [Guard(-high, high, bank, num_envs, torch.zeros((), dtype=torch.int64)) for _ in range(2)]
    frames = torch.randint(0, 1 << 40, (num_envs + 1,), generator=generator)  # beyond 32 bits
    for one in pair:
        one.frame.copy_(frames)
    bad = 0
    for _ in range(5):
        columns = torch.arange(num_envs)
        if not advance:  # then they may be any, and the scratch column many times
            columns = torch.tensor(
                rng.permutation([*range(num_envs), num_envs, num_envs])[: rng.integers(1, num_envs + 2)]
            )
        motion = high * (2 * torch.rand(len(columns), width, generator=generator) - 1)
        for value in (np.nan, np.inf, -np.inf, 2.5):
            motion[rng.integers(len(columns)), rng.integers(width)] = value
        motion[rng.integers(len(columns)), 0] = high[0]  # at the limit, which is within
        counts = columns < num_envs  # the scratch column's do not
        moving = torch.tensor(rng.random(num_envs) < 0.5) if advance and rng.random() < 0.7 else None
        if moving is not None:
            counts &= moving
        bad += int((counts & ~(motion.abs() <= high).all(dim=1)).sum())
        wide = torch.cat([motion, motion], dim=1)
        expected, seen = motion.clone(), wide[:, :width]
        ahead = int(rng.integers(0, 100))
        pair[0].apply(expected, columns, ahead, advance, moving)
        replace_bad_rows(pair[1], seen, columns, ahead, advance, moving)
        torch.testing.assert_close(seen, expected, rtol=0, atol=0, equal_nan=True)
        assert torch.isfinite(seen if moving is None else seen[moving]).all()
        torch.testing.assert_close(wide[:, width:], motion, rtol=0, atol=0, equal_nan=True)  # beside them, nothing
        assert torch.equal(pair[1].frame, pair[0].frame)
        assert int(pair[1].replaced) == int(pair[0].replaced) == bad
    assert torch.equal(pair[0].frame, frames) != advance
