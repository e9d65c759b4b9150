"""Judge the artifacts of an engine folder: measure each one, compare the figures with the tolerances."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmg_export.beside import beside
from cmg_export.errors import ParityError
from cmg_export.parity.measure import BATCH, ArtifactFault, measure, one_step, per_joint, rollout_errors
from cmg_export.parity.report import ArtifactParity, Gate, OneStep, ParityReport, RolloutError
from cmg_export.parity.states import Inputs, make_inputs
from cmg_export.parity.truth import SHORT_FRAMES, Course, Truth, draw_course
from cmg_runtime.backends import BACKENDS, backend_class
from cmg_runtime.backends.proof import ONE_STEP_ALLOWED, needs_proof
from cmg_runtime.errors import BackendUnavailable
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.manifest import Artifact, CommandRange, Manifest
from cmg_runtime.folder.sources import installed_versions


@dataclass(frozen=True)
class Tolerance:
    """``one_step``: relative, normalised units. ``rollout``: rad, median over environments after 100 frames."""

    one_step: float
    rollout: float


_ROLLOUT_ALLOWED = {"fp32": 1e-3, "fp16": 2e-2}
TOLERANCES = {name: Tolerance(ONE_STEP_ALLOWED[name], _ROLLOUT_ALLOWED[name]) for name in ONE_STEP_ALLOWED}

_LIBRARIES = ("torch", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Reference:
    """What artifacts are compared with.

    Attributes:
        course: of the rollouts, known from the beginning.
        inputs: waits until the reference is computed, and gives it.
    """

    course: Course
    inputs: Callable[[], Inputs]


@contextlib.contextmanager
def reference_beside(truth: Truth, bank: np.ndarray, command_range: CommandRange, seed: int = 0) -> Iterator[Reference]:
    """Compute the reference while the ``with`` block runs, see ``beside``.

    Args:
        truth: the reference.
        bank: [K, motion_dim] float32 motion states that rollouts start from, physical units.
        command_range: commands are drawn from it, its corners among them.
        seed: the same seed gives the same states and commands.
    """
    rng = np.random.default_rng(seed)
    course = draw_course(bank, command_range, rng)
    with beside(lambda: make_inputs(truth, course, command_range, rng)) as inputs:
        yield Reference(course, inputs)


def run_parity(
    folder: Path,
    manifest: Manifest,
    truth: Truth,
    artifacts: Sequence[Artifact] | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    reference: Reference | None = None,
) -> ParityReport:
    """Compare artifacts of an engine folder with the reference.

    Args:
        folder: where the manifest's files are; it may be a folder that is not published yet.
        manifest: describes them.
        truth: the reference, from the checkpoint that the engine was made from.
        artifacts: which ones; None for all of the manifest's.
        device: where they run. On "cpu", those that are for a GPU run on the first one there is. The reference always
            runs on the CPU.
        seed: of states and commands.
        reference: what :func:`reference_beside` gives for this engine's bank, command range and seed; None to run it.

    Raises:
        ParityError: the manifest is for another network than the reference, or there is nothing to measure.
        EngineError: a file of the folder is missing or is not what the manifest says.
    """
    if (manifest.sizes, manifest.stats) != (truth.sizes, truth.stats):
        raise ParityError(
            f"engine {manifest.name!r} was made for other sizes or stats than the checkpoint's; "
            "name the checkpoint and the data file that it was made from"
        )
    chosen = manifest.artifacts if artifacts is None else tuple(artifacts)
    if not chosen:
        raise ParityError(
            f"engine {manifest.name!r} has no artifacts to measure; expected at least one, build it again"
        )
    target = _resolve_device(device)
    if reference is None:
        bank = load_bank(folder, manifest, torch.device("cpu")).numpy()
        with reference_beside(truth, bank, manifest.command_range, seed) as reference:
            return run_parity(folder, manifest, truth, chosen, target, seed, reference)

    def judge(artifact: Artifact) -> ArtifactParity:
        return _judge(folder, manifest, artifact, truth, reference, _device_of(artifact, target))

    with _workers(torch.get_num_threads()) as pool:
        on_gpu = [artifact for artifact in chosen if _device_of(artifact, target).type == "cuda"]
        on_cpu = [artifact for artifact in chosen if artifact not in on_gpu]
        from_cpu = pool.map(judge, on_cpu)  # side by side; a GPU is shared in turns
        results = {artifact.name: judge(artifact) for artifact in on_gpu}
        results.update((result.name, result) for result in from_cpu)
    inputs = reference.inputs()
    return ParityReport(
        engine=manifest.name,
        source_sha256=str(manifest.source.get("sha256", "")),
        device=_device_label(on_cpu, on_gpu, target),
        versions=installed_versions(_LIBRARIES),
        seed=seed,
        num_visited=inputs.states.num_visited,
        num_random=len(inputs.states.motion) - inputs.states.num_visited,
        stability=inputs.stability,
        artifacts=tuple(results[artifact.name] for artifact in chosen),
    )


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of ``count`` threads, in each of which torch computes with one thread.

    Rollouts are many small products: those of different artifacts side by side take half the time of one after the
    other on all cores, and less than that on a machine that is busy with something else.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # the initializer sets some of it for the whole process


def with_results(manifest: Manifest, report: ParityReport) -> Manifest:
    """The manifest with the report's verdicts. What did not run here keeps the verdict that it has, if any."""
    results = {artifact.name: artifact for artifact in report.artifacts if artifact.status != "not_run"}
    not_run = {artifact.name: artifact for artifact in report.artifacts if artifact.status == "not_run"}

    def updated(artifact: Artifact) -> Artifact:
        result = results.get(artifact.name)
        if artifact.parity.get("status", "not_run") == "not_run":
            result = result or not_run.get(artifact.name)
        return artifact if result is None else dataclasses.replace(artifact, parity=result.summary())

    return dataclasses.replace(manifest, artifacts=tuple(updated(artifact) for artifact in manifest.artifacts))


