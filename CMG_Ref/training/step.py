"""One optimisation step: draw, roll out, differentiate, update. On CUDA, one graph replay."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch

from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.training.batches import WindowSampler
from CMG_Ref.training.config import TrainConfig
from CMG_Ref.training.objective import WalkingVelocity, disturb, liveliness, rollout, stacked_forward
from CMG_Ref.training.symmetry import MirrorSymmetry


class TrainStep:
    """The model, its moving average and its optimiser, and what one step does to them.

    A rollout of 32 frames is some thousands of small kernels; on CUDA the whole step, random draws included,
    is captured once per rollout length and replayed.
    """

    def __init__(
        self,
        model: CMG,
        sampler: WindowSampler,
        config: TrainConfig,
        stats: dict[str, Any],
        joint_names: tuple[str, ...],
    ) -> None:
        self.model = model
        self._sampler, self._config = sampler, config
        self._cuda = next(model.parameters()).is_cuda
        device = next(model.parameters()).device
        self._parameters = list(model.parameters())
        self._average = [p.detach().clone() for p in self._parameters]
        self._rate = torch.zeros((), device=device)
        self._optimizer = torch.optim.Adam(
            self._parameters, lr=self._rate if self._cuda else config.learning_rate, capturable=self._cuda
        )
        self._loss = torch.zeros((), device=device)
        is_g1 = joint_names == JOINT_NAMES
        self._walking = WalkingVelocity(stats, device) if config.velocity_weight and is_g1 else None
        self._mirror = MirrorSymmetry(model, joint_names) if config.symmetric_part > 0 else None
        self._symmetric = False
        self._num_frames = 0
        self._forward = torch.compile(stacked_forward, dynamic=False) if self._cuda else stacked_forward
        self._graph: torch.cuda.CUDAGraph | None = None
        if self._cuda:
            torch.backends.cuda.matmul.allow_tf32 = True

    def configure(self, num_frames: int, symmetric: bool) -> None:
        """From now on roll out ``num_frames`` frames, and keep left and right alike or not."""
        self._sampler.set_num_frames(num_frames)
        self._num_frames = num_frames
        self._symmetric = symmetric
        self._graph = None

    def step(self, learning_rate: float) -> None:
        """Draw a batch and update the weights. Nothing is synchronised."""
        if not self._cuda:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._update()
            return
        self._rate.fill_(learning_rate)
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()

    def loss(self) -> float:
        """Loss of the last step (mean squared error, normalised units); waits for it."""
        return float(self._loss)

    def averaged_model(self) -> CMG:
        """A copy of the model with the moving average of its weights, left and right brought closer to each other."""
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for parameter, average in zip(model.parameters(), self._average, strict=True):
                parameter.copy_(average)
        if self._mirror is not None:
            self._mirror.shrink_asymmetry_([p.data for p in model.parameters()], self._config.asymmetry_kept)
        return model

    def state(self) -> dict[str, Any]:
        """What :meth:`load_state` needs besides the weights."""
        return {
            "optimizer_state_dict": self._optimizer.state_dict(),
            "average": [a.cpu() for a in self._average],
            "loss": self.loss(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self._cuda else None,
        }

    def load_state(self, checkpoint: dict[str, Any]) -> int:
        """Go on from a saved state; returns the number of steps done."""
        self.model.load_state_dict(checkpoint["model_state_dict"])
        self._optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate if self._cuda else group["lr"]
        for average, saved in zip(self._average, checkpoint["average"], strict=True):
            average.copy_(saved)
        self._loss.fill_(checkpoint.get("loss", math.nan))
        torch.set_rng_state(checkpoint["rng"])
        if self._cuda and checkpoint["cuda_rng"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_rng"])
        return int(checkpoint["epoch"])

    def _update(self) -> None:
        config = self._config
        loss = self._objective()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self._symmetric and self._mirror is not None:
            self._mirror.symmetrise_([p.grad for p in self._parameters if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(self._parameters, config.gradient_clip, foreach=True)
        self._optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self._average, self._parameters, strict=True):
                average.lerp_(parameter, 1 - config.ema)
            self._loss.copy_(loss.detach())

    def _objective(self) -> torch.Tensor:
        """Loss of one random batch of windows."""
        config = self._config
        motion, command = self._sampler.draw(config.batch_size)
        noise: float | torch.Tensor = config.noise
        weight = None
        if config.relative > 0:
            scale = liveliness(motion).pow(config.relative)
            noise, weight = noise * scale[:, None], scale.reciprocal() / scale.reciprocal().mean()
        start, command = disturb(motion[0], command, noise, config.command_noise)
        predicted = rollout(self.model, start, command, self._forward)
        error = (predicted - motion[1:]).square()
        loss = error.mean() if weight is None else (error.mean(dim=(0, 2)) * weight).mean()
        if self._walking is not None and self._num_frames >= config.velocity_frames:
            some = slice(None, None, config.velocity_every)
            loss = loss + config.velocity_weight * self._walking.error(predicted[:, some], motion[1:, some])
        return loss

    def _capture(self) -> None:
        """Two real steps to warm up on a side stream, then the capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._update()
            self._update()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._update()
