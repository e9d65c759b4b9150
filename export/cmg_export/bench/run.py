"""One run of the benchmark, section by section, to the report."""

from __future__ import annotations

import time
from types import ModuleType

from cmg_export.bench.contenders import reason
from cmg_export.bench.dropin import time_dropin
from cmg_export.bench.engine_section import EngineSection
from cmg_export.bench.engines import settle
from cmg_export.bench.floor import describe, floor_us, flop_per_env
from cmg_export.bench.results import BenchReport, Call, TimeShare
from cmg_export.bench.settings import Settings
from cmg_export.bench.targets import judge
from cmg_export.errors import ExportError
from cmg_export.machine import require_device
from cmg_export.progress import stage
from cmg_export.read.checkpoint import load_source
from cmg_export.timing import Samples
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
        bench.left_out.append(f"{bench.begun or bench.engine.begun} and what comes behind: {bench.cut_short}")
        print(f"{bench.cut_short}: reporting what there is", flush=True)
    return bench.report(began), bench.engine.samples


def _time_share() -> ModuleType:
    """The section's module. Importing it imports a simulator, so it is only done where the section is asked for.

    Raises:
        ExportError: the simulator or what trains in it is not installed.
    """
    try:
        from cmg_export.bench import time_share
    except ImportError as error:
        raise ExportError(f"time-share takes what `make train` installs ({error})") from None
    return time_share


class _Bench:
    """What has been found so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.manifest, options = settings, settings.manifest, settings.options
        self.checkpoint = load_source(options.engine, self.manifest, options.checkpoint, options.data)
        require_device(options.device, settings.device)
        self.left_out: list[str] = []
        self.engine = EngineSection(settings, self.checkpoint, self.left_out)
        self.dropin: list[Call] = []
        self.time_share: TimeShare | None = None
        self.begun = ""
        self.cut_short = ""
        with stage("machine"):  # and what else needs the device, which may be lost by the time of the report
            self.machine = describe(settings.device)
            self.auto, self.selection = self._auto()

    def found_anything(self) -> bool:
        """Whether there is something to report."""
        return any(result.frame for result in self.engine.results.values()) or bool(self.dropin)

    def measure(self, began: float) -> None:
        """The sections that are asked for. The simulator's comes last: it may change how torch computes."""
        sections = self.settings.options.sections
        if "engine" in sections:
            self.engine.find_contenders()
            self.engine.time_all(began)
        if "dropin" in sections:
            self.begun = "the drop-in interfaces"
            settle(self.settings.device)
            time_dropin(self.settings, self.checkpoint, self.dropin)
        if "time-share" in sections:
            self.begun = "the time share"
            settle(self.settings.device)
            self.time_share = _time_share().measure(self.settings, self.checkpoint, self.left_out)

    def report(self, began: float) -> BenchReport:
        """Everything found since ``began``, of ``time.perf_counter``."""
        settings, results = self.settings, tuple(self.engine.results.values())
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
