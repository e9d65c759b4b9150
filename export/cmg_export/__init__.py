"""Compile a Conditional Motion Generator checkpoint into an engine folder, and prove it against the reference."""

import os

from CMG_Ref import interrupts

interrupts.end_at_once(__name__)

# Threads that wait for each other sleep instead of spinning. On a machine that is busy with something else, the many
# small products of parity take an eighth of the time so. It has no effect where torch is loaded already.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def __getattr__(name: str) -> str:
    """``__version__``: the runtime's, whose import takes torch with it; so only when it is asked for."""
    if name == "__version__":
        from cmg_runtime import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
