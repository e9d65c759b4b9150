"""From an engine folder to a running engine: choose an artifact, load it, warm it up."""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional, Sequence

import torch

from cmg_runtime.backends import BACKENDS, Backend, backend_class
from cmg_runtime.backends.proof import needs_proof, prove_here
from cmg_runtime.device import forks, resolve_device
from cmg_runtime.device.memory import does_not_fit, require_memory, short_of_memory
from cmg_runtime.device.precision import full_precision
from cmg_runtime.engine import Engine, EngineOptions, Selected
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.arrays import load_bank
from cmg_runtime.folder.manifest import PRECISIONS, Artifact, Manifest, read_manifest
from cmg_runtime.inputs import as_count, as_seed
from cmg_runtime.window.footprint import engine_bytes
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.plain.rows import key_body_indices
from cmg_runtime.window.twins import make_frame_writer

logger = logging.getLogger(__name__)

PREFERRED_PRECISIONS = {"cpu": ("fp32", "fp16"), "cuda": ("fp16", "fp32")}
"""Fastest first. A GPU multiplies half precision several times faster than float32; a CPU does not."""

PREFERRED_BACKENDS = {
    kind: tuple(
        name for _, name in sorted((row.order[kind], row.name) for row in BACKENDS.values() if kind in row.order)
    )
    for kind in ("cpu", "cuda")
}
"""Fastest first: see :class:`cmg_runtime.backends.BackendRow`."""

WARM_UP_FRAMES = 3
"""Just-in-time compilers profile the first call and compile in the next; allocators settle meanwhile."""

TAKE_LESS = "take fewer environments or a shorter horizon"
"""What to do where an engine does not fit."""


def load_engine(
    path: str | Path,
    num_envs: int,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    precision: str | None = None,
    seed: int = 0,
    horizon: int = 1,
    command_ramp_s: float = 0.5,
    key_bodies: Sequence[str] | None = None,
) -> Engine:
    """Load an engine folder for ``num_envs`` environments.

    Args:
        path: the folder that ``make engine`` wrote. Each of its files that is used is checked against the manifest.
        num_envs: environments in the batch, at least 1.
        device: "cpu", "cuda" or "cuda:<index>".
        backend: "auto", or a backend's name: "fused", "trt", "onnx", "torchscript" or "torch". "auto" takes the fastest
            on this kind of device that passed parity and can run here; ``engine.selection`` says which and why.
        precision: "fp32", "fp16", or None for the fastest on this device that passed parity: fp16 on CUDA,
            fp32 on a CPU.
        seed: of the generator that draws initial states from the bank.
        horizon: frames of the reference window, the current one included. 1: no window. It takes ``num_envs *
            horizon`` times the bytes of a frame: 4 * (2 * joints + 13 + 3 * key bodies), rounded up to 16.
        command_ramp_s: seconds in which a change of command is reached, linearly, from the one in force. 0: at once.
            The command of a reset is in force from its frame on.
        key_bodies: names of bodies of the manifest's robot whose positions each frame has, in this order. None:
            all of them. Each costs memory and time.

    Raises:
        BackendUnavailable: the backend, or under "auto" every backend, cannot run here or has no artifact.
        EngineError: not an engine folder, a file that differs from the manifest, a wrong argument, or memory is short:
            what cannot fit is refused before anything of it is allocated, else what had been allocated is free again.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise EngineError(f"unknown backend {backend!r}; expected one of auto, {', '.join(BACKENDS)}")
    if precision is not None and precision not in PRECISIONS:
        raise EngineError(f"unknown precision {precision!r}; expected {' or '.join(PRECISIONS)}, or None for the best")
    num_envs, horizon, seed = as_count(num_envs, "num_envs"), as_count(horizon, "horizon"), as_seed(seed)
    forks.settle_threads()
    if isinstance(command_ramp_s, bool) or not 0 <= command_ramp_s < math.inf:
        raise EngineError(f"command_ramp_s is {command_ramp_s!r}; expected seconds, 0 for at once")
    target, folder = resolve_device(device), Path(path)
    manifest = read_manifest(folder)
    options = EngineOptions(num_envs, target, horizon, command_ramp_s, seed)
    wanted = _Wanted(folder, manifest, backend, precision, key_body_indices(manifest, key_bodies), options)
    engine, short = None, ""
    # State made under the caller's inference mode could not be updated outside it, nor read from the host's side where
    # the caller's default device is another; constants made under its autocast or TF32 would be rounded.
    with torch.inference_mode(False), torch.device("cpu"), _full_precision(target):
        try:
            engine = _start(wanted)
        except (RuntimeError, MemoryError) as error:
            short = short_of_memory(error)
            if not short:
                raise
    if engine is None:  # raised here: in the handler the other error would be its context, and all that hangs on that
        raise does_not_fit(str(wanted), target, short, TAKE_LESS)
    logger.info("engine %r: %s", manifest.name, engine.selection)
    return engine


@dataclass(frozen=True)
class _Wanted:
    """The arguments of :func:`load_engine`, checked; ``bodies`` are indices of the manifest's robot."""

    folder: Path
    manifest: Manifest
    backend: str
    precision: Optional[str]
    bodies: Sequence[int]
    options: EngineOptions

    def __str__(self) -> str:
        num_envs, horizon = self.options.num_envs, self.options.horizon
        return f"engine {self.manifest.name!r} with {num_envs} environments and a horizon of {horizon}"

    def check_memory(self, backend: str) -> None:
        """Refuse a ``backend`` with which the engine does not fit.

        Raises:
            EngineError: says what it takes, and what there is.
        """
        sizes, options, layout = self.manifest.sizes, self.options, None
        if options.horizon > 1:
            layout = FrameLayout(sizes.num_joints, len(self.bodies), self.manifest.robot is not None)
        needed = engine_bytes(sizes, options.num_envs, options.horizon, layout, options.device, backend)
        require_memory(needed, options.device, str(self), TAKE_LESS)


