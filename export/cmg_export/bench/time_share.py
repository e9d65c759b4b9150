"""The section time-share: the reference's part of a training environment's step, and what training takes. Importing it
imports a simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cmg_export.bench import training_speed
from cmg_export.bench.peers import ReferenceForm
from cmg_export.bench.results import Share, TimeShare
from cmg_export.bench.settings import Settings
from cmg_export.bench.training_speed import open_training, policy_path, whole_rounds
from cmg_export.progress import stage
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.timing import interleave, wait_for
from cmg_gym.captured import TrainingEnv
from cmg_gym.command_line import require_room
from cmg_gym.env_cfg import COMMAND_NAME
from cmg_gym.learning.policies import Policy, find_policy, load_policy
from cmg_gym.mdp.reference_command import COMMANDS_EVERY, ReferenceCommand, reference
from cmg_runtime.backends import BACKENDS, PLAN_FILE
from cmg_runtime.errors import EngineError

TIMED = tuple(name for name, row in reversed(BACKENDS.items()) if row.file != PLAN_FILE)
"""Unless others are asked for."""


def require_environment(settings: Settings) -> None:
    """Refuse a policy that is none, and more robots than memory holds: building the environment takes a minute.

    Raises:
        EngineError: one line.
    """
    find_policy(policy_path(settings))
    require_room(settings.num_envs, str(settings.device))


def measure(settings: Settings, checkpoint: Checkpoint, left_out: list[str]) -> TimeShare:
    """Time one backend after the other, in the same environment, and the textbook form for contrast; then what training
    takes.

    Args:
        left_out: gets a line for each backend that does not run here.
    """
    options, share = settings.options, settings.options.time_share
    with stage("environment"):
        env = open_training(settings, captured=False)  # the reference's part has a beginning and an end there
        policy = load_policy(policy_path(settings), env)
    shares = []
    for backend in options.backends or TIMED:
        try:
            reference(env.unwrapped, COMMAND_NAME).use_backend(backend)
        except EngineError as error:
            left_out.append(f"time share of {backend}: {error}")
            continue
        with stage(f"time share {backend}"):
            shares.append(_share(env, policy, backend, settings))
    frames = reference(env.unwrapped, COMMAND_NAME).offsets[-1]
    env.close()
    return TimeShare(
        settings.num_envs,
        whole_rounds(settings.calls(share.steps)),
        tuple(shares),
        share.textbook_envs,
        _textbook_frame(checkpoint, share.textbook_envs, settings.device),
        frames,
        training_speed.measure(settings, left_out),
    )


@torch.inference_mode()
def _share(env: TrainingEnv, policy: Policy, backend: str, settings: Settings) -> Share:
    world, share = env.unwrapped, settings.options.time_share
    stopwatch = Stopwatch(settings.device)
    stopwatch.attach(reference(world, COMMAND_NAME))
    world.common_step_counter = 0  # every backend in the curriculum's first stage
    observations, _ = env.reset()
    # As in the midst of a training: episodes do not end together.
    world.episode_length_buf.random_(int(world.max_episode_length))
    whole, waited, queued, resets = [], [], [], 0
    warm_up, steps = whole_rounds(settings.calls(share.warm_up)), whole_rounds(settings.calls(share.steps))
    for index in range(warm_up + 2 * steps):
        actions = policy(observations)
        # In turns of whole rounds of commands: each has all that only some steps do.
        stopwatch.waits = index // COMMANDS_EVERY % 2 == 1
        (observations, _, done, _), _, took = wait_for(lambda actions=actions: env.step(actions), settings.device)
        part = stopwatch.read()
        if index >= warm_up:
            resets += int(done.sum())
            if stopwatch.waits:
                waited.append(part)
            else:
                whole.append(took)
                queued.append(part)
    step, waited_for, unwaited = (1e-3 * sum(times) / len(times) for times in (whole, waited, queued))
    return Share(backend, step, waited_for, unwaited, resets / (2 * steps))


class Stopwatch:
    """Adds up the time that the reference takes: of the host and waited for, or on the device's own clock.

    Attributes:
        waits: which. On a CPU both are the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits, self._us, self._device = False, 0.0, device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def attach(self, term: ReferenceCommand) -> None:
        """Time what ``term`` does in a step: the generator's step, starts, new commands, their drawing, the frames."""
        update = type(term)._update_command.__get__(term)  # and not what another stopwatch has put in its place
        term._update_command = lambda env_ids: self._timed(lambda: update(env_ids))

    def read(self) -> float:
        """us since the last call. The device must have done all."""
        us = self._us + sum(1e3 * start.elapsed_time(end) for start, end in self._events)
        self._us, self._events = 0.0, []
        return us

    def _timed(self, run: Callable[[], Any]) -> Any:
        if self.waits or self._device.type == "cpu":
            result, _, finished = wait_for(run, self._device)
            self._us += finished
            return result
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = run()
        end.record()
        self._events.append((start, end))
        return result


@torch.inference_mode()
def _textbook_frame(checkpoint: Checkpoint, rows: int, device: torch.device) -> float:
    """Median ms of one frame of so many environments in the reference implementation's form."""
    network, stats = ReferenceForm(checkpoint).to(device), checkpoint.stats
    motion = torch.tensor(stats.motion_mean, device=device).expand(rows, -1).contiguous()
    command = torch.zeros(rows, len(stats.command_min), device=device)
    timed = interleave({"textbook": lambda: network(motion, command)}, device, count=10, seconds=60.0)
    return 1e-3 * timed["textbook"].timing().wall.p50
