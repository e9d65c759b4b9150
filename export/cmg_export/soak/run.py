"""One soak: warm up, then step, change and check until it is over or something fails."""

from __future__ import annotations

import itertools
import random
import time

import torch

from cmg_export.errors import ExportError
from cmg_export.machine import device_name, read_clocks, versions
from cmg_export.parity import Truth
from cmg_export.read.checkpoint import load_source
from cmg_export.soak.changes import Change, Expected, Told, draw_changes, first_reset
from cmg_export.soak.compare import Deviation, compare
from cmg_export.soak.limits import drifted, grown, miscounted, slowed
from cmg_export.soak.replaced import ReplacedFrames, counters
from cmg_export.soak.report import Check, SoakReport
from cmg_export.soak.settings import Settings
from cmg_export.soak.watch import BURST, StepTimes, read_memory
from cmg_runtime import load_engine

RAMP_S = 0.5
"""In which a new command is reached."""


def run_soak(settings: Settings) -> SoakReport:
    """Do it, with a line for each check.

    Raises:
        ExportError: the checkpoint is not the engine's, or the engine has no robot.
        EngineError: the engine cannot be loaded, or failed on the way.
    """
    began = time.perf_counter()
    soak = _Soak(settings)
    clocks = [read_clocks(settings.device)]
    soak.warm_up()
    print(f"warmed up: {soak.step} steps, {time.perf_counter() - began:.0f} s; {soak.engine.selection}", flush=True)
    failures: list[str] = []
    checks, minutes = settings.options.checks, settings.options.minutes
    for number in range(checks):
        until = soak.warm_up_steps + settings.steps * (number + 1) // checks
        soak.advance(until - soak.step)
        failures = soak.check()
        if failures or time.perf_counter() - began > 60 * minutes:
            break
    failures += soak.over_time()
    clocks.append(read_clocks(settings.device))
    engine, cuda = soak.engine, settings.device.type == "cuda"
    return SoakReport(
        engine=engine.manifest.name,
        backend=engine.backend_name,
        precision=engine.precision,
        selection=engine.selection,
        device=device_name(settings.device),
        clocks=tuple(clocks) if cuda else (),
        versions=versions(),
        num_envs=settings.num_envs,
        horizon=engine.horizon,
        seed=settings.options.seed,
        steps=soak.step - soak.warm_up_steps,
        asked=settings.steps,
        warm_up=soak.warm_up_steps,
        seconds=time.perf_counter() - began,
        checking=soak.checking,
        changes=soak.changes_made,
        environments=int(soak.compared.sum()),
        latency=soak.times.first_and_last(),
        worst=soak.worst,
        baseline=soak.baseline,
        checks=tuple(soak.checks),
        counters=counters(soak.engine),
        failures=tuple(failures),
    )


