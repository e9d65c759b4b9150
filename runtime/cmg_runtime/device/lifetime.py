"""The life of objects that own memory of a device, sessions and graphs: how it ends, and that it is not copied."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Any, List, NoReturn, Optional, Type, TypeVar

import torch

from cmg_runtime.device import forks
from cmg_runtime.errors import EngineError

NO_GPU_AFTER_FORK = "a GPU cannot be used in a forked process; start workers by spawn and load the engine in the worker"

Self = TypeVar("Self", bound="Closable")


class NotCopied:
    """Refuses to be pickled and copied. Tensors that share memory would not share it any more in a copy that is made
    of pickled parts: it would look whole and never move."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:  # which copy.copy and copy.deepcopy call, too
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied, for it lives in its device's memory; load the engine "
            "where another is needed: for a worker process, in the worker"
        )


class Closable(NotCopied):
    """What can be closed, once or often, and is when a ``with`` block ends. After that every use raises
    :class:`EngineError`.

    Attributes:
        device: where it lives.
    """

    device: torch.device
    _ended: Optional[str] = None
    """Why it cannot be used any more, in one line."""

    def close(self) -> None:
        """Free what it owns, whoever else holds parts of it. The host waits for the GPU."""
        if self._ended is None:
            _wait_for(self.device)
            owned = self._owned()
            self._end(f"this {type(self).__name__} was closed; load it again")
            for part in owned:
                if isinstance(part, Closable):
                    part.close()
                else:
                    vars(part).clear()

    def __enter__(self: Self) -> Self:
        if self._ended is not None:
            raise EngineError(self._ended)
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    if not TYPE_CHECKING:  # type checkers would take every name to be there

        def __getattr__(self, name: str) -> NoReturn:
            """Called for what is not there, which is everything once it has ended: see :meth:`_end`."""
            if self._ended is not None and not name.startswith("__"):
                raise EngineError(self._ended)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def after_fork(self) -> None:
        """See :mod:`cmg_runtime.device.forks`."""
        if self._ended is not None:
            return
        if self.device.type == "cuda":
            forks.abandon(vars(self))
            self._end(NO_GPU_AFTER_FORK)
        else:
            forks.settle_threads()

    def _owned(self) -> List[Any]:
        """What is emptied when this is closed."""
        raise NotImplementedError

    def _made(self) -> None:
        """To be called at the end of a constructor."""
        forks.tell_after_fork(self)

    def _end(self, why: str) -> None:
        """Let everything go. From now on ``why`` is the answer to every use."""
        self.__dict__ = {"_ended": why}


def _wait_for(device: torch.device) -> None:
    """Wait for the work on ``device``, so that memory may be freed that streams still use; also of a lost device."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(device)
