"""One run of the benchmark, from contenders to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

from cmg_export.bench import engines
from cmg_export.bench.contenders import Contender, backend_contenders, make_frame, peer_contenders, reason
from cmg_export.bench.dropin import time_dropin
from cmg_export.bench.engines import settle
from cmg_export.bench.floor import describe, floor_us, flop_per_env
from cmg_export.bench.inputs import Inputs
from cmg_export.bench.results import BenchReport, Call, Result, TimeShare
from cmg_export.bench.settings import Settings
from cmg_export.bench.targets import judge
from cmg_export.errors import ExportError
from cmg_export.machine import require_device
from cmg_export.progress import stage
from cmg_export.read.checkpoint import load_source
from cmg_export.timing import BLOCK, Run, Samples, Timing, interleave
from CMG_Ref import interrupts
from cmg_runtime import load_engine
from cmg_runtime.errors import EngineError

INTERRUPTED = "interrupted"


def run_bench(settings: Settings) -> tuple[BenchReport, dict[str, Samples]]:
    """Measure everything.

    Returns:
        The report, and the single times of ``step()`` of each backend and of a frame of each peer.

    An interruption ends the measurements, and so does an error after which the device is lost; what was found by then
    is reported.

    Raises:
        ExportError, EngineError: one line.
        KeyboardInterrupt: interrupted before anything was found.
        Exception: any library's, before anything was found.
    """
    began = time.perf_counter()
    if "time-share" in settings.options.sections:
        _time_share().require_environment(settings)
    bench = _Bench(settings)
    try:
        bench.measure(began)
    except (KeyboardInterrupt, Exception) as error:
        if not bench.found_anything():
            raise
        bench.cut_short = reason(error) if interrupts.behind(error) is None else INTERRUPTED
        interrupts.forget()
        bench.left_out.append(f"{bench.begun} and what comes behind: {bench.cut_short}")
        print(f"{bench.cut_short}: reporting what there is", flush=True)
    return bench.report(began), bench.samples


def _time_share() -> ModuleType:
    """The section's module. Importing it imports a simulator, so it is only done where the section is asked for.

    Raises:
        ExportError: there is no simulator.
    """
    try:
        from cmg_export.bench import time_share
    except ImportError as error:
        raise ExportError(f"the section time-share takes mjlab ({error}); `make train` installs it") from None
    return time_share


class _Bench:
    """What has been found so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.manifest, options = settings, settings.manifest, settings.options
        self.checkpoint = load_source(options.engine, self.manifest, options.checkpoint, options.data)
        require_device(options.device, settings.device)
        self.inputs = Inputs(options.engine, self.manifest, self.checkpoint, options.seed)
        self.contenders: list[Contender] = []
        self.results: dict[str, Result] = {}
        self.samples: dict[str, Samples] = {}
        self.dropin: list[Call] = []
        self.time_share: TimeShare | None = None
        self.left_out: list[str] = []
        self.begun = ""
        self.cut_short = ""
        with stage("machine"):  # and what else needs the device, which may be lost by the time of the report
            self.machine = describe(settings.device)
            self.auto, self.selection = self._auto()

    def found_anything(self) -> bool:
        """Whether there is something to report."""
        return any(result.frame for result in self.results.values()) or bool(self.dropin) or self.time_share is not None

    def measure(self, began: float) -> None:
        """The sections that are asked for. The simulator's comes last: it may change how torch computes."""
        sections = self.settings.options.sections
        if "engine" in sections:
            self.find_contenders()
            self.time_all(began)
        if "dropin" in sections:
            self.begun = "the drop-in interfaces"
            settle(self.settings.device)
            time_dropin(self.settings, self.checkpoint, self.dropin)
        if "time-share" in sections:
            self.begun = "the time share"
            settle(self.settings.device)
            self.time_share = _time_share().measure(self.settings, self.checkpoint, self.left_out)

    def find_contenders(self) -> None:
        """Everything that can run here.

        Raises:
            ExportError: no backend can.
        """
        settings = self.settings
        if not settings.on_gpu:
            self.left_out.append("the GPU: torch sees none, so CPU backends at small sizes are all that is timed")
        if self.manifest.robot is None:
            self.left_out.append("kinematics: the engine has no robot model, so step() is timed without them")
        with stage("contenders") as note:
            self.contenders = backend_contenders(settings, self.left_out)
            if not self.contenders:
                raise ExportError(
                    f"no backend runs here: {'; '.join(self.left_out)}; choose others or build the engine"
                )
            if settings.options.quick:
                self.left_out.append("the peers: not asked for")
            else:
                self.contenders += peer_contenders(self.checkpoint, settings.device)
                if not settings.on_gpu:
                    self.left_out.append("peers in torch.compile: timed on a GPU only")
            note(", ".join(contender.name for contender in self.contenders))

    def time_all(self, began: float) -> None:
        """All stages; those that have not begun when the time is over, counted from ``began``, are left out."""
        settings, minutes = self.settings, self.settings.options.minutes
        self.begun = "a frame"
        self.time_frames(settings.num_envs)
        self.begun = "memory"
        self.measure_memory()
        # What the bars are about first, the sweep last: that is what is left out where time runs out.
        others = sorted(set(settings.sizes) - {settings.num_envs})
        stages = [("step()", self.time_engines, settings.num_envs)]
        stages += [("step()", self.time_engines, num_envs) for num_envs in others[-1:] if num_envs > settings.num_envs]
        stages += [("a frame", self.time_frames, num_envs) for num_envs in others]
        for what, measure, num_envs in stages:
            if time.perf_counter() - began > 60 * minutes:
                self.left_out.append(f"{what} at {num_envs}: {minutes:g} minutes were over; --minutes gives more")
                continue
            self.begun = f"{what} at {num_envs}"
            measure(num_envs)

    def time_frames(self, num_envs: int) -> None:
        """The network alone; at the table's size, which comes first, errors too."""
        settings, table = self.settings, num_envs == self.settings.num_envs
        motion, command = self.inputs.draw(num_envs, settings.device)
        frames = {}
        settle(settings.device)
        with stage(f"frame x {num_envs}") as note:
            for contender in self.contenders:
                name = contender.name
                if not table and not (contender.sweeps and name in self.results):
                    continue
                with self._may_fail(f"{name} at {num_envs}"):
                    contender.check_memory(num_envs, settings.device)
                    frame, peak = engines.with_peak(lambda c=contender: make_frame(c, motion, command), settings.device)
                    if table:
                        error = self.inputs.error(motion, command, frame.out)
                        about = (contender.kind, contender.about)
                        self.results[name] = Result(name, *about, error, frame_memory_mib=peak)
                    frames[name] = frame
            runs = {name: frame.run for name, frame in frames.items()}
            what, count = f"a frame at {num_envs}", settings.steps // 5
            timed = self._time(runs, what, lambda result: result.frame, num_envs, count, settings.seconds)
            if table:
                self.samples.update({name: s for name, s in timed.items() if self.results[name].kind == "peer"})
            note(f"{len(frames)} contenders")

    def measure_memory(self) -> None:
        """What each engine takes beyond weights and window, on a GPU."""
        for contender in self._backends() if self.settings.on_gpu else ():
            with self._may_fail(f"memory of {contender.name}"):
                peak, taken = engines.measure_memory(contender, self.settings)
                found = replace(self.results[contender.name], memory_mib=peak, device_memory_mib=taken)
                self.results[contender.name] = found

    def time_engines(self, num_envs: int) -> None:
        """``step()`` of every backend, and at the table's size the rebuild of windows."""
        settings, device = self.settings, self.settings.device
        started = {}
        settle(device)
        with stage(f"step x {num_envs}") as note:
            for contender in self._backends():
                with self._may_fail(f"step() of {contender.name} at {num_envs}"):
                    started[contender.name] = engines.start(contender, settings, num_envs)
            steps = {name: engine.step for name, engine in started.items()}
            table = num_envs == settings.num_envs
            count, seconds = (settings.steps, 5.0) if table else (settings.steps // 20, 1.0)
            what, seconds = f"step() at {num_envs}", seconds * settings.seconds
            timed = self._time(steps, what, lambda result: result.step, num_envs, count, seconds)
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
                what, count = f"rebuild of {windows} windows", max(10, settings.steps // 100)
                self._time(runs, what, lambda result: result.rebuild, windows, count, settings.seconds, 10)

    def report(self, began: float) -> BenchReport:
        """Everything found since ``began``, of ``time.perf_counter``."""
        settings, results = self.settings, tuple(self.results.values())
        if not self.cut_short:  # once more, now that the GPU is as warm as the contenders had it
            with stage("machine"):
                self.machine = describe(settings.device)
        flop = flop_per_env(self.manifest.sizes)
        sizes = sorted({settings.num_envs, *settings.sizes})
        return BenchReport(
            engine=self.manifest.name,
            source_sha256=self.checkpoint.sha256["checkpoint"],
            machine=self.machine,
            num_envs=settings.num_envs,
            horizon=settings.options.horizon,
            seed=settings.options.seed,
            flop_per_env=flop,
            floor_us={p: {str(n): floor_us(flop, rate, n) for n in sizes} for p, rate in self.machine.tflops.items()},
            auto=self.auto,
            selection=self.selection,
            results=results,
            targets=judge(results, self.auto, settings.on_gpu) if results else (),
            dropin=tuple(self.dropin),
            time_share=self.time_share,
            left_out=tuple(self.left_out),
            cut_short=self.cut_short,
            seconds=time.perf_counter() - began,
        )

    def _auto(self) -> tuple[str, str]:
        """What ``backend="auto"`` loads here, and why; no name where it loads nothing."""
        try:
            engine = load_engine(self.settings.options.engine, self.settings.num_envs, device=self.settings.device)
        except EngineError as error:
            return "", str(error)
        return f"{engine.backend_name}_{engine.precision}", engine.selection

    def _backends(self) -> list[Contender]:
        return [c for c in self.contenders if c.kind == "backend" and c.name in self.results]

    def _time(
        self,
        runs: Mapping[str, Run],
        what: str,
        figures: Callable[[Result], dict[str, Timing]],
        number: int,
        count: int,
        seconds: float,
        block: int = BLOCK,
    ) -> dict[str, Samples]:
        """Time ``runs`` in turns. Their quantiles become the results' ``figures`` of ``number``, however that ends."""
        timed: dict[str, Samples] = {}

        def failed(name: str, error: Exception) -> None:
            self.left_out.append(f"{what} of {name}: {reason(error)}")

        try:
            interleave(runs, self.settings.device, count, seconds, block=block, failed=failed, samples=timed)
        finally:
            for name, samples in timed.items():
                if samples.wall:
                    figures(self.results[name])[str(number)] = samples.timing()
        return timed

    @contextmanager
    def _may_fail(self, what: str) -> Iterator[None]:
        """What does not fit or cannot run at some size is left out, and the report says so."""
        try:
            yield
        except Exception as error:  # any library's: one contender's failure is a line, not the end
            interrupts.raise_if_received()
            self.left_out.append(f"{what}: {reason(error)}")
