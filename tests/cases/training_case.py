"""A toy problem for the trainer: three joints that swing at a pace that the command sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from CMG_Ref.dataloader.dataset import compute_stats
from CMG_Ref.training.config import TrainConfig

NAMES = ("left_knee_joint", "waist_yaw_joint", "right_knee_joint")
TINY = TrainConfig(
    hidden_dim=12, num_experts=2, num_layers=2, batch_size=16, learning_rate=3e-3, phases=((4, 1), (6, 3)), device="cpu"
)


def make_data(rng: np.random.Generator) -> dict[str, Any]:
    """Sines whose pace follows the command."""
    made = []
    for _ in range(5):
        frames, command = int(rng.integers(20, 40)), rng.uniform(-1, 1, 3)
        t = np.arange(frames + 1)[:, None] / 50
        dof_pos = np.sin(2 * np.pi * (1 + 0.5 * command) * t + rng.uniform(0, 6, 3))
        motion = np.concatenate([dof_pos, np.gradient(dof_pos, axis=0) * 50], axis=1).astype(np.float32)
        made.append({"motion": motion, "command": np.tile(command, (frames, 1)).astype(np.float32)})
    return {"samples": made, "stats": compute_stats(made, NAMES), "joint_names": list(NAMES)}
