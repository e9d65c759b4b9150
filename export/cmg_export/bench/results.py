"""What the benchmark found, as ``bench.json`` has it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from cmg_export.errors import ExportError
from cmg_runtime.folder.kept_files import replace_file

FILE_NAME = "bench.json"


class BenchError(ExportError):
    """The benchmark cannot be run as asked."""


@dataclass(frozen=True)
class Quantiles:
    """Of the times of single calls, us."""

    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Timing:
    """One kind of call by three clocks (see timing.py); ``gpu`` and ``call`` are None on a CPU.

    Attributes:
        count: calls timed, by each clock.
    """

    count: int
    gpu: Quantiles | None
    wall: Quantiles
    call: Quantiles | None

    @property
    def cost(self) -> Quantiles:
        """What the frame costs the device: on a GPU its own clock, on a CPU the wall clock."""
        return self.gpu or self.wall


@dataclass(frozen=True)
class Result:
    """What one contender costs. Environments are keys as text, as JSON has them.

    Attributes:
        name: "<backend>_<precision>", or the peer's name.
        kind: "backend" or "peer".
        about: what it is and how it is launched.
        error: ``||a - b|| / ||b||`` of one step against the float64 reference, normalised units.
        frame: num_envs -> the network alone, one frame.
        step: num_envs -> ``engine.step()``; empty for peers, which have no engine.
        rebuild: windows -> ``engine.reset(env_ids)``; likewise, and empty without a window.
        frame_memory_mib: peak of torch's allocator during a frame of the network, beyond what was there before it.
        memory_mib: peak of torch's allocator over loading, stepping and rebuilding an engine, beyond its weights and
            window; None for peers, and on a CPU.
        device_memory_mib: what the same took of the GPU, by the driver's count, beyond weights and window: with the
            memory that ONNX Runtime and TensorRT allocate for themselves, and with what torch keeps in reserve.
    """

    name: str
    kind: str
    about: str
    error: float
    frame: dict[str, Timing]
    step: dict[str, Timing]
    rebuild: dict[str, Timing]
    frame_memory_mib: float | None = None
    memory_mib: float | None = None
    device_memory_mib: float | None = None


@dataclass(frozen=True)
class Machine:
    """What it ran on.

    Attributes:
        device: "cpu" or the GPU's name.
        clocks: what nvidia-smi says of the GPU under load: field -> value with its unit.
        versions: of the packages that ran.
        tflops: precision -> rate of a large matrix product here, TFLOP/s.
    """

    device: str
    processor: str
    clocks: dict[str, str]
    versions: dict[str, str]
    tflops: dict[str, float]


@dataclass(frozen=True)
class Target:
    """One figure that is held to a bar.

    Attributes:
        value: None where it was not measured.
        at_least, aim: upper bounds: the first must hold, the second should.
    """

    what: str
    unit: str
    value: float | None
    contender: str
    at_least: float
    aim: float

    @property
    def verdict(self) -> str:
        """ "aim", "pass", "MISS" or "not measured"."""
        if self.value is None:
            return "not measured"
        return "aim" if self.value <= self.aim else "pass" if self.value <= self.at_least else "MISS"


@dataclass(frozen=True)
class BenchReport:
    """Everything that one run found.

    Attributes:
        engine: the manifest's name.
        source_sha256: of the checkpoint that the engine was made from.
        num_envs: environments of the table.
        horizon: frames of the window of ``step`` and ``rebuild``.
        flop_per_env: operations of one frame of one environment, counted from the network's shapes.
        auto: the contender that ``backend="auto"`` loads here, and ``selection`` says why.
        floor_us: precision -> num_envs -> those operations at the rate of ``machine.tflops``, us.
        left_out: what was not measured here, and why, a line each.
        cut_short: what ended the run early: an interruption, or an error that nothing could follow; else empty.
        seconds: how long the run took.
    """

    engine: str
    source_sha256: str
    machine: Machine
    num_envs: int
    horizon: int
    seed: int
    flop_per_env: int
    floor_us: dict[str, dict[str, float]]
    auto: str
    selection: str
    results: tuple[Result, ...]
    targets: tuple[Target, ...]
    left_out: tuple[str, ...]
    cut_short: str
    seconds: float

    def to_json(self) -> str:
        """The text of ``bench.json``."""
        data = dataclasses.asdict(self)
        for target, made in zip(data["targets"], self.targets, strict=True):
            target["verdict"] = made.verdict
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def write_file(path: Path, content: bytes) -> None:
    """Replace a file in one step.

    Raises:
        BenchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise BenchError(f"cannot write {path} ({error.strerror}); choose another --out") from None
