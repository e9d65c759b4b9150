"""Commands that change along a straight line instead of in a jump."""

from __future__ import annotations

import copy
from typing import Any, Dict

import torch

from cmg_runtime.device import resolve_device
from cmg_runtime.device.memory import require_memory
from cmg_runtime.inputs import as_count, as_rows, select_envs
from cmg_runtime.window.state import CommandRamp


class CommandSmoother:
    """Leads every environment's command linearly from the old one to the new one. At first all commands are zero.

    For callers that ramp commands themselves. An engine loaded with ``command_ramp_s`` does so by itself; use one of
    the two.

    Args:
        num_envs: environments.
        interpolation_steps: calls of :meth:`get_current` from the old command to the new, at least 1.
        device: where the commands live.
    """

    @torch.inference_mode(False)  # its tensors could not be updated outside of the caller's inference mode
    def __init__(self, num_envs: int, interpolation_steps: int = 25, device: str | torch.device = "cuda") -> None:
        self.num_envs = as_count(num_envs, "num_envs")
        self.interpolation_steps = as_count(interpolation_steps, "interpolation_steps")
        self.device = resolve_device(device)
        require_memory(28 * self.num_envs, self.device, f"a smoother of {num_envs} commands", "take fewer")
        columns = self.num_envs + 1  # one of them scratch, not used
        self._ramp = CommandRamp(columns, 3, self.interpolation_steps, self.device)

    def __getstate__(self) -> Dict[str, Any]:
        # Not the ramps themselves, which a copy, and a worker given this object, would share and move.
        return {**vars(self), "_ramp": copy.deepcopy(self._ramp)}

    @torch.no_grad()
    def set_target(self, target_cmd: Any, env_ids: Any = None) -> None:
        """Begin a new ramp from the command that is in force now.

        Environments whose target is the one they have already go on as they are; on a GPU also those whose new target
        is not finite.

        Args:
            target_cmd: [n, 3] or [3], m/s, m/s, rad/s.
            env_ids: None for every environment, distinct ids [n], or a bool mask [num_envs] with one row per
                environment in ``target_cmd``.

        Raises:
            EngineError: wrong shape, type, device or ids, or on the host a value in use that is not finite.
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        rows = as_rows(target_cmd, envs, 3, "target_cmd", self.device)
        self._ramp.retarget(envs, rows, torch.isfinite(rows).all(dim=1))

    @torch.no_grad()
    def get_current(self, env_ids: Any = None) -> torch.Tensor:
        """The commands now; the ramps of these environments then move on by one step.

        The first call after :meth:`set_target` gives the old command, call ``interpolation_steps`` after it the new.

        Args:
            env_ids: see :meth:`set_target`; with a mask every row is given out, and those chosen move on.

        Returns:
            [n, 3] float32, a new tensor.
        """
        envs = select_envs(env_ids, self.num_envs, self.device)
        current = envs.read(self._ramp.at(0)[: self.num_envs])
        calls = self._ramp.elapsed[: self.num_envs]
        envs.write(calls, envs.read(calls) + 1)
        return current
