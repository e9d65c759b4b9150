"""Parity: its gates close on what is broken, nothing passes without having been computed, and rollouts that no finite
precision can follow are not gated."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch

from cmg_export.compile.weights import one_product_weights
from cmg_export.errors import ParityError
from cmg_export.parity import ParityReport, Truth, format_table, run_parity, with_results
from cmg_export.parity import run as parity_run
from cmg_export.parity.__main__ import main
from cmg_export.parity.states import check_states
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime import load_engine
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.manifest import FileEntry, Manifest, file_sha256, read_manifest
from engine_folder import COMPILED, SEED, make_engine_folder
from make_checkpoint import save_checkpoint
from parity_case import JOINTS, Case, Step, backend_of, exact, shared_case, statuses

State = dict[str, torch.Tensor]


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    """With the inputs made once for all of these tests, whatever the seed."""
    case = shared_case()
    monkeypatch.setattr(parity_run, "draw_course", lambda *_: case.inputs.rollouts.course)
    monkeypatch.setattr(parity_run, "make_inputs", lambda *_: case.inputs)
    return case


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    """A copy of the engine folder, to be changed."""
    return Path(shutil.copytree(case.folder, tmp_path / "engine"))


def rehash(folder: Path, file: str) -> Manifest:
    """Make the manifest agree with a file that was changed on purpose."""
    manifest, sha256 = read_manifest(folder), file_sha256(folder / file)
    changed = [dataclasses.replace(a, sha256=sha256) if a.file == file else a for a in manifest.artifacts]
    manifest = dataclasses.replace(manifest, artifacts=tuple(changed))
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


def scale_layer(folder: Path, layer: str) -> Manifest:
    """Make one layer's weights a percent too large."""
    with np.load(folder / "weights.npz") as file:
        weights = dict(file)
    weights[layer] = weights[layer] * np.float32(1.01)
    np.savez(folder / "weights.npz", **weights)  # pyright: ignore[reportArgumentType]
    return rehash(folder, "weights.npz")


@pytest.mark.slow
def test_one_layer_scaled_by_one_percent_in_the_weights(case: Case, copy: Path) -> None:
    for layer in range(3):
        shutil.copy(case.folder / "weights.npz", copy)
        manifest = scale_layer(copy, f"layers.{layer}.weight")
        chosen = [artifact for artifact in manifest.artifacts if artifact.backend == "torch"]
        report = run_parity(copy, manifest, case.truth, chosen, seed=SEED)
        assert statuses(report) == {"torch_fp32": "failed", "torch_fp16": "failed"}, layer
        assert "one_step_relative" in report.artifacts[0].reason and not report.passed


@pytest.mark.slow
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
    assert verdicts.pop("onnx_fp32") == "failed" and [*verdicts.values()] == ["passed"] * 5
    with pytest.raises(EngineError):
        load_engine(copy, 4, backend="onnx", precision="fp32")


def test_half_precision_does_not_pass_as_single(case: Case) -> None:
    halves = [artifact for artifact in case.manifest.artifacts if artifact.precision == "fp16"]
    relabelled = [dataclasses.replace(artifact, precision="fp32") for artifact in halves if artifact.backend != "torch"]
    report = run_parity(case.folder, case.manifest, case.truth, relabelled, seed=SEED)
    assert [*statuses(report).values()] == ["failed"] * 2


calls = itertools.count()


def raises(*_: Any) -> None:
    raise RuntimeError("no such kernel\nand a trace")


