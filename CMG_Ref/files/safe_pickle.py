"""Pickles read without running code, of every protocol: containers, numbers, texts, numpy arrays and dense tensors.

``torch.load(weights_only=True)`` reads protocol 2 alone. Files of other tools, and of ``torch.save`` with another
``pickle_protocol``, are read here, by an unpickler that has no operation to make an object of any other kind. It is
Python's own in pure Python, not in C: that takes no memory for numbers that a pickle merely claims, and shares its
stream.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from CMG_Ref.files.flat_keys import FlatKeysUnpickler, flat_ordered_dict, flat_set
from CMG_Ref.files.pickle_check import NotPermitted
from CMG_Ref.files.plain_arrays import STAND_INS, PlainArray, PlainDtype

_ELEMENT_TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_DIMENSIONS = 64  # of numpy's arrays; multiplying millions of sizes would take for ever

_MAKING_OBJECTS = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER,
)  # fmt: skip

Functions = dict[tuple[str, str], Callable[..., Any]]
"""(module, name) in a pickle -> what is called instead."""

ReadStorage = Callable[[str, int], bytes]
"""(key, bytes expected) -> the bytes of a tensor's values."""


def load_pickle(content: bytes, read_storage: ReadStorage | None = None) -> Any:
    """What a pickle of any protocol holds.

    Args:
        content: of one pickle.
        read_storage: for the pickle in an archive of torch's, whose values stand elsewhere.

    Raises:
        NotPermitted: it names something else than numpy arrays, tensors and containers.
        Exception: it is damaged; of any kind.
    """
    return PlainUnpickler(io.BytesIO(content), FUNCTIONS, read_storage).load()


class _ElementType:
    """Stands for a class of storages, which must not be called: it would take any amount of memory."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class PlainUnpickler(FlatKeysUnpickler):
    """Python's own, less the operations that make objects of classes, and with the others held to plain values.

    Args:
        stream: left behind the pickle's end.
        functions: all that a pickle may call.
        read_storage: see :func:`load_pickle`.
    """

    takes_state: ClassVar[tuple[type, ...]] = (PlainArray, PlainDtype)
    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = dict(FlatKeysUnpickler.dispatch)

    def __init__(self, stream: io.BytesIO, functions: Functions, read_storage: ReadStorage | None = None) -> None:
        super().__init__(stream)
        self._functions, self._read_storage = functions, read_storage
        self._storages: dict[str, torch.Tensor] = {}
        self._size = len(stream.getbuffer())

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module)
        if (module, name) in self._functions:
            return self._functions[module, name]
        if module == "torch" and name.removesuffix("Storage") in _ELEMENT_TYPES:
            return _ElementType(_ELEMENT_TYPES[name.removesuffix("Storage")])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise NotPermitted([f"{module}.{name}"], set())

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, element, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(element, _ElementType) or self._read_storage is None:
            raise ValueError("it refers to something outside")
        if key not in self._storages:
            expected = count * element.dtype.itemsize
            values = bytearray(self._read_storage(str(key), expected))
            if len(values) != expected:
                raise ValueError(f"data/{key} has {len(values)} bytes, the pickle says {expected}")
            empty = torch.empty(0, dtype=element.dtype)
            self._storages[key] = torch.frombuffer(values, dtype=element.dtype) if values else empty
        return self._storages[key]

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is permitted for permitted in self._functions.values()):
            raise ValueError("it calls what it made itself")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        """State is given to arrays and their types alone, never to a function or class of ours."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) in self.takes_state:
            target.__setstate__(state)
        elif type(target) is not OrderedDict:  # whose attributes, the versions in a state dict, nobody asks for
            raise ValueError(f"it changes a {type(target).__name__}")

    def load_bytearray8(self) -> None:
        """As many bytes as there are; the loader would take what is claimed."""
        claimed = int.from_bytes(self.read(8), "little")
        if claimed > self._size:
            raise ValueError("it claims more bytes than it has")
        self.append(bytearray(self.read(claimed)))

    for _code in _MAKING_OBJECTS:
        del dispatch[_code[0]]
    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build, pickle.BYTEARRAY8[0]: load_bytearray8}


def rebuild_tensor(values: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """The dense tensor over stored values; ``as_strided`` keeps within them, but takes each any number of times."""
    if len(size) > _MOST_DIMENSIONS or math.prod(size) > values.numel():
        raise ValueError("a tensor has more values than are stored")
    return values.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor


def _load_from_bytes(content: bytes) -> torch.Tensor:
    """The values of a tensor that was pickled by itself: a file of torch's older format in a few bytes.

    That is five pickles, a count, and the values.
    """
    stream = io.BytesIO(content)

    def read_storage(key: str, expected: int) -> bytes:
        return content[max(0, len(content) - expected) :]

    def next_pickle() -> Any:
        return PlainUnpickler(stream, FUNCTIONS, read_storage).load()

    magic, _, machine, values, _ = (next_pickle() for _ in range(5))
    if magic != _LEGACY_MAGIC or machine["little_endian"] is not True:
        raise ValueError("a tensor in an unknown format")
    if int.from_bytes(stream.read(8), "little") != values.numel() or len(stream.read()) != values.nbytes:
        raise ValueError("a tensor that claims other values than it holds")
    return values


def _encode(text: str, codec: str) -> bytes:
    """How old pickles hold bytes. The codec is always latin-1; some others take ages."""
    return text.encode("latin-1")


FUNCTIONS: Functions = {
    **STAND_INS,
    ("collections", "OrderedDict"): flat_ordered_dict,
    ("builtins", "set"): flat_set,
    ("builtins", "complex"): complex,
    ("_codecs", "encode"): _encode,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
}
"""What a pickle of tensors may call."""
