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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from CMG_Ref.checkpoint.parameters import read_sizes, read_weights
from CMG_Ref.checkpoint.stats import read_stats
from CMG_Ref.command_line import LARGEST_COUNT, LARGEST_SEED, interrupts_held_back, pick_device, run
from CMG_Ref.files.torch_files import read_pt, save_checkpoint
from CMG_Ref.module import CMG
from CMG_Ref.training import resume
from CMG_Ref.training.batches import WindowSampler
from CMG_Ref.training.step import TrainStep
from CMG_Ref.training.symmetry import MirrorSymmetry, is_symmetric
from cmg_runtime.folder.kept_files import naming


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome, besides the data."""

    data: Path = Path("cmg_training_data.pt")
    out: Path = Path("CMG_Ref/runs/mine")
    init: Path | None = None
    """Checkpoint to start from (its weights; stats come from the data), for a second round. A training that is gone on
    with keeps its own weights: a checkpoint that it did not begin with is refused then."""
    hidden_dim: int = 512
    num_experts: int = 4
    num_layers: int = 3
    batch_size: int = 2048
    learning_rate: float = 1e-3
    """At the start; falls to a hundredth along a cosine."""
    phases: tuple[tuple[int, int], ...] = ((3000, 1), (3000, 2), (5000, 4), (7000, 8), (10000, 16), (12000, 32))
    """(optimisation steps, frames of rollout), in order."""
    noise: float = 0.1
    """Largest usual amplitude of the noise on the start state, normalised units."""
    command_noise: float = 0.01
    """Standard deviation of the noise on the command, normalised units."""
    velocity_weight: float = 1.0
    """Weight of the error in velocity over ground (G1 only; 0 switches it off)."""
    velocity_frames: int = 16
    """Shortest rollout whose velocity is compared."""
    velocity_every: int = 8
    """Compare the velocity of one window in so many: kinematics of all would cost more than the rest of the step."""
    symmetric_part: float = 0.9
    """First part of the steps in which left and right are kept exactly alike (0: never; needs left/right joint names).

    An exactly symmetric generator cannot take a first step from an exactly symmetric stance: neither foot is to
    go first. The last steps, in which the sides may drift apart a little, let it choose."""
    asymmetry_kept: float = 0.2
    """How much of what the sides drifted apart in the last steps the final weights keep: enough for a first step,
    too little to pull to one side."""
    gradient_clip: float = 1.0
    ema: float = 0.999
    """Decay of the moving average of the weights."""
    balance: float = 0.3
    """How strongly rare commands are preferred: 0 not at all, 1 all commands alike."""
    seed: int = 0
    device: str = "auto"
    """"cpu", "cuda" or "auto"."""
    save_every: int = 2000
    """Steps between saves of the state to resume from."""
    log_every: int = 200

    def __post_init__(self) -> None:
        if not self.phases or not all(1 <= number <= LARGEST_COUNT for phase in self.phases for number in phase):
            raise ValueError(f"phases are {self.phases}, expected pairs of positive numbers: steps, frames of rollout")

    @property
    def num_steps(self) -> int:
        """Optimisation steps over all phases."""
        return sum(steps for steps, _ in self.phases)

    def rollout_frames(self, step: int) -> tuple[int, int]:
        """Frames of rollout at ``step`` and the step at which that phase ends."""
        end = 0
        for steps, frames in self.phases:
            end += steps
            if step < end:
                return frames, end
        raise ValueError(f"step {step} is past the last phase, which ends at {end}")

    def learning_rate_at(self, step: int) -> float:
        """Cosine from ``learning_rate`` to a hundredth of it, after 200 steps of warm-up."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        return self.learning_rate * (0.01 + 0.99 * cosine) * min(1.0, (step + 1) / 200)


def require_usable_numbers(config: TrainConfig) -> None:
    """Refuse numbers that training cannot use; NaN is in no range.

    Raises:
        ValueError: names the first.
    """
    counts = {"hidden_dim": 1 << 16, "num_experts": 1024, "num_layers": 64, "batch_size": LARGEST_COUNT}
    counts |= dict.fromkeys(("velocity_every", "save_every", "log_every"), LARGEST_COUNT)
    ranges = {name: (1, most) for name, most in counts.items()}
    ranges |= {"velocity_frames": (0, LARGEST_COUNT), "seed": (0, LARGEST_SEED)}
    ranges |= {"noise": (0, 100), "command_noise": (0, 100), "velocity_weight": (0, 1e6), "balance": (0, 10)}
    ranges |= {"symmetric_part": (0, 1), "asymmetry_kept": (0, 1)}
    for name, (least, most) in ranges.items():
        if not least <= getattr(config, name) <= most:
            raise ValueError(f"{name} is {getattr(config, name)}; expected {least} to {most:.16g}")
    open_ranges = {
        "more than 0, at most 1": {"learning_rate": 0 < config.learning_rate <= 1},
        "more than 0": {"gradient_clip": config.gradient_clip > 0},
        "0 or more, below 1": {"ema": 0 <= config.ema < 1},
    }
    for expected, within in open_ranges.items():
        for name, fits in within.items():
            if not fits:
                raise ValueError(f"{name} is {getattr(config, name)}; expected {expected}")


