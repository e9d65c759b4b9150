"""What the caller's process may have switched on, and an artifact's arithmetic must not see."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator

import torch

from cmg_runtime.device import forks


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, float32 products are float32 on ``device``, and neither autocast nor autograd is at work.

    Training code turns TF32 on for the whole process (mjlab does by default); the flag is put back when the last
    thread has left. No CUDA call is made: torch reads the flag when it launches a product.
    """
    products = _PRODUCTS[device.type]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        products.enter()
        try:
            yield
        finally:
            products.leave()


class _IeeeProducts:
    """Keeps one flag of the process on "ieee" while any thread is inside, and restores it after the last."""

    def __init__(self, switch: Callable[[], Callable[[], None]]) -> None:
        self._switch = switch
        self._lock = threading.Lock()
        self._inside = 0
        self._restore: Callable[[], None] = _nothing
        forks.tell_after_fork(self)

    def after_fork(self) -> None:
        """Other threads of the parent, which may have been inside, are not here to leave."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            self._restore()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._restore = self._switch()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore()


def _nothing() -> None:
    pass


def _switch_flag(flags: Any) -> Callable[[], None]:
    """Torch 2.9 and newer: products read this flag only. The older flags stay as they are, because torch refuses to
    read those once the two disagree. Returns what puts it back; a value inherited from ``torch.backends`` is put back
    as the flag's own, because torch does not tell the two apart."""
    before = flags.fp32_precision
    if before in ("ieee", "none"):
        return _nothing
    flags.fp32_precision = "ieee"

    def restore() -> None:
        flags.fp32_precision = before

    return restore


def _switch_legacy() -> Callable[[], None]:
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _has_flag(flags: Any) -> bool:
    try:
        return hasattr(flags, "fp32_precision")
    except AssertionError:  # what torch before 2.3 raises for a flag that it does not know
        return False


def _make_products() -> dict[str, _IeeeProducts]:
    """One guard a device type where each has a flag of its own, else one for both."""
    cuda: Any = torch.backends.cuda.matmul
    cpu: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if _has_flag(cuda) and _has_flag(cpu):
        return {
            "cuda": _IeeeProducts(lambda: _switch_flag(cuda)),
            "cpu": _IeeeProducts(lambda: _switch_flag(cpu)),
        }
    legacy = _IeeeProducts(_switch_legacy)
    return {"cuda": legacy, "cpu": legacy}


_PRODUCTS = _make_products()