def _start(wanted: _Wanted) -> Engine:
    """The engine itself."""
    manifest, options = wanted.manifest, wanted.options
    artifact, loaded, selection = _load_first(_candidates(wanted), wanted)
    bank = load_bank(wanted.folder, manifest, options.device)
    writer = make_frame_writer(manifest, wanted.bodies, options.device)
    _warm_up(loaded, manifest, options.num_envs, options.device)
    return Engine(manifest, bank, Selected(loaded, artifact, selection), writer, options)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    with full_precision(torch.device("cpu")), full_precision(device):
        yield


def _candidates(wanted: _Wanted) -> list[Artifact]:
    """The artifacts that answer the request, best first.

    Raises:
        BackendUnavailable: there is none.
    """
    manifest, backend, kind = wanted.manifest, wanted.backend, wanted.options.device.type
    precisions = PREFERRED_PRECISIONS[kind] if wanted.precision is None else (wanted.precision,)
    backends = PREFERRED_BACKENDS[kind] if backend == "auto" else (backend,)
    usable = [
        artifact
        for p in precisions
        for b in backends
        for artifact in manifest.artifacts
        if artifact.precision == p and artifact.backend == b and artifact.usable
    ]
    passed = [artifact for artifact in usable if artifact.parity_status == "passed" or needs_proof(artifact)]
    # Asked for by name, an artifact may also be one that could not run where it was built.
    candidates = passed or ([] if backend == "auto" else usable)
    if not candidates:
        present = ", ".join(f"{a.name} (parity {a.parity_status})" for a in manifest.artifacts) or "no artifacts"
        remedy = (Backend if backend == "auto" else backend_class(backend)).how_to_get(wanted.options.device)
        raise BackendUnavailable(
            f"engine {manifest.name!r} has nothing that passed parity for backend {backend!r} in "
            f"{' or '.join(precisions)}; it has: {present}; {remedy}"
        )
    return candidates


def _load_first(candidates: list[Artifact], wanted: _Wanted) -> tuple[Artifact, Backend, str]:
    """The first candidate that loads, its backend, and one line that says why it was taken."""
    folder, manifest = wanted.folder, wanted.manifest
    num_envs, device = wanted.options.num_envs, wanted.options.device
    skipped = []
    for artifact in candidates:
        wanted.check_memory(artifact.backend)
        try:
            backend = backend_class(artifact.backend).load(folder, artifact, manifest, num_envs, device)
            proof = f"parity {artifact.parity_status}"
            if needs_proof(artifact):
                proof += ", " + prove_here(backend, folder, artifact, manifest, num_envs, device)
        except BackendUnavailable as error:
            skipped.append(f"{artifact.name} cannot run here: {error}")
            continue
        if artifact.parity_status != "passed" and not needs_proof(artifact):
            logger.warning("engine %r: parity of %s is %s", manifest.name, artifact.name, artifact.parity_status)
        order = ", ".join(candidate.name for candidate in candidates)
        by = f" by {backend.library}" if backend.library else ""
        selection = f"{artifact.name} on {device}{by}, {proof}; first that loads of: {order}"
        return artifact, backend, "; ".join([selection, *skipped])
    raise BackendUnavailable(f"engine {manifest.name!r} on {device}: {'; '.join(skipped)}")


def _warm_up(backend: Backend, manifest: Manifest, num_envs: int, device: torch.device) -> None:
    motion = torch.tensor(manifest.stats.motion_mean, dtype=torch.float32, device=device).repeat(num_envs, 1)
    command = torch.zeros(num_envs, manifest.sizes.command_dim, dtype=torch.float32, device=device)
    next_motion = torch.empty_like(motion)
    for _ in range(WARM_UP_FRAMES):
        backend.step(motion, command, next_motion)