def then(change: Callable[[torch.Tensor], Any]) -> Callable[..., None]:
    """The sound step, and then a change of its output."""

    def step(plain: Step, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        plain(motion, command, out)
        change(out)

    return step


BROKEN: dict[str, tuple[Callable[..., Any], str]] = {
    "does nothing": (lambda *_: None, "one step: 8192 of 8192 outputs are not finite or not written"),
    "forgets the last row": (lambda plain, *rows: plain(*(x[:-1] for x in rows)), "one step: 2 of 8192 outputs"),
    "infinite": (then(lambda out: out[0, 0].fill_(torch.inf)), "one step: 2 of 8192 outputs"),
    "late nan": (
        then(lambda out: out[3, 2].fill_(torch.nan) if next(calls) == 300 else None),
        "500 frames: outputs of 1 of 64 environments are not finite",
    ),
    "resizes": (
        lambda _, motion, command, out: out.resize_(1, out.shape[1]).zero_(),
        "output is torch.float32 [1, 10]; expected float32 [256, 10]",
    ),
    "spoils its input": (
        lambda _, motion, command, out: (motion.zero_(), command.zero_()),
        "one step: 8192 of 8192 outputs",
    ),
    "raises": (raises, "step raised RuntimeError: no such kernel"),
    "one row for all": (then(lambda out: out[1:].copy_(out[:1].expand_as(out[1:]))), "one_step_relative is "),
    "off in rollouts": (
        then(lambda out: out[:, 0].add_(0.05) if len(out) == 256 else None),
        "rollout_100_median_rad is ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_artifact_fails(case: Case, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    (broken, reason), plain, before = BROKEN[fault], exact(case), case.inputs.states.motion.clone()

    def parity_of(step: Step) -> ParityReport:
        loaded = type("Loaded", (), {"load": lambda *_: backend_of(step)})
        monkeypatch.setattr(parity_run, "backend_class", lambda _: loaded)
        return run_parity(case.folder, case.manifest, case.truth, case.manifest.artifacts[:1], seed=SEED)

    report = parity_of(lambda *tensors: broken(plain, *tensors))
    (artifact,) = report.artifacts
    assert artifact.status == "failed" and not report.passed
    assert artifact.reason.startswith(reason) and "\n" not in artifact.reason
    assert torch.equal(before, case.inputs.states.motion)
    assert ParityReport.from_json(report.to_json()) == report
    if fault == "off in rollouts":
        assert [gate.passed for gate in artifact.gates] == [True, False]
        assert parity_of(plain).passed  # and what is not broken passes the same way


def test_states_that_prove_nothing_are_refused(case: Case) -> None:
    states, command_range = case.inputs.states, case.manifest.command_range
    check_states(states, command_range)

    def put(tensor: torch.Tensor, row: int, value: Any) -> torch.Tensor:
        changed = tensor.clone()
        changed[row] = value
        return changed

    nothing = torch.empty(0, 2 * JOINTS)
    cases: dict[str, dict[str, torch.Tensor]] = {
        "expected 8192 of each": {"motion": nothing, "command": nothing, "next_motion": nothing},
        "[8191, 8192] motions": {"motion": states.motion[1:]},
        "expected none repeated": {"motion": put(states.motion, 5000, states.motion[17])},
        "not all finite": {"motion": put(states.motion, 1, torch.nan)},
        "answers are not all finite": {"next_motion": put(states.next_motion, 0, torch.inf)},
        "outside command_range": {"command": put(states.command, 4, command_range.max[0] + 0.1)},
    }
    for message, changes in cases.items():
        with pytest.raises(ParityError) as raised:
            check_states(dataclasses.replace(states, **changes), command_range)
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_no_artifacts_or_another_network_is_an_error_and_nothing_run_is_no_pass(
    case: Case, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParityError, match="no artifacts"):
        run_parity(case.folder, case.manifest, case.truth, [])
    stats = dataclasses.replace(case.manifest.stats, motion_std=tuple(2 * x for x in case.manifest.stats.motion_std))
    with pytest.raises(ParityError, match="other sizes or stats"):
        run_parity(case.folder, dataclasses.replace(case.manifest, stats=stats), case.truth)

    def unavailable(name: str) -> Any:
        raise BackendUnavailable("no library for it here")

    monkeypatch.setattr(parity_run, "backend_class", unavailable)
    first = case.manifest.artifacts[0]
    foreign = dataclasses.replace(first, name="other_fp32", backend="other")
    report = run_parity(case.folder, case.manifest, case.truth, [first, foreign])
    assert statuses(report) == {first.name: "not_run", "other_fp32": "not_run"} and not report.passed
    assert report.artifacts[0].reason == "no library for it here" and "'other'" in report.artifacts[1].reason
    # What did not run here keeps its verdict; what never had one learns why.
    for artifact, expected in ((first, "passed"), (dataclasses.replace(first, parity={}), "not_run")):
        manifest = dataclasses.replace(case.manifest, artifacts=(artifact,))
        assert with_results(manifest, report).artifacts[0].parity["status"] == expected
    assert main([str(copy), str(case.checkpoint)]) == 1
    assert "no artifact could run here, nothing is checked" in capsys.readouterr().err


def torch_engine(
    folder: Path, fill: Callable[[State], None], bank: np.ndarray, hidden_dim: int = 16, num_layers: int = 2
) -> tuple[Manifest, Truth]:
    """An engine of three joints for ``torch`` fp32. ``fill`` is given zero weights, ``bank`` is in normalised units."""
    sizes: dict[str, Any] = {"num_joints": 3, "hidden_dim": hidden_dim, "num_experts": 2, "num_layers": num_layers}
    made = make_engine_folder(folder, SEED, ("fp32",), without=COMPILED, **sizes)
    state = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in made.model.state_dict().items()}
    fill(state)
    checkpoint = load_checkpoint(save_checkpoint(folder / "checkpoint", state, made.stats, "full")[0])
    np.savez(folder / "weights.npz", **one_product_weights(checkpoint))  # pyright: ignore[reportArgumentType]
    motion = bank * made.stats["motion_std"] + made.stats["motion_mean"]
    np.savez(folder / "bank.npz", motion=motion.astype(np.float32))
    bank_file = FileEntry("bank.npz", file_sha256(folder / "bank.npz"))
    manifest = dataclasses.replace(rehash(folder, "weights.npz"), bank=bank_file)
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest, Truth.from_checkpoint(checkpoint)


def tent_map(state: State, slope: float = 1.8, sharpness: float = 50.0) -> None:
    """A network that maps each of its values x in [0, 1] to about slope * min(x, 1 - x): bounded, and chaotic."""
    eye = torch.eye(6)
    for expert in range(2):
        # elu(k x) / k is nearly relu(x) for a large k; slope * (relu(x) - 2 relu(x - 1/2)) is the tent.
        state[f"layers.0.expert_weights.{expert}"][:6] = torch.cat([eye, eye], 1) * sharpness
        state[f"layers.0.expert_biases.{expert}"][6:] = -sharpness / 2
        state[f"layers.1.expert_weights.{expert}"][:] = torch.cat([eye, -2 * eye]) * slope / sharpness


def test_a_chaotic_checkpoint_is_reported_not_gated(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    manifest, truth = torch_engine(tmp_path, tent_map, rng.uniform(0.1, 0.8, (300, 6)), hidden_dim=12)
    report = run_parity(tmp_path, manifest, truth, seed=SEED)
    result = report.artifacts[0]
    assert not report.stability.stable and report.stability.diverged == 0
    assert (report.stability.growth_median or 0) > 1e4
    one, short = result.gates
    assert one.gated and not short.gated and short.passed and short.needs > short.allowed  # it would have failed
    assert result.status == "passed" and result.reason.startswith("100 frames are reported, not gated: a 1e-6 nudge")
    assert "\n\n100 frames are reported, not gated: a 1e-6 nudge grows" in format_table(report)
    # One step is gated all the same.
    manifest = scale_layer(tmp_path, "layers.1.weight")
    assert statuses(run_parity(tmp_path, manifest, truth)) == {"torch_fp32": "failed"}


def test_diverging_rollouts_are_left_out_and_counted(tmp_path: Path) -> None:
    def grow(state: State) -> None:
        for expert in range(2):
            state[f"layers.0.expert_weights.{expert}"][:6] = 1.5 * torch.eye(6)

    manifest, truth = torch_engine(tmp_path, grow, np.full((1, 6), 0.3), num_layers=1)
    report = run_parity(tmp_path, manifest, truth, seed=SEED)
    assert report.stability.diverged == 256 and not report.stability.stable
    assert report.num_visited < 4096 and report.num_visited + report.num_random == 8192
    result = report.artifacts[0]
    assert result.status == "passed" and result.rollouts == ()
    assert "256 of 256 float64 rollouts diverge" in result.reason
    assert ParityReport.from_json(report.to_json()) == report and " - " in format_table(report)


def test_a_network_that_only_gives_its_mean_pose_is_refused(tmp_path: Path) -> None:
    manifest, truth = torch_engine(tmp_path, lambda _: None, np.full((1, 6), 0.3))
    with pytest.raises(ParityError, match="exactly its mean pose"):
        run_parity(tmp_path, manifest, truth)
