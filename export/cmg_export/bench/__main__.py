"""``python -m cmg_export.bench``: time an engine and other implementations; table, JSON and pictures."""

from __future__ import annotations

import sys

from cmg_export.bench.plots import draw
from cmg_export.bench.report import format_table
from cmg_export.bench.results import FILE_NAME
from cmg_export.bench.run import INTERRUPTED, run_bench
from cmg_export.bench.settings import Options, settings
from cmg_export.errors import FORESEEN
from cmg_export.reporting import write_file
from CMG_Ref import command_line, interrupts

MODULE = "cmg_export.bench"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, _run, argv, MODULE, FORESEEN)


def _run(options: Options) -> int:
    report, samples = run_bench(settings(options))
    write_file(options.out / FILE_NAME, report.to_json().encode())
    print(format_table(report), flush=True)
    if report.results:
        draw(report, samples, options.out)
    print(f"\n{FILE_NAME}{' and pictures are' if report.results else ' is'} in {options.out}", flush=True)
    return {"": 0, INTERRUPTED: 130}.get(report.cut_short, 1)


if __name__ == "__main__":
    interrupts.note_interrupts()
    sys.exit(main())
