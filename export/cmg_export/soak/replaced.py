"""Frames that the guard replaced: found in the windows, and held to the plain rollout."""

from __future__ import annotations

import warnings

import torch

from cmg_export.parity import Truth
from cmg_export.soak.changes import Told
from cmg_runtime import Engine
from cmg_runtime.folder.limits import limits
from cmg_runtime.window.report import Report

MARGIN = 0.01
"""Of the width of a value's limits: nearer to them than that, float64 may be on the other side."""

_ROWS_AT_ONCE = 64


def counters(engine: Engine) -> Report:
    """The engine's. It warns of what is not zero, and here much is not on purpose. The host waits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return engine.report()


class ReplacedFrames:
    """Accounts for every frame that the engine counts as replaced.

    A generated frame that has the bits of a state of the bank was replaced. It had to be: one step of the reference
    from the frame before it, in float64, leaves the limits too. Each is looked for while both are in the window, so
    :meth:`look` is called before and after every change of the engine, and at least every ``horizon - 1`` steps.

    Attributes:
        counted: frames that were replaced, by the engine's counter.
        failures: what was wrong first, a line each.
    """

    def __init__(self, engine: Engine, truth: Truth, told: Told) -> None:
        self._engine, self._truth, self._told = engine, truth, told
        low, high = (bound.double() for bound in limits(engine.manifest, engine.bank))
        margin = MARGIN * (high - low)
        self._low, self._high = low + margin, high - margin
        self._in_windows: set[tuple[int, int]] = set()  # environment, frame counted from the beginning
        self.counted = 0
        self.failures: list[str] = []

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Account for what was replaced since the last look, after so many steps. The host waits."""
        counted = counters(self._engine).frames_replaced
        if counted == self.counted:
            return
        frames = self._engine.future(range(self._engine.horizon))
        seen = torch.cat([frames.dof_pos, frames.dof_vel], dim=2)
        places = [(env, frame) for env, frame in self._bank_states(seen) if (env, step + frame) not in self._in_windows]
        if not self.failures:
            if len(places) != counted - self.counted:
                self.failures.append(
                    f"after {step} steps the engine has counted frames_replaced {counted}; expected "
                    f"{self.counted + len(places)}, as many as are states of the bank"
                )
            self.failures += self._without_reason(seen, places, step)[:1]
        self._in_windows |= {(env, step + frame) for env, frame in places}
        self._in_windows = {(env, frame) for env, frame in self._in_windows if frame > step}
        self.counted = counted

    def forget(self, columns: torch.Tensor) -> None:
        """The windows of ``columns`` [n] int64 were made anew, and what is replaced in them counts again."""
        if self._in_windows:
            anew = set(columns.tolist())
            self._in_windows = {(env, frame) for env, frame in self._in_windows if env not in anew}

    def environments(self, step: int) -> set[int]:
        """Those in whose window, after so many steps, there is a replaced frame."""
        return {env for env, frame in self._in_windows if frame > step}

    def _bank_states(self, seen: torch.Tensor) -> list[tuple[int, int]]:
        """(environment, frame) of the generated frames of ``seen`` [N, K, motion_dim] that are states of the bank."""
        bank = self._engine.bank
        envs, frames = torch.isin(seen[:, 1:, 0], bank[:, 0]).nonzero(as_tuple=True)
        found = []
        for env, frame in zip(envs.split(_ROWS_AT_ONCE), frames.split(_ROWS_AT_ONCE), strict=True):
            same = (seen[env, frame + 1].unsqueeze(1) == bank).all(dim=2).any(dim=1)
            found += list(zip(env[same].tolist(), (frame[same] + 1).tolist(), strict=True))
        return found

    def _without_reason(self, seen: torch.Tensor, places: list[tuple[int, int]], step: int) -> list[str]:
        """A line for each of ``places`` where the reference stays within the limits."""
        lines = []
        for env, frame in places:
            command = self._told.in_force(step, frame)[env : env + 1]
            expected = self._truth.step(seen[env : env + 1, frame - 1].double(), command)
            if bool(((expected > self._low) & (expected < self._high)).all()):
                lines.append(
                    f"after {step} steps frame {frame} of environment {env} had been replaced, and the plain rollout's "
                    "is within the limits; expected one beyond them"
                )
        return lines
