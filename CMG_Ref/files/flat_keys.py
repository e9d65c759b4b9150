"""Python's unpickler, held to keys that can be hashed at once."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

_Unpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]  # the loader in pure Python


class FlatKeysUnpickler(_Unpickler):
    """Keys and members of sets are texts, numbers, and tuples of these: a few tuples, each twice in the next, take for
    ever to be hashed."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def load_setitem(self) -> None:
        check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        check_keys(self.stack[::2])  # since the mark
        super().load_setitems()

    def load_dict(self) -> None:
        check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        check_keys(self.stack)
        super().load_frozenset()

    dispatch |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse what takes long to be hashed.

    Raises:
        pickle.UnpicklingError: a key that is neither text nor number, nor a tuple of them.
    """
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(part is None or isinstance(part, (str, bytes, int, float, complex, np.generic)) for part in parts):
            raise pickle.UnpicklingError("keys that are neither text nor numbers")


def flat_set(items: Iterable[Any] = ()) -> set[Any]:
    """Stands for ``set``."""
    members = list(items)
    check_keys(members)
    return set(members)


def flat_ordered_dict(items: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    """Stands for ``collections.OrderedDict``, which old pickles call with their items."""
    pairs = [(key, value) for key, value in items]
    check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)
