"""Warp's launches as CUDA graphs, and Warp on torch's streams."""

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator

import torch
import warp as wp

GRAPH_DRIVER = (12, 4)  # the CUDA driver from which on loops with a condition can be captured


class TorchStream:
    """Makes Warp launch on torch's current stream of a device."""

    def __init__(self, device: wp.Device):
        self._device = device
        self._streams: dict[int, wp.Stream] = {}

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        if not self._device.is_cuda:
            with wp.ScopedDevice(self._device):
                yield
            return
        current = torch.cuda.current_stream(self._device.ordinal)
        if current.cuda_stream not in self._streams:
            self._streams[current.cuda_stream] = wp.stream_from_torch(current)
        with wp.ScopedStream(self._streams[current.cuda_stream], sync_enter=False):
            yield


def can_capture(device: wp.Device) -> bool:
    """Whether steps can be a CUDA graph; on a GPU where they cannot, a line says why they are slow."""
    if not device.is_cuda:
        return False
    driver = wp.get_cuda_driver_version()
    if wp.is_mempool_enabled(device) and driver is not None and driver >= GRAPH_DRIVER:
        return True
    warnings.warn(
        f"steps run without a CUDA graph, slowly: the driver's CUDA is {driver}, memory pools are "
        f"{'on' if wp.is_mempool_enabled(device) else 'off'}; {GRAPH_DRIVER} and memory pools are needed",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """A function that replays what `run` launches, on Warp's current stream."""
    was_enabled = gc.isenabled()
    gc.disable()  # what it frees while the stream is captured would become part of the graph
    try:
        with wp.ScopedCapture() as capture:
            run()
    finally:
        if was_enabled:
            gc.enable()
    graph = capture.graph
    assert graph is not None
    return lambda: wp.capture_launch(graph)
