"""The tensors and plain values that mjlab's managers, terms, sensors and entities keep from step to step.

A CUDA graph reads and writes the addresses that it was captured with, and takes the way through Python that was taken
then. So two things have to be known of code before it may run in one: which attributes it binds to new tensors, and
which plain values it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch

FOREIGN = (
    "torch",
    "warp",
    "mujoco",
    "mujoco_warp",
    "numpy",
    "mjlab.sim",
    "cmg_runtime",
    "viser",
    "tyro",
    "typing",
    "functools",
)
"""Packages whose objects are not looked into: they manage their own memory, or keep nothing that terms compute."""

PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Slot:
    """A place that holds a tensor, a tuple of tensors, a plain value, or an object that has such places: an attribute,
    or an item of a dict or list."""

    owner: Any
    key: Any
    is_item: bool

    @property
    def value(self) -> Any:
        """What is there now; None if the place is gone."""
        try:
            return self.owner[self.key] if self.is_item else vars(self.owner)[self.key]
        except (KeyError, IndexError):
            return None

    def put(self, value: Any) -> None:
        """Bind the place to ``value``."""
        if self.is_item:
            self.owner[self.key] = value
        else:
            object.__setattr__(self.owner, self.key, value)

    def put_writable(self) -> None:
        """Copies of tensors that were made in inference mode: those could not be written outside of it."""
        tensors = tensors_of(self.value)
        if tensors is not None and any(tensor.is_inference() for tensor in tensors):
            copies = [tensor.clone() for tensor in tensors]
            kind: Any = getattr(type(self.value), "_make", tuple)
            self.put(copies[0] if isinstance(self.value, torch.Tensor) else kind(copies))


def slots(roots: Iterable[tuple[str, Any]]) -> dict[str, Slot]:
    """Every slot that can be reached from ``roots`` (name, object), by its path."""
    found: dict[str, Slot] = {}
    seen: set[int] = set()
    for name, root in roots:
        for path, slot in _below(name, root, seen):
            found[path] = slot
    return found


def _below(path: str, holder: Any, seen: set[int]) -> Iterator[tuple[str, Slot]]:
    if id(holder) in seen:
        return
    seen.add(id(holder))
    for key, is_item, value in _places(holder):
        value = value.__self__ if isinstance(value, MethodType) else value  # a term may be an object's method
        inner = f"{path}[{key!r}]" if is_item else f"{path}.{key}"
        if is_leaf(value) or isinstance(value, torch.Generator):
            yield inner, Slot(holder, key, is_item)
        elif _looked_into(value):
            yield inner, Slot(holder, key, is_item)
            yield from _below(inner, value, seen)


def _places(holder: Any) -> list[tuple[Any, bool, Any]]:
    if isinstance(holder, dict):
        return [(key, True, value) for key, value in holder.items()]
    if isinstance(holder, list):
        return [(index, True, value) for index, value in enumerate(holder)]
    if isinstance(holder, tuple):
        return [(index, True, value) for index, value in enumerate(holder) if not is_leaf(value)]
    return [(name, False, value) for name, value in vars(holder).items()]


def is_leaf(value: Any) -> bool:
    """Whether nothing is looked for in it: a tensor, a tuple of tensors, or a plain value."""
    return is_plain(value) or tensors_of(value) is not None


def is_plain(value: Any) -> bool:
    """Whether it is a number, a string, None, or a tuple of such."""
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(part, PLAIN) for part in value))


def tensors_of(value: Any) -> tuple[torch.Tensor, ...] | None:
    """The tensors of a tensor or a tuple of tensors; None of anything else."""
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, tuple) and value and all(isinstance(part, torch.Tensor) for part in value):
        return tuple(value)
    return None


def _looked_into(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return True
    module = type(value).__module__
    if module == "builtins" or isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    if any(module == name or module.startswith(name + ".") for name in FOREIGN):
        return False
    return not hasattr(value, "load_managers")  # the environment itself, to which most of them point back


class State:
    """What the managers and the scene of an environment keep.

    Args:
        roots: (name, object) to look into.

    Attributes:
        kept: tensors by path that every captured graph may read or write: they stay where they are.
    """

    def __init__(self, roots: list[tuple[str, Any]]) -> None:
        self._roots = roots
        self.kept: dict[str, Any] = {}
        self._watched: dict[str, tuple[Slot, Any]] = {}

    def plain(self) -> dict[str, Any]:
        """The plain values by path."""
        return {path: value for path, value in self._values().items() if is_plain(value)}

    def tensors(self) -> list[tuple[torch.Tensor, ...]]:
        """The tensors that are there now."""
        return [tensors for value in self._values().values() if (tensors := tensors_of(value)) is not None]

    def generators(self) -> list[torch.Generator]:
        """Random number generators of the terms' own, on a GPU."""
        values = self._values().values()
        return [value for value in values if isinstance(value, torch.Generator) and value.device.type == "cuda"]

    def keep(self) -> None:
        """Declare the tensors that are there now those that stay."""
        found = slots(self._roots)
        for slot in found.values():
            slot.put_writable()
        self.kept = {path: slot.value for path, slot in found.items() if tensors_of(slot.value) is not None}
        self._watched = {}
        self._watch(found)

    def settle(self) -> None:
        """Where code has bound a slot to new tensors, copy them into those that stay, and put these back.

        Captured at the end of a graph, the copies are part of it. A tensor of another shape or type takes the old
        one's place instead: nothing can have been captured with that.
        """
        found = slots(self._roots)
        self._settle(found)
        self._watch(found)

    def settling(self, run: Callable[[], None]) -> Callable[[], None]:
        """``run`` for code that stays outside of graphs: behind it, what it binds to new tensors is settled.

        Looked at is only what :meth:`keep` has found; a walk through everything takes milliseconds.
        """

        def run_and_settle() -> None:
            run()
            changed = [(path, slot) for path, (slot, value) in self._watched.items() if slot.value is not value]
            for path, slot in changed:
                if self._watched[path][0] is slot:  # else it was in an object that another has replaced
                    found = {path: slot, **(dict(_below(path, slot.value, set())) if _looked_into(slot.value) else {})}
                    self._settle(found)
                    self._watch(found)

        return run_and_settle

    def _watch(self, found: dict[str, Slot]) -> None:
        """Take what there is now in the slots with tensors, and in those with objects that have such, for settled."""
        holders = {path[:end] for path in self.kept for end, char in enumerate(path) if char in ".["}
        for path, slot in found.items():
            if path in self.kept or path in holders:
                self._watched[path] = slot, slot.value

    def _settle(self, among: dict[str, Slot]) -> None:
        for path, slot in among.items():
            new = tensors_of(slot.value)
            if new is None:
                continue
            old = tensors_of(self.kept.get(path))
            if old is None or len(old) != len(new) or not all(map(_alike, old, new)):
                self.kept[path] = slot.value
            elif not all(map(_same_memory, old, new)):
                for mine, theirs in zip(old, new, strict=True):
                    mine.copy_(theirs)
                slot.put(self.kept[path])

    def _values(self) -> dict[str, Any]:
        return {path: slot.value for path, slot in slots(self._roots).items()}


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
