"""The ``trt`` backend on a real GPU: what it refuses, and its run path on real streams and CUDA graphs.

What is refused is refused by the real lean runtime of TensorRT, where that is installed. There is no plan here that it
could run. So where plans are to be run, the stand-in of fake_tensorrt.py computes with torch on the GPU, at the
addresses and on the stream that it is given.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, Engine, load_engine
from cmg_runtime.backends.trt import context, library
from engine_folder import no_waiting, shared_engine_folder, shared_robot_folder, with_fused
from fake_tensorrt import PLAN_FILE, Context, FakeTensorRT, add_plan, copied_engine, make_plan

pytestmark = pytest.mark.gpu

NUM_ENVS, HORIZON = 40, 6


def here() -> str:
    """This GPU's compute capability."""
    return "{}.{}".format(*torch.cuda.get_device_capability())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_fused(copied_engine(shared_engine_folder()[0], tmp_path / "engine"))


def refused(folder: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name in one line; ``auto`` runs ``fused``, and goes past the plan where nothing is before it."""
    with pytest.raises(BackendUnavailable, match=message) as caught:
        load_engine(folder, 16, device="cuda", backend="trt")
    assert "\n" not in str(caught.value)
    assert load_engine(folder, 16, device="cuda").backend_name == "fused"
    monkeypatch.setattr("cmg_runtime.loading.PREFERRED_BACKENDS", {"cuda": ("trt", "fused", "torch")})
    engine = load_engine(folder, 16, device="cuda", precision="fp32")
    assert engine.backend_name == "fused"
    assert re.search(f"trt_fp32 cannot run here: .*{message}", engine.selection) and "\n" not in engine.selection


@pytest.mark.parametrize("targets", [["3.7"], list(library.RTX_CARDS)], ids=str)
def test_a_plan_for_other_gpus_is_refused(folder: Path, targets: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest says what the plan is for: the library is not even imported."""
    if here() in targets:
        pytest.skip(f"the plan is for this GPU ({here()})")
    for names in library.RUNNERS.values():
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
    advice = re.escape(library.advice(torch.device("cuda")))
    with pytest.raises(BackendUnavailable, match=rf"it has: .*; {advice}$"):  # of no plan at all
        load_engine(folder, 16, device="cuda", backend="trt")
    add_plan(folder, compute_capability=targets)
    refused(folder, rf"capability {', '.join(targets)} and this GPU, .*, has {here()}; {advice}", monkeypatch)
    add_plan(folder, library="tensorrt", compute_capability=[here()], version_compatible=True, version="11.4.0.106")
    missing = r"tensorrt_lean cannot be imported .*`pip install 'tensorrt-lean-cu\d\d>=11.4.0.106,<12'`"
    refused(folder, missing, monkeypatch)


# The real lean runtime


@pytest.fixture
def lean(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As the only one that is installed."""
    trt = pytest.importorskip("tensorrt_lean", reason="tensorrt_lean is not installed: pip install tensorrt-lean-cu13")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return trt


def plan_like(magic: bytes, version: str, entries: int, size: int, cut: int = 0) -> bytes:
    """The header of a plan, as the libraries write it, and bytes that are nothing, less ``cut`` of them.

    The header: magic tag, 0, number of entries in the table after it, size of the file, version, the platform's tag.
    """
    numbers = [int(part) for part in version.split(".")[:4]]
    header = struct.pack("<4sIQQ4B4s", magic, 0, entries, size, *numbers, b"rtrt" if magic == b"ftrt" else magic)
    return (header + random.Random(0).randbytes(size))[: size - cut]


PLANS: dict[str, Callable[[str], bytes]] = {
    "of TensorRT for RTX": lambda version: plan_like(b"vtrt", "1.7.1.116", 2, 1 << 16),
    "cut off": lambda version: plan_like(b"ftrt", version, 2, 1 << 16, cut=1 << 15),
    "cut off in its header": lambda version: plan_like(b"ftrt", version, 2, 1 << 16)[:20],
    "random bytes": lambda version: random.Random(1).randbytes(1 << 16),
    "of another version": lambda version: plan_like(b"ftrt", "10.3.0.26", 0, 1 << 16),
    "empty": lambda version: b"",
}


def add_lean_plan(folder: Path, content: bytes, version: str) -> None:
    """In the manifest it is for this GPU and this library, and the hash is right: only the library can tell."""
    add_plan(
        folder,
        content,
        library="tensorrt",
        version=version,
        compute_capability=[here()],
        gpu=torch.cuda.get_device_name(),
        version_compatible=True,
    )


@pytest.mark.parametrize("plan", PLANS)
def test_the_real_library_refuses_in_one_line(
    folder: Path, lean: Any, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_lean_plan(folder, PLANS[plan](lean.__version__), lean.__version__)
    said = rf"tensorrt_lean {lean.__version__} does not load {PLAN_FILE} \((?!without saying why).+\); rebuild it"
    refused(folder, said, monkeypatch)


def test_a_plan_of_a_newer_version_is_not_given_to_the_library(
    folder: Path, lean: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    major = int(lean.__version__.split(".")[0])
    monkeypatch.setattr(context, "SharedPlan", None)
    add_lean_plan(folder, PLANS["random bytes"](""), f"{major}.99.0.1")
    refused(folder, rf"tensorrt_lean here is {lean.__version__}, .*>={major}.99.0.1,<{major + 1}'`, or", monkeypatch)


def used() -> tuple[int, int, int]:
    """Bytes of this GPU's memory, others' included, and of this process's, and open files."""
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return total - free, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def test_what_the_real_library_took_is_free_again(folder: Path, lean: Any) -> None:
    """A plan of 4 MB, refused 50 times: 200 MB, were it kept."""
    add_lean_plan(folder, plan_like(b"vtrt", "1.7.1.116", 2, 1 << 22), lean.__version__)

    def load(times: int) -> tuple[int, int, int]:
        for _ in range(times):
            with pytest.raises(BackendUnavailable, match="does not load"):
                load_engine(folder, 16, device="cuda", backend="trt")
        return used()

    device, host, files = load(10)
    device_after, host_after, files_after = load(50)
    assert max(device_after - device, host_after - host) < 20 << 20 and files_after <= files
    assert not context._plans


# The run path


class RealCuda:
    """What the stand-in asks of CUDA."""

    device = property(lambda _: torch.cuda.current_device())
    current = property(lambda _: torch.cuda.current_stream())
    capturing = property(lambda _: torch.cuda.is_current_stream_capturing())


class OnGpu:
    """Computes for the stand-in's contexts with torch, through their scratch memory.

    Attributes:
        breaks_captures: whether a run does within a capture what CUDA does not allow there, which ends the capture.
        runs, captured: how often it computed, and how often of these within a capture.
    """

    def __init__(self) -> None:
        self.breaks_captures = False
        self.runs = self.captured = 0
        self._views: dict[tuple[int, int, int], torch.Tensor] = {}

    def compute(self, context: Context, stream_handle: int, rows: int) -> bool:
        if torch.cuda.is_current_stream_capturing():
            if self.breaks_captures:
                with contextlib.suppress(RuntimeError):
                    torch.cuda.synchronize()
                return context._refused("operation not permitted when stream is capturing")
            self.captured += 1
        self.runs += 1
        network, widths = context._engine._network.cuda(), context._engine._widths
        motion, command, out = (self._at(context._addresses[name], rows, widths[name]) for name in widths)
        with torch.cuda.stream(torch.cuda.ExternalStream(stream_handle)), torch.no_grad():
            scratch = self._at(context._memory[0], rows, widths["motion"])
            scratch.copy_(motion)
            out.copy_(network(scratch, command))
        return True

    def _at(self, address: int, rows: int, width: int) -> torch.Tensor:
        """The rows of float32 at an address of the GPU."""
        key = (address, rows, width)
        if key not in self._views:
            about = {"shape": (rows, width), "typestr": "<f4", "data": (address, False), "version": 2}
            memory = types.SimpleNamespace(__cuda_array_interface__=about)
            self._views[key] = torch.as_tensor(memory, device="cuda")
            assert self._views[key].data_ptr() == address
        return self._views[key]


@pytest.mark.parametrize("capture", ["allowed", "refused", "broken off"])
@pytest.mark.parametrize("horizon", [1, HORIZON])
@pytest.mark.parametrize("library", ["tensorrt", "tensorrt_rtx"])
def test_the_engine_on_real_streams_and_graphs(
    library: str,
    horizon: int,
    capture: str,
    tmp_path: Path,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames, windows and rollouts are those of the ``torch`` backend, in a graph or, where that fails, beside it."""
    shared, truth, _ = shared_robot_folder()  # before torch's exporter sees the stand-in
    trt, on_gpu = FakeTensorRT(library, RealCuda()), OnGpu()
    trt.capturable, on_gpu.breaks_captures = capture != "refused", capture == "broken off"
    monkeypatch.setattr(Context, "_compute", lambda context, *given: on_gpu.compute(context, *given))
    monkeypatch.setitem(sys.modules, library, trt)
    folder = copied_engine(shared, tmp_path / "engine")
    plan = make_plan(folder, profiles=[[NUM_ENVS, NUM_ENVS], [1, 16], [17, 64]])
    add_plan(folder, plan, library=library, compute_capability=[here()])

    before = torch.cuda.current_stream()
    pair = [
        load_engine(folder, NUM_ENVS, "cuda", name, "fp32", horizon=horizon, command_ramp_s=0.1)
        for name in ("trt", "torch")
    ]
    assert torch.cuda.current_stream() == before
    assert (on_gpu.captured > 0) == (capture == "allowed")
    assert torch.isfinite(torch.randn(8, device="cuda")).all()  # torch's generator does not think it is captured

    def agree(use: Callable[[Engine], Any]) -> None:
        """After this use, whose results are the same as well."""
        values = []
        for one in pair:
            used = use(one)
            values.append([one.dof_pos, one.dof_vel, *([used] if isinstance(used, torch.Tensor) else [])])
            if horizon > 1:
                ahead = one.future(list(range(horizon)))
                values[-1] += [ahead.dof_pos, ahead.root_pos]
        for found, expected in zip(*values, strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)

    motion, command = truth.states(NUM_ENVS, generator).cuda(), truth.commands(NUM_ENVS, generator).cuda()
    agree(lambda one: one.reset(motion=motion, command=command))
    runs, captured = on_gpu.runs, on_gpu.captured

    def step(one: Engine) -> None:
        with no_waiting():
            one.step()

    for _ in range(4):
        agree(step)
    assert on_gpu.captured == captured  # nothing is captured anew
    assert (on_gpu.runs == runs) == (capture == "allowed")  # the graphs' replays run it, or the host does
    agree(lambda one: one.set_command(command[:3], torch.tensor([3, 17, 31], device="cuda")))
    agree(lambda one: one.reset(torch.tensor([0, 5], device="cuda"), motion=motion[:2]))
    agree(step)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for one in pair:
            one.step()
    torch.cuda.current_stream().wait_stream(side)
    agree(lambda one: None)
    for n in (1, 5, 33, 100):  # profiles, and more rows than the largest takes
        rows = torch.arange(n) % NUM_ENVS
        agree(lambda one, rows=rows: one.rollout(motion[rows], command[rows], num_frames=3))

    other = load_engine(folder, 12, "cuda", "trt", "fp32")  # beside it, from the same loaded plan
    assert trt.loads == 1
    other.reset(motion=motion[:12], command=command[:12])
    for _ in range(2):
        other.step()
        agree(step)
