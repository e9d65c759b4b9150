"""What all structures share: declared attributes, leniently converted numbers, one-line errors."""

import difflib
import inspect
from typing import Any, ClassVar


class GymError(RuntimeError):
    """Something that cannot be done here: one line with what is wrong, what was expected and what to do."""


def number(value: Any) -> float:
    """A float of a number, or of an array or tensor of one element, which numpy 2 no longer converts by itself.

    Raises:
        TypeError: it is no number, or more than one.
    """
    if isinstance(value, (int, float)):
        return float(value)
    if not hasattr(value, "item"):
        raise TypeError(f"a number was expected, not {value!r}")
    try:
        return float(value.item())
    except (ValueError, RuntimeError):
        raise TypeError(f"one number was expected, not {tuple(value.shape)} of them; index it") from None


def integer(value: Any) -> int:
    """An int of a whole number, whatever its type.

    Raises:
        TypeError: it is no whole number.
    """
    found = number(value)
    if not found.is_integer():
        raise TypeError(f"a whole number was expected, not {value!r}")
    return int(found)


class Struct:
    """Attributes as the class declares them with their defaults; every other one is refused.

    Values are copied when they are set, as through Isaac Gym's bindings: ``pose.p = point`` does not tie the two.
    """

    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = [name for name in inspect.get_annotations(cls) if hasattr(cls, name)]
        cls._defaults = {**cls._defaults, **{name: getattr(cls, name) for name in declared}}

    def __init__(self) -> None:
        for name, default in self._defaults.items():
            self.__dict__[name] = _copied(default)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._defaults:
            near = difflib.get_close_matches(name, self._defaults, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self._defaults)}"
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; {hint}")
        try:
            self.__dict__[name] = _converted(self._defaults[name], value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{type(self).__name__}.{name}: {error}") from None

    def __copy__(self) -> "Struct":
        return _copied(self)

    def __deepcopy__(self, memo: dict) -> "Struct":
        return _copied(self)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._defaults)
        return f"{type(self).__name__}({values})"


def _copied(value: Any) -> Any:
    """A structure with copies of its own structures in it; anything else, which does not change, as it is."""
    if not isinstance(value, Struct):
        return value
    copy = object.__new__(type(value))
    copy.__dict__.update(
        {name: _copied(each) if isinstance(each, Struct) else each for name, each in value.__dict__.items()}
    )
    return copy


def _converted(default: Any, value: Any) -> Any:
    """A value in the type of an attribute's default; a default of None stands for a whole number that may be None."""
    if default is None:
        return None if value is None else integer(value)
    if isinstance(default, bool):
        return bool(value)
    if isinstance(default, int):
        return type(default)(integer(value))
    if isinstance(default, float):
        return number(value)
    if not isinstance(value, type(default)):
        raise TypeError(f"a {type(default).__name__} was expected, not {value!r}")
    return _copied(value)
