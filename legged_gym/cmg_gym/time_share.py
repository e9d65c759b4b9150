"""``python -m cmg_gym.time_share``: the reference's part of an environment's step, per backend. A table, and JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper

from cmg_export.bench.peers import ReferenceForm
from cmg_export.bench.timing import synchronise
from cmg_export.errors import FORESEEN
from cmg_export.read.checkpoint import Checkpoint, load_checkpoint
from cmg_gym import command_line
from cmg_gym.env_cfg import COMMAND_NAME, make_env_cfg
from cmg_gym.observations import reference
from cmg_gym.policies import Policy, find_policy, load_policy
from cmg_gym.reference_command import COMMANDS_EVERY, ReferenceCommand
from CMG_Ref.command_line import require_not_negative, require_positive, run
from cmg_runtime.backends import BACKENDS, PLAN_FILE
from cmg_runtime.device import resolve_device
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.kept_files import replace_file
from cmg_runtime.folder.manifest import read_manifest
from cmg_runtime.inputs import require_choice

BUNDLED_CHECKPOINT = Path(__file__).resolve().parents[2] / "CMG_Ref" / "runs" / "g1_neutral" / "cmg_final.pt"


@dataclass(frozen=True)
class Options(command_line.PolicyOptions):
    """Time the training environment's steps, and in every other round of 20 the reference's part of them."""

    out: Path = Path("build/time_share")
    """Where time_share.md and time_share.json go."""
    num_envs: int = 4096
    backends: tuple[str, ...] = tuple(name for name, row in reversed(BACKENDS.items()) if row.file != PLAN_FILE)
    """One after the other, in the same environment."""
    steps: int = 200
    """Timed, of each backend and in each way; rounded up to whole rounds."""
    warm_up: int = 30
    checkpoint: Path = BUNDLED_CHECKPOINT
    """For the textbook form of the network."""
    textbook_envs: int = 1024
    """It needs some 5 MB for each."""


@dataclass(frozen=True)
class Share:
    """A backend's figures, means over steps, ms.

    Attributes:
        step: of the environment, resets and new commands included.
        reference: stepping it, starting episodes, new commands and reading its frames, each waited for.
        queued: the same without waiting: from when the device reaches it to when the device has done it.
        resets: episodes that began, per step.
        left_out: why there are no figures.
    """

    backend: str
    step: float = float("nan")
    reference: float = float("nan")
    queued: float = float("nan")
    resets: float = float("nan")
    left_out: str = ""

    @property
    def share(self) -> float:
        """Of the step, 0..1."""
        return self.reference / self.step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(Options, measure, arguments, "cmg_gym.time_share", FORESEEN)


def measure(options: Options) -> None:
    """Time every backend, and the textbook form for contrast."""
    require_positive(options, "num_envs", "steps", "textbook_envs")
    require_not_negative(options, "warm_up")
    command_line.require_options(options)
    for backend in options.backends:
        require_choice(backend, "backend", tuple(BACKENDS))
    find_policy(options.policy)  # building the environment takes a minute
    read_manifest(options.engine)
    checkpoint = load_checkpoint(options.checkpoint)
    resolve_device(options.device)
    command_line.require_room(options.num_envs, options.device)
    env = _training_env(options)
    policy = load_policy(options.policy, env)
    shares = [_share(env, policy, backend, options) for backend in options.backends]
    frames = reference(env.unwrapped, COMMAND_NAME).offsets[-1]
    env.close()
    frame_ms = _textbook_frame(checkpoint, options)
    text = f"{table(shares, options)}\n\n{_contrast(frame_ms, frames, options)}"
    options.out.mkdir(parents=True, exist_ok=True)
    replace_file(options.out / "time_share.md", (text + "\n").encode())
    rows = [{**asdict(share), "share": share.share} for share in shares if not share.left_out]
    document = {"num_envs": options.num_envs, "shares": rows, "textbook_frame_ms": frame_ms, "frames_ahead": frames}
    replace_file(options.out / "time_share.json", (json.dumps(document, indent=1) + "\n").encode())
    print(text)


def _training_env(options: Options) -> RslRlVecEnvWrapper:
    cfg = make_env_cfg()
    cfg.scene.num_envs, cfg.seed = options.num_envs, options.seed
    command_line.reference_cfg(cfg).engine = str(options.engine)
    return RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg, options.device))


@torch.inference_mode()
def _share(env: RslRlVecEnvWrapper, policy: Policy, backend: str, options: Options) -> Share:
    world, device = env.unwrapped, torch.device(options.device)
    term = reference(world, COMMAND_NAME)
    try:
        term.use_backend(backend)
    except EngineError as error:
        return Share(backend, left_out=str(error))
    stopwatch = _Stopwatch(device)
    stopwatch.attach(term)
    world.common_step_counter = 0  # every backend in the curriculum's first stage
    observations, _ = env.reset()
    # As in the midst of a training: episodes do not end together.
    world.episode_length_buf.random_(int(world.max_episode_length))
    whole, waited, queued, resets = [], [], [], 0
    warm_up, steps = whole_rounds(options.warm_up), whole_rounds(options.steps)
    for index in range(warm_up + 2 * steps):
        actions = policy(observations)
        # In turns of whole rounds of commands: each has all that only some steps do.
        stopwatch.waits = index // COMMANDS_EVERY % 2 == 1
        synchronise(device)
        start = time.perf_counter()
        observations, _, done, _ = env.step(actions)
        synchronise(device)
        took = time.perf_counter() - start
        part = stopwatch.read()
        if index >= warm_up:
            resets += int(done.sum())
            if stopwatch.waits:
                waited.append(part)
            else:
                whole.append(took)
                queued.append(part)
    mean_ms = [1e3 * sum(seconds) / len(seconds) for seconds in (whole, waited, queued)]
    return Share(backend, *mean_ms, resets=resets / (2 * steps))


def whole_rounds(steps: int) -> int:
    """At least so many steps, from one passing on of commands to another."""
    return -(-steps // COMMANDS_EVERY) * COMMANDS_EVERY


class _Stopwatch:
    """Adds up the seconds that the reference takes: of the host and waited for, or on the device's own clock.

    Attributes:
        waits: which. On a CPU both are the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits, self._seconds, self._device = False, 0.0, device
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def attach(self, term: ReferenceCommand) -> None:
        """Time what ``term`` does in a step: the generator's step, starts, new commands, their drawing, the frames."""
        name = "_update_command"
        setattr(term, name, self._timed(getattr(type(term), name).__get__(term)))

    def read(self) -> float:
        """Seconds since the last call. The device must have done all."""
        seconds = self._seconds + sum(1e-3 * start.elapsed_time(end) for start, end in self._events)
        self._seconds, self._events = 0.0, []
        return seconds

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def waited_for(*arguments: Any) -> Any:
            synchronise(self._device)
            start = time.perf_counter()
            result = function(*arguments)
            synchronise(self._device)
            self._seconds += time.perf_counter() - start
            return result

        def queued(*arguments: Any) -> Any:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            result = function(*arguments)
            end.record()
            self._events.append((start, end))
            return result

        def timed(*arguments: Any) -> Any:
            wait = self.waits or self._device.type == "cpu"
            return (waited_for if wait else queued)(*arguments)

        return timed


