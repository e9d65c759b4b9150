"""The kernels of draws in Triton's interpreter, against their plain torch form. Run by test_queries.py in a process of
its own; see interpreted_kernels.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from draws_case import check_alike, check_draws


@pytest.mark.parametrize("num_motions", [12, 300])
def test_draws(num_motions: int, rng: np.random.Generator) -> None:
    check_draws("cpu", num_motions, rng)
    check_alike("cpu", num_motions, rng)
