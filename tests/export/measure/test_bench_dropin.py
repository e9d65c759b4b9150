"""What the drop-in benchmark runs beside the runtime is the reference's way: the same motion as the network's."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cmg_export.bench import dropin, kernels
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
    assert torch.equal(
        torch.cat([dof_pos, dof_vel], 1),
        torch.cat([expected[:, :29].clamp(-3.14159, 3.14159), expected[:, 29:].clamp(-20, 20)], 1),
    )


def test_the_command_measures_everything_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = g1_case()
    checkpoint = next((case.folder / "checkpoint").glob("*.pt"))
    numbers = {"num-envs": 3, "num-motions": 2, "frames": 4, "count": 3, "seconds": 1, "device": "cpu"}
    sizes = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    arguments = ["--engine", str(case.folder), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "rows.json")]
    assert dropin.main([*arguments, *sizes]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 11 and all(0 < row["p50"] <= row["p99"] and row["calls"] >= 3 for row in rows)
    assert [row["contender"] for row in rows].count("reference") == 5
    capsys.readouterr()
    assert dropin.main([*arguments, "--engine", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        (dropin, "--num-envs 0"),
        (dropin, "--num-motions -1"),
        (dropin, "--frames 0"),
        (dropin, "--count 0"),
        (dropin, "--seconds nan"),
        (kernels, "--rows 64 0"),
        (kernels, "--frames 0"),
        (kernels, "--launches -2"),
        (kernels, "--repeats 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    command: ModuleType, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(wrong.split()) == 2
    said = capsys.readouterr()
    assert f"{wrong.split()[0]} is " in said.err and said.err.count("\n") == 1 and not said.out
