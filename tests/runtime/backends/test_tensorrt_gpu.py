"""The ``trt`` backend on a real GPU: what it refuses, and its run path on real streams and CUDA graphs.

No GPU at hand runs TensorRT's plans. So plans are real where they are to be refused, and where they are to be run, the
stand-in of fake_tensorrt.py computes with torch on the GPU, at the addresses and on the stream that it is given.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_export.compile.tensorrt import RTX_TARGETS, PlanOptions, build_plan, find_flavour
from cmg_runtime import BackendUnavailable, Engine, load_engine
from engine_folder import no_waiting, shared_engine_folder, shared_robot_folder, with_fused
from fake_tensorrt import Context, FakeTensorRT, add_plan, copied_engine, make_plan

pytestmark = pytest.mark.gpu

NUM_ENVS, HORIZON = 40, 6


def here() -> str:
    """This GPU's compute capability."""
    return "{}.{}".format(*torch.cuda.get_device_capability())


@pytest.fixture(params=["with", "without"])
def rtx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT for RTX, where it is installed, and None where it is not or is not to be found."""
    if request.param == "with":
        return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return with_fused(copied_engine(shared_engine_folder()[0], tmp_path / "engine"))


def real_plan(folder: Path, rtx: Any) -> tuple[bytes, str]:
    """A plan for RTX cards, and the library's version."""
    if rtx is None:
        return b"a plan", "1.7.1.116"
    flavour, _ = find_flavour(PlanOptions(library="tensorrt_rtx"))
    assert flavour is not None
    build_plan(flavour, folder / "cmg_fp32.onnx", 64, folder.parent / "real.plan")
    return (folder.parent / "real.plan").read_bytes(), rtx.__version__


def refused(folder: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name in one line; ``auto`` runs ``fused``, and goes past the plan where nothing is before it."""
    with pytest.raises(BackendUnavailable, match=message) as caught:
        load_engine(folder, 16, device="cuda", backend="trt")
    assert "\n" not in str(caught.value)
    assert load_engine(folder, 16, device="cuda").backend_name == "fused"
    monkeypatch.setattr("cmg_runtime.loading.PREFERRED_BACKENDS", {"cuda": ("trt", "fused", "torch")})
    engine = load_engine(folder, 16, device="cuda", precision="fp32")
    assert engine.backend_name == "fused"
    assert "trt_fp32 cannot run here: " in engine.selection and "\n" not in engine.selection


@pytest.mark.parametrize("targets", [["3.7"], list(RTX_TARGETS)], ids=str)
def test_a_plan_for_other_gpus_is_refused(
    folder: Path, rtx: Any, targets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest says what the plan is for: the library is not even imported."""
    if here() in targets:
        pytest.skip(f"the plan is for this GPU ({here()})")
    content, version = real_plan(folder, rtx)
    add_plan(folder, content, version=version, compute_capability=targets)
    refused(folder, rf"capability {', '.join(targets)} and this GPU, .*, has {here()}; rebuild it", monkeypatch)


@pytest.mark.parametrize("plan", ["torn", "real"])
def test_a_plan_that_claims_to_be_for_this_gpu_is_refused_by_the_library(
    folder: Path, rtx: Any, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded, really, and TensorRT for RTX says no; without the library, that is what is said."""
    if plan == "real" and rtx is not None and here() in (*RTX_TARGETS, "8.0", "12.1"):
        pytest.skip(f"TensorRT for RTX runs on this GPU ({here()})")
    content, version = real_plan(folder, rtx)
    add_plan(folder, content if plan == "real" else b"torn", version=version, compute_capability=[here()])
    missing = "tensorrt_rtx cannot be imported .*pip install"
    refused(folder, missing if rtx is None else "tensorrt_rtx .* does not load cmg_fp32.rtx", monkeypatch)


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
