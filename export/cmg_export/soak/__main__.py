"""``python -m cmg_export.soak``: step an engine for as long as asked, under random resets and commands, and look."""

from __future__ import annotations

import sys

from cmg_export.errors import FORESEEN
from cmg_export.reporting import write_file
from cmg_export.soak.report import FILE_NAME, format_table
from cmg_export.soak.run import run_soak
from cmg_export.soak.settings import Options, settings
from CMG_Ref import command_line

MODULE = "cmg_export.soak"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return command_line.run(Options, _run, argv, MODULE, FORESEEN, "interrupted; nothing was written")


def _run(options: Options) -> int:
    report = run_soak(settings(options))
    write_file(options.out / FILE_NAME, report.to_json().encode())
    print(f"\n{format_table(report)}\n\n{FILE_NAME} is in {options.out}", flush=True)
    for failure in report.failures:
        print(f"{MODULE}: {failure}", file=sys.stderr)
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