@torch.inference_mode()
def _textbook_frame(checkpoint: Checkpoint, options: Options) -> float:
    """Median ms of one frame of ``textbook_envs`` environments in the reference implementation's form."""
    device = torch.device(options.device)
    network = ReferenceForm(checkpoint).to(device)
    stats, rows = checkpoint.stats, options.textbook_envs
    motion = torch.tensor(stats.motion_mean, device=device).expand(rows, -1).contiguous()
    command = torch.zeros(rows, len(stats.command_min), device=device)
    times = []
    for _ in range(12):
        synchronise(device)
        start = time.perf_counter()
        network(motion, command)
        synchronise(device)
        times.append(time.perf_counter() - start)
    return 1e3 * median(times[2:])


def table(shares: Sequence[Share], options: Options) -> str:
    """The shares as Markdown."""
    head = ("backend", "step ms", "reference ms", "share", "without waiting ms", "episodes begun per step")
    rows = [
        (share.backend, "not run: " + share.left_out, "", "", "", "")
        if share.left_out
        else (
            share.backend,
            f"{share.step:.2f}",
            f"{share.reference:.3f}",
            f"{100 * share.share:.2f} %",
            f"{share.queued:.3f}",
            f"{share.resets:.1f}",
        )
        for share in shares
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows]]
    return f"{options.num_envs} environments, {whole_rounds(options.steps)} steps\n\n" + "\n".join(lines)


def _contrast(frame_ms: float, frames: int, options: Options) -> str:
    return (
        f"For contrast, the textbook form (a weight matrix per environment), {options.textbook_envs} environments: "
        f"{frame_ms:.2f} ms a frame, {frame_ms * frames:.0f} ms for the {frames} frames ahead that a step asks for."
    )


if __name__ == "__main__":
    sys.exit(main())
