"""MuJoCo Warp's own graphs, made for a step that is captured around them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mujoco_warp
import warp as wp
from mjlab.sim.sim import Simulation


def first_substep(model: Any, data: Any) -> None:
    """A step of physics from a state whose kinematics, contacts and constraints are those of ``forward`` just before.

    ``mujoco_warp.step`` without what depends on positions and velocities only: since ``forward`` nothing but controls
    and applied forces may have changed.
    """
    mujoco_warp.step2(model, data)


class PhysicsGraphs:
    """The graphs of a simulation: a step, the first one after ``forward``, and ``forward``.

    MuJoCo Warp allocates its workspace anew in every call. In a graph each of these allocations is a node, and so is
    each release. Here the workspace is allocated once, and the graphs hold kernels alone.

    Args:
        sim: the simulation.
    """

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._workspaces: list[list[wp.array]] = []

    def capture(self, run: Callable[[Any, Any], None], conditional: bool = True, kept: bool = True) -> Any:
        """A graph of ``run(model, data)``. The state is that of some steps later afterwards."""
        sim = self._sim
        before = sim.wp_model.opt.graph_conditional
        sim.wp_model.opt.graph_conditional = conditional
        workspace: list[wp.array] = []
        try:
            with _no_garbage_collection(), wp.ScopedDevice(sim.wp_device):
                if not kept:
                    with wp.ScopedCapture() as capture:
                        run(sim.wp_model, sim.wp_data)
                    return capture.graph
                with _allocating(workspace):
                    run(sim.wp_model, sim.wp_data)
                wp.synchronize_device(sim.wp_device)
                with wp.ScopedCapture() as capture, _reusing(workspace):
                    run(sim.wp_model, sim.wp_data)
            self._workspaces.append(workspace)
            return capture.graph
        finally:
            sim.wp_model.opt.graph_conditional = before


WARP_TYPES = {float: wp.float32, int: wp.int32, bool: wp.bool}

NAMES = ("empty", "zeros", "full", "empty_like", "zeros_like", "full_like", "clone")


@contextmanager
def _patched(replacements: dict[str, Callable[..., wp.array]]) -> Iterator[None]:
    originals = {name: getattr(wp, name) for name in replacements}
    for name, replacement in replacements.items():
        setattr(wp, name, replacement)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(wp, name, original)


def _allocating(workspace: list[wp.array]) -> Any:
    """A context in which every array that is allocated is kept in ``workspace``."""

    def keeping(name: str) -> Callable[..., wp.array]:
        original = getattr(wp, name)

        def allocate(*arguments: Any, **named: Any) -> wp.array:
            array = original(*arguments, **named)
            workspace.append(array)
            return array

        return allocate

    return _patched({name: keeping(name) for name in NAMES})


@contextmanager
def _reusing(workspace: list[wp.array]) -> Iterator[None]:
    """A context in which arrays that are allocated are those of ``workspace``, in the same order.

    Raises:
        RuntimeError: others are asked for than were before.
    """
    left = iter(workspace)

    def next_like(shape: Any, dtype: Any) -> wp.array:
        array = next(left, None)
        wanted = (shape,) if isinstance(shape, int) else tuple(shape)
        if array is None or tuple(array.shape) != wanted or array.dtype != WARP_TYPES.get(dtype, dtype):
            raise RuntimeError("MuJoCo Warp has asked for other workspace than in the call before")
        return array

    def empty(shape: Any = None, dtype: Any = float, **named: Any) -> wp.array:
        return next_like(shape, dtype)

    def zeros(shape: Any = None, dtype: Any = float, **named: Any) -> wp.array:
        array = next_like(shape, dtype)
        array.zero_()
        return array

    def full(shape: Any = None, value: Any = 0, dtype: Any = None, **named: Any) -> wp.array:
        array = next_like(shape, dtype or type(value))
        array.fill_(value)
        return array

    def empty_like(src: wp.array, **named: Any) -> wp.array:
        return next_like(src.shape, src.dtype)

    def zeros_like(src: wp.array, **named: Any) -> wp.array:
        return zeros(src.shape, src.dtype)

    def full_like(src: wp.array, value: Any, **named: Any) -> wp.array:
        return full(src.shape, value, src.dtype)

    def clone(src: wp.array, **named: Any) -> wp.array:
        array = next_like(src.shape, src.dtype)
        wp.copy(array, src)
        return array

    local = locals()
    with _patched({name: local[name] for name in NAMES}):
        yield


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What is collected during a capture would be released in the graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
