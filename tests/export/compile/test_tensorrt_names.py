"""What this project takes from the TensorRT libraries, asked of those that are installed.

The run path calls what the stand-in of fake_tensorrt.py has, and no more, or its tests would fail. So each of its
classes is compared with the real one: names, parameters, members of enums. Building is tried with the real tensorrt_rtx
(test_tensorrt_build.py); here, that it has what only ``tensorrt`` is asked for, too.
"""

from __future__ import annotations

import enum
import inspect
import re
from typing import Any

import pytest

import fake_tensorrt as fake
from cmg_export.compile.tensorrt import make_monitor
from cmg_runtime.backends.trt import library as trt_library

RUN = {
    "ILogger.Severity": fake.Severity,
    "DataType": fake.DataType,
    "ExecutionContextAllocationStrategy": fake.Strategy,
    "Runtime": fake.Runtime,
    "ICudaEngine": fake.Engine,
    "IExecutionContext": fake.Context,
}
"""Real class -> the stand-in's."""
ONLY_RTX = {
    "CudaGraphStrategy": fake.CudaGraphStrategy,
    "DynamicShapesKernelSpecializationStrategy": fake.Specialization,
    "ICudaEngine": fake.RtxEngine,
    "IExecutionContext": fake.RtxContext,
    "IRuntimeConfig": fake.RuntimeConfig,
    "IRuntimeCache": fake.RuntimeCache,
}
PROBES = ("IRuntimeCache", "IExecutionContext.is_stream_capturable", "BuilderFlag.REQUIRE_USER_ALLOCATION")
"""What tells RTX from the others, where no name of a library is at hand."""
OPTIONS = (
    ("BuilderFlag", "VERSION_COMPATIBLE TF32"),
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY AMPERE_PLUS"),
    ("ComputeCapability", "SM80 SM86 SM89 SM120 SM121"),
)


@pytest.fixture(params=[name for names in trt_library.RUNNERS.values() for name in names])
def trt(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def find(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def parameters(method: Any) -> set[tuple[str, ...]]:
    """Names of the parameters of each overload, which its docstring lists, without ``self``."""
    listed = re.findall(rf"\b{method.__name__}\(self: [^,)]+((?:, \w+: [^()]*?)*)\) ->", method.__doc__)
    return {tuple(re.findall(r", (\w+): ", arguments)) for arguments in listed}


def test_the_real_classes_are_called_as_they_are(trt: Any) -> None:
    is_rtx = trt.__name__ == "tensorrt_rtx"
    for path, stand_in in {**RUN, **(ONLY_RTX if is_rtx else {})}.items():
        real = find(trt, path)
        if issubclass(stand_in, enum.Enum):
            assert {member.name for member in stand_in} <= set(real.__members__), path
            continue
        for name, own in inspect.getmembers(stand_in, inspect.isfunction):
            if not name.startswith("_"):
                called = tuple(inspect.signature(own).parameters)[1:]
                assert called in parameters(getattr(real, name)), f"{path}.{name}{called}"
    for attribute in ("num_io_tensors", "num_optimization_profiles"):
        assert hasattr(trt.ICudaEngine, attribute)
    assert hasattr(trt.Runtime, "engine_host_code_allowed") and trt.__version__[0].isdigit()
    assert [find(trt, probe) is not None for probe in PROBES] == [is_rtx] * len(PROBES)
    said = trt_library.make_logger(trt)
    said.log(trt.ILogger.Severity.ERROR, "once\n more")
    assert said.said() == "once more"


def test_building_knows_the_options_of_both() -> None:
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    for path, names in OPTIONS:
        assert set(names.split()) <= set(find(rtx, path).__members__)
    assert make_monitor(rtx, bool)
