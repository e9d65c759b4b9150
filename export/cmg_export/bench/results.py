"""What the benchmark found, as ``bench.json`` has it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from cmg_export.timing import Timing

FILE_NAME = "bench.json"


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
    frame: dict[str, Timing] = dataclasses.field(default_factory=dict)
    step: dict[str, Timing] = dataclasses.field(default_factory=dict)
    rebuild: dict[str, Timing] = dataclasses.field(default_factory=dict)
    frame_memory_mib: float | None = None
    memory_mib: float | None = None
    device_memory_mib: float | None = None


@dataclass(frozen=True)
class Call:
    """One call of a drop-in interface, by one contender: the runtime, or "reference"."""

    what: str
    contender: str
    timing: Timing


@dataclass(frozen=True)
class Share:
    """The reference's part of a training environment's step, with one backend; means over steps, ms.

    Attributes:
        step: of the environment, resets and new commands included.
        reference: stepping it, starting episodes, new commands and reading its frames, each waited for.
        queued: the same without waiting: from when the device reaches it to when the device has done it.
        resets: episodes that began, per step.
    """

    backend: str
    step: float
    reference: float
    queued: float
    resets: float

    @property
    def share(self) -> float:
        """Of the step, 0..1."""
        return self.reference / self.step


@dataclass(frozen=True)
class TrainingSpeed:
    """What a training environment takes, with so many robots as the section has.

    Attributes:
        name: "eager", "captured", or mjlab's own task.
        step: ``env.step``, us: waited for, and until the call returns. The policy that walks is not in it.
        resets: episodes that began, per step.
        iteration: s of an iteration of PPO from scratch, with whatever comes between two.
        collection, learning: s of its two parts, as rsl_rl counts them; where the host does not wait between them, what
            is queued by the first counts for the second.
        steps_per_second: of all robots together.
        kernels: that a step launches, copies included.
        kernel_ms: what they take by the GPU's clock.
    """

    name: str
    step: Timing
    resets: float
    iteration: float
    collection: float
    learning: float
    steps_per_second: float
    kernels: float | None = None
    kernel_ms: float | None = None


@dataclass(frozen=True)
class TimeShare:
    """The reference's part of a training environment's step, and what training takes.

    Attributes:
        num_envs: of the environment, over ``steps`` steps of each backend.
        shares: of the backends that run here.
        textbook_frame_ms: one frame of ``textbook_envs`` environments with a weight matrix for each.
        frames_ahead: that a step asks for.
        training: of the environments that run here.
    """

    num_envs: int
    steps: int
    shares: tuple[Share, ...]
    textbook_envs: int
    textbook_frame_ms: float
    frames_ahead: int
    training: tuple[TrainingSpeed, ...]


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


@dataclass(frozen=True, kw_only=True)
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
        results, targets: of the section engine; ``dropin`` and ``time_share`` of those.
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
    results: tuple[Result, ...] = ()
    targets: tuple[Target, ...] = ()
    dropin: tuple[Call, ...] = ()
    time_share: TimeShare | None = None
    left_out: tuple[str, ...] = ()
    cut_short: str = ""
    seconds: float = 0.0

    def to_json(self) -> str:
        """The text of ``bench.json``."""
        data = dataclasses.asdict(self)
        for target, made in zip(data["targets"], self.targets, strict=True):
            target["verdict"] = made.verdict
        if self.time_share:
            for share, made in zip(data["time_share"]["shares"], self.time_share.shares, strict=True):
                share["share"] = made.share
        return json.dumps(data, indent=1, allow_nan=False) + "\n"