def _resolve_device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ParityError(f"unknown device {device!r}; expected cpu or cuda") from None
    if target.type == "cpu":
        return target
    index = target.index or 0
    if target.type != "cuda" or not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise ParityError(f"device {str(target)!r} is not there; expected cpu, or cuda where torch sees a CUDA device")
    return torch.device("cuda", index)


def _device_of(artifact: Artifact, target: torch.device) -> torch.device:
    elsewhere = target.type == "cpu" and needs_proof(artifact) and torch.cuda.is_available()
    return torch.device("cuda", 0) if elsewhere else target


def _device_label(on_cpu: Sequence[Artifact], on_gpu: Sequence[Artifact], target: torch.device) -> str:
    if not on_gpu:
        return "cpu"
    gpu = f"cuda, {torch.cuda.get_device_name(target if target.type == 'cuda' else 0)}"
    return f"cpu, and {', '.join(artifact.name for artifact in on_gpu)} on {gpu}" if on_cpu else gpu


def _judge(
    folder: Path,
    manifest: Manifest,
    artifact: Artifact,
    truth: Truth,
    reference: Reference,
    device: torch.device,
) -> ArtifactParity:
    """Load one artifact, measure it and compare the figures with the tolerances."""
    name, precision, joints = artifact.name, artifact.precision, manifest.joint_names
    if artifact.file is None:
        return ArtifactParity(name, precision, "failed", "withheld: it failed parity when it was built")
    if artifact.backend not in BACKENDS:
        return ArtifactParity(name, precision, "not_run", f"this runtime has no backend {artifact.backend!r}")
    if needs_proof(artifact) and device.type == "cpu":
        return ArtifactParity(name, precision, "not_run", "built, not run: torch sees no CUDA device here")
    try:
        backend = backend_class(artifact.backend).load(folder, artifact, manifest, BATCH, device)
        errors = measure(backend, device, reference.course, reference.inputs)
    except BackendUnavailable as error:
        return ArtifactParity(name, precision, "not_run", str(error))
    except ArtifactFault as fault:
        return ArtifactParity(name, precision, "failed", str(fault))
    inputs = reference.inputs()
    step = one_step(errors, truth, inputs, joints)
    rollouts = rollout_errors(errors, joints)
    gates = _gates(precision, step, rollouts, inputs.stability.stable)
    status, reason = _verdict(gates, inputs.stability.reason)
    return ArtifactParity(
        name,
        precision,
        status,
        reason,
        one_step=step,
        rollouts=rollouts,
        gates=gates,
        per_joint=per_joint(errors, joints),
    )


def _gates(precision: str, step: OneStep, rollouts: Sequence[RolloutError], stable: bool) -> tuple[Gate, ...]:
    allowed = TOLERANCES[precision]
    short = [
        Gate("rollout_100_median_rad", rollout.median, allowed.rollout, gated=stable)
        for rollout in rollouts
        if rollout.frames == SHORT_FRAMES
    ]
    return (Gate("one_step_relative", step.relative, allowed.one_step, gated=True), *short)


def _verdict(gates: Sequence[Gate], unstable: str) -> tuple[str, str]:
    """Status and reason. ``unstable`` says why rollouts are not gated, or is empty."""
    missed = [gate for gate in gates if not gate.passed]
    if missed:
        return "failed", "; ".join(f"{gate.name} is {gate.needs:.1e}, allowed {gate.allowed:.1e}" for gate in missed)
    return "passed", f"100 frames are reported, not gated: {unstable}" if unstable else ""
