"""What the drop-in benchmark runs beside the runtime is the reference's way: the same motion as the network's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cmg_export.bench import __main__ as bench
from cmg_export.bench.dropin_reference import ReferenceMotionLib, ReferencePregenerated, ReferenceRealtime
from dropin_case import g1_case


def network(motion: torch.Tensor, command: torch.Tensor) -> torch.Tensor:
    return g1_case().truth.step(motion, command).float()


def test_the_reference_classes_follow_the_network(generator: torch.Generator) -> None:
    truth, n = g1_case().truth, 5
    bank, command = truth.states(1, generator), truth.commands(n, generator)
    frames = [bank.expand(n, -1)]
    for _ in range(12):
        frames.append(network(frames[-1], command))
    pregenerated = ReferencePregenerated(network, bank, n, 12)
    pregenerated.reset(command)
    for frame in [*frames, frames[0]]:  # wraps round
        assert torch.equal(torch.cat(pregenerated.get_motion(), 1), frame)
    realtime = ReferenceRealtime(network, bank, n, size=6)
    realtime.reset(command)
    for frame in frames[1:]:  # its queues leave the initial state out
        assert torch.equal(torch.cat(realtime.get_motion(), 1), frame)
    lib = ReferenceMotionLib(network, bank, command, 12, 50.0)
    root_vel, root_ang_vel, dof_pos, dof_vel = lib.calc_motion_frame(torch.tensor([4, 0]), torch.tensor([0.051, 0.0]))
    assert torch.equal(root_vel[:, :2], command[[4, 0], :2]) and torch.equal(root_ang_vel[:, 2], command[[4, 0], 2])
    expected = torch.stack([frames[2][4], frames[0][0]])
    bounds = torch.tensor([3.14159] * 29 + [20.0] * 29)
    assert torch.equal(torch.cat([dof_pos, dof_vel], 1), expected.clamp(-bounds, bounds))


def test_the_section_measures_everything_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = g1_case()
    checkpoint = next((case.folder / "checkpoint").glob("*.pt"))
    given = ["--sections", "dropin", "--engine", str(case.folder), "--checkpoint", str(checkpoint), "--device", "cpu"]
    numbers = {"num-envs": 3, "dropin.num-motions": 2, "dropin.frames": 4, "dropin.count": 3, "dropin.seconds": 1}
    assert bench.main([*given, *(f"--{name}={n}" for name, n in numbers.items()), "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "bench.json").read_text())
    calls = report["dropin"]
    assert (
        all(call["timing"]["wall"]["p50"] > 0 and call["timing"]["count"] >= 3 for call in calls) and len(calls) == 11
    )
    assert [call["contender"] for call in calls].count("reference") == 5
    assert report["results"] == report["targets"] == [] and report["time_share"] is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]  # no pictures of nothing
    assert "get_motion, realtime: reference" in capsys.readouterr().out