class _Soak:
    """An engine, what it was told, and what was seen of it."""

    def __init__(self, settings: Settings) -> None:
        options, manifest = settings.options, settings.manifest
        checkpoint = load_source(options.engine, manifest, options.checkpoint, options.data)
        if manifest.robot is None:
            raise ExportError(f"{options.engine} has no robot, so there are no bodies to check; build it with one")
        self.settings = settings
        self.engine = load_engine(
            options.engine,
            settings.num_envs,
            device=settings.device,
            backend=options.backend,
            precision=None if options.precision == "auto" else options.precision,
            seed=options.seed,
            horizon=options.horizon,
            command_ramp_s=RAMP_S,
        )
        generator = torch.Generator().manual_seed(options.seed)
        self._random = random.Random(options.seed)
        self._first = first_reset(self.engine, generator)
        self._changes = draw_changes(self.engine, generator)
        self._order = itertools.cycle(torch.randperm(settings.num_envs, generator=generator).tolist())
        self._truth = Truth.from_checkpoint(checkpoint, settings.device)
        self._told = Told(settings.num_envs, self.engine.command_range, RAMP_S * manifest.fps)
        self._expected = Expected()
        self._replaced = ReplacedFrames(self.engine, self._truth, self._told)
        self._next_change = 0
        self._median = 0.0
        self.times = StepTimes(settings.device)
        self.step = self.warm_up_steps = 0
        self.changes_made = {"resets": 0, "command changes": 0}
        self.compared = torch.zeros(settings.num_envs, dtype=torch.bool)
        self.worst: dict[str, Deviation] = {}
        self.checks: list[Check] = []
        self.checking = 0.0
        self.baseline = read_memory(settings.device)

    def warm_up(self) -> None:
        """Every change and a few checks once, and a twentieth of the steps: whatever is made on first use is made."""
        self._change(self._first)
        for change in self._changes:
            self._change(change)
            self.run(1)
            self._replaced.look(self.step)
        self._plan_change()
        for _ in range(2):
            self.advance(max(self.settings.steps // 40, 2 * self.engine.horizon))
            self._compare()
        self.times.forget()
        self.warm_up_steps = self.step
        self.baseline = read_memory(self.settings.device)

    def advance(self, count: int) -> None:
        """So many steps with the changes that fall due; the last of them are timed."""
        end = self.step + count
        while self.step < end:
            if self.step >= self._next_change:
                self._change(self._random.choice(self._changes))
                self._plan_change()
            # As far as what is replaced on the way stays in the window.
            until = min(end, self._next_change, self.step + self.engine.horizon - 1)
            self.run(until - self.step, timed=self.step >= end - BURST)
            self._replaced.look(self.step)

    def run(self, count: int, timed: bool = False) -> None:
        """So many steps, and nothing that the host waits for. The first two of them find the GPU idle: not timed."""
        engine, untimed = self.engine, min(2, count - 1)
        for i in range(count):
            if timed and i >= untimed:
                self.times.run(engine.step)
            else:
                engine.step()
        self.step += count

    def check(self) -> list[str]:
        """Wait for the engine and look at it; what is wrong."""
        began = time.perf_counter()
        deviations = self._compare()
        memory = read_memory(self.settings.device)
        for kind, deviation in deviations.items():
            if kind not in self.worst or not deviation.value <= self.worst[kind].value:
                self.worst[kind] = deviation
        self.checks.append(Check(self.step, {kind: found.value for kind, found in deviations.items()}, memory))
        failures = drifted(deviations, self.engine.precision, self.step)
        failures += self._replaced.failures
        failures += miscounted(counters(self.engine), self._expected, self.step)
        self.checking += time.perf_counter() - began
        held = f"{memory.rss or 0:.0f} MiB" if memory.allocated is None else f"{memory.allocated:.1f} MiB on the GPU"
        one_step, rollout = deviations["one step"].value, deviations["rollout median"].value
        off = f"one step {one_step:.1e}  rollout {rollout:.1e} rad"
        print(f"  step {self.step:8d}  {self._median:8.1f} us  {off}  {held}", flush=True)
        return failures

    def over_time(self) -> list[str]:
        """What is wrong from the end of the warm-up to now."""
        failures = []
        if self.checks:
            steps = self.checks[-1].step - self.warm_up_steps
            failures += grown(self.baseline, self.checks[-1].memory, steps)
        latency = self.times.first_and_last()
        if latency is not None:
            failures += slowed(*latency, self.settings.slowdown)
        return failures

    def _compare(self) -> dict[str, Deviation]:
        count = min(self.settings.options.sampled, self.settings.num_envs)
        chosen = set(itertools.islice(self._order, count))
        # What a frame from the bank leads to is not what the frame before it would have led to.
        envs = torch.tensor(sorted(chosen - self._replaced.environments(self.step)))
        if self.settings.device.type == "cuda":
            torch.cuda.synchronize(self.settings.device)
        self._median = self.times.end()
        self.compared[envs] = True
        return compare(self.engine, self._truth, self._told, self.step, envs.to(self.settings.device))

    def _change(self, change: Change) -> None:
        self._replaced.look(self.step)
        change.apply(self.engine)
        self._told.note(change, self.step)
        self._replaced.forget(change.columns)
        self._replaced.look(self.step)
        self._expected += change.expected
        self.changes_made["resets" if change.resets else "command changes"] += 1

    def _plan_change(self) -> None:
        self._next_change = self.step + self._random.randint(1, max(1, 2 * self.settings.options.change_every - 1))
