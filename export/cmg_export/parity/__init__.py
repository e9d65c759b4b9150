"""Parity: every artifact of an engine folder against the float64 reference, with the backends that users run.

    python -m cmg_export.parity ENGINE_FOLDER CHECKPOINT [--data FILE] [--device cpu|cuda] [--per-joint] [--seed N]

What is measured, and why it is measured so, is told in ``docs/parity.md``.
"""

from cmg_export.parity.report import ParityReport, format_table, read_report
from cmg_export.parity.run import TOLERANCES, reference_beside, run_parity, with_results
from cmg_export.parity.truth import Truth

__all__ = [
    "TOLERANCES",
    "ParityReport",
    "Truth",
    "format_table",
    "read_report",
    "reference_beside",
    "run_parity",
    "with_results",
]
