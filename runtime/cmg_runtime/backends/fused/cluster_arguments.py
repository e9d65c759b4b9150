"""What ``cluster.cu`` and the code that launches it must agree on: declared once here, for both.

The structures are ``ctypes`` types, and :func:`declarations` writes them, and the constants, in CUDA C++.
"""

from __future__ import annotations

import ctypes
from typing import Dict, List, Type

from cmg_runtime.backends.fused.cluster_weights import BLOCK_BYTES, CHUNKS, EXPERTS, HIDDEN
from cmg_runtime.backends.fused.packing import LOG2E

_NUMBERS: Dict[str, Type] = {"i64": ctypes.c_int64, "int": ctypes.c_int}


class Guard(ctypes.Structure):
    """See :mod:`cmg_runtime.guard`; ``low`` is null where there is none."""


class Arguments(ctypes.Structure):
    """Of the kernel."""


_MEMBERS: Dict[Type[ctypes.Structure], Dict[str, str]] = {
    Guard: {
        "low": "const float *",
        "high": "const float *",
        "bank": "const float *",
        "columns": "const i64 *",
        "frame": "const i64 *",
        "replaced": "i64 *",
        "ahead": "i64",
        "num_states": "i64",
        "scratch_column": "i64",
        "stride": "i64",
    },
    Arguments: {
        "stream": "const char *",  # [C, BLOCKS, BLOCK] the weights
        "bias": "const float *",  # [2048] of the middle layer
        "gate_bias": "const float *",  # [4]
        "last_bias": "const float *",  # [4, 64]
        "shift": "const float *",  # [64], and the two below
        "scale": "const float *",
        "motion_std": "const float *",
        "motion": "const float *",  # first frame's
        "command": "const float *",  # of frame f: command + f * command_pitch
        "out": "float *",  # frame f's result: out + f * out_pitch
        "motion_stride": "i64",
        "command_stride": "i64",
        "command_pitch": "i64",
        "out_stride": "i64",
        "out_pitch": "i64",
        "num_rows": "int",
        "num_frames": "int",
        "motion_dim": "int",
        "input_dim": "int",
        "guard": "Guard",
    },
}


def _python_type(declared: str) -> Type:
    return ctypes.c_void_p if declared.endswith("*") else Guard if declared == "Guard" else _NUMBERS[declared]


for _structure, _members in _MEMBERS.items():
    _structure._fields_ = [(name, _python_type(declared)) for name, declared in _members.items()]


def declarations() -> str:
    """The CUDA C++ in front of ``cluster.cu``."""
    lines: List[str] = [
        f"constexpr int EXPERTS = {EXPERTS}, CHUNKS = {CHUNKS}, HIDDEN = {HIDDEN}, BLOCK = {BLOCK_BYTES};",
        f"constexpr float LOG2E = {LOG2E!r}f;",
    ]
    for structure, members in _MEMBERS.items():
        body = " ".join(f"{declared} {name};" for name, declared in members.items())
        lines.append(f"struct {structure.__name__} {{ {body} }};")
    return "\n".join(lines) + "\n"
