"""While a graph is captured: what terms read of an entity's state is computed once for all of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mjlab.entity import EntityData


@contextmanager
def shared_reads(entities: list[Any], terms: Iterable[Any] = ()) -> Iterator[None]:
    """Within it, a property of an entity's data that was computed from the simulation once is not computed again.

    mjlab computes each of them anew at every use: the root's velocity in its own frame some six times a step. Only for
    code that leaves the simulation as it is. A term that writes into what it read would write into what others read:
    then this raises.

    Args:
        entities: whose data.
        terms: likewise the methods that they name in an attribute ``reads``.

    Raises:
        RuntimeError: such a term.
    """
    read: dict[tuple[int, str], tuple[torch.Tensor, int]] = {}
    datas = [entity.data for entity in entities]
    before = [type(data) for data in datas]
    named = [(term, name) for term in terms for name in getattr(term, "reads", ())]
    try:
        for data in datas:
            data.__class__ = _remembering(type(data), read)
        for term, name in named:
            vars(term)[name] = functools.cache(getattr(term, name))
        yield
    finally:
        for term, name in named:
            vars(term).pop(name, None)
        for data, cls in zip(datas, before, strict=True):
            data.__class__ = cls
    written = [name for (_, name), (value, version) in read.items() if value._version != version]
    if written:
        raise RuntimeError(f"a term writes into the entity's {written[0]}, which others read; let it work on a copy")


def _remembering(cls: type[EntityData], read: dict[tuple[int, str], tuple[torch.Tensor, int]]) -> type[EntityData]:
    def remembered(name: str, compute: Any) -> property:
        def get(self: EntityData) -> Any:
            key = (id(self), name)
            if key in read:
                return read[key][0]
            value = compute(self)
            if isinstance(value, torch.Tensor):
                read[key] = (value, value._version)
            return value

        return property(get)

    properties = {
        name: remembered(name, member.fget)
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, property)
    }
    return type(cls.__name__, (cls,), properties)
