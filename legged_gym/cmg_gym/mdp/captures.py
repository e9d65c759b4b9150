"""What a term may ask of an environment that runs its code in CUDA graphs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Captures(Protocol):
    """An environment that has captured its terms."""

    def capture_again(self) -> None:
        """The captured code is outdated: a term reads other tensors, or takes other ways, from the next step on."""
        ...
