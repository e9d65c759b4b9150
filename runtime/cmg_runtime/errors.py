"""The exceptions that this package raises on purpose: one line each, what is wrong, what was expected, what to do."""


class EngineError(RuntimeError):
    """An engine folder or a request to an engine cannot be used as given."""


class BackendUnavailable(EngineError):
    """A backend cannot run here: its library, its device or its artifact is missing."""


def first_line(error: BaseException) -> str:
    """What another library said, cut to one line to be quoted in a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
