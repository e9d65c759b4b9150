"""Tiles for GPUs that nobody tuned for: timed once, at the first load there, and kept in the user's cache.

A choice must not change from run to run, for other tiles round other sums. So what was chosen once is read ever after,
by every process; where nothing can be kept, nothing is timed, and the tiles are those of :func:`by_hand`. One process
times while the others that load on GPUs of the same kind wait for it and read what it found.

This happens in loads alone: never in a step, in a CUDA graph's capture, or on a CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
import triton

from cmg_runtime.backends.fused.capacity import Device, by_hand, fits
from cmg_runtime.backends.fused.launch import FrameNetwork
from cmg_runtime.backends.fused.packing import Packed, Shapes
from cmg_runtime.backends.fused.tiles import ANY, FINISHES, FIRSTS, GATES, MIDDLES, FrameConfig, Tiles
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.backends.proof import ONE_STEP_ALLOWED
from cmg_runtime.backends.trt.plan import driver_version
from cmg_runtime.device.graphs import GraphRecorder, Piece
from cmg_runtime.errors import EngineError, first_line
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.kept_files import read_kept, replace_file, user_cache
from cmg_runtime.folder.sources import sources_sha256

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

VARIABLE = "CMG_TUNE"
"""Environment variable: "0" neither times nor reads what was timed; "1" does both on every GPU, those with tiles chosen
by hand among them, as if nobody had; unset, on all others."""

MOST_ROWS = 4096
"""Rows that the class for any number of rows is timed with."""

MARGIN = 0.01
"""Tiles give way to others that take less time by this part of it: noise must not choose."""

_SOURCES = ("capacity.py", "launch.py", "layer_parts.py", "layers.py", "tiles.py", "tuning.py")

Timer = Callable[[int, Sequence[FrameConfig]], Sequence[float]]
"""Rows, configurations -> us that a frame of so many rows takes with each; infinite where it cannot run or is wrong."""


@dataclass(frozen=True)
class Tuned:
    """Configurations in the order of the classes, and the us of a frame in each: with the tiles before, with these."""

    configs: Tuple[FrameConfig, ...]
    before: Tuple[float, ...]
    after: Tuple[float, ...]


def choose_tiles(weights: Dict[str, np.ndarray], packed: Packed, precision: str, device: torch.device) -> Tiles:
    """The tiles that a network runs with on a device; they may be timed for it, see the module.

    Args:
        weights: the arrays of ``weights.npz``, which ``packed`` was made from.

    Raises:
        EngineError: the environment variable is neither "0" nor "1".
        ValueError: none fit, or none run.
    """
    limits = Device.of(device)
    hand = by_hand(precision, packed.shapes, limits)
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "0", "1"):
        raise EngineError(f"{VARIABLE} is {wish!r}; expected 0, 1, or that it is not set")
    if limits.interpreted or wish == "0" or (limits.tuned_by_hand and wish != "1"):
        return hand

    def timed() -> Tuned:
        with torch.cuda.device(device):
            timer = FrameTimer(weights, packed, precision, device)
            start = by_hand(precision, packed.shapes, limits, known=False)
            tuned = tune(start, precision, packed.shapes, limits, timer)
            torch.cuda.empty_cache()  # of the graphs
            return tuned

    return kept_or_timed(hand, circumstances(packed.shapes, precision, device), timed)


def circumstances(shapes: Shapes, precision: str, device: torch.device) -> Dict[str, Any]:
    """All that the fastest tiles depend on."""
    properties = torch.cuda.get_device_properties(device)
    folder = Path(__file__).parent
    return {
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "driver": driver_version(),
        "triton": triton.__version__,
        "kernels": sources_sha256({name: folder / name for name in _SOURCES}),
        "network": asdict(shapes),
        "precision": precision,
    }


def tune(start: Tiles, precision: str, shapes: Shapes, device: Device, timer: Timer) -> Tuned:
    """Find faster tiles for each class of rows: kernel by kernel, each timed in whole frames; then once more, among
    what was found for the others.

    Raises:
        ValueError: none run.
    """
    begin = time.perf_counter()
    found: List[Tuple[FrameConfig, float, float]] = []
    for index, (most, config) in enumerate(start.classes):
        rows = int(min(most, MOST_ROWS))
        logger.warning("timing tiles: %d of %d, frames of %d rows", index + 1, len(start.classes), rows)
        best = config
        for kernel, options in 2 * list(_candidates(rows, precision, shapes, device).items()):
            tried = [best, *(replace(best, **{kernel: part}) for part in options if part != getattr(best, kernel))]
            times = timer(rows, tried)
            if min(times) < (1 - MARGIN) * times[0]:
                best = tried[times.index(min(times))]
        before, after = timer(rows, (config, best))
        if math.isinf(min(before, after)):
            raise ValueError(f"no tiles run on this GPU with {rows} rows")
        if before <= after:
            best, after = config, before
        found.append((best, after if math.isinf(before) else before, after))
    logger.warning("timed in %.0f s", time.perf_counter() - begin)
    configs, before, after = zip(*found)
    return Tuned(configs, before, after)


def _candidates(rows: int, precision: str, shapes: Shapes, device: Device) -> Dict[str, List[Any]]:
    """What is tried of each kernel, the one that costs most first, the gate before the layer that is compiled for its
    tiles: what fits the GPU, and has no more rows than there are. Products of up to 64 rows cost the same."""
    kernels = {"middle": MIDDLES[precision], "gate": GATES, "first": FIRSTS, "finish": FINISHES}
    most = max(rows, 64)
    candidates: Dict[str, List[Any]] = {
        name: [part for part in parts if part.block_m <= most and fits(part, precision, shapes, device)]
        for name, parts in kernels.items()
    }
    return {**candidates, "pdl": [True, False] if device.pdl else []}


class FrameTimer:
    """A :data:`Timer` by the GPU's clock, in CUDA graphs. What it times it also compares, with float64 on the CPU.

    Args:
        device: CUDA, the current device.
    """

    FRAMES, ROUNDS, COMPARED = 10, 9, 512

    def __init__(self, weights: Dict[str, np.ndarray], packed: Packed, precision: str, device: torch.device) -> None:
        self._packed, self._precision, self._device = packed, precision, device
        generator = torch.Generator().manual_seed(0)

        def around(centre: np.ndarray, width: np.ndarray) -> torch.Tensor:
            noise = torch.randn(MOST_ROWS, len(centre), generator=generator)
            return torch.tensor(centre).float() + noise * torch.tensor(width).float()

        low, high = weights["command_min"], weights["command_max"]
        self._std = torch.tensor(weights["motion_std"]).double()
        self._mean = torch.tensor(weights["motion_mean"]).double()
        motion = around(weights["motion_mean"], weights["motion_std"])
        command = around((low + high) / 2, (high - low) / 4)
        with torch.no_grad():
            network = OneProductNetwork(weights, "fp32").double()
            some = slice(self.COMPARED)
            self._expected = self._normalised(network(motion[some].double(), command[some].double()))
        self._motion, self._command = motion.to(device), command.to(device)

    def __call__(self, rows: int, configs: Sequence[FrameConfig]) -> List[float]:
        recorder = GraphRecorder(self._device)
        runs = [self._recorded(recorder, rows, config) for config in configs]
        times: List[List[float]] = [[] for _ in runs]
        for _ in range(self.ROUNDS):  # in turns: clocks drift
            for run, own in zip(runs, times):
                if run is not None:
                    own.append(self._milliseconds(run))
        return [statistics.median(own) * 1000 / self.FRAMES if own else math.inf for own in times]

    def _recorded(self, recorder: GraphRecorder, rows: int, config: FrameConfig) -> Optional[Callable[[], None]]:
        """Frames of so many rows as a graph; None where they cannot run or are wrong."""
        motion, command = self._motion[:rows], self._command[:rows]
        out = torch.full_like(motion, math.nan)
        try:
            network = FrameNetwork(self._packed, self._precision, rows, self._device, Tiles(((ANY, config),)))
            run = recorder.record([Piece(lambda: network(motion, command, out))] * self.FRAMES)
            run()
            seen = self._normalised(out[: self.COMPARED].cpu().double())
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's errors have nothing in common
            logger.info("%s cannot run here (%s)", config, first_line(error))
            return None
        expected = self._expected[: len(seen)]
        wrong = float((seen - expected).norm() / expected.norm())
        if wrong <= ONE_STEP_ALLOWED[self._precision]:
            return run
        logger.warning("%s is not used, for its error of one step is %.1e", config, wrong)
        return None

    def _normalised(self, motion: torch.Tensor) -> torch.Tensor:
        return (motion - self._mean) / self._std

    def _milliseconds(self, run: Callable[[], None]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        run()  # so that the clock starts behind work that is enqueued, not behind a host that is late
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def kept_or_timed(hand: Tiles, about: Dict[str, Any], timed: Callable[[], Tuned]) -> Tiles:
    """The tiles kept for the circumstances ``about``; else ``timed`` ones, which are kept. Where they cannot be kept,
    the tiles by ``hand``. A file that is damaged is made anew."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    folder = (user_cache() or Path(os.devnull)) / "cmg_runtime"  # in which nothing can be kept without a home folder
    path = folder / f"{key[:32]}.tiles"
    tuned = _read(path, key)
    if tuned is None:
        try:
            with _alone_in(folder):
                tuned = _read(path, key)  # another process was here first
                if tuned is None:
                    replace_file(path, b"")  # before seconds are spent
                    logger.warning("nobody tuned for %s: tiles are timed, once (%s=0: never)", about["gpu"], VARIABLE)
                    tuned = timed()
                    body = json.dumps({"about": about, "tuned": asdict(tuned)}, indent=1).encode()
                    replace_file(path, _seal(key, body) + body)
                    logger.warning("%s; kept in %s", _gain(hand, about, tuned), path)
        except OSError as error:
            logger.warning(
                "the fused kernels run with tiles that nobody tuned for %s: a choice cannot be kept (%s) and would "
                "differ from run to run; set XDG_CACHE_HOME to a folder that can be written",
                about["gpu"],
                first_line(error),
            )
            return hand
    return Tiles(tuple((most, config) for (most, _), config in zip(hand.classes, tuned.configs)))


def _gain(hand: Tiles, about: Dict[str, Any], tuned: Tuned) -> str:
    classes = [
        f"{'more' if math.isinf(most) else f'up to {most}'} {before:.1f} -> {after:.1f}"
        for (most, _), before, after in zip(hand.classes, tuned.before, tuned.after)
    ]
    return f"tiles for {about['gpu']} in {about['precision']}, us a frame by rows: {', '.join(classes)}"


def _read(path: Path, key: str) -> Optional[Tuned]:
    content = read_kept(path) or b""
    if content[:65] != _seal(key, content[65:]):
        return None
    return typed_json.parse(Tuned, json.loads(content[65:])["tuned"], "tuned")


def _seal(key: str, body: bytes) -> bytes:
    """A first line that only a whole file for these circumstances has."""
    return hashlib.sha256(key.encode() + body).hexdigest().encode() + b"\n"


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the folder; no other process is in such a block of it. One that dies in it is out. Where a system has no
    locks, nobody waits. Raises ``OSError``."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    number = os.open(str(folder), os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_UN)  # of copies in forked children, too
        os.close(number)
