"""An evaluation as a table on the terminal, as JSON and as Markdown for a model card."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from pathlib import Path
from typing import Any

from CMG_Ref.evaluation.results import CaseResult, Evaluation, command_text, mirror_difference, mirror_pairs
from cmg_runtime.folder.kept_files import replace_file


def text_report(evaluation: Evaluation) -> str:
    """Everything a reader needs, at most 120 columns wide."""
    groups = [name for name in evaluation.cases[0].groups if name != "all"]
    shares = "".join(f"{name[:5]:>6s}" for name in groups)
    header = f"{'':9s} {'command':17s}  {'ok, from':>{len(shares)}s}   {'achieved':^31s}  stride  leg speed"
    columns = (
        f"{'family':9s} {'vx    vy    yaw':17s}  {shares}   {'vx':^10s} {'vy':^10s} {'yaw':^10s}     Hz  least  most"
    )
    lines = [header, columns, *(_row(result, groups) for result in evaluation.cases), ""]
    lines += [f"{'PASS' if c.passed else 'FAIL'}  {c.name:23s} {c.bar:26s} {c.found}" for c in evaluation.criteria]
    notes = [line for note in _notes(evaluation) for line in textwrap.wrap(note, 118)]
    return "\n".join([*lines, "", *notes])


def markdown_report(evaluation: Evaluation) -> str:
    """The requirements and the commands as two Markdown tables."""
    groups = [name for name in evaluation.cases[0].groups if name != "all"]
    lines = ["| requirement | asked | found | |", "| --- | --- | --- | --- |"]
    lines += [f"| {c.name} | {c.bar} | {c.found} | {'pass' if c.passed else 'FAIL'} |" for c in evaluation.criteria]
    lines += ["", f"| family | command: vx, vy, yaw rate | {' | '.join(f'ok from {g}' for g in groups)} |"]
    lines[-1] += " vx (m/s) | vy (m/s) | yaw rate (rad/s) | strides (Hz) |"
    lines.append("| --- " * (6 + len(groups)) + "|")
    for r in evaluation.cases:
        ok = " | ".join(f"{r.groups[g].ok:.0%}" for g in groups)
        velocity = " | ".join(
            f"{mean:+.2f} +- {spread:.2f}" for mean, spread in zip(r.all.velocity, r.all.velocity_std, strict=True)
        )
        lines.append(f"| {r.family} | {command_text(r.command)} | {ok} | {velocity} | {r.all.frequency:.2f} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(evaluation)), ""])


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain containers; a figure that could not be measured (NaN) is None."""
    pairs = [
        {"command": a.command, "difference": [d for d, _ in found], "noise": [limit for _, limit in found]}
        for a, b in mirror_pairs(list(evaluation.cases))
        for found in [mirror_difference((a, b))]
    ]
    return _plain({"passed": evaluation.passed, **dataclasses.asdict(evaluation), "mirror": pairs})


def write_reports(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write ``evaluation.json``, ``.md`` and ``.png``, each in one step."""
    from CMG_Ref.evaluation.plot import plot  # loads matplotlib, which takes its time

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "json": (json.dumps(as_json(evaluation), indent=1, allow_nan=False) + "\n").encode(),
        "md": markdown_report(evaluation).encode(),
        "png": plot(evaluation),
    }
    for kind, content in contents.items():
        replace_file(folder / f"evaluation.{kind}", content)
    return [folder / f"evaluation.{kind}" for kind in contents]


def _row(result: CaseResult, groups: list[str]) -> str:
    all_rollouts = result.all
    ok = "".join(f"{result.groups[name].ok:6.0%}" for name in groups)
    velocity = " ".join(
        f"{mean:+5.2f}~{spread:4.2f}"
        for mean, spread in zip(all_rollouts.velocity, all_rollouts.velocity_std, strict=True)
    )
    return (
        f"{result.family:9s} {command_text(result.command):17s}  {ok}   {velocity} {all_rollouts.frequency:6.2f}"
        f"  {all_rollouts.slowest:5.2f} {all_rollouts.fastest:5.2f}"
    )


def _notes(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    return [
        f"{settings['num_rollouts']} rollouts x {settings['num_frames']} frames a command, seed {settings['seed']}; "
        + "shown: mean ~ spread between rollouts.",
        f"ok: joints within limits + {settings['limit_margin']} rad, legs above {settings['moving_speed']} rad/s "
        + f"where moving, below {settings['still_speed']} at rest, no blow-up.",
        f"Velocity: {evaluation.velocity_from}.",
        f"Joint speeds differ from the change of joint positions by {evaluation.velocity_mismatch:.3f} rad/s (rms).",
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
