"""A TensorRT plan on a device: the engine that its users share, and an execution context with its memory."""

from __future__ import annotations

import weakref
from typing import Any, Dict, List, Optional, Tuple

import torch

from cmg_runtime.backends.trt import library
from cmg_runtime.backends.trt.library import ALIGNMENT
from cmg_runtime.backends.trt.plan import PlanTarget
from cmg_runtime.errors import BackendUnavailable, EngineError

INPUTS, OUTPUT = ("motion", "command"), "next_motion"


class SharedPlan:
    """A deserialised plan: what all contexts of one process on one device have in common.

    Attributes:
        trt: the library's module.
        engine: the library's engine.
        widths: name -> width of each input and output.
        profiles: (smallest, largest) batch of each optimisation profile.

    Args:
        host_code: whether the plan may carry code for the CPU, as version-compatible ones do.

    Raises:
        BackendUnavailable: the library does not load it on this machine.
        EngineError: it is a plan of something else.
    """

    def __init__(self, trt: Any, content: bytes, file: str, widths: Dict[str, int], host_code: bool = False) -> None:
        self.trt = trt
        self.widths = widths
        self.logger = library.make_logger(trt)
        self._runtime = library.make_runtime(trt, self.logger)
        if self._runtime is None:
            raise BackendUnavailable(
                f"{trt.__name__} {trt.__version__} does not start ({self.logger.said()}); "
                "install one for this machine's CUDA driver, or choose another backend"
            )
        self._runtime.engine_host_code_allowed = host_code
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise BackendUnavailable(
                f"{trt.__name__} {trt.__version__} does not load {file} ({self.logger.said()}); "
                "rebuild it on this machine, or choose another backend"
            )
        self._check_borders(file)
        self.profiles: List[Tuple[int, int]] = []
        for index in range(self.engine.num_optimization_profiles):
            smallest, _, largest = self.engine.get_tensor_profile_shape(INPUTS[0], index)
            self.profiles.append((smallest[0], largest[0]))

    def _check_borders(self, file: str) -> None:
        engine = self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {
            name: (engine.get_tensor_dtype(name) == self.trt.DataType.FLOAT, engine.get_tensor_shape(name)[1])
            for name in names
            if len(engine.get_tensor_shape(name)) == 2
        }
        if found != {name: (True, width) for name, width in self.widths.items()}:
            raise EngineError(
                f"{file} takes and gives {', '.join(names)}, expected float32 "
                f"{', '.join(f'{name} [N, {width}]' for name, width in self.widths.items())}; rebuild the engine folder"
            )


_plans: weakref.WeakValueDictionary[Any, SharedPlan] = weakref.WeakValueDictionary()


def shared_plan(
    trt: Any, content: bytes, sha256: str, target: PlanTarget, device: torch.device, widths: Dict[str, int]
) -> SharedPlan:
    """The plan with these bytes on this device, loaded unless the process has it loaded already."""
    key = (trt.__name__, sha256, device.index)
    plan = _plans.get(key)
    if plan is None:
        with torch.cuda.device(device):
            plan = SharedPlan(trt, content, target.file, widths, target.version_compatible)
        _plans[key] = plan
    return plan


class Context:
    """An execution context: its profile, its scratch memory, the shapes and the addresses that it is set to.

    Args:
        batch: the only one that it will run, with just the memory for it; None for any of the profile.

    Attributes:
        has_run: whether it was executed, outside of any capture.
        capturable: whether a capture is worth trying; known once it has run.
    """

    def __init__(
        self,
        plan: SharedPlan,
        profile: int,
        runtime_cache: Any,
        stream: torch.cuda.Stream,
        device: torch.device,
        batch: Optional[int],
    ) -> None:
        self.context = library.create_context(plan.trt, plan.engine, runtime_cache)
        if self.context is None:
            raise BackendUnavailable(
                f"TensorRT makes no execution context ({plan.logger.said()}); choose another backend"
            )
        # Attributes are let go in the order in which they were set: what the context uses goes after it.
        self._runtime_cache = runtime_cache
        self._plan = plan
        self._batch = 0
        self._addresses: Dict[str, int] = {}
        self.has_run = self.capturable = False
        self._require(self.context.set_optimization_profile_async(profile, stream.cuda_stream), "set the profile")
        stream.synchronize()
        if batch is None:
            size = plan.engine.get_device_memory_size_for_profile_v2(profile)
        else:
            self.set_batch(batch)
            size = self.context.update_device_memory_size_for_shapes()
        size = max(size, ALIGNMENT)  # no memory at all is refused where another batch would need some
        self._memory = aligned_bytes(size, device)
        self.context.set_device_memory(self._memory.data_ptr(), size)

    def set_batch(self, batch: int) -> None:
        if batch == self._batch:
            return
        self._batch = 0
        for name in INPUTS:
            done = self.context.set_input_shape(name, (batch, self._plan.widths[name]))
            self._require(done, f"take a batch of {batch} as {name}")
        self._require(self._shapes_are_known(), f"infer the shapes of a batch of {batch}")
        self._batch = batch

    def _shapes_are_known(self) -> bool:
        try:
            return not self.context.infer_shapes()
        except RuntimeError:  # how this one call refuses
            return False

    def bind(self, addresses: Dict[str, int]) -> None:
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self._require(self.context.set_tensor_address(name, address), f"take the address of {name}")
                self._addresses[name] = address

    def execute(self, stream: int) -> None:
        self._require(self.context.execute_async_v3(stream), "run the plan")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise BackendUnavailable(f"TensorRT did not {what} ({self._plan.logger.said()}); choose another backend")


def is_aligned(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % ALIGNMENT == 0


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself; a copy of one at an address that TensorRT does not take, such as a row of a larger one."""
    return tensor if is_aligned(tensor) else aligned_like(tensor).copy_(tensor)


def aligned_like(tensor: torch.Tensor) -> torch.Tensor:
    return aligned_bytes(4 * tensor.numel(), tensor.device).view(torch.float32).view(tensor.shape)


def aligned_bytes(size: int, device: torch.device) -> torch.Tensor:
    buffer = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)
    first = -buffer.data_ptr() % ALIGNMENT
    return buffer[first : first + size]
