"""Train a Conditional Motion Generator on its own rollouts.

    python -m CMG_Ref.train --data cmg_training_data.pt --out CMG_Ref/runs/mine

The rollout grows from one frame to ``phases``' last; the loss is the mean squared error of every frame in
normalised units. Interrupt at will: the state is saved, and the same command goes on from ``cmg_last.pt``. So does one
with other settings, which says what differs; other sizes, joints or stats are refused. The result, ``cmg_final.pt``,
holds the moving average of the weights, the stats, and as its recipe the settings of every part of the training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from CMG_Ref import interrupts
from CMG_Ref.command_line import pick_device, run
from CMG_Ref.files.torch_files import read_pt, save_checkpoint
from CMG_Ref.training import resume
from CMG_Ref.training.batches import WindowSampler
from CMG_Ref.training.config import TrainConfig, require_usable_numbers
from CMG_Ref.training.inputs import initial_model, one_line, read_data
from CMG_Ref.training.pace import Pace
from CMG_Ref.training.step import TrainStep
from CMG_Ref.training.symmetry import is_symmetric
from cmg_runtime.folder.kept_files import naming


def train(config: TrainConfig) -> Path:
    """Train, or go on training, and write ``cmg_final.pt``; returns its path.

    Raises:
        ValueError: unusable data or settings, or a loss that is not finite.
        KeyboardInterrupt: interrupted between two steps; the state to go on from is saved.
    """
    started = time.monotonic()
    require_usable_numbers(config)
    torch.manual_seed(config.seed)
    data, joint_names = read_data(config.data)
    stats = data["stats"]
    final, last = config.out / "cmg_final.pt", config.out / "cmg_last.pt"
    saved = read_pt(last) if last.exists() else None
    if config.symmetric_part > 0 and not (joint_names and is_symmetric(stats, joint_names)):
        raise ValueError(f"{config.data}: no joint names or no symmetric stats; rebuild it, or pass --symmetric-part 0")
    start = config if saved is None else dataclasses.replace(config, init=None)
    model = initial_model(start, stats, joint_names)
    device = pick_device(config.device)  # only now: what is wrong with the input comes before what the machine lacks
    step, parts = 0, (resume.first_part(config, device),)
    if saved is not None:
        with _fits(last):
            step = int(saved["epoch"])
            resume.require_same_network(saved, config, stats, joint_names)
            parts, differing = resume.go_on(resume.saved_parts(saved), parts[0], step, config)
        for line in differing:
            print(f"{last}: {line}")
        if step == config.num_steps and resume.is_written(final, step, config.asymmetry_kept):
            print(f"{final}: finished before, {step} steps; longer phases go on, another out begins anew")
            return final
    sampler = WindowSampler(data, device, config.balance, config.changes)
    sampler.set_num_frames(max(frames for _, frames in config.phases))  # refuses what only a late phase would meet
    trainer = TrainStep(model.to(device), sampler, config, stats, joint_names)
    if saved is not None:
        with _fits(last):
            trainer.load_state(saved)
    config.out.mkdir(parents=True, exist_ok=True)

    def save(path: Path, weights: dict[str, Any], step: int, **more: Any) -> None:
        made_with = resume.recipe(parts, step, config.asymmetry_kept)
        about = {"stats": stats, "joint_names": list(joint_names), "epoch": step, "recipe": made_with}
        save_checkpoint(path, weights, **about, **more)

    writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=step)
    with naming(config.out / "tensorboard"), contextlib.closing(writer):
        _make_steps(
            trainer,
            config,
            step,
            Pace(config, started),
            writer,
            lambda step: save(last, trainer.model.state_dict(), step, **trainer.state()),
        )
    save(final, trainer.averaged_model().state_dict(), config.num_steps, loss=trainer.loss())
    print(f"{final}: {config.num_steps} steps, {time.monotonic() - started:.0f} s in this run")
    return final


def _make_steps(
    trainer: TrainStep,
    config: TrainConfig,
    step: int,
    pace: Pace,
    writer: SummaryWriter,
    save: Callable[[int], None],
) -> None:
    """From ``step`` to the last of ``config``; ``save`` is told the steps done.

    Raises:
        ValueError: the loss is not finite.
        KeyboardInterrupt: interrupted, and saved.
    """
    symmetric_end = round(config.symmetric_part * config.num_steps)
    progress = tqdm(total=config.num_steps, initial=step, desc="training", mininterval=2.0)
    with contextlib.closing(progress), interrupts.as_request() as interrupted:
        while step < config.num_steps:
            frames, end = config.rollout_frames(step)
            symmetric = step < symmetric_end
            trainer.configure(frames, symmetric)
            end = min(end, symmetric_end) if symmetric else end
            while step < end:
                trainer.step(config.learning_rate_at(step))
                done, step = step, pace.after(step)
                progress.update(step - done)
                log = step // config.log_every > done // config.log_every
                stop = interrupted()
                saving = step // config.save_every > done // config.save_every or step == config.num_steps or stop
                if log or saving:
                    loss = trainer.loss()
                    if not math.isfinite(loss):
                        raise ValueError(f"loss is {loss} at step {step}; lower learning_rate or look at the data")
                if log:
                    writer.add_scalar("loss", loss, step)
                    writer.add_scalar("rollout_frames", frames, step)
                    progress.set_postfix(frames=frames, loss=f"{loss:.4f}")
                if saving:
                    save(step)
                if stop:
                    raise KeyboardInterrupt(f"the same command goes on from {config.out / 'cmg_last.pt'}, step {step}")


def _fits(last: Path) -> contextlib.AbstractContextManager[None]:
    return one_line(f"{last}: cannot go on from it; move it away, or choose another out")


def main() -> int:
    """Command line; returns the exit status."""
    return run(TrainConfig, _train, None, "CMG_Ref.train", description=__doc__)


def _train(config: TrainConfig) -> None:
    train(config)


if __name__ == "__main__":
    sys.exit(main())
