"""Parity: its gates close on what is broken, and nothing passes without having been computed."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from cmg_export.errors import ParityError
from cmg_export.parity import ParityReport, run_parity, with_results
from cmg_export.parity import run as parity_run
from cmg_export.parity.__main__ import main
from cmg_export.parity.states import States, check_states
from cmg_runtime import load_engine
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.manifest import read_manifest
from engine_folder import SEED
from parity_case import JOINTS, Case, Step, exact, rehash, run_with, shared_case, statuses, use_inputs


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """With the inputs made once for all of these tests."""
    case = shared_case()
    use_inputs(case, monkeypatch)
    return case


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """A copy of the engine folder, to be changed."""
    return Path(shutil.copytree(case.folder, tmp_path / "engine"))


def test_one_layer_scaled_by_one_percent_in_the_weights(case: Case, copy: Path) -> None:
    with np.load(copy / "weights.npz") as file:
        sound = dict(file)
    layers = [name for name in sound if name.startswith("layers.") and name.endswith(".weight")]
    assert len(layers) == 3
    for layer in layers:
        broken = {name: array * np.float32(1.01) if name == layer else array for name, array in sound.items()}
        np.savez(copy / "weights.npz", **broken)  # pyright: ignore[reportArgumentType]
        manifest = rehash(copy, "weights.npz")
        chosen = [artifact for artifact in manifest.artifacts if artifact.backend == "torch"]
        report = run_parity(copy, manifest, case.truth, chosen, seed=SEED)
        assert statuses(report) == {"torch_fp32": "failed", "torch_fp16": "failed"}, layer
        assert "one_step_relative" in report.artifacts[0].reason and not report.passed


def test_one_layer_scaled_by_one_percent_in_onnx_closes_the_command_line(
    case: Case, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(str(copy / "cmg_fp32.onnx"))
    largest = max(model.graph.initializer, key=lambda tensor: int(np.prod(tensor.dims)))
    scaled = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
    largest.CopyFrom(onnx.numpy_helper.from_array(scaled, largest.name))
    onnx.save(model, str(copy / "cmg_fp32.onnx"))
    rehash(copy, "cmg_fp32.onnx")

    assert main([str(copy), str(case.checkpoint)]) == 1
    output = capsys.readouterr()
    assert output.err.splitlines() == ["cmg_export.parity: past tolerance: onnx_fp32"]
    assert "FAIL: one_step_relative is" in output.out
    verdicts = {artifact.name: artifact.parity["status"] for artifact in read_manifest(copy).artifacts}
    assert verdicts.pop("onnx_fp32") == "failed" and set(verdicts.values()) == {"passed"} and len(verdicts) == 5
    with pytest.raises(EngineError):
        load_engine(copy, 4, backend="onnx", precision="fp32")


def test_half_precision_does_not_pass_as_single(case: Case) -> None:
    halves = [artifact for artifact in case.manifest.artifacts if artifact.precision == "fp16"]
    relabelled = [dataclasses.replace(artifact, precision="fp32") for artifact in halves if artifact.backend != "torch"]
    report = run_parity(case.folder, case.manifest, case.truth, relabelled, seed=SEED)
    assert set(statuses(report).values()) == {"failed"} and len(report.artifacts) == 2


calls = itertools.count()


def does_nothing(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    pass


def forgets_the_last_row(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion[:-1], command[:-1], out[:-1])


def one_nan(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion, command, out)
    out[7, -1] = float("nan")


def infinite(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion, command, out)
    out[0, 0] = float("inf")


def late_nan(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion, command, out)
    if next(calls) == 300:
        out[3, 2] = float("nan")


def resizes(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    out.resize_(1, out.shape[1]).zero_()


def spoils_its_input(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    motion.zero_()
    command.zero_()


def raises(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    raise RuntimeError("no such kernel\nand a trace")


def one_row_for_all(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion[:1], command[:1], out[:1])
    out[1:] = out[:1]


def is_off_in_rollouts(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
    plain(motion, command, out)
    if len(out) == 256:
        out[:, 0] += 0.05


BROKEN = {
    does_nothing: "one step: 8192 of 8192 outputs are not finite or not written",
    forgets_the_last_row: "one step: 2 of 8192 outputs",
    one_nan: "one step: 2 of 8192 outputs",
    infinite: "one step: 2 of 8192 outputs",
    late_nan: "500 frames: outputs of 1 of 64 environments are not finite",
    resizes: "output is torch.float32 [1, 10]; expected float32 [256, 10]",
    spoils_its_input: "one step: 8192 of 8192 outputs",
    raises: "step raised RuntimeError: no such kernel",
    one_row_for_all: "one_step_relative is ",
    is_off_in_rollouts: "rollout_100_median_rad is ",
}


@pytest.mark.parametrize(("broken", "reason"), BROKEN.items())
def test_a_broken_artifact_fails(case: Case, monkeypatch: pytest.MonkeyPatch, broken: Any, reason: str) -> None:
    plain, before = exact(case), case.inputs.states.motion.clone()
    report = run_with(case, monkeypatch, lambda *tensors: broken(plain, *tensors))
    (artifact,) = report.artifacts
    assert artifact.status == "failed" and not report.passed
    assert artifact.reason.startswith(reason) and "\n" not in artifact.reason
    assert torch.equal(before, case.inputs.states.motion)
    assert ParityReport.from_json(report.to_json()) == report
    if broken is is_off_in_rollouts:
        assert [gate.passed for gate in artifact.gates] == [True, False]
        assert run_with(case, monkeypatch, plain).passed  # and what is not broken passes the same way


def test_states_that_prove_nothing_are_refused(case: Case) -> None:
    states, command_range = case.inputs.states, case.manifest.command_range
    check_states(states, command_range)

    def changed(**parts: torch.Tensor) -> States:
        return dataclasses.replace(states, **parts)

    nothing = torch.empty(0, 2 * JOINTS)
    twice = states.motion.clone()
    twice[5000] = twice[17]
    not_finite = states.motion.clone()
    not_finite[1, 1] = float("nan")
    outside = states.command.clone()
    outside[4, 0] = command_range.max[0] + 0.1
    no_answer = states.next_motion.clone()
    no_answer[0, 0] = float("inf")
    cases = {
        "expected 8192 of each": changed(motion=nothing, command=torch.empty(0, 3), next_motion=nothing),
        "[8191, 8192] motions": changed(motion=states.motion[1:]),
        "expected none repeated": changed(motion=twice),
        "not all finite": changed(motion=not_finite),
        "answers are not all finite": changed(next_motion=no_answer),
        "outside command_range": changed(command=outside),
    }
    for message, bad in cases.items():
        with pytest.raises(ParityError) as raised:
            check_states(bad, command_range)
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_no_artifacts_is_an_error_and_nothing_run_is_no_pass(
    case: Case, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParityError, match="no artifacts"):
        run_parity(case.folder, case.manifest, case.truth, [])

    def unavailable(name: str) -> Any:
        raise BackendUnavailable("no library for it here")

    monkeypatch.setattr(parity_run, "backend_class", unavailable)
    foreign = dataclasses.replace(case.manifest.artifacts[0], name="other_fp32", backend="other")
    report = run_parity(case.folder, case.manifest, case.truth, [case.manifest.artifacts[0], foreign])
    assert statuses(report) == {case.manifest.artifacts[0].name: "not_run", "other_fp32": "not_run"}
    assert report.artifacts[0].reason == "no library for it here" and "'other'" in report.artifacts[1].reason
    assert not report.passed
    # What did not run here keeps its verdict; what never had one learns why.
    fresh = dataclasses.replace(case.manifest.artifacts[0], parity={})
    for artifact, expected in ((case.manifest.artifacts[0], "passed"), (fresh, "not_run")):
        manifest = dataclasses.replace(case.manifest, artifacts=(artifact,))
        assert with_results(manifest, report).artifacts[0].parity["status"] == expected
    assert main([str(copy), str(case.checkpoint)]) == 1
    assert "no artifact could run here, nothing is proved" in capsys.readouterr().err


def test_another_network_is_refused(case: Case) -> None:
    stats = dataclasses.replace(case.manifest.stats, motion_std=tuple(2 * x for x in case.manifest.stats.motion_std))
    with pytest.raises(ParityError, match="other sizes or stats"):
        run_parity(case.folder, dataclasses.replace(case.manifest, stats=stats), case.truth)
