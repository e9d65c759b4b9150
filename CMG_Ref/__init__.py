"""The reference Conditional Motion Generator: model, data, training and evaluation."""

from CMG_Ref import interrupts

interrupts.end_at_once(__name__)


def __getattr__(name: str) -> str:
    """``__version__``: the runtime's, whose import takes torch with it; so only when it is asked for."""
    if name == "__version__":
        from cmg_runtime import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
