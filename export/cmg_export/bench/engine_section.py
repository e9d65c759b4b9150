"""The section engine: the network alone, the whole engine, and its memory, of every contender in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from cmg_export.bench import engines
from cmg_export.bench.contenders import Contender, backend_contenders, make_frame, peer_contenders, reason
from cmg_export.bench.inputs import Inputs
from cmg_export.bench.results import Result
from cmg_export.bench.settings import Settings
from cmg_export.errors import ExportError
from cmg_export.progress import stage
from cmg_export.read.checkpoint import Checkpoint
from cmg_export.timing import BLOCK, Run, Samples, interleave
from CMG_Ref import interrupts

WHAT = {"frame": "a frame at {}", "step": "step() at {}", "rebuild": "rebuild of {} windows"}
"""Kind of a timing -> how the report calls it, of so many environments or windows."""


class EngineSection:
    """What has been found so far.

    Args:
        left_out: gets a line for whatever is not measured.

    Attributes:
        results: by contender.
        samples: single times of ``step()`` of each backend, and of a frame of each peer.
        begun: what is being measured.
    """

    def __init__(self, settings: Settings, checkpoint: Checkpoint, left_out: list[str]) -> None:
        self._settings, self._checkpoint, self._left_out = settings, checkpoint, left_out
        self._inputs = Inputs(settings.options.engine, settings.manifest, checkpoint, settings.options.seed)
        self._contenders: list[Contender] = []
        self.results: dict[str, Result] = {}
        self.samples: dict[str, Samples] = {}
        self.begun = ""

    def find_contenders(self) -> None:
        """Everything that can run here.

        Raises:
            ExportError: no backend can.
        """
        settings = self._settings
        if not settings.on_gpu:
            self._left_out.append("the GPU: torch sees none, so CPU backends at small sizes are all that is timed")
        if self._settings.manifest.robot is None:
            self._left_out.append("kinematics: the engine has no robot model, so step() is timed without them")
        with stage("implementations") as note:
            self._contenders = backend_contenders(settings, self._left_out)
            if not self._contenders:
                raise ExportError(
                    f"no backend runs here: {'; '.join(self._left_out)}; choose others or build the engine"
                )
            if settings.options.quick:
                self._left_out.append("other implementations: not asked for")
            else:
                self._contenders += peer_contenders(self._checkpoint, settings.device)
                if not settings.on_gpu:
                    self._left_out.append("other implementations in torch.compile: timed on a GPU only")
            note(", ".join(contender.name for contender in self._contenders))

    def time_all(self, began: float) -> None:
        """All stages; those that have not begun when the time is over, counted from ``began``, are left out."""
        settings, minutes = self._settings, self._settings.options.minutes
        self.begun = "a frame"
        self._time_frames(settings.num_envs)
        self.begun = "memory"
        self._measure_memory()
        # What the bars are about first, the sweep last: that is what is left out where time runs out.
        others = sorted(set(settings.sizes) - {settings.num_envs})
        stages: list[tuple[str, Callable[[int], None], int]] = [("step", self._time_engines, settings.num_envs)]
        stages += [("step", self._time_engines, n) for n in others[-1:] if n > settings.num_envs]
        stages += [("frame", self._time_frames, n) for n in others]
        for kind, measure, num_envs in stages:
            self.begun = WHAT[kind].format(num_envs)
            if time.perf_counter() - began > 60 * minutes:
                self._left_out.append(f"{self.begun}: {minutes:g} minutes were over; --minutes gives more")
            else:
                measure(num_envs)

    def _time_frames(self, num_envs: int) -> None:
        """The network alone; at the table's size, which comes first, errors too."""
        settings, table = self._settings, num_envs == self._settings.num_envs
        motion, command = self._inputs.draw(num_envs, settings.device)
        frames = {}
        engines.settle(settings.device)
        with stage(f"frame x {num_envs}") as note:
            for contender in self._contenders:
                name = contender.name
                if not table and not (contender.sweeps and name in self.results):
                    continue
                with self._may_fail(f"{name} at {num_envs}"):
                    contender.check_memory(num_envs, settings.device)
                    frame, peak = engines.with_peak(lambda c=contender: make_frame(c, motion, command), settings.device)
                    if table:
                        error = self._inputs.error(motion, command, frame.out)
                        about = (contender.kind, contender.about)
                        self.results[name] = Result(name, *about, error, frame_memory_mib=peak)
                    frames[name] = frame
            runs = {name: frame.run for name, frame in frames.items()}
            timed = self._time("frame", num_envs, runs, settings.steps // 5)
            if table:
                self.samples.update({name: s for name, s in timed.items() if self.results[name].kind == "peer"})
            note(f"{len(frames)} implementations")

    def _measure_memory(self) -> None:
        """What each engine takes beyond weights and window, on a GPU."""
        for contender in self._backends() if self._settings.on_gpu else ():
            with self._may_fail(f"memory of {contender.name}"):
                peak, taken = engines.measure_memory(contender, self._settings)
                found = replace(self.results[contender.name], memory_mib=peak, device_memory_mib=taken)
                self.results[contender.name] = found

    def _time_engines(self, num_envs: int) -> None:
        """``step()`` of every backend, and at the table's size the rebuild of windows."""
        settings, device = self._settings, self._settings.device
        started = {}
        engines.settle(device)
        with stage(f"step x {num_envs}") as note:
            for contender in self._backends():
                with self._may_fail(f"step() of {contender.name} at {num_envs}"):
                    started[contender.name] = engines.start(contender, settings, num_envs)
            steps = {name: engine.step for name, engine in started.items()}
            table = num_envs == settings.num_envs
            count, seconds = (settings.steps, 5.0) if table else (settings.steps // 20, 1.0)
            timed = self._time("step", num_envs, steps, count, seconds=seconds)
            if table:
                self.samples.update(timed)
            note(f"{len(started)} engines")
        if not table or settings.options.horizon == 1:
            return
        with stage("rebuild"):
            for windows in [w for w in engines.REBUILT if w <= num_envs]:
                runs = {
                    name: engines.rebuild(engine, windows, settings.options.seed) for name, engine in started.items()
                }
                self._time("rebuild", windows, runs, max(10, settings.steps // 100), block=10)

    def _backends(self) -> list[Contender]:
        return [c for c in self._contenders if c.kind == "backend" and c.name in self.results]

    def _time(
        self,
        kind: Literal["frame", "step", "rebuild"],
        number: int,
        runs: Mapping[str, Run],
        count: int,
        *,
        seconds: float = 1.0,
        block: int = BLOCK,
    ) -> dict[str, Samples]:
        """Time ``runs`` in turns. Their quantiles become the results' timings of that kind and number, however it ends.

        Args:
            seconds: of the settings' that one of them may take, so many times.
        """
        timed: dict[str, Samples] = {}

        def failed(name: str, error: Exception) -> None:
            self._left_out.append(f"{WHAT[kind].format(number)} of {name}: {reason(error)}")

        try:
            seconds, device = seconds * self._settings.seconds, self._settings.device
            interleave(runs, device, count, seconds, block=block, failed=failed, samples=timed)
        finally:
            for name, samples in timed.items():
                if samples.wall:
                    getattr(self.results[name], kind)[str(number)] = samples.timing()
        return timed

    @contextmanager
    def _may_fail(self, what: str) -> Iterator[None]:
        """What does not fit or cannot run at some size is left out, and the report says so."""
        try:
            yield
        except Exception as error:  # any library's: one contender's failure is a line, not the end
            interrupts.raise_if_received()
            self._left_out.append(f"{what}: {reason(error)}")
