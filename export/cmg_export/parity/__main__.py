"""``python -m cmg_export.parity``: check a published engine again."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cmg_export.errors import FORESEEN
from cmg_export.parity.report import FILE_NAME, ParityReport, format_table
from cmg_export.parity.run import run_parity, with_results
from cmg_export.parity.truth import Truth
from cmg_export.read.checkpoint import load_source
from cmg_export.reporting import write_file
from CMG_Ref.command_line import require_seed, run
from cmg_runtime.folder.manifest import FILE_NAME as MANIFEST_FILE
from cmg_runtime.folder.manifest import read_manifest

MODULE = "cmg_export.parity"


@dataclass(frozen=True)
class Arguments:
    """Compare every artifact of an engine folder with the float64 reference.

    Prints a table, writes parity.json into the folder and the verdicts into its manifest.json. Exit status: 0 every
    artifact that can run here passed, 1 one is past its tolerance or none could run, 2 wrong input, 130 interrupted.
    """

    engine_folder: Annotated[Path, tyro.conf.arg(metavar="ENGINE_FOLDER")]
    """The folder that `make engine` wrote."""
    checkpoint: Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]
    """The checkpoint that it was made from."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where the stats are, if not in the checkpoint: cmg_training_data.pt or a YAML file."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the artifacts run. The reference runs on the CPU."""
    per_joint: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also print the errors of each joint, which parity.json has in any case."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of states and commands; another seed is another sample."""


def prove(arguments: Arguments) -> ParityReport:
    """Run parity on a published engine and record the result in its folder.

    Raises:
        ExportError, EngineError: one line; nothing has been written.
    """
    require_seed(arguments.seed)
    manifest = read_manifest(arguments.engine_folder)
    checkpoint = load_source(arguments.engine_folder, manifest, arguments.checkpoint, arguments.data)
    report = run_parity(
        arguments.engine_folder,
        manifest,
        Truth.from_checkpoint(checkpoint),
        device=arguments.device,
        seed=arguments.seed,
    )
    for name, text in ((FILE_NAME, report.to_json()), (MANIFEST_FILE, with_results(manifest, report).to_json())):
        write_file(arguments.engine_folder / name, text.encode(), "make its folder writable")
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Arguments, _run, argv, MODULE, FORESEEN, "interrupted; the engine folder is as it was")


def _run(arguments: Arguments) -> int:
    report = prove(arguments)
    print(format_table(report, with_joints=arguments.per_joint))
    if report.passed:
        return 0
    failed = [artifact.name for artifact in report.artifacts if artifact.status == "failed"]
    why = f"past tolerance: {', '.join(failed)}" if failed else "no artifact could run here, nothing is checked"
    print(f"{MODULE}: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
