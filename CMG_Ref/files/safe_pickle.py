"""Pickles read without running code, of every protocol: containers, numbers, texts, numpy arrays and dense tensors.

``torch.load(weights_only=True)`` reads protocol 2 alone. Files of other tools, and of ``torch.save`` with another
``pickle_protocol``, are read here, by an unpickler that has no operation to make an object of any other kind.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch

from CMG_Ref.files.flat_keys import FlatKeysUnpickler, flat_ordered_dict, flat_set
from CMG_Ref.files.plain_arrays import STAND_INS

PERMITTED = re.compile(
    r"collections\.OrderedDict|torch\.[A-Z][A-Za-z0-9]*(?<!Untyped)(?<!Typed)Storage"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.serialization\._get_layout|torch\.storage\._load_from_bytes"
    r"|torch\.(Size|device|u?int\d+|b?float\d+|complex\d+|bool)"
    r"|_codecs\.encode|(builtins|__builtin__)\.(set|complex)|"
    + "|".join(re.escape(".".join(name)) for name in STAND_INS)
)
"""Names that a pickle may have. torch's own list is longer: with some of it, such as ``bytearray`` and
``torch.Tensor``, a few bytes take any amount of memory."""

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


_LONGEST_NAME = 200


class NotPermitted(ValueError):
    """A pickle names what is never built. ``names`` are these, ``texts`` the short texts in the same pickle."""

    def __init__(self, names: list[str], texts: set[str]) -> None:
        super().__init__(f"it names {', '.join(names)}")
        self.names = names
        self.texts = texts


def check_pickle(stream: IO[bytes], size: int) -> int:
    """Look through the next pickle of a stream, building nothing of it; returns its protocol.

    Args:
        stream: left behind the pickle's end.
        size: bytes of the whole stream.

    Raises:
        NotPermitted: it names something that is not in ``PERMITTED``.
        ValueError: it is damaged, ends early, or numbers more objects than it has bytes.
        pickle.UnpicklingError: keys that would take for ever to be hashed, which torch's own reader does not notice.
    """
    start = stream.tell()
    protocol, names = 0, dict[str, None]()
    texts: list[str] = []  # in the order in which they come to the stack
    memo: dict[int, str] = {}
    fresh = ""  # the text that the last operation put on the stack
    for opcode, argument, _ in pickletools.genops(stream):
        kind = opcode.name
        if kind == "PROTO":
            protocol = int(argument or 0)
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(memo) if kind == "MEMOIZE" else int(argument or 0)
            if number > size:
                raise ValueError("it numbers more objects than it has bytes")
            memo[number] = fresh
            continue
        elif kind in ("GLOBAL", "INST"):
            names[".".join(str(argument).split(" ", 1))] = None
        elif kind == "STACK_GLOBAL":
            names[".".join(texts[-2:])] = None
        if kind in ("GET", "BINGET", "LONG_BINGET"):
            fresh = memo.get(int(argument or 0), "")
        else:
            short = isinstance(argument, str) and "UNICODE" in kind and len(argument) < _LONGEST_NAME
            fresh = str(argument) if short else ""
        if fresh:
            texts.append(fresh)
    refused = [name for name in names if not PERMITTED.fullmatch(name)]
    if refused:
        raise NotPermitted(refused, set(texts))
    end = stream.tell()
    stream.seek(start)
    _KeyChecker(io.BytesIO(stream.read(end - start))).load()
    return protocol


class _Inert(dict[Any, Any]):
    """Stands for whatever a pickle names or makes of it; takes anything and does nothing."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any) -> _Inert:
        return self


class _KeyChecker(FlatKeysUnpickler):
    """Builds containers alone, for the sake of their keys."""

    dispatch: ClassVar[dict[int, Any]] = dict(FlatKeysUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return {"OrderedDict": flat_ordered_dict, "set": flat_set}.get(name, _Inert)

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()

    def _drop_state(self) -> None:
        self.stack.pop()  # state is given to nothing, least of all to a function of ours

    dispatch[pickle.BUILD[0]] = _drop_state


def load_pickle(content: bytes, read_storage: Callable[[str, int], bytes] | None = None) -> Any:
    """What a pickle of any protocol holds.

    Args:
        content: a pickle that ``check_pickle`` has looked through; it may claim more than it holds otherwise.
        read_storage: (key, bytes expected) -> the bytes of a tensor's values; for the pickle in an archive of torch's.

    Raises:
        NotPermitted: it names something that is not in ``PERMITTED``.
        Exception: it is damaged; of any kind.
    """
    return _PlainUnpickler(content, read_storage).load()


class _ElementType:
    """Stands for a class of storages, which must not be called: it would take any amount of memory."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


_MAKING_OBJECTS = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER,
)  # fmt: skip


class _PlainUnpickler(FlatKeysUnpickler):
    """Python's own, less the operations that make objects of classes, and with the others held to plain values."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(FlatKeysUnpickler.dispatch)

    def __init__(self, content: bytes, read_storage: Callable[[str, int], bytes] | None) -> None:
        super().__init__(io.BytesIO(content))
        self._read_storage = read_storage
        self._storages: dict[str, torch.Tensor] = {}
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): flat_ordered_dict,
            ("builtins", "set"): flat_set,
            ("builtins", "complex"): complex,
            ("_codecs", "encode"): _encode,
            ("torch", "Size"): torch.Size,
            ("torch", "device"): torch.device,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("torch.storage", "_load_from_bytes"): _load_from_bytes,
            **STAND_INS,
        }

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
        kind, element, key, _, count = pid
        if kind != "storage" or not isinstance(element, _ElementType) or self._read_storage is None:
            raise ValueError("it refers to something outside")
        if key not in self._storages:
            values = bytearray(self._read_storage(str(key), count * element.dtype.itemsize))
            empty = torch.empty(0, dtype=element.dtype)
            self._storages[key] = torch.frombuffer(values, dtype=element.dtype) if values else empty
        return self._storages[key]

    def _call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if not any(function is permitted for permitted in self._functions.values()):
            raise ValueError("it calls what it made itself")
        self.stack[-1] = function(*arguments)

    def _set_state(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if any(type(target) is stand_in for stand_in in STAND_INS.values()):
            target.__setstate__(state)
        elif type(target) is not OrderedDict:  # whose attributes, the versions in a state dict, nobody asks for
            raise ValueError(f"it changes a {type(target).__name__}")

    for _code in _MAKING_OBJECTS:
        del dispatch[_code[0]]
    dispatch[pickle.REDUCE[0]] = _call
    dispatch[pickle.BUILD[0]] = _set_state


def _rebuild_tensor(values: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """The dense tensor over stored values; ``as_strided`` keeps within them."""
    return values.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor


def _load_from_bytes(content: bytes) -> torch.Tensor:
    """The values of a tensor that was pickled by itself: a file of torch's older format in a few bytes."""
    stream = io.BytesIO(content)
    for _ in range(5):
        check_pickle(stream, len(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on typed storages; the user cannot act on it
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(stored, torch.storage.TypedStorage):
            raise ValueError("a tensor's values are missing")
        return torch.tensor([], dtype=stored.dtype).set_(stored)  # pyright: ignore[reportArgumentType]


def _encode(text: str, codec: str) -> bytes:
    """How old pickles hold bytes. The codec is always latin-1; some others take ages."""
    return text.encode("latin-1")
