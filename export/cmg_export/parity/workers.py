"""Side by side instead of each on all cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``count`` threads, in each of which torch computes with one thread.

    Rollouts are many small products: those of different artifacts side by side take half the time of one after the
    other on all cores, and less than that on a machine that is busy with something else.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # the initializer sets some of it for the whole process
