"""mjlab's environment, whose step is a fixed sequence of CUDA graphs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import warp as wp
from mjlab.entity import EntityData
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg, types

from cmg_gym.captured import rewards, trial
from cmg_gym.captured.graphs import CudaGraphs, Graphs, Piece, Sequence
from cmg_gym.captured.pieces import KINEMATICS, copied, names_of_statistics, step_pieces, take_over, terms_of_commands
from cmg_gym.captured.settings import Settings
from cmg_gym.captured.sharing import shared_reads
from cmg_gym.captured.world import CapturedWorld

OFTEN = 10
"""Captures, within ten times as many steps."""


def make_env(
    cfg: ManagerBasedRlEnvCfg, device: str, captured: bool | None = None, render_mode: str | None = None
) -> ManagerBasedRlEnv:
    """The environment of ``cfg``.

    Args:
        captured: whether its step is captured. None: on a GPU, where nothing in ``cfg`` speaks against it.

    Raises:
        ValueError: ``captured`` on a CPU, or with a configuration that cannot be.
    """
    reason = _why_not(cfg, device)
    if captured and reason:
        raise ValueError(f"the environment cannot be captured: {reason}; expected captured=False")
    if captured is False or reason:
        return ManagerBasedRlEnv(cfg, device, render_mode)
    return CapturedEnv(cfg, device, render_mode)


def _why_not(cfg: ManagerBasedRlEnvCfg, device: str) -> str | None:
    if not device.startswith("cuda"):
        return f"there are no CUDA graphs on {device!r}"
    if not cfg.auto_reset:
        return "auto_reset is off"
    return "it has recorders" if cfg.recorders else None


class CapturedEnv(CapturedWorld):
    """mjlab's environment with the same configuration, managers and terms, stepped by replaying CUDA graphs.

    There is one world more than robots, the last one: it takes the place of robots that nothing happens to; see
    :mod:`cmg_gym.captured.pieces`. So ``num_envs``, which terms size their buffers by, is one more too, and what
    :meth:`step` returns has that many rows. :class:`cmg_gym.captured.TrainingEnv` shows the robots alone.

    The first :meth:`reset` finds out what can be captured, prints what cannot, and captures the rest. Terms run as
    mjlab runs them, with two differences. What a contact sensor shows in observations is always of the step of physics
    before the state that is observed, and nothing for a robot that begins anew; mjlab's is of the state itself in steps
    in which some robot falls, and else as here. And random numbers are drawn for all robots, so that the same seed
    gives other ones than without capture.

    Args:
        cfg: with ``scene.num_envs`` robots; it is copied.
        graphs: of what kind. None: CUDA graphs on a GPU; on a CPU none, the same pieces run as they are.
    """

    captured = True

    def __init__(
        self,
        cfg: ManagerBasedRlEnvCfg,
        device: str,
        render_mode: str | None = None,
        graphs: Graphs | None = None,
    ) -> None:
        super().__init__(cfg, device, render_mode)
        self.statistics.declare(*names_of_statistics(self))
        self._cuda = torch.device(device).type == "cuda"
        self._graphs = graphs or (CudaGraphs(self._warps_stream()) if self._cuda else None)
        self._sequence: Sequence | None = None
        self._outdated = False
        self._unread: list[Any] = []
        self._captured_at: deque[int] = deque(maxlen=OFTEN)

    def capture_again(self) -> None:
        """Capture the pieces anew before the next step."""
        self._outdated = True

    def reset(
        self, *, seed: int | None = None, env_ids: torch.Tensor | None = None, options: dict[str, Any] | None = None
    ) -> tuple[types.VecEnvObs, dict]:
        """As mjlab's; the first one prepares the graphs."""
        with torch.no_grad(), self._on_warps_stream():
            if self._sequence is None:
                with torch.inference_mode(False):  # else nothing could be captured again outside of it
                    super().reset(seed=seed)
                    self._sequence = self._prepare()
                    self.statistics.read()  # begin anew, without what was tried
                    self.steps.zero_()
            observations, extras = super().reset(seed=seed, env_ids=env_ids, options=options)
            # What mjlab has bound to new tensors belongs where the graphs look for it.
            take_over(self, observations)
            self.state.settle()
        return self.obs_buf, extras

    def step(self, action: torch.Tensor) -> types.VecEnvStepReturn:
        """One step of all robots, as mjlab's.

        Args:
            action: [N, A] or [N + 1, A].

        Returns:
            As mjlab's, with N + 1 rows: buffers that the next step overwrites.
        """
        assert self._sequence is not None, "reset() comes first"
        self.extras["log"] = {}
        with torch.no_grad(), self._on_warps_stream():
            self.action_in[: len(action)].copy_(action)
            self._sim_step_counter += self.cfg.decimation
            self._step_counter += 1
            if self._outdated or self._settings.have_changed():
                self._capture(self._sequence)
            self._sequence.run()
        for sensor in self._unread:  # a graph does not tell it that there is something new
            sensor._invalidate_cache()
        return self.obs_buf, self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    def episode_statistics(self) -> dict[str, float]:
        """What mjlab logs, of the episodes that have ended since the last call; the host waits for it once."""
        return {**self.statistics.read(), **self.curriculum_manager.reset(self.everyone[:0])}

    def _prepare(self) -> Sequence:
        """Find out what can be captured, and capture it."""
        self.observations = copied(self.obs_buf)
        self.reward_sums = rewards.share_sums(self.reward_manager)
        commands = [term.cfg for term in terms_of_commands(self).values()]
        self._settings = Settings([*(cfg for _, _, cfg in trial.terms(self)), *commands])
        if self._graphs is None:
            self._settings.note()
            return Sequence(step_pieces(self), self.state, None, self.constants, nullcontext)
        self.refused += trial.hoist(self, self._as_captured)
        pieces = self._with_hoisted(step_pieces(self))
        self.refused += trial.refuse(self, pieces, self._as_captured)
        self._spare_the_forces(pieces)
        self.state.keep()
        for piece in pieces:
            if not piece.captured and piece.binds:
                piece.run = self.state.settling(piece.run)
        for refusal in self.refused:
            print(f"captured step: {refusal.name} runs between graphs, {refusal.milliseconds:.2f} ms: {refusal.reason}")
        entities = [entity for entity in self.scene.entities.values() if isinstance(entity.data, EntityData)]
        terms = terms_of_commands(self).values()
        sharing = lambda: shared_reads(entities, terms)  # noqa: E731
        sequence = Sequence(pieces, self.state, self._graphs, self.constants, sharing)
        self._capture(sequence)
        return sequence

    def _spare_the_forces(self, pieces: list[Piece]) -> None:
        """End the step with half of ``forward`` where nothing reads the other half."""
        if not self.physics.halved:
            return
        place = [piece.name for piece in pieces].index(KINEMATICS)
        if not trial.reads_forces(self, pieces[place + 1 :]):
            pieces[place].run = self.physics.first_half

    def _with_hoisted(self, pieces: list[Piece]) -> list[Piece]:
        result = []
        for piece in pieces:
            apart = [term for term in self.hoisted if term.piece == piece.name]
            result += [*(Piece(term.name, term.evaluate, captured=False) for term in apart), piece]
        return result

    @contextmanager
    def _as_captured(self) -> Iterator[None]:
        """What a graph does not allow raises an error within it."""
        self.counter_may_be_read = False
        try:
            assert self._graphs is not None
            with self.constants, self._graphs.refusing():
                yield
        finally:
            self.counter_may_be_read = True

    def _capture(self, sequence: Sequence) -> None:
        self._outdated = False
        self._captured_at.append(self._step_counter)
        if len(self._captured_at) == OFTEN and self._step_counter - self._captured_at[0] < 10 * OFTEN:
            print(
                f"captured step: settings of terms changed {OFTEN} times in few steps, and each time takes as long "
                "as many; change them seldom, keep them in tensors, or train with --no-captured"
            )
            self._captured_at.clear()
        self._settings.note()
        # PPO steps in inference mode, whose tensors could not be written outside of it, nor watched for writes.
        with torch.inference_mode(False), torch.no_grad():
            sequence.capture()
        sensors = self.scene.sensors.values()
        self._unread = [sensor for sensor in sensors if not getattr(sensor, "_cache_valid", True)]

    @contextmanager
    def _on_warps_stream(self) -> Iterator[None]:
        """mjlab writes simulation data on Warp's stream. All of a step runs there, behind what the caller has launched
        and before what it launches next."""
        if not self._cuda:
            yield
            return
        callers, warps = torch.cuda.current_stream(self.device), self._warps_stream()
        warps.wait_stream(callers)
        with torch.cuda.stream(warps):
            yield
        callers.wait_stream(warps)

    def _warps_stream(self) -> torch.cuda.Stream:
        return torch.cuda.ExternalStream(wp.get_stream(self.sim.wp_device).cuda_stream, device=self.device)
