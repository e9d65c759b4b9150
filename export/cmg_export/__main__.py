"""``python -m cmg_export CHECKPOINT``: see ``--help``."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Sequence

from CMG_Ref import interrupts


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Every foreseen failure is one line on stderr."""
    try:
        return _run(args)
    except BaseException as error:
        number = interrupts.behind(error)
        if number is None:
            raise
        if number == signal.SIGINT:
            print("cmg_export: interrupted; the output folder is as it was, or complete", file=sys.stderr)
        return 128 + number


def _run(args: Sequence[str] | None) -> int:
    # Imported here, so that an interrupt during the seconds that torch takes is one line too.
    from cmg_export.build import Options, build_engine
    from cmg_export.errors import FORESEEN
    from CMG_Ref.command_line import complaint, parse

    options = parse(Options, "cmg_export", args)
    try:
        manifest, _ = build_engine(options)
    except Exception as error:
        interrupts.raise_if_received()  # of which a library may have made this
        line = complaint(error, FORESEEN)
        if not line:
            raise
        print(f"cmg_export: {line}", file=sys.stderr)
        return 2
    failed = [artifact for artifact in manifest.artifacts if artifact.parity["status"] == "failed"]
    for artifact in failed:
        print(f"cmg_export: {artifact.name} failed parity, withheld: {artifact.parity['reason']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    gc.disable()  # looking for garbage in the millions of objects that exporters make takes a second and finds little
    interrupts.note_interrupts()  # a killed build, too, leaves nothing behind
    sys.exit(main())
