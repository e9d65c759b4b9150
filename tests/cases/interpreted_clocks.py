"""The kernels of motions that follow times in Triton's interpreter, against their plain torch form. Run by
test_queries.py in a process of its own; see interpreted_kernels.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from clocks_case import check_calls


@pytest.mark.parametrize("most_steps", [1, 3])
def test_calls(most_steps: int, rng: np.random.Generator) -> None:
    check_calls("cpu", most_steps, rng)
