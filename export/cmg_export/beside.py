"""Work in a process of its own, beside the main one's.

A forked process has all that is imported and read already, and no share in Python's lock: a thread that computes in
short steps would wait for the lock at every one of them while another traces a graph.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from cmg_export.errors import ExportError

T = TypeVar("T")


@contextlib.contextmanager
def beside(work: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """Run ``work`` in a forked process while the ``with`` block runs; what is yielded waits for what it returns, in any
    thread.

    It must leave GPUs alone, compute on one thread (OpenMP's others do not survive a fork) and return what can be
    pickled. At the end of the block, however that comes about, the process is gone. Where no fork is safe, the work is
    done by a thread.

    Raises:
        ExportError: on waiting, the process was killed.
        Exception: on waiting, whatever ``work`` raised.
    """
    with ThreadPoolExecutor(1) as waiting:
        if sys.platform != "linux":
            yield waiting.submit(work).result
            return
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, receiver, sender), daemon=True)
        with _held_signals():
            process.start()
        sender.close()
        try:
            yield waiting.submit(_receive, receiver).result
        finally:
            process.kill()
            process.join()


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Interrupts wait, so that none meets the new process before it has left them to its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Callable[[], Any], receiver: Connection, sender: Connection) -> None:
    receiver.close()  # else this process would itself be the reader that it waits for once its parent is gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    torch.set_num_threads(1)
    try:
        outcome = (True, work())
    except Exception as error:  # raised again where it is waited for
        outcome = (False, error)
    with contextlib.suppress(BrokenPipeError):  # the build was killed
        sender.send_bytes(pickle.dumps(outcome))


def _receive(receiver: Connection) -> Any:
    try:
        done, outcome = pickle.loads(receiver.recv_bytes())
    except EOFError:
        raise ExportError("a process of the build was killed, perhaps for want of memory; build again") from None
    if not done:
        raise outcome
    return outcome
