"""JSON text as typed, frozen dataclasses, strictly: every mismatch raises ``ValueError``, one line that says where."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from typing import Any, Union, get_args, get_origin, get_type_hints


def loads(text: str) -> Any:
    """``json.loads``, but NaN, infinities, repeated keys and bottomless nesting raise ``ValueError`` as well."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(str(error)) from None


def _no_constant(text: str) -> float:
    raise ValueError(f"it holds {text}; expected finite numbers")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    require(len(items) == len(pairs), "it has the same key twice")
    return items


def parse(kind: Any, value: Any, where: str) -> Any:
    """``value``, parsed JSON, as the type ``kind`` that a field declares; lists become tuples.

    Raises:
        ValueError: it is of another type, or a dataclass lacks a field or has one too many.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Union:  # Optional
        return None if value is None else parse(arguments[0], value, where)
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, _typed(value, dict, where), where)
    if origin is tuple:
        items = _typed(value, list, where)
        return tuple(parse(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if origin is dict:
        items = _typed(value, dict, where)
        return {key: parse(arguments[1], item, f"{where}[{short(key)}]") for key, item in items.items()}
    if kind is float:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
            value = float(value)
        value = _typed(value, float, where)
        require(math.isfinite(value), f"{where} is {value!r}; expected a finite number")
        return value
    return value if kind is Any else _typed(value, kind, where)


def _parse_fields(cls: Any, data: dict[str, Any], where: str) -> Any:
    kinds = get_type_hints(cls)
    unset = dataclasses.MISSING
    required = [f.name for f in dataclasses.fields(cls) if f.default is unset and f.default_factory is unset]
    missing = [name for name in required if name not in data]
    unknown = [name for name in data if name not in kinds]
    require(not missing, f"{where} lacks the field {', '.join(missing)}")
    require(not unknown, f"{where} has the unknown field {', '.join(map(short, unknown[:1]))}")
    return cls(**{name: parse(kind, data[name], f"{where}.{name}") for name, kind in kinds.items() if name in data})


def _typed(value: Any, kind: type, where: str) -> Any:
    names = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise ValueError(f"{where} is {short(value)}; expected {names[kind]}")
    return value


def require(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def short(value: Any) -> str:
    """``repr`` for a message: one line, of bounded length."""
    return _BOUNDED.repr(value)


_BOUNDED = reprlib.Repr()
_BOUNDED.maxstring = 60
