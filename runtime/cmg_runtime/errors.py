"""The exceptions that this package raises on purpose: one line each, what is wrong, what was expected, what to do."""


class EngineError(RuntimeError):
    """An engine folder or a request to an engine cannot be used as given."""


class BackendUnavailable(EngineError):
    """A backend cannot run here: its library, its device or its artifact is missing. An :class:`EngineError`."""


LINE_ALLOWED = 1000
"""Characters of another library's words: with a damaged file they can be as long as the file."""


def first_line(error: BaseException) -> str:
    """What another library said, cut to one line of bounded length to be quoted in a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LINE_ALLOWED]