def read_data(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A data file's content and its joint names (none in files that other tools made).

    Raises:
        ValueError: unreadable, without samples or stats, or names that do not fit the stats.
    """
    data = read_pt(path)
    if not isinstance(data, dict) or not data.get("samples") or "stats" not in data:
        raise ValueError(f"{path}: holds no samples with stats; make it with python -m CMG_Ref.dataloader.dataset")
    with _one_line(f"{path}: its samples are not motion [T + 1, D] and command [T, C]; make it anew"):
        motion_dim, command_dim = (data["samples"][0][key].shape[1] for key in ("motion", "command"))
    read_stats(data["stats"], motion_dim, command_dim, path)
    stats = {**data["stats"], "num_joints": motion_dim // 2, "motion_dim": motion_dim, "command_dim": command_dim}
    joint_names = tuple(data.get("joint_names", ()))
    if joint_names and len(joint_names) != motion_dim // 2:
        raise ValueError(
            f"{path}: {len(joint_names)} joint names, expected {motion_dim // 2} as its motion has; make it anew"
        )
    return {**data, "stats": stats}, joint_names


def initial_model(config: TrainConfig, stats: dict[str, Any], joint_names: tuple[str, ...]) -> CMG:
    """The model that training starts from: fresh weights, or those of ``config.init``."""
    model = CMG(stats["motion_dim"], stats["command_dim"], config.hidden_dim, config.num_experts, config.num_layers)
    if config.init is not None:
        content = read_pt(config.init)
        weights = read_weights(content, config.init)
        differing = resume.differing_sizes(read_sizes(weights.state_dict, config.init), config, stats)
        if differing:
            raise ValueError(f"{config.init}: its weights do not fit ({differing}); give its sizes as options")
        print(f"{config.init}: {weights.note}")
        model.load_state_dict(weights.state_dict)
    elif config.symmetric_part > 0:
        MirrorSymmetry(model, joint_names).initialise_(model)
    return model


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
    sampler = WindowSampler(data, device, config.balance)
    sampler.set_num_frames(max(frames for _, frames in config.phases))  # refuses what only a late phase would meet
    trainer = TrainStep(model.to(device), sampler, config, stats, joint_names)
    if saved is not None:
        with _fits(last):
            trainer.load_state(saved)
    config.out.mkdir(parents=True, exist_ok=True)
    about = {"stats": stats, "joint_names": list(joint_names)}

    writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=step)
    progress = tqdm(total=config.num_steps, initial=step, desc="training", mininterval=2.0)
    with (
        naming(config.out / "tensorboard"),
        contextlib.closing(writer),
        contextlib.closing(progress),
        interrupts_held_back() as interrupted,
    ):
        while step < config.num_steps:
            frames, end = config.rollout_frames(step)
            symmetric_end = round(config.symmetric_part * config.num_steps)
            symmetric = step < symmetric_end
            trainer.configure(frames, symmetric)
            end = min(end, symmetric_end) if symmetric else end
            while step < end:
                trainer.step(config.learning_rate_at(step))
                step += 1
                progress.update()
                log = step % config.log_every == 0
                stop = interrupted()
                save = step % config.save_every == 0 or step == config.num_steps or stop
                if log or save:
                    loss = trainer.loss()
                    if not math.isfinite(loss):
                        raise ValueError(f"loss is {loss} at step {step}; lower learning_rate or look at the data")
                if log:
                    writer.add_scalar("loss", loss, step)
                    writer.add_scalar("rollout_frames", frames, step)
                    progress.set_postfix(frames=frames, loss=f"{loss:.4f}")
                if save:
                    made_with = resume.recipe(parts, step, config.asymmetry_kept)
                    state = {"epoch": step, "recipe": made_with, **trainer.state()}
                    save_checkpoint(last, trainer.model.state_dict(), **about, **state)
                if stop:
                    raise KeyboardInterrupt(f"the same command goes on from {last}, step {step}")
    made_with = resume.recipe(parts, step, config.asymmetry_kept)
    average = trainer.averaged_model().state_dict()
    save_checkpoint(final, average, **about, epoch=step, loss=trainer.loss(), recipe=made_with)
    print(f"{final}: {step} steps, {time.monotonic() - started:.0f} s in this run")
    return final


def _fits(last: Path) -> contextlib.AbstractContextManager[None]:
    return _one_line(f"{last}: cannot go on from it; move it away, or choose another out")


@contextlib.contextmanager
def _one_line(complaint: str) -> Iterator[None]:
    """Turns what loading a saved state raises when it does not fit into a ``ValueError`` of one line."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{complaint} ({' '.join(str(error).split())[:300]})") from None


def main() -> int:
    """Command line; returns the exit status."""
    return run(TrainConfig, _train, None, "CMG_Ref.train", description=__doc__)


def _train(config: TrainConfig) -> None:
    train(config)


if __name__ == "__main__":
    sys.exit(main())
