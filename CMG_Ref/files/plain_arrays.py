"""Stand-ins for the functions and classes of numpy that pickled arrays name.

numpy's own take any claimed shape and any description of a type, and make the array before its content is looked at: a
hundred bytes can ask for all memory there is. These build bools, integers and floats, as many as there are bytes for.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"[?bBhHiIlLqQefd]|b1|[iu][1248]|f[248]")


class PlainDtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        text = code.decode("ascii", "replace") if isinstance(code, bytes) else str(code)
        if not _NUMBERS.fullmatch(text):
            raise ValueError(f"arrays of type {text[:20]!r}; expected bools, integers or floats")
        self.value = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("ascii", "replace") if isinstance(state[1], bytes) else str(state[1])
        self.value = self.value.newbyteorder(order)


class PlainArray(np.ndarray):
    """Stands for ``numpy.ndarray``: made empty, whatever it is called with, and filled from what is there."""

    def __new__(cls) -> PlainArray:
        return super().__new__(cls, (0,), np.dtype(np.int8))

    def __setstate__(self, state: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        _, shape, dtype, fortran, content = state
        super().__setstate__((1, shape, dtype.value, fortran, content))  # numpy compares size and content

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)  # saved again, it is an ordinary array


def _reconstruct(subtype: Any, shape: Any, code: Any) -> PlainArray:
    if shape != (0,):
        raise ValueError(f"an array of shape {str(shape)[:40]} without content")
    return PlainArray()


def _scalar(dtype: Any, content: Any) -> Any:
    return np.frombuffer(content, dtype.value)[0]


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return np.frombuffer(content, dtype.value).reshape(shape, order=order)


STAND_INS: dict[tuple[str, str], Any] = {("numpy", "ndarray"): PlainArray, ("numpy", "dtype"): PlainDtype}
"""(module, name) in a pickle -> what is built instead."""

for _package in ("numpy.core", "numpy._core"):  # numpy 2 renamed it
    STAND_INS[f"{_package}.multiarray", "_reconstruct"] = _reconstruct
    STAND_INS[f"{_package}.multiarray", "scalar"] = _scalar
    STAND_INS[f"{_package}.numeric", "_frombuffer"] = _frombuffer
