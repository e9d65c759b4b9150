"""``CommandSampler`` under the path that existing training code imports it from."""

from cmg_runtime.commands.sampler import PRESETS, STAGES, STRATEGIES, CommandSampler, get_stage_sampler

__all__ = ["PRESETS", "STAGES", "STRATEGIES", "CommandSampler", "get_stage_sampler"]
