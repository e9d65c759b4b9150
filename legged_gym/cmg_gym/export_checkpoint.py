"""``python -m cmg_gym.export_checkpoint``: export a run that was interrupted. A finished one has its policy already."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmg_export.errors import FORESEEN
from cmg_gym import command_line
from cmg_gym.learning.export import export_policy
from cmg_gym.learning.policies import find_checkpoint, load_runner, require_same_generator
from CMG_Ref.command_line import run
from cmg_runtime import EngineError, read_manifest
from cmg_runtime.device import resolve_device


@dataclass(frozen=True)
class Options(command_line.PolicyOptions):
    """Write policy.onnx and policy.json of a checkpoint, which is given as the policy."""

    out: Path = Path("build/policy")
    """Where they go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, export, arguments, "cmg_gym.export_checkpoint", FORESEEN)


def export(options: Options) -> None:
    """Load the checkpoint into the play environment and write what deployment needs."""
    command_line.require_options(options)
    if options.policy is None:
        raise EngineError("what is exported is a training's: give --policy, a checkpoint model_N.pt or a run's folder")
    checkpoint = find_checkpoint(options.policy)
    require_same_generator(checkpoint, read_manifest(options.engine))
    resolve_device(options.device)
    env = command_line.open_env(options, num_envs=1, seconds=1.0)
    export_policy(load_runner(checkpoint, env), options.out)
    print(f"policy.onnx and policy.json are in {options.out}")


if __name__ == "__main__":
    sys.exit(main())
