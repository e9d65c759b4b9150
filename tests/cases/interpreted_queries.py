"""The kernel of queries between frames in Triton's interpreter, against its plain torch form. Run by test_queries.py in
a process of its own; see interpreted_kernels.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from queries_case import CASES, run


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:3])))
def test_queries(case: Any, ring: bool, rng: np.random.Generator) -> None:
    run(case, ring, "cpu", rng)
