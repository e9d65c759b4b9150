"""Forks: what a child does with an engine that it inherits.

A fork copies memory, but of the threads only the one that forks, and it copies no use of a GPU. So:

- OpenMP, with which torch computes on a CPU, keeps threads between products. GNU's would wait for them in the child for
  ever. They are given back before every fork; both processes start new ones when they next need some. GNU's of before
  GCC 9, which older wheels of torch come with (2.1's), cannot give them back: there a child that has an engine computes
  with one thread, as data loaders' workers do. LLVM's and Intel's provide for forks themselves, and are left alone: if
  they gave their threads back, they would forget how many the program has asked for.
- torch makes a thread pool of its own anew in the child, when the first thread asks how many there are. Where several
  threads are the first, which they are in a product, it fails now and then. So one asks alone before.
- ONNX Runtime keeps threads in each session, and its destructor waits for them. In the child a session is therefore
  abandoned, never freed, and started anew from the same bytes at its first use, with as many threads as torch has then.
  (A session without threads of its own would survive, but use one core of all for a large batch.)
- CUDA does not work in a forked child at all: an engine on a GPU says so in one line.

Everything else, the environments' state included, is an ordinary copy, and both processes go on by themselves.

A child that ``os.fork`` made has to end by ``os._exit``, as those of multiprocessing and of data loaders do: ONNX
Runtime, once imported, waits for ever where such a process ends like any other.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any, Protocol

import torch

_PAUSE_HARD = 2  # omp_pause_resource_t


class Inherited(Protocol):
    """What has to be told that it is in a forked child now."""

    def after_fork(self) -> None:
        """Called in the child, before anything else there."""
        ...


_inherited: weakref.WeakSet[Any] = weakref.WeakSet()
_settled = True

_process = ctypes.CDLL(None) if hasattr(os, "fork") else None  # Windows has no such thing as all of a process's names
_is_gnu = torch.backends.openmp.is_available() and not hasattr(_process, "kmp_set_blocktime")
_pause: Any = getattr(_process, "omp_pause_resource_all", None) if _is_gnu else None  # OpenMP 5's own call
_waits_for_threads = _is_gnu and _pause is None


def tell_after_fork(thing: Inherited) -> None:
    """Call ``thing.after_fork()`` in every forked child for as long as it lives."""
    _inherited.add(thing)


def abandon(thing: Any) -> None:
    """Never free ``thing``, not even when the process ends: its destructor needs what this process does not have."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def settle_threads() -> None:
    """To be called in what may be a forked child before torch computes there."""
    global _settled
    if not _settled:
        _settled = True
        if _waits_for_threads:
            torch.set_num_threads(1)
        alone = threading.Thread(target=torch.get_num_threads)
        alone.start()
        alone.join()


def _give_threads_back() -> None:
    if _pause is not None:
        _pause(_PAUSE_HARD)


def _tell() -> None:
    global _settled
    _settled = False
    for thing in list(_inherited):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_give_threads_back, after_in_child=_tell)
