"""The exceptions that this package raises on purpose. Each message is one line: what is wrong, what was expected, what to do."""


class EngineError(RuntimeError):
    """An engine folder or a request to an engine cannot be used as given."""


class BackendUnavailable(EngineError):
    """A backend cannot run here: its library, its device or its artifact is missing."""
