"""``python -m cmg_export CHECKPOINT``, and ``python -m cmg_export inspect PATH``: see ``--help``."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from cmg_export import inspect
from cmg_export.build import Options, build_engine
from cmg_export.errors import FORESEEN
from CMG_Ref import interrupts
from CMG_Ref.command_line import run


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. Every foreseen failure is one line on stderr."""
    args = sys.argv[1:] if args is None else args
    if args[:1] == ["inspect"]:
        return inspect.main(args[1:])
    interrupted = "interrupted; the output folder is as it was, or complete"
    return run(Options, _build, args, "cmg_export", FORESEEN, interrupted)


def _build(options: Options) -> int:
    manifest, _ = build_engine(options)
    failed = [artifact for artifact in manifest.artifacts if artifact.parity["status"] == "failed"]
    for artifact in failed:
        print(f"cmg_export: {artifact.name} failed parity, withheld: {artifact.parity['reason']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    gc.disable()  # looking for garbage in the millions of objects that exporters make takes a second and finds little
    interrupts.note_interrupts()  # a killed build, too, leaves nothing behind
    sys.exit(main())
