"""What is timed: the engine's backends, and the peers that a user would run otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cmg_export.bench import peers
from cmg_export.bench.settings import Settings
from cmg_export.errors import ExportError
from cmg_export.read.checkpoint import Checkpoint
from CMG_Ref.interrupts import raise_if_received
from cmg_runtime.backends import backend_class
from cmg_runtime.device.graphs import WARM_UPS, GraphRecorder, Piece
from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.folder.manifest import Artifact

CPU_MEMORY = 2 * 2**30
"""What a contender may take for one frame on a CPU, bytes."""

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Loaded:
    """A network ready for one batch size.

    Attributes:
        step: (motion, command, out) -> None, as :meth:`cmg_runtime.backends.Backend.step`.
        capture: whether a frame is replayed as a CUDA graph of torch's; False where it is launched as it comes.
    """

    step: Step
    capture: bool


@dataclass(frozen=True)
class Contender:
    """Something that computes a frame.

    Attributes:
        name, kind, about: see ``Result``.
        load: num_envs -> the network.
        artifact: what an engine runs; None for a peer.
        bytes_per_env: memory that a frame takes for each environment, roughly; 0 for little.
        sweeps: whether it is timed at every number of environments; compiling for each would take minutes.
    """

    name: str
    kind: str
    about: str
    load: Callable[[int], Loaded]
    artifact: Artifact | None = None
    bytes_per_env: int = 0
    sweeps: bool = True

    def check_memory(self, num_envs: int, device: torch.device) -> None:
        """Refuse a frame that does not fit the memory that is free now.

        Raises:
            ExportError: it does not.
        """
        free = 0.8 * torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else CPU_MEMORY
        needed = self.bytes_per_env * num_envs
        if needed > free:
            raise ExportError(f"needs about {needed / 2**30:.0f} GiB, of which {free / 2**30:.0f} GiB are free")


@dataclass(frozen=True)
class Frame:
    """One frame of a network on tensors that stay where they are.

    Attributes:
        run: computes it.
        out: [num_envs, motion_dim], where it ends up.
    """

    run: Callable[[], Any]
    out: torch.Tensor


def reason(error: BaseException) -> str:
    """Why a contender is left out, in a line. Errors that were not raised on purpose are named."""
    known = isinstance(error, (ExportError, EngineError, torch.cuda.OutOfMemoryError))
    return first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"


def backend_contenders(settings: Settings, left_out: list[str]) -> list[Contender]:
    """The artifacts that run here, of the backends that are asked for. ``left_out`` gets the others."""
    names, contenders = settings.options.backends, []
    for artifact in settings.manifest.artifacts:
        if names and artifact.backend not in names:
            continue
        contender = _backend_contender(settings, artifact)
        try:
            if not artifact.usable:
                raise EngineError(f"parity {artifact.parity_status}")
            contender.load(settings.num_envs)
        except Exception as error:  # any library's: the others are timed without it
            raise_if_received()
            left_out.append(f"{artifact.name}: {reason(error)}")
            continue
        contenders.append(contender)
    return contenders


def _backend_contender(settings: Settings, artifact: Artifact) -> Contender:
    def load(num_envs: int) -> Loaded:
        cls, folder = backend_class(artifact.backend), settings.options.engine
        backend = cls.load(folder, artifact, settings.manifest, num_envs, settings.device)
        return Loaded(backend.step, settings.on_gpu and backend.capturable)

    return Contender(artifact.name, "backend", f"the {artifact.backend} backend", load, artifact)


def peer_contenders(checkpoint: Checkpoint, device: torch.device) -> Iterator[Contender]:
    """What a user would have without this project. On a CPU, only what needs no compiling."""
    sizes = checkpoint.sizes
    blended = 4 * max(sizes.hidden_dim, sizes.motion_dim + sizes.command_dim) * sizes.hidden_dim

    def eager(num_envs: int) -> Loaded:
        return Loaded(peers.into(peers.ReferenceForm(checkpoint).to(device)), False)

    about = "the reference form in eager PyTorch, fp32"
    yield Contender("reference_eager", "peer", about, eager, bytes_per_env=5 * blended)
    if device.type != "cuda":
        return

    def compiled(num_envs: int) -> Loaded:
        return Loaded(peers.into(peers.compiled(peers.ReferenceForm(checkpoint).to(device), "default")), False)

    def autotuned(num_envs: int) -> Loaded:
        network = peers.one_product(checkpoint, "fp16").to(device)
        return Loaded(peers.into(peers.compiled(network, "max-autotune-no-cudagraphs")), True)

    about = "the reference form in torch.compile, fp32"
    yield Contender("reference_compiled", "peer", about, compiled, bytes_per_env=2 * blended, sweeps=False)
    about = "the one-product form in torch.compile max-autotune, fp16, in a CUDA graph"
    yield Contender("one_product_max_autotune", "peer", about, autotuned, sweeps=False)


def make_frame(contender: Contender, motion: torch.Tensor, command: torch.Tensor) -> Frame:
    """A frame of ``contender`` from ``motion`` [N, motion_dim] under ``command`` [N, command_dim]."""
    out = torch.full_like(motion, float("nan"))  # so that what is not written is seen
    loaded = contender.load(len(motion))

    def run() -> None:
        loaded.step(motion, command, out)

    if not loaded.capture:
        for _ in range(WARM_UPS):
            run()
        return Frame(run, out)
    program = GraphRecorder(motion.device).record([Piece(run)])
    out.fill_(float("nan"))  # what is compared is what is timed
    program()
    return Frame(program, out)
