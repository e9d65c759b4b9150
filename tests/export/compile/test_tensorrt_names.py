"""Every name of the TensorRT libraries that this project uses is one that they have.

``tensorrt`` itself does not install everywhere. ``tensorrt_names.json`` records which names were found in the binaries
of its bindings' wheels; set ``CMG_TENSORRT_BINDINGS`` to one or more ``tensorrt.so`` files, separated by ``:``, to
search them again (``pip download --no-deps tensorrt-cu13-bindings`` and unpack the wheel), and run this file as a
program to record what was found.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cmg_export.compile import tensorrt
from cmg_runtime.backends.trt import library as trt_library
from python_process import run_python

VARIABLE = "CMG_TENSORRT_BINDINGS"
NO_BINDINGS = f"tensorrt is not installed: pip install tensorrt-cu13-bindings --no-deps, or {VARIABLE}=/its/tensorrt.so"
RECORD = Path(__file__).with_name("tensorrt_names.json")

USED_OF = """
: Builder OnnxParser Runtime
ILogger: Severity log
ILogger.Severity: ERROR INTERNAL_ERROR WARNING
Builder: build_serialized_network create_builder_config create_network create_optimization_profile
NetworkDefinitionCreationFlag: STRONGLY_TYPED
INetworkDefinition: get_input num_inputs
ITensor: name shape
OnnxParser: get_error num_errors parse
ParserError: desc
IBuilderConfig: add_optimization_profile clear_flag create_timing_cache get_timing_cache progress_monitor set_flag
IBuilderConfig: hardware_compatibility_level num_compute_capabilities set_compute_capability set_memory_pool_limit
IBuilderConfig: set_timing_cache
BuilderFlag: REQUIRE_USER_ALLOCATION TF32 VERSION_COMPATIBLE
ComputeCapability:
HardwareCompatibilityLevel:
MemoryPoolType: WORKSPACE
IOptimizationProfile: set_shape
ITimingCache: serialize
IProgressMonitor: phase_finish phase_start step_complete
Runtime: deserialize_cuda_engine engine_host_code_allowed
DataType: FLOAT
ICudaEngine: create_execution_context create_runtime_config get_device_memory_size_for_profile_v2 get_tensor_dtype
ICudaEngine: get_tensor_name get_tensor_profile_shape get_tensor_shape num_io_tensors num_optimization_profiles
ExecutionContextAllocationStrategy: USER_MANAGED
IRuntimeConfig: create_runtime_cache cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy
IRuntimeConfig: set_execution_context_allocation_strategy set_runtime_cache
IRuntimeCache: deserialize serialize
CudaGraphStrategy: DISABLED
DynamicShapesKernelSpecializationStrategy: EAGER
IExecutionContext: execute_async_v3 infer_shapes is_stream_capturable set_device_memory set_input_shape
IExecutionContext: set_optimization_profile_async set_tensor_address update_device_memory_size_for_shapes
"""
"""Class: what is used of it; without a class, of the module."""

USED = [(owner, names.split()) for owner, _, names in (line.partition(":") for line in USED_OF.split("\n")[1:-1])]

ONLY_NEWER = {"create_runtime_config", "IRuntimeConfig", "set_execution_context_allocation_strategy"}
"""Used with tensorrt_rtx only, although newer versions of tensorrt have them too."""

NOT_TENSORRT = {"append", "dtype", "engine", "file", "float32", "logger", "pop", "uint8"}
"""Names that the libraries have too, but that the modules take from torch, Python or this project's own objects."""


def names() -> set[str]:
    classes = {part for owner, _ in USED for part in owner.split(".") if part}
    return classes | {member for _, members in USED for member in members}


def absent_from(binary: Path) -> list[str]:
    """Names that end no string of the binary: strings share their ends."""
    content = binary.read_bytes()
    return [name for name in sorted(names()) if re.search(rb"%b\x00" % name.encode(), content) is None]


def bindings() -> dict[str, Path]:
    """Version -> the bindings' binary, from the variable, or of an installed tensorrt."""
    given = [Path(path) for path in os.environ.get(VARIABLE, "").split(":") if path]
    if not given and importlib.util.find_spec("tensorrt_bindings"):
        folder = Path(str(importlib.import_module("tensorrt_bindings").__file__)).parent
        given = list(folder.glob("tensorrt*.so"))
    found = {}
    for path in given:
        version = re.search(r"__version__\s*=\s*[\"']([^\"']+)", (path.parent / "__init__.py").read_text())
        found[version[1] if version else path.parent.name] = path
    return found


def find(module: Any, path: str) -> Any:
    for part in filter(None, path.split(".")):
        module = getattr(module, part)
    return module


