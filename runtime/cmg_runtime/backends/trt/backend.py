"""The ``trt`` backend: TensorRT plans, on the caller's CUDA stream.

A plan has several optimisation profiles: one for exactly the ``num_envs`` that it was built for, others for ranges of
batches. The engine (weights and code) is loaded once a process and shared; each batch size in use has an execution
context of its own, with scratch memory of its own at an address that never changes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Optional

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.backends.trt import library
from cmg_runtime.backends.trt.context import (
    INPUTS,
    OUTPUT,
    Context,
    SharedPlan,
    aligned,
    aligned_bytes,
    aligned_like,
    is_aligned,
    shared_plan,
)
from cmg_runtime.backends.trt.plan import PlanTarget
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.kept_files import keep, read_kept
from cmg_runtime.folder.manifest import Artifact, Manifest, read_verified

MAX_OWN = 8
"""Batch sizes that get an execution context of their own, first come, first served; a training run has one to three.
Further ones share a context per profile, whose shapes are set anew when the size changes."""


class TrtBackend(Backend):
    """See :class:`cmg_runtime.backends.Backend`.

    The tensors of :meth:`step` are read and written in place, at their own addresses. Where the current stream is
    CUDA's default one, on which TensorRT would make the host wait, the work goes to a stream of this backend's own,
    which waits for the caller's and is waited for by it.

    To capture :meth:`step` in a CUDA graph: call it once before with a batch of the same size, synchronise, then
    capture it on a stream that is not the default one. A capture that is refused raises :class:`EngineError`, and
    plain launches go on working. A context that was captured runs no other batch size, so the graph stays valid.
    Calls share scratch memory, so they must follow each other on the device, as calls on one stream do.

    Attributes:
        capturable: whether a capture is worth trying. TensorRT for RTX answers for the context at hand; TensorRT
            cannot be asked, and shows it in the capture.
    """

    def __init__(
        self, plan: SharedPlan, num_envs: int, device: torch.device, runtime_cache: Optional[Path] = None
    ) -> None:
        self._plan = plan
        self.library = f"{plan.trt.__name__} {plan.trt.__version__}"
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._profiles = plan.profiles
        self._largest = max(largest for _, largest in self._profiles)
        self._own: Dict[int, Context] = {}  # batch -> the context that runs only this batch
        self._shared: Dict[int, Context] = {}  # profile -> the context that runs all other batches of its range
        self._cache_file = runtime_cache
        self._saved = None if runtime_cache is None else read_kept(runtime_cache)
        with torch.cuda.device(device):
            self._runtime_cache = library.create_runtime_cache(plan.trt, plan.engine, self._saved)
            home = min(num_envs, self._largest)
            self._own[home] = self._make_context(self._profile_of(home), home)
            self.capturable = self._try_out(self._own[home], home)

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> TrtBackend:
        target = PlanTarget.of(artifact)
        target.check_device(device)
        trt = target.find_library()
        content = read_verified(folder, artifact)
        widths = {"motion": manifest.sizes.motion_dim, "command": manifest.sizes.command_dim}
        widths[OUTPUT] = manifest.sizes.motion_dim
        plan = shared_plan(trt, content, str(artifact.sha256), target, device, widths)
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device))
        return cls(plan, num_envs, device, Path(folder) / f"{target.file}.{gpu}.cache")

    @classmethod
    def how_to_get(cls, device: torch.device) -> str:
        return library.advice(device) if device.type == "cuda" else super().how_to_get(device)

    def step(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor) -> None:
        for name, tensor in ((INPUTS[0], motion), (INPUTS[1], command), (OUTPUT, out)):
            if not tensor.is_contiguous() or tensor.dtype != torch.float32 or tensor.device != self._device:
                raise EngineError(
                    f"{name} is {tensor.dtype} on {tensor.device}; expected contiguous float32 on {self._device}"
                )
        with torch.cuda.device(self._device):
            caller = torch.cuda.current_stream(self._device)
            on_default = caller.cuda_stream == 0
            stream = self._stream if on_default else caller
            if on_default:
                stream.wait_stream(caller)
            with torch.cuda.stream(stream):
                for first in range(0, len(motion), self._largest):
                    rows = slice(first, first + self._largest)
                    self._enqueue(motion[rows], command[rows], out[rows], stream.cuda_stream)
            if on_default:
                caller.wait_stream(stream)

    def _enqueue(self, motion: torch.Tensor, command: torch.Tensor, out: torch.Tensor, stream: int) -> None:
        context = self._context_for(len(motion))
        motion, command = aligned(motion), aligned(command)
        result = out if is_aligned(out) else aligned_like(out)
        context.bind({INPUTS[0]: motion.data_ptr(), INPUTS[1]: command.data_ptr(), OUTPUT: result.data_ptr()})
        context.execute(stream)
        if not context.has_run:
            self._note_first_run(context, stream)
        if result is not out:
            out.copy_(result)

    def _note_first_run(self, context: Context, stream: int) -> None:
        """Ask what is known only now: whether a capture is worth trying, and what was compiled, which is kept."""
        context.has_run = True
        context.capturable = library.is_capturable(context.context, stream)
        content = library.saved_runtime_cache(self._runtime_cache)
        if self._cache_file is not None and content is not None and content != self._saved:
            keep(self._cache_file, content)
            self._saved = content

    def _context_for(self, batch: int) -> Context:
        capturing = torch.cuda.is_current_stream_capturing()
        context = self._own.get(batch)
        if capturing and (context is None or not context.has_run):
            raise EngineError(
                f"a batch of {batch} cannot be captured: call step with it once before, among the first {MAX_OWN} sizes"
            )
        if context is None and len(self._own) < MAX_OWN:
            context = self._own[batch] = self._make_context(self._profile_of(batch), batch)
        if context is None:
            profile = self._profile_of(batch)
            if profile not in self._shared:
                self._shared[profile] = self._make_context(profile, None)
            context = self._shared[profile]
            context.set_batch(batch)
        if capturing and not context.capturable:
            raise EngineError("this TensorRT plan cannot be captured in a CUDA graph here; use plain launches")
        return context

    def _make_context(self, profile: int, batch: Optional[int]) -> Context:
        return Context(self._plan, profile, self._runtime_cache, self._stream, self._device, batch)

    def _profile_of(self, batch: int) -> int:
        """The narrowest profile that takes this batch."""
        fitting = [
            (largest - smallest, index)
            for index, (smallest, largest) in enumerate(self._profiles)
            if smallest <= batch <= largest
        ]
        if not fitting:
            raise EngineError(f"the plan takes no batch of {batch}; rebuild the engine folder")
        return min(fitting)[1]

    def _try_out(self, context: Context, batch: int) -> bool:
        """Run once, so that whatever is compiled at the first call is; whether a capture is worth trying."""
        tensors = {
            name: aligned_bytes(4 * batch * width, self._device).zero_() for name, width in self._plan.widths.items()
        }
        context.bind({name: tensor.data_ptr() for name, tensor in tensors.items()})
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        context.execute(self._stream.cuda_stream)
        self._stream.synchronize()
        self._note_first_run(context, self._stream.cuda_stream)
        return context.capturable
