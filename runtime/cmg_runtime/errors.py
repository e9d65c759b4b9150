"""The exceptions that this package raises on purpose: one line each, what is wrong, what was expected, what to do."""

from __future__ import annotations

from typing import Optional

import torch

_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "alloc_failed",
    "bad allocation",
    "bad_alloc",
    "failed to allocate",
    "could not allocate",
    "not enough memory",
    "storage size calculation overflowed",
)
"""Words of torch, CUDA, ONNX Runtime, Warp and MuJoCo."""


class EngineError(RuntimeError):
    """An engine folder or a request to an engine cannot be used as given."""


class BackendUnavailable(EngineError):
    """A backend cannot run here: its library, its device or its artifact is missing."""


LINE_ALLOWED = 1000
"""Characters of another library's words: with a damaged file they can be as long as the file."""


def first_line(error: BaseException) -> str:
    """What another library said, cut to one line of bounded length to be quoted in a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LINE_ALLOWED]


def short_of_memory(error: BaseException) -> str:
    """What was said by the one that found no memory, or an empty string where another thing is wrong.

    Torch has an error class for its own allocator on CUDA only; libraries and CPUs say it in words, and the end of a
    CUDA graph's capture says something else altogether.
    """
    seen: Optional[BaseException] = error
    while seen is not None and not isinstance(seen, EngineError):
        said = str(seen).lower()
        if isinstance(seen, (MemoryError, torch.cuda.OutOfMemoryError)) or any(words in said for words in _NO_MEMORY):
            return first_line(seen)
        seen = seen.__context__
    return ""
