"""Pickles of motion clips: plain ones and ``joblib.dump``'s, packed or not, with arrays or torch tensors.

``joblib`` writes arrays between a pickle's instructions, where only a loader that shares its stream finds them.
"""

from __future__ import annotations

import io
import math
import pickle
import zlib
from typing import Any, ClassVar

import numpy as np

from CMG_Ref.files.safe_pickle import FUNCTIONS, Functions, PlainUnpickler, rebuild_tensor

UNPACKED_ALLOWED = 1 << 30
"""Bytes that any packed pickle may unpack to."""

RATIO_ALLOWED = 100
"""How many times its own size a packed pickle may unpack to."""


def load_plain(content: bytes) -> Any:
    """What a pickle holds: containers, numbers, strings and numpy arrays; torch tensors come as numpy arrays.

    Raises:
        Exception: of any kind; it is damaged, claims more than it holds, or asks for another class or function.
    """
    return _JoblibUnpickler(io.BytesIO(_unpacked(content))).load()


def _unpacked(content: bytes) -> bytes:
    """``joblib.dump(..., compress=)`` packs the whole stream, most often with zlib."""
    if content[:1] != b"\x78" and content[:2] != b"\x1f\x8b":
        return content
    unpacker = zlib.decompressobj(wbits=47)  # zlib's or gzip's header
    allowed = min(UNPACKED_ALLOWED, max(1 << 20, RATIO_ALLOWED * len(content)))
    unpacked = unpacker.decompress(content, allowed)
    if not unpacker.eof:
        raise pickle.UnpicklingError(f"it is cut off, or its {len(content)} bytes unpack to more than {allowed}")
    return unpacked


class _JoblibArray:
    """Stands for ``joblib.numpy_pickle.NumpyArrayWrapper``, which describes the array that follows it in the stream."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def read(self, stream: io.BytesIO) -> np.ndarray:
        state = self.state
        padding = state.get("numpy_array_alignment_bytes")
        if padding is not None:
            stream.seek(stream.read(1)[0], io.SEEK_CUR)
        dtype, shape, order = state["dtype"].value, state["shape"], state["order"]
        if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**40 for n in shape) or len(shape) > 8:
            raise pickle.UnpicklingError(f"an array of shape {str(shape)[:40]}")
        if order not in ("C", "F"):
            raise pickle.UnpicklingError("an array of unknown order")
        claimed = math.prod(shape) * dtype.itemsize
        content = stream.read(claimed)
        if len(content) != claimed:
            raise pickle.UnpicklingError(f"an array of {dtype} {shape} in {len(content)} bytes")
        return np.frombuffer(content, dtype).reshape(shape, order=order)


def _rebuild_array(*arguments: Any) -> np.ndarray:
    return rebuild_tensor(*arguments).numpy()


_FUNCTIONS: Functions = {
    **FUNCTIONS,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_array,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
}


class _JoblibUnpickler(PlainUnpickler):
    takes_state: ClassVar[tuple[type, ...]] = (*PlainUnpickler.takes_state, _JoblibArray)
    dispatch: ClassVar[dict[int, Any]] = dict(PlainUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, _FUNCTIONS)
        self._stream = stream

    def load_newobj(self) -> None:
        """Of joblib's descriptions alone."""
        arguments = self.stack.pop()
        if self.stack[-1] is not _JoblibArray or arguments:
            raise pickle.UnpicklingError("it makes an object")
        self.stack[-1] = _JoblibArray()

    def load_build(self) -> None:
        """A description is replaced by its array."""
        super().load_build()
        if type(self.stack[-1]) is _JoblibArray:
            self.stack[-1] = self.stack[-1].read(self._stream)

    dispatch |= {pickle.NEWOBJ[0]: load_newobj, pickle.BUILD[0]: load_build}
