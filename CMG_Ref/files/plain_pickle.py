"""Pickles of numbers, read without running code: plain ones, ``joblib.dump``'s, and those that hold torch tensors.

Python's own loader in pure Python, not in C: ``joblib`` writes arrays between a pickle's instructions, where only a
loader that shares its stream finds them, and it takes no memory for numbers that a pickle merely claims.
"""

from __future__ import annotations

import io
import math
import pickle
import zlib
from typing import Any, ClassVar

import numpy as np

from CMG_Ref.files.flat_keys import FlatKeysUnpickler, flat_ordered_dict
from CMG_Ref.files.plain_arrays import STAND_INS, PlainArray, PlainDtype

UNPACKED_ALLOWED = 1 << 30
"""Bytes that any packed pickle may unpack to."""

RATIO_ALLOWED = 100
"""How many times its own size a packed pickle may unpack to."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip


def load_plain(content: bytes) -> Any:
    """What a pickle holds: containers, numbers, strings and numpy arrays; torch tensors come as numpy arrays.

    Raises:
        Exception: of any kind; it is damaged, claims more than it holds, or asks for another class or function.
    """
    return _PlainUnpickler(io.BytesIO(_unpacked(content))).load()


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


class _Storage:
    """The class of a torch storage: which numbers it holds."""

    def __init__(self, kind: str) -> None:
        self.dtype = np.dtype(_STORAGES[kind]).newbyteorder("<")


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
        if state["order"] not in ("C", "F"):
            raise pickle.UnpicklingError("an array of unknown order")
        dtype, shape = state["dtype"].value, _shape(state["shape"])
        return _array(stream.read(math.prod(shape) * dtype.itemsize), dtype, shape, state["order"])


class _PlainUnpickler(FlatKeysUnpickler):
    dispatch: ClassVar[dict[int, Any]] = dict(FlatKeysUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self._source, self._size = stream, len(stream.getbuffer())

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        if (module, name) not in _PERMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, only numpy arrays and torch tensors are read")
        return _PERMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Only torch's older files have these, and only for their one storage."""
        kind, storage, _, _, count, *_ = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("it refers to something outside")
        return storage, count

    def load_build(self) -> None:
        """State is given to arrays and their types alone, never to a function or class of ours."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (PlainArray, PlainDtype, _JoblibArray):
            raise pickle.UnpicklingError(f"it gives state to a {type(target).__name__}")
        target.__setstate__(state)
        if isinstance(target, _JoblibArray):
            self.stack[-1] = target.read(self._source)

    def load_bytearray8(self) -> None:
        """As many bytes as there are; the loader would take what is claimed."""
        claimed = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(min(claimed, self._size))))

    def load_set(self) -> None:
        raise pickle.UnpicklingError("it holds a set")

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.EMPTY_SET[0]: load_set,
        pickle.FROZENSET[0]: load_set,
    }


def _encode(text: str, codec: str) -> bytes:
    """How old pickles hold bytes. The codec is always latin-1; some others take ages."""
    return text.encode("latin-1")


def _storage_from_bytes(content: Any) -> np.ndarray:
    """The numbers of one storage in torch's older file format: five pickles, a count, and the numbers."""
    stream = io.BytesIO(content)

    def next_pickle() -> Any:
        return _PlainUnpickler(stream).load()

    magic, _, machine = next_pickle(), next_pickle(), next_pickle()
    if magic != _LEGACY_MAGIC or machine["little_endian"] is not True:
        raise pickle.UnpicklingError("a tensor in an unknown format")
    (storage, count), _ = next_pickle(), next_pickle()
    if int.from_bytes(stream.read(8), "little") != count:
        raise pickle.UnpicklingError("a tensor that claims other numbers than it holds")
    return _array(stream.read(), storage.dtype, (count,), "C")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """Stands for ``torch._utils._rebuild_tensor_v2``: a copy of a view of a storage."""
    size, stride = _shape(size), _shape(stride)
    if type(storage) is not np.ndarray or storage.ndim != 1 or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor without its numbers")
    count = math.prod(size)
    last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count == 0:
        return np.zeros(size if max(size) <= len(storage) else 0, storage.dtype)
    if count > len(storage) or not 0 <= offset <= offset + last < len(storage):
        raise pickle.UnpicklingError("a tensor has more values than are stored")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _shape(values: Any) -> tuple[int, ...]:
    if type(values) is not tuple or len(values) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in values):
        raise pickle.UnpicklingError(f"an array of shape {str(values)[:40]}")
    return values


def _array(content: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    if math.prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of {dtype} {shape} in {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


_PERMITTED: dict[tuple[str, str], Any] = {
    **STAND_INS,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): flat_ordered_dict,
    ("joblib.numpy_pickle", "NumpyArrayWrapper"): _JoblibArray,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
"""(module, name) in a pickle -> what is called instead."""
