"""The exceptions that this package raises on purpose.

Each message is one line: what is wrong, what was expected, what to do.
"""

from cmg_runtime.errors import EngineError


class ExportError(Exception):
    """A request to export cannot be carried out as given."""


class CheckpointError(ExportError):
    """A checkpoint, or a file that belongs to it, cannot be used."""


class RobotError(ExportError):
    """A robot model cannot be turned into a kinematic chain for the checkpoint's joints."""


class ParityError(ExportError):
    """Artifacts cannot be compared with the reference as asked."""


FORESEEN = (ExportError, EngineError)
"""What this package and the runtime raise for bad input."""
