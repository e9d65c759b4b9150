"""All rewards at once: mjlab weighs, checks and adds them up one by one, with seven kernels for each."""

from __future__ import annotations

import torch
from mjlab.managers import RewardManager


def share_sums(manager: RewardManager) -> torch.Tensor:
    """[T, worlds]: where the manager sums up the terms of the episodes from here on."""
    if not manager._episode_sums:
        return manager._reward_buf.new_zeros(0, len(manager._reward_buf))
    sums = torch.stack(list(manager._episode_sums.values()))
    manager._episode_sums.update(zip(manager._episode_sums, sums, strict=True))
    return sums


def compute(manager: RewardManager, sums: torch.Tensor, dt: float) -> torch.Tensor:
    """As ``manager.compute``; ``sums`` are those of :func:`share_sums`."""
    if not len(sums) or type(manager).compute is not RewardManager.compute:
        return manager.compute(dt)
    scale = dt if manager._scale_by_dt else 1.0
    values = []
    for name, cfg in zip(manager._term_names, manager._term_cfgs, strict=True):
        if cfg.weight == 0.0:
            values.append(torch.zeros_like(manager._reward_buf))
            continue
        value = cfg.func(manager._env, **cfg.params)
        manager._check_term_shape(name, value)
        values.append(value)
    weights = torch.tensor([[cfg.weight * scale] for cfg in manager._term_cfgs], device=sums.device)
    weighed = torch.nan_to_num(torch.stack(values) * weights, nan=0.0, posinf=0.0, neginf=0.0)
    sums += weighed
    torch.div(weighed.t(), scale, out=manager._step_reward)
    return torch.sum(weighed, dim=0, out=manager._reward_buf)
