"""What does not fit into memory is refused before any of it is taken.

On a host, memory that is not there is given all the same, until the kernel ends the process that uses it. So what is
needed is estimated first, from below, and compared with what can be had at most: what would fit is never refused. Where
nothing can be learned of a machine, nothing is refused either; allocators have the last word, and what they say becomes
the same one line.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Dict, Iterator, List, Optional

import torch

from cmg_runtime.errors import EngineError, first_line

try:
    import resource
except ImportError:  # not on Windows
    resource = None

WORTH_ASKING = 1 << 28
"""Bytes. Of less than this nobody runs short all of a sudden, and asking takes some 0.1 ms."""

_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "failed to allocate",
    "alloc_failed",
    "bad allocation",
    "bad_alloc",
)


def require_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise :class:`EngineError` where ``needed`` bytes are more than ``device`` can give.

    Args:
        needed: a lower bound.
        what, remedy: for the message: what takes so much, and how to take less.
    """
    if needed < WORTH_ASKING:
        return
    available = on_host() if device.type == "cpu" else _on_gpu(device)
    if available is not None and needed > available:
        why = f"it takes at least {needed / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB can be had"
        raise does_not_fit(what, device, why, remedy)


@contextlib.contextmanager
def room_for(needed: int, device: torch.device, what: str, remedy: str) -> Iterator[None]:
    """As :func:`require_memory`; and what then finds no memory on a host, inside, is said in the same line.

    Torch's own error of a GPU passes as it is: callers know its class.
    """
    require_memory(needed, device, what, remedy)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        why = "" if isinstance(error, torch.cuda.OutOfMemoryError) else short_of_memory(error)
        if not why or device.type != "cpu":
            raise
        raise does_not_fit(what, device, why, remedy) from None


def does_not_fit(what: str, device: torch.device, why: str, remedy: str) -> EngineError:
    """The error that says so."""
    return EngineError(f"{what} does not fit into the memory of {device} ({why}); {remedy}, or free memory")


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


def _on_gpu(device: torch.device) -> int:
    """Bytes that torch can take on a GPU, with what its allocator keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def on_host(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Optional[int]:
    """Bytes that this process can take: of the machine, its control groups and its own limits the least.

    None where nothing can be learned: not on Linux.
    """
    system = _fields(proc / "meminfo", 1024)
    swap = system.get("SwapFree:", 0)
    bounds = [free + swap for free in _control_groups(proc, cgroups)] + _limits(proc)
    if "MemAvailable:" in system:
        bounds.append(system["MemAvailable:"] + swap)
    return max(min(bounds), 0) if bounds else None


def _limits(proc: Path) -> List[int]:
    """What ``ulimit -v`` and ``ulimit -d`` leave."""
    pages = _read(proc / "self" / "statm").split()
    if resource is None or len(pages) < 6:
        return []
    bounds = []
    for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            bounds.append(soft - int(used) * resource.getpagesize())
    return bounds


def _control_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What the limit of each control group that this process is in leaves, of both versions, with what the kernel gives
    back before it ends a process: caches of files, and of the kernel's own where version 2 counts them."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, limit, usage, kind = cgroups, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, usage, kind = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        names = [name for name in path.split("/") if name not in ("", "..")]
        for depth in range(len(names) + 1):  # in a container the innermost may not be there, under its name outside
            folder = root.joinpath(*names[:depth])
            most, used = _read(folder / limit).strip(), _read(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                cached = _fields(folder / "memory.stat", 1)
                names_of_caches = ("active_file", "inactive_file", "slab_reclaimable")
                yield int(most) - int(used) + sum(cached.get(kind + name, 0) for name in names_of_caches)


def _fields(path: Path, unit: int) -> Dict[str, int]:
    """A file of lines "name number ..", the numbers in bytes."""
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) * unit for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
