"""Looking a pickle through before anything of it is built."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from typing import IO, Any, ClassVar

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

_LONGEST_NAME = 200


class NotPermitted(ValueError):
    """A pickle names what is never built. ``names`` are these, ``texts`` the short texts in the same pickle."""

    def __init__(self, names: list[str], texts: set[str]) -> None:
        super().__init__(f"it names {', '.join(names)}; only numbers, texts, numpy arrays and torch tensors are read")
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
