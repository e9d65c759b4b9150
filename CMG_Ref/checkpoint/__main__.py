"""Say what a checkpoint holds, and write one of its sets of weights as a checkpoint by itself.

    python -m CMG_Ref.checkpoint run/model.pt                                    # which weights, sizes, stats
    python -m CMG_Ref.checkpoint run/model.pt --take ema.model --out ema/cmg_final.pt

Every other command takes the weights that are named first here; this is how to choose others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from CMG_Ref.checkpoint.parameters import read_sizes, read_weights
from CMG_Ref.command_line import run
from CMG_Ref.files.torch_files import read_pt, write_pt


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoint, and what to take from it."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """Read without running any code in it."""
    take: str | None = None
    """Which weights, as this command names them without it."""
    out: Path | None = None
    """The file to write: these weights, and the stats if there are some. Without it, nothing is written."""


def main() -> int:
    """Command line; returns the exit status."""
    return run(CheckpointConfig, _say, None, "CMG_Ref.checkpoint", description=__doc__)


def _say(config: CheckpointConfig) -> None:
    content = read_pt(config.checkpoint)
    weights = read_weights(content, config.checkpoint, config.take)
    sizes = read_sizes(weights.state_dict, config.checkpoint)
    print(f"weights: {weights.found}")
    for other in weights.others:
        print(f"   also: {other}  (--take '{other}')")
    print(
        f"  sizes: {sizes.num_joints} joints, {sizes.command_dim} command values, hidden {sizes.hidden_dim}, "
        f"{sizes.num_experts} experts, {sizes.num_layers} layers"
    )
    print(f"  stats: {'inside' if 'stats' in content else 'none inside'}")
    if config.out is not None:
        if config.out.resolve() == config.checkpoint.resolve():
            raise ValueError(f"{config.out} is the checkpoint itself; name another --out")
        config.out.parent.mkdir(parents=True, exist_ok=True)
        stats = {key: content[key] for key in ("stats",) if key in content}
        write_pt(config.out, {"model_state_dict": weights.state_dict, **stats})
        print(f"{config.out}: written")


if __name__ == "__main__":
    sys.exit(main())
