"""What a training is made with, and what of it cannot be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from CMG_Ref.command_line import LARGEST_COUNT, LARGEST_SEED


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
    relative: float = 0.0
    """How far errors and the start state's noise are taken relative to how fast the joints of a window move: 0 not at
    all, 1 wholly. Where clips run, slow steps are else the least part of the error, and drown in the noise."""
    gradient_clip: float = 1.0
    ema: float = 0.999
    """Decay of the moving average of the weights."""
    balance: float = 0.3
    """How strongly rare commands are preferred: 0 not at all, 1 all commands alike."""
    changes: float = 1.0
    """How many times as often windows are drawn in which the command changes: ways out of standing, stops, turns."""
    seconds: float = 0.0
    """Most seconds that it may take, 0: as many as it does. Where steps are slower than that allows, some are left out
    evenly, so that rollouts, learning rate and symmetry still run their whole course."""
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
    ranges |= {"relative": (0, 2), "changes": (0, 1000), "seconds": (0, 1e7)}
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
