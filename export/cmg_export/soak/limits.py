"""What counts as a failure: one line for each."""

from __future__ import annotations

from cmg_export.parity import TOLERANCES
from cmg_export.soak.changes import Expected
from cmg_export.soak.compare import Deviation
from cmg_export.soak.watch import Latency, Memory
from cmg_runtime.window.report import Report

ALLOWED = {
    precision: {"one step": tolerance.one_step, "one row": 10 * tolerance.one_step, "rollout median": tolerance.rollout}
    for precision, tolerance in TOLERANCES.items()
}
ALLOWED["fp32"]["rollout 99 %"] = 5e-3
"""Of each kind of deviation that depends on the precision. One step and medians are what parity allows
(docs/parity.md); half precision lets a few environments slip in phase: the rest of its rollouts is only reported."""

ALLOWED_ALWAYS = {"current": 0.0, "place": 1e-4, "heading": 3e-5, "velocity": 1e-4, "bodies": 5e-5, "climb": 5e-3}
"""Of copies, and of what is computed in float32 whatever the network's precision. Vertical velocity is a difference of
heights times 50."""

GROWTH = {
    "rss": (32.0, " MiB", "the process's memory"),
    "allocated": (0.0, " MiB", "what torch has allocated on the GPU"),
    "reserved": (64.0, " MiB", "what torch has reserved on the GPU"),
    "device": (64.0, " MiB", "what is taken of the GPU"),
    "tensors": (0, "", "the number of live tensors"),
    "objects": (500, "", "the number of Python's objects"),
}
"""What each field of :class:`Memory` may grow by from the end of the warm-up to the end of the run, its unit, and what
it is. Allocators and interpreters round and cache."""


def drifted(found: dict[str, Deviation], precision: str, step: int) -> list[str]:
    """The deviations that are too large."""
    failures = []
    for kind, allowed in {**ALLOWED_ALWAYS, **ALLOWED[precision]}.items():
        deviation = found[kind]
        if not deviation.value <= allowed:  # NaN is not
            where = "" if deviation.env is None else f" in environment {deviation.env}, frame {deviation.frame}"
            failures.append(
                f"after {step} steps the window is off the plain rollout{where}: {kind} {deviation.value:.2g}; "
                f"expected at most {allowed:g}"
            )
    return failures


def grown(before: Memory, after: Memory, steps: int) -> list[str]:
    """What grew by more than :data:`GROWTH` in so many steps."""
    failures = []
    for field, (allowed, unit, name) in GROWTH.items():
        first, last = getattr(before, field), getattr(after, field)
        if first is not None and last - first > allowed:
            number = ".0f" if isinstance(first, int) else ".1f"
            failures.append(
                f"{name} grew from {first:{number}} to {last:{number}}{unit} in {steps} steps; "
                f"expected a growth of at most {allowed:g}{unit}"
            )
    return failures


def slowed(first: Latency, last: Latency, slowdown: float) -> list[str]:
    """Times that became longer by more than the factor ``slowdown``; of the slowest steps, twice that.

    On a CPU only what the processor was busy with is held to it: the rest is what else runs there.
    """
    if first.busy is not None and last.busy is not None:
        pairs = [("the processor is busy with half of the steps for", first.busy, last.busy, slowdown)]
    else:
        pairs = [("half of the steps take", first.p50, last.p50, slowdown)]
        pairs.append(("one step in a hundred takes", first.p99, last.p99, 2 * slowdown))
    return [
        f"{what} more than {after:.0f} us at the end, and {before:.0f} us at the beginning; "
        f"expected at most {factor:g} times as long"
        for what, before, after, factor in pairs
        if not after <= factor * before
    ]


def miscounted(found: Report, expected: Expected, step: int) -> list[str]:
    """Counters that do not say what was done. Replaced frames are not among them: they are accounted for one by one, in
    :class:`cmg_export.soak.replaced.ReplacedFrames`."""
    wanted = {
        "commands_clamped": expected.commands,
        "entries_clamped": expected.entries,
        "lookups_clamped": expected.lookups,
        "commands_ignored": 0,
        "motions_ignored": 0,
    }
    return [
        f"after {step} steps the engine has counted {name} {getattr(found, name)}; expected {count}"
        for name, count in wanted.items()
        if getattr(found, name) != count
    ]
