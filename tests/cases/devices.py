"""What tests run on: a CPU, and a GPU where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cmg_runtime import BackendUnavailable, Engine, load_engine
from engine_folder import BACKENDS


def on_gpu(*values: Any) -> Any:
    """A row of a parametrisation that needs one."""
    return pytest.param(*values, marks=pytest.mark.gpu)


DEVICES = ["cpu", on_gpu("cuda")]

EVERYWHERE = [*(("cpu", backend) for backend in BACKENDS), *(on_gpu("cuda", backend) for backend in BACKENDS)]
"""(device, backend) of the backends that run everywhere."""

WITH_FUSED = [*EVERYWHERE, on_gpu("cuda", "fused")]

KINDS = [("cpu", "torch"), on_gpu("cuda", "torch"), on_gpu("cuda", "fused")]
"""(device, backend) where it is not the network that is tested."""


def load(folder: Path, num_envs: int, device: str, backend: str, precision: str | None = None, **more: Any) -> Engine:
    """As ``load_engine``; the test is skipped where the backend cannot run."""
    try:
        return load_engine(folder, num_envs, device, backend, precision, **more)
    except BackendUnavailable as error:
        pytest.skip(str(error))


@contextlib.contextmanager
def rough_products(device: str) -> Iterator[None]:
    """What a training process may have switched on: products of less than float32, and autocast."""
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16 if device == "cpu" else torch.float16):
            yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


class _Counting(TorchDispatchMode):
    """Collects the operations of torch that do something: all but those that give a view."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliases = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(work: Callable[[], Any]) -> list[str]:
    """The operations of torch, but for views, that ``work`` makes: on a GPU each is a launch or an allocation."""
    with _Counting() as counting:
        work()
    return counting.names
