"""What a term may ask of an environment that runs its code in CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

Term = TypeVar("Term", bound=Callable[..., Any])


@runtime_checkable
class Captures(Protocol):
    """An environment that has captured its terms."""

    def capture_again(self) -> None:
        """The captured code is outdated: a term reads other tensors, or takes other ways, from the next step on."""
        ...


def for_all_robots(term: Term) -> Term:
    """Say of a term of the curriculum that it does not ask for whose episodes end: nobody has to wait for them."""
    term.for_all_robots = True  # pyright: ignore[reportFunctionMemberAccess]
    return term
