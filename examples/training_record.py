"""What a training of published code reaches, iteration by iteration: a line each, a CSV file, a picture."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from cmg_runtime import EngineError

RECORD = "iterations.csv"
REFERENCE_CALLS = ("sample_motions", "sample_time", "calc_motion_frame")


class OutOfTime(Exception):
    """The training has had the time that it was given."""


class ReferenceClock:
    """Time that the reference motion takes: from the first kernel of each call to its last on a GPU, where the host
    never waits for it; the host's own on a CPU.

    Args:
        library: the motion library; its methods are wrapped.
        device: where it computes.
    """

    def __init__(self, library: Any, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        for name in REFERENCE_CALLS:
            setattr(library, name, self._timed(getattr(library, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*arguments: Any, **options: Any) -> Any:
            if self._on_gpu:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                result = call(*arguments, **options)
                end.record()
                self._events.append((begin, end))
                return result
            start = time.perf_counter()
            result = call(*arguments, **options)
            self._seconds += time.perf_counter() - start
            return result

        return timed

    def take(self) -> float:
        """Seconds since the last ``take``; waits for the GPU."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(begin.elapsed_time(end) for begin, end in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class TrainingRecord:
    """Every iteration of an rsl_rl runner, TWIST's or version 1, as it hands them to its own ``log``.

    Args:
        runner: rsl_rl's runner; its ``log`` is wrapped.
        folder: gets ``iterations.csv``, a row an iteration; a resumed training goes on in it.
        max_minutes: after which :class:`OutOfTime` ends the training; None: never.
        verbose: print what the runner itself prints, too.
        clock: of the reference motion, or None.
    """

    def __init__(
        self, runner: Any, folder: Path, max_minutes: float | None, verbose: bool, clock: ReferenceClock | None
    ) -> None:
        self._path = folder / RECORD
        self._clock = clock
        self._runner = runner
        self._log = runner.log
        self._terms = [f"rew_{name}" for name in runner.env.episode_sums]
        self._verbose = verbose
        self._end = float("inf") if max_minutes is None else time.monotonic() + 60 * max_minutes
        runner.log = self._iteration

    def _iteration(self, values: dict[str, Any]) -> None:
        with contextlib.nullcontext() if self._verbose else contextlib.redirect_stdout(io.StringIO()):
            self._log(values)
        runner, seconds = self._runner, values["collection_time"] + values["learn_time"]
        row = {
            "iteration": values["it"],
            "reward": _mean(values["rewbuffer"]),
            "episode_length": _mean(values["lenbuffer"]),
            "steps_per_second": runner.num_steps_per_env * runner.env.num_envs / seconds,
            "collection_s": values["collection_time"],
            "learning_s": values["learn_time"],
            "reference_s": self._clock.take() if self._clock else float("nan"),
        }
        ended = values["ep_infos"]
        terms = {name: _mean(float(info[name]) for info in ended) for name in self._terms}
        self._write(row | terms)
        share = f", reference {100 * row['reference_s'] / seconds:.1f} %" if self._clock else ""
        print(
            f"{row['iteration']:5d}: reward {row['reward']:8.3f}, episode {row['episode_length']:6.1f} steps, "
            f"{row['steps_per_second']:7.0f} steps/s{share}",
            flush=True,
        )
        if time.monotonic() > self._end:
            raise OutOfTime

    def _write(self, row: dict[str, float]) -> None:
        new = not self._path.exists()
        with self._path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if new:
                writer.writerow(row)
            writer.writerow([f"{value:.6g}" for value in row.values()])


def _mean(values: Any) -> float:
    numbers = [value for value in values if value == value]
    return mean(numbers) if numbers else float("nan")


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of every column that has a number."""
    means = {key: _mean(row[key] for row in rows) for key in rows[0]}
    return {key: value for key, value in means.items() if value == value}


def train(
    runner: Any,
    iterations: int,
    folder: Path,
    title: str,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    verbose: bool = False,
    clock: ReferenceClock | None = None,
) -> None:
    """Train up to ``iterations`` in all, and leave policy, record and pictures in ``folder``.

    Raises:
        EngineError: there is a training in ``folder``, and it is not to be resumed.
    """
    if resume:
        runner.load(str(latest_checkpoint(folder)))
    elif (folder / RECORD).exists():
        raise EngineError(f"{folder} holds a training already; go on with it by --resume, or name another --out")
    TrainingRecord(runner, folder, max_minutes, verbose, clock)
    runner.save_interval = 50
    done = iterations
    try:
        runner.learn(iterations - runner.current_learning_iteration, init_at_random_ep_len=True)
    except OutOfTime:
        done = round(read_record(folder)[-1]["iteration"]) + 1
        print(f"out of time; --resume goes on at iteration {done}")
    runner.current_learning_iteration = done
    runner.save(str(folder / f"model_{done}.pt"))
    summarise(folder, title)


def latest_checkpoint(folder: Path) -> Path:
    """The checkpoint of most iterations in ``folder``; raises ``FileNotFoundError`` where there is none."""
    found = sorted(folder.glob("model_*.pt"), key=lambda path: int(path.stem.removeprefix("model_")))
    if not found:
        raise FileNotFoundError(2, "no model_*.pt: train first", str(folder))
    return found[-1]


def read_record(folder: Path) -> list[dict[str, float]]:
    """The rows of ``iterations.csv``."""
    with (folder / RECORD).open(newline="") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def summarise(folder: Path, title: str) -> None:
    """Write ``summary.json`` (means over the first and the last tenth) and ``curves.png``."""
    rows = read_record(folder)
    tenth = max(1, len(rows) // 10)
    parts = {"first": rows[:tenth], "last": rows[-tenth:]}
    summary = {name: _means(part) for name, part in parts.items()}
    (folder / "summary.json").write_text(json.dumps({"title": title, "iterations": len(rows), **summary}, indent=1))
    for key in ("reward", "episode_length", "steps_per_second"):
        first, last = (means.get(key, float("nan")) for means in summary.values())
        print(f"{key}: {first:.2f} at first, {last:.2f} at last")
    shown = {"reward": "mean reward", "episode_length": "mean episode length, steps", "steps_per_second": "steps/s"}
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axis.plot([row["iteration"] for row in rows], [row[key] for row in rows])
        axis.set(xlabel="iteration", ylabel=label, ylim=(0, None) if key != "reward" else None)
    figure.suptitle(title)
    figure.savefig(folder / "curves.png", dpi=110)
