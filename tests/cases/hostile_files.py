"""Files made to harm: pickles that call, arrays and tensors that claim more than they hold, archives that do either."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUTSIDE = Path("/tmp/cmg_outside")
"""What code in the files below would make."""


def npy(shape: str, content: bytes = b"", dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive(members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing, compresslevel=1) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return stream.getvalue()


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


class Call:
    """Pickled as the call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


BILLIONS = 1 << 36
RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
CALLS = {
    "array of objects": Call(RECONSTRUCT, np.ndarray, (BILLIONS,), "O"),
    "ndarray itself": Call(np.ndarray, (BILLIONS,), "O"),
    "bytearray": Call(bytearray, BILLIONS),
    "tensor": Call(torch.Tensor, BILLIONS),
    "storage": Call(torch.UntypedStorage, BILLIONS),
    "wide type": Call(np.dtype, f"V{1 << 30}", False, True),
    "command": Call(os.system, f"touch {OUTSIDE}"),
    "evaluated": Call(eval, f"open('{OUTSIDE}', 'w')"),
    "imported": Call(__import__, "antigravity"),
    "module's own": Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(OUTSIDE)))),
    "attribute of a permitted module": Call(torch.hub.load, "a/b", "c"),
}


def memo(number: int) -> bytes:
    return pickle.LONG_BINPUT + number.to_bytes(4, "little")


DOUBLED = b")" + b"2\x86" * 60  # a tuple that is twice in the next, and so on
FLOATS = b"\x80\x04ctorch\nFloatStorage\n"
JOBLIB = b"\x80\4cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"


def described(after: bytes = bytes(99), **changes: Any) -> bytes:
    """What joblib writes of an array, and the values after it."""
    usual = {"subclass": None, "order": "C", "dtype": np.dtype("f4"), "numpy_array_alignment_bytes": None}
    return JOBLIB + pickle.dumps({**usual, **changes}, 2)[2:-1] + b"b" + after


PICKLES = {
    "a storage called": FLOATS + b"J\xff\xff\xff\x7f\x85R.",
    "a storage made": FLOATS + b"J\xff\xff\xff\x7f\x85\x81.",
    "a tensor's state": pickle.dumps(torch.zeros(3), 4)[:-1] + b"N\x85b.",
    "a function's attributes": b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}\x8c\x0c__defaults__)s\x86b.",
    "a class's attributes": b"\x80\x04cnumpy\nndarray\nN}\x8c\x0c__setstate__Ns\x86b.",
    "state for a function": b"cnumpy.core.multiarray\n_reconstruct\n}U\1aI1\nsb.",
    "state for a class": b"cnumpy\nndarray\nN}U\3newI1\ns\x86b.",
    "what it made itself": b"\x80\x04ccollections\nOrderedDict\n)R)R.",
    "outside": b"\x80\x04(\x8c\x07storage" + FLOATS[2:] + b"\x8c\x010\x8c\x03cpuK\x01tQ.",
    "absurd bytes": b"\x80\x05\x96" + b"\xff" * 5 + bytes(3) + b".",
    "absurd number": b"\x80\x04N" + memo(2**32 - 1) + b".",
    "a key hashed for ever": b"\x80\x02}" + DOUBLED + b"K\x01s.",
    "a key hashed for ever in a dictionary": b"((" + DOUBLED + b"Ntd.",
    "a member hashed for ever": b"\x80\x04\x8f(" + DOUBLED + b"\x90.",
    "a frozen member hashed for ever": b"\x80\x04(" + DOUBLED + b"\x91.",
    "a pair hashed for ever": b"\x80\x02ccollections\nOrderedDict\n](" + DOUBLED + b"N\x86e\x85R.",
    "a set of what is hashed for ever": b"\x80\x02c__builtin__\nset\n](" + DOUBLED + b"e\x85R.",
    "an extension": b"\x80\x04\x82\x01.",
    "an old instance": b"(ios\nsystem\n.",
    "pieces of a name": b"\x80\x04\x8c\x02os\x94\x8c\x06systemh\x00\x8c\x06system\x93\x8c\x04true\x85R.",
    "absurd joblib shape": described(shape=(BILLIONS,)),
    "negative joblib shape": described(shape=(-1, 4)),
    "joblib of objects": described(dtype=np.dtype("O")),
    "packed, cut off": zlib.compress(pickle.dumps({"fps": bytes(4000)}))[:-3],
}
"""Written by hand, each of what no pickler writes."""


def storage(count: int, content: bytes) -> Call:
    """A torch storage as a plain pickle holds it: torch's older file format, in bytes."""
    before, persistent = pickle.dumps({"little_endian": True}, 2), pickle.BINPERSID + pickle.STOP
    reference = pickle.PROTO + b"\2" + pickle.MARK + b"\x8c\7storage" + b"ctorch\nFloatStorage\n" + b"\x8c\1a\x8c\3cpu"
    reference += pickle.dumps(count, 2)[2:-1] + b"Nt" + persistent
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    whole = magic + before + reference + pickle.dumps(["a"], 2) + count.to_bytes(8, "little") + content
    return Call(torch.storage._load_from_bytes, whole)


def tensor(held: Any, size: Any, stride: Any, offset: Any = 0) -> Call:
    return Call(REBUILD, held, offset, size, stride, False, {})


REBUILD: Any = torch.zeros(1).__reduce_ex__(2)[0]
FOUR = storage(4, np.arange(4, dtype="<f4").tobytes())
TRANSPOSED = tensor(FOUR, (2, 2), (1, 2))
TENSORS = {
    "more values than stored": tensor(FOUR, (1 << 20, 1 << 20), (0, 0)),
    "beyond the end": tensor(FOUR, (4,), (1 << 30,)),
    "before the start": tensor(FOUR, (2,), (1,), -2),
    "backward": tensor(FOUR, (4,), (-1,), 3),
    "an absurd storage": tensor(storage(BILLIONS, b""), (4,), (1,)),
    "an absurd empty shape": tensor(FOUR, (BILLIONS, 0), (1, 1)),
    "sizes that are none": tensor(FOUR, [4], (1.0,)),
    "no storage": tensor(np.zeros((2, 2)), (4,), (1,)),
    "code within": tensor(Call(torch.storage._load_from_bytes, pickle.dumps(CALLS["command"])), (4,), (1,)),
    "another format within": tensor(Call(torch.storage._load_from_bytes, b"PK\3\4" * 9), (4,), (1,)),
}


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "absurd shape": lambda: npy("(1099511627776,)"),
    "negative shape": lambda: npy("(-1, 4)"),
    "endless empty strings": lambda: npy("(1099511627776,)", dtype="<U0"),
    "bomb": lambda: npy("(75000000,)", bytes(300_000_000)),
    "objects": lambda: npy("(1,)", pickle.dumps([1])[:8].ljust(8), "|O"),
    "nested": lambda: archive({"motion.npy": npy("(0,)")}),
}
"""The array in an archive of numpy's."""
