"""mjlab's PPO runner, made to survive an interruption at any moment and to export what deployment needs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, cast

import torch
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from torch.utils.tensorboard import SummaryWriter

from cmg_gym.learning.captured_ppo import CapturedPPO
from cmg_gym.learning.export import export_policy
from cmg_gym.learning.iteration_logger import IterationLogger
from cmg_gym.learning.resume import trained_with
from cmg_gym.mdp.reference_command import reference
from cmg_runtime.folder.kept_files import naming

KEPT_EVERY = 250
"""Iterations between checkpoints that are kept for good; of the others the newest two are."""

CAPTURED = {"cmg_gym.ppo:SharedNormalizationPPO": "cmg_gym.learning.captured_ppo:CapturedPPO"}
"""Algorithms, and those that learn the same beside a captured environment."""

CHECKPOINT = re.compile(r"model_(\d+)\.pt")


class ResidualRunner(MjlabOnPolicyRunner):
    """Saves after every iteration and resumes behind the last one that was saved.

    Beside a captured environment PPO and its log are captured, too. An algorithm of the user's own stays as it is.

    Attributes:
        trained_with: what goes into checkpoints of how they came about; see :mod:`cmg_gym.learning.resume`.
    """

    def __init__(self, env: RslRlVecEnvWrapper, train_cfg: dict, *arguments: Any, **named: Any) -> None:
        if getattr(env, "captured", None):
            name = train_cfg["algorithm"]["class_name"]
            train_cfg["algorithm"]["class_name"] = CAPTURED.get(name, name)
        super().__init__(env, train_cfg, *arguments, **named)
        if isinstance(self.alg, CapturedPPO):
            self.cfg["check_for_nan"] = False  # it does so itself, without a wait in every step
            self.logger = IterationLogger(
                self.alg,
                cast(Any, env).episode_statistics,
                log_dir=self.logger.log_dir,
                cfg=self.cfg,
                env_cfg=env.cfg,
                num_envs=env.num_envs,
                is_distributed=self.is_distributed,
                gpu_world_size=self.gpu_world_size,
                gpu_global_rank=self.gpu_global_rank,
            )
        self.trained_with = trained_with(env.unwrapped, env.num_envs, self.gpu_world_size)

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train until iteration ``num_learning_iterations``, those of the resumed run included; then export."""
        remaining = num_learning_iterations - self.current_learning_iteration
        if remaining > 0:
            if self.current_learning_iteration > 0:
                self._begin_anew()
            super().learn(remaining, init_at_random_ep_len)
            self.current_learning_iteration += 1  # rsl_rl leaves the last one's index; from here on it is their number
        else:
            print(f"Only exported: the checkpoint has {self.current_learning_iteration} iterations already")
        if self.logger.log_dir is not None and not self.logger.disable_logs:
            export_policy(self, Path(self.logger.log_dir) / "policy")

    def save(self, path: str, infos: dict | None = None) -> None:
        """Write a checkpoint beside ``path``, move it there, and remove older ones.

        What TensorBoard is to read goes to the disk before: a run that is killed has the curve of all its checkpoints.
        """
        if isinstance(self.logger.writer, SummaryWriter):
            self.logger.writer.flush()
        infos = {**(infos or {}), "trained_with": self.trained_with}
        target = Path(path)
        unfinished = target.with_suffix(".unfinished")
        try:
            with naming(target):
                super().save(str(unfinished), infos)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        for old in stale_checkpoints(target.parent):
            old.unlink(missing_ok=True)

    def _configure_multi_gpu(self) -> None:
        """As rsl_rl's, which knows several GPUs; several processes on CPUs meet by gloo."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1 or torch.device(self.device).type == "cuda":
            super()._configure_multi_gpu()
            return
        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        self.gpu_world_size, self.is_distributed = world_size, True
        self.gpu_global_rank, self.gpu_local_rank = rank, local_rank
        self.cfg["multi_gpu"] = {"global_rank": rank, "local_rank": local_rank, "world_size": world_size}
        torch.distributed.init_process_group("gloo")

    @torch.inference_mode()  # as rsl_rl's own rollouts are: mjlab has buffers that were made in them
    def _begin_anew(self) -> None:
        """Let every robot begin in the stage of the curriculum that the resumed training has come to."""
        world = self.env.unwrapped
        world.curriculum_manager.compute()
        reference(world).draw_episodes()
        self.env.reset()

    def load(
        self, path: str, load_cfg: dict | None = None, strict: bool = True, map_location: str | None = None
    ) -> dict:
        """Load a checkpoint; nothing in it is unpickled but tensors and plain values."""
        saved = torch.load(path, map_location=map_location or self.device, weights_only=True)
        if self.alg.load(saved, load_cfg, strict):
            self.current_learning_iteration = saved["iter"] + 1
        self.env.unwrapped.common_step_counter = saved["infos"]["env_state"]["common_step_counter"]
        return saved["infos"]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    found = [path for path in folder.glob("model_*.pt") if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=iteration_of)


def iteration_of(checkpoint: Path) -> int:
    """The last iteration that a checkpoint has behind it."""
    match = CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def stale_checkpoints(folder: Path) -> list[Path]:
    """Those that need not be kept."""
    return [path for path in checkpoints(folder)[:-2] if iteration_of(path) % KEPT_EVERY]


def latest_checkpoint(experiment: Path) -> Path | None:
    """Of the runs in ``experiment``, the last checkpoint of the one that was written to last."""
    last = [checkpoints(run)[-1] for run in sorted(experiment.glob("*")) if checkpoints(run)]
    return max(last, key=lambda path: path.stat().st_mtime_ns, default=None)
