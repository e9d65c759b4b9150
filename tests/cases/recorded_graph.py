"""A stand-in for CUDA graphs on a CPU: what was recorded is repeated on the same memory, whatever Python says then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORBIDDEN = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.equal", "aten.masked_select")
"""Operations whose results the host needs: in a CUDA graph's capture they are errors."""


class RecordedGraph:
    """Records the operations of a function and repeats them, each reading and writing the tensors that it had then.

    Capturing leaves tensors and random generators as they were, as that of a CUDA graph does.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.num_replays = 0

    def capture(self, run: Callable[[], None]) -> None:
        recorder = _Recorder(self._calls)
        random = torch.get_rng_state()
        with recorder:
            run()
        torch.set_rng_state(random)
        for tensor, before in reversed(recorder.before):
            tensor.copy_(before)

    def replay(self) -> None:
        self.num_replays += 1
        for function, arguments, named, results in self._calls:
            again = function(*arguments, **named)
            for mine, new in zip(_tensors(results), _tensors(again), strict=True):
                if mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)


class NotInAGraph(RuntimeError):
    """What a CUDA graph's capture refuses."""


class RecordedGraphs:
    """Makes them."""

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []

    def begin(self) -> None:
        self.graphs.clear()

    def new(self, generators: list[torch.Generator]) -> RecordedGraph:
        self.graphs.append(RecordedGraph())
        return self.graphs[-1]

    def refusing(self) -> TorchDispatchMode:
        """A context in which what a capture refuses raises :class:`NotInAGraph`."""
        return _Recorder([])


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self._calls = calls
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket._qualified_op_name.replace("::", ".")
        if name in FORBIDDEN or _boolean_index(func, args) or _host_copy(name, args):
            raise NotInAGraph(f"{func} in a captured piece")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.before += [(tensor, tensor.clone()) for tensor in _tensors(value)]
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write and argument.name in kwargs:
                self.before += [(tensor, tensor.clone()) for tensor in _tensors(kwargs[argument.name])]
        results = func(*args, **kwargs)
        aliases = any(
            result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns
        )
        if not aliases:  # a view needs no repeating
            self._calls.append((func, args, kwargs, results))
        return results


def _boolean_index(func: Any, args: Any) -> bool:
    """How many a mask selects is known to the device alone."""
    if "index" not in func._overloadpacket.__name__ or len(args) < 2 or not isinstance(args[1], (list, tuple)):
        return False
    masks = any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in args[1])
    fills = "index_put" in func._overloadpacket.__name__ and args[2].numel() == 1
    return masks and not fills


def _host_copy(name: str, args: Any) -> bool:
    """``torch.tensor`` of several numbers; one may be a fill."""
    return name == "aten.lift_fresh" and args[0].numel() > 1


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