def test_tensorrt_rtx_has_every_name() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    assert [(owner, name) for owner, members in USED for name in members if not hasattr(find(trt, owner), name)] == []
    for target in tensorrt.RTX_TARGETS:
        assert "SM" + target.replace(".", "") in trt.ComputeCapability.__members__
    for level in ("SAME_COMPUTE_CAPABILITY", "AMPERE_PLUS"):
        assert level in trt.HardwareCompatibilityLevel.__members__


def test_tensorrt_has_every_name_but_those_that_are_listed() -> None:
    record = json.loads(RECORD.read_text())
    majors = {version.split(".")[0] for version in record}
    assert majors == {"10", "11"}
    assert set(trt_library.MISSING["tensorrt"]) <= names()
    for version, absent in record.items():
        only_newer = ONLY_NEWER if version.split(".")[0] == "10" else set()
        assert set(absent) - only_newer == set(trt_library.MISSING["tensorrt"]), version


ENTRIES = ("createInferBuilder", "createInferRefitter", "createInferRuntime", "createNvOnnxParser")
STAND_IN = (
    "".join(f"void *{name}_INTERNAL(void *a, void *b, int c) {{ return 0; }}\n" for name in ENTRIES)
    + """
void *createNvOnnxParserRefitter_INTERNAL(void *a, void *b, int c) { return 0; }
void *getBuilderPluginRegistry(int a) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *a, const char *b) { return 1; }
"""
)
"""In C: the libraries that the bindings are linked with, which make nothing."""

PROBE = """
import importlib.util, json, sys
both = importlib.util.find_spec("tensorrt_rtx") is not None
if both:
    import tensorrt_rtx
spec = importlib.util.spec_from_file_location("tensorrt", sys.argv[1])
trt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trt)
from cmg_export.compile.tensorrt import make_monitor
from cmg_runtime.backends.trt import library as trt_library
from test_tensorrt_names import USED, find
for library in [trt] + [tensorrt_rtx] * both:
    make_monitor(library, bool), trt_library.make_logger(library)
assert trt_library.make(trt.Runtime, trt_library.make_logger(trt)) is None
assert trt_library.make(trt.Builder, trt_library.make_logger(trt)) is None
absent = set()
for owner, members in USED:
    try:
        kind = find(trt, owner)
    except AttributeError:
        absent |= {owner, *(f"{owner}.{name}" for name in members)}
        continue
    absent |= {f"{owner}.{name}" for name in members if not hasattr(kind, name)}
print(json.dumps(sorted(absent)))
"""


@pytest.mark.skipif(not bindings(), reason=NO_BINDINGS)
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")
def test_each_class_of_the_bindings_has_its_names(tmp_path: Path) -> None:
    """The record is what the binaries say. With stand-ins for the libraries that they are linked with, the bindings are
    imported, beside tensorrt_rtx where that is here, and asked class by class. A Runtime that is not made is None."""
    (tmp_path / "stand_in.c").write_text(STAND_IN)
    for version, path in bindings().items():
        missing, major = set(trt_library.MISSING["tensorrt"]), version.split(".")[0]
        found = absent_from(path)
        assert found == json.loads(RECORD.read_text()).get(version, found), version
        assert set(found) - ONLY_NEWER <= missing, version
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            name = f"lib{library}.so.{major}"
            options = ["-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(tmp_path / name)]
            subprocess.run(["cc", *options, str(tmp_path / "stand_in.c")], check=True)
        done = run_python("-c", PROBE, str(path), LD_LIBRARY_PATH=str(tmp_path))
        assert done.returncode == 0, (version, done.stderr[-2000:])
        # Of a class that is absent, what others have under the same name.
        absent = set(json.loads(done.stdout.splitlines()[-1])) - {"IRuntimeCache.serialize"}
        lacking = {name.rpartition(".")[2] for name in absent} - (ONLY_NEWER if major == "10" else set())
        assert lacking == missing, version


def test_the_list_of_used_names_is_complete() -> None:
    """Whatever these modules take from an object is in the list, or is a name of Python, torch or this project."""
    tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    known = {name for owner in vars(tensorrt_rtx).values() if isinstance(owner, type) for name in dir(owner)}
    known |= set(dir(tensorrt_rtx)) | set(trt_library.MISSING["tensorrt"])
    taken = set()
    runtime = Path(str(trt_library.__file__)).parent
    paths = {*runtime.glob("*.py")} - {runtime / "plan.py"}  # which reads what a manifest says, without the library
    paths |= {Path(str(inspect.getsourcefile(function))) for function in (tensorrt.build_plan, tensorrt.make_monitor)}
    for path in paths:
        tree = ast.parse(path.read_text())
        taken |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    of_the_library = {name for name in taken & known if not name.startswith("__")}
    assert of_the_library - names() <= NOT_TENSORRT


if __name__ == "__main__":
    RECORD.write_text(json.dumps({v: absent_from(path) for v, path in bindings().items()}, indent=1) + "\n")
    print(RECORD.read_text())
