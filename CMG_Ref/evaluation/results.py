"""Measures gathered by command, and the bars they are held to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from CMG_Ref.evaluation.grid import Case, Command
from CMG_Ref.evaluation.rollouts import Measures

OK_FRACTION = 0.99
# Left and right are compared up to twice the spread between rollouts, or this where the spread is less:
# vx, vy (m/s), yaw rate (rad/s), stride frequency (Hz).
MIRROR_FLOOR = (0.05, 0.05, 0.10, 0.10)


@dataclass(frozen=True)
class GroupResult:
    """Rollouts of one command from one kind of start. Means and spreads are over those that did not blow up.

    Attributes:
        num_rollouts: how many.
        ok, stable, within_limits, lively: fractions, see ``Measures``.
        velocity, velocity_std: mean and spread between rollouts: vx, vy (m/s), yaw rate (rad/s). NaN if none is stable.
        frequency, frequency_std: strides a second, Hz.
        slowest, fastest: leg speed of the slowest and of the fastest rollout, rad/s.
    """

    num_rollouts: int
    ok: float
    stable: float
    within_limits: float
    lively: float
    velocity: tuple[float, ...]
    velocity_std: tuple[float, ...]
    frequency: float
    frequency_std: float
    slowest: float
    fastest: float


@dataclass(frozen=True)
class CaseResult:
    """One command: its rollouts together ("all") and by kind of start."""

    family: str
    command: Command
    groups: dict[str, GroupResult]

    @property
    def all(self) -> GroupResult:
        """Every rollout."""
        return self.groups["all"]


@dataclass(frozen=True)
class Criterion:
    """One bar: what was asked, what was found, and whether that passes."""

    name: str
    bar: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Evaluation:
    """Everything the report shows. ``velocity_from`` says how velocities were read; ``settings`` are plain values:
    rollouts, frames, seed, thresholds."""

    cases: tuple[CaseResult, ...]
    criteria: tuple[Criterion, ...]
    velocity_from: str
    velocity_mismatch: float
    settings: dict[str, object]

    @property
    def passed(self) -> bool:
        """Whether every bar is met."""
        return all(criterion.passed for criterion in self.criteria)


def gather(cases: tuple[Case, ...], measures: Measures, groups: dict[str, torch.Tensor]) -> tuple[CaseResult, ...]:
    """Per command and kind of start."""
    every = {"all": torch.arange(measures.stable.shape[1]), **groups}
    return tuple(
        CaseResult(case.family, case.command, {name: _group(measures, c, rows) for name, rows in every.items()})
        for c, case in enumerate(cases)
    )


def judge(results: tuple[CaseResult, ...]) -> tuple[Criterion, ...]:
    """Hold the results to every bar whose family of commands is among them. This is the one list of bars."""
    families = dict.fromkeys(r.family for r in results)
    moving = [name for name in families if Case(name, (0.0, 0.0, 0.0)).moves]
    criteria = [criterion for name in families for criterion in _ok_criteria(name, _family(results, name))]
    for name in moving:
        found = _family(results, name)
        criteria.append(_worst_case(f"{name} speed", "within max(0.1 m/s, 15 %)", found, _speed_error))
        turning, straight = ([r for r in found if (r.command[2] != 0) == turns] for turns in (True, False))
        bars = (("turn", "within 0.15 rad/s", turning, 0.15), ("veer at yaw 0", "< 0.1 rad/s", straight, 0.1))
        for what, bar, cases, limit in bars:
            if cases:
                criteria.append(_worst_case(f"{name} {what}", bar, cases, functools.partial(_yaw_error, limit=limit)))
    pairs = mirror_pairs([r for r in results if r.family in moving])
    if pairs:
        criteria.append(_mirror_criterion(pairs))
    return tuple(criteria)


def mirror_pairs(results: list[CaseResult]) -> list[tuple[CaseResult, CaseResult]]:
    """Each command with its mirror image, once, where the two differ."""
    by_command = {(r.family, *r.command): r for r in results}
    pairs = []
    for r in results:
        twin = by_command.get((r.family, r.command[0], -r.command[1], -r.command[2]))
        if twin is not None and (r.command[1], r.command[2]) > (0.0, 0.0):
            pairs.append((r, twin))
    return pairs


def mirror_difference(pair: tuple[CaseResult, CaseResult]) -> list[tuple[float, float]]:
    """(difference, allowed difference) in vx, vy, yaw rate and frequency of a command and its mirror image."""
    a, b = pair[0].all, pair[1].all
    left = (*a.velocity, a.frequency)
    right = (b.velocity[0], -b.velocity[1], -b.velocity[2], b.frequency)
    spreads = zip((*a.velocity_std, a.frequency_std), (*b.velocity_std, b.frequency_std), strict=True)
    allowed = [
        max(2 * math.hypot(x, y) / math.sqrt(2), floor) for (x, y), floor in zip(spreads, MIRROR_FLOOR, strict=True)
    ]
    return [(x - y, limit) for x, y, limit in zip(left, right, allowed, strict=True)]


def command_text(command: Command) -> str:
    """Short and aligned: "+0.40 +0.00 -0.80"."""
    return " ".join(f"{value:+.2f}" for value in command)


def _group(measures: Measures, case: int, rows: torch.Tensor) -> GroupResult:
    stable = measures.stable[case, rows]

    def fraction(values: torch.Tensor) -> float:
        return float(values[case, rows].double().mean())

    kept = rows[stable]
    velocity, frequency = measures.velocity[case, kept].double(), measures.frequency[case, kept].double()
    return GroupResult(
        num_rollouts=len(rows),
        ok=fraction(measures.ok),
        stable=fraction(measures.stable),
        within_limits=fraction(measures.within_limits),
        lively=fraction(measures.lively),
        velocity=tuple(velocity.mean(0).tolist()),
        velocity_std=tuple(velocity.std(0, correction=0).tolist()),
        frequency=float(frequency.mean()),
        frequency_std=float(frequency.std(correction=0)),
        slowest=float(measures.slowest[case, kept].min()) if len(kept) else math.nan,
        fastest=float(measures.fastest[case, kept].max()) if len(kept) else math.nan,
    )


def _family(results: tuple[CaseResult, ...], name: str) -> list[CaseResult]:
    return [r for r in results if r.family == name]


def _ok_criteria(name: str, results: list[CaseResult]) -> list[Criterion]:
    """The share of good rollouts of a family, for each kind of start."""
    criteria = []
    for group in results[0].groups if results else ():
        if group == "all":
            continue
        share = sum(r.groups[group].ok for r in results) / len(results)
        worst = min(results, key=lambda r: r.groups[group].ok)
        found = f"{share:.1%}"
        if share < 1:
            found += f", worst {worst.groups[group].ok:.0%} at {command_text(worst.command)}"
        criteria.append(Criterion(f"{name}, from {group}", f">= {OK_FRACTION:.0%} ok", found, share >= OK_FRACTION))
    return criteria


def _worst_case(
    name: str, bar: str, results: list[CaseResult], error: Callable[[CaseResult], tuple[float, str]]
) -> Criterion:
    """A bar on the worst command; ``error`` gives the share of the tolerance used and the figure to show.

    NaN (nothing stable to measure) fails.
    """
    found = [(*error(r), r) for r in results]
    _, figure, worst = max(found, key=lambda f: math.inf if math.isnan(f[0]) else f[0])
    passed = all(share <= 1 for share, _, _ in found)
    return Criterion(name, bar, f"worst {figure} at {command_text(worst.command)}", passed)


def _speed_error(result: CaseResult) -> tuple[float, str]:
    """Of vx or vy, whichever uses more of its tolerance."""
    pairs = list(zip(result.command[:2], result.all.velocity[:2], strict=True))
    shares = [abs(got - wanted) / max(0.1, 0.15 * abs(wanted)) for wanted, got in pairs]
    axis = int(shares[1] > shares[0])
    return max(shares, key=lambda share: math.inf if math.isnan(share) else share), f"{pairs[axis][1]:+.2f} m/s"


def _yaw_error(result: CaseResult, limit: float) -> tuple[float, str]:
    got = result.all.velocity[2]
    return abs(got - result.command[2]) / limit, f"{got:+.3f} rad/s"


def _mirror_criterion(pairs: list[tuple[CaseResult, CaseResult]]) -> Criterion:
    names = ("vx", "vy", "yaw", "Hz")
    shares = [
        (abs(difference) / limit, f"{name} {difference:+.3f} of {limit:.3f} at {command_text(pair[0].command)}")
        for pair in pairs
        for name, (difference, limit) in zip(names, mirror_difference(pair), strict=True)
    ]
    worst = max(shares, key=lambda s: math.inf if math.isnan(s[0]) else s[0])
    beyond = sum(not share <= 1 for share, _ in shares)
    found = f"{beyond}/{len(shares)} beyond, worst {worst[1]}"
    return Criterion("left mirrors right", "within noise", found, beyond == 0)
