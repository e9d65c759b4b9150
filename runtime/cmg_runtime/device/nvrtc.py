"""CUDA C++ compiled when it is first needed, with the compiler that comes with torch's CUDA builds (NVRTC).

What was compiled is kept in ``$XDG_CACHE_HOME/cmg_runtime`` (``~/.cache/cmg_runtime``), if that can be written, behind
its own hash: a file that is damaged is made anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import hashlib
import sys
from pathlib import Path
from typing import Any, List, Sequence, Tuple

import torch

from cmg_runtime.folder.kept_files import read_kept, replace_file, user_cache

_MOST_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_LARGE_CLUSTERS = 14  # CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED: more than 8 thread blocks

_CLUSTER_DIMENSION = 4  # CUlaunchAttributeID
_PROGRAMMATIC_STREAM_SERIALIZATION = 6


class _Attribute(ctypes.Structure):  # CUlaunchAttribute
    _fields_ = [("identifier", ctypes.c_uint), ("padding", ctypes.c_uint), ("value", ctypes.c_uint * 16)]


class _Config(ctypes.Structure):  # CUlaunchConfig
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    ]


def _config(grid: int, threads: int, shared_bytes: int, attributes: Sequence[_Attribute]) -> _Config:
    array = (_Attribute * max(1, len(attributes)))(*attributes)
    return _Config(
        (ctypes.c_uint * 3)(grid, 1, 1), (ctypes.c_uint * 3)(threads, 1, 1), shared_bytes, None, array, len(attributes)
    )


class CudaError(RuntimeError):
    """NVRTC or the driver refused; one line."""


class CudaKernel:
    """One kernel on one device.

    Args:
        source: CUDA C++ without includes.
        name: the kernel's, declared ``extern "C"``.
        options: of the compiler, the architecture among them.
        shared_bytes: dynamic shared memory of a thread block.

    Raises:
        CudaError: it does not compile or load.
    """

    def __init__(self, source: str, name: str, options: Sequence[str], shared_bytes: int, device: torch.device) -> None:
        image = compiled(source, tuple(options))
        self._driver = _driver()
        self._shared_bytes = shared_bytes
        module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            torch.cuda.current_stream(device).query()  # so that the device has a context
            self._call("cuModuleLoadData", ctypes.byref(module), image)
            self._call("cuModuleGetFunction", ctypes.byref(self._function), module, name.encode())
            self._call("cuFuncSetAttribute", self._function, _MOST_SHARED_MEMORY, shared_bytes)
            if torch.cuda.get_device_capability(device)[0] >= 9:  # below there are no clusters
                self._call("cuFuncSetAttribute", self._function, _LARGE_CLUSTERS, 1)

    def launch(self, grid: int, threads: int, arguments: ctypes.Structure, stream: int, beside: bool = False) -> None:
        """Enqueue it on a stream of its device, which must be the current device.

        Args:
            arguments: its one parameter.
            beside: it begins as soon as the kernel before it has begun everywhere and called
                ``griddepcontrol.launch_dependents``. It must not need that kernel's results, and ends behind it if it
                calls ``griddepcontrol.wait``.
        """
        attribute = _Attribute(identifier=_PROGRAMMATIC_STREAM_SERIALIZATION, value=(ctypes.c_uint * 16)(1))
        config = _config(grid, threads, self._shared_bytes, [attribute] if beside else [])
        config.stream = stream
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        self._call("cuLaunchKernelEx", ctypes.byref(config), self._function, parameters, None)

    def most_clusters(self, ctas: int, threads: int) -> int:
        """Clusters of ``ctas`` thread blocks that the device can hold at once."""
        count = ctypes.c_int()
        attribute = _Attribute(identifier=_CLUSTER_DIMENSION, value=(ctypes.c_uint * 16)(ctas, 1, 1))
        config = _config(ctas, threads, self._shared_bytes, [attribute])
        self._call("cuOccupancyMaxActiveClusters", ctypes.byref(count), self._function, ctypes.byref(config))
        return count.value

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            raise CudaError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")


@functools.lru_cache(maxsize=None)
def _driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise CudaError(f"the CUDA driver's library does not load ({error})") from None


@functools.lru_cache(maxsize=None)
def _compiler() -> Any:
    """NVRTC of the major version that torch was built with; of any where torch was built without CUDA."""
    name = f"libnvrtc.so.{(torch.version.cuda or '*').split('.')[0]}"
    folders = Path(torch.__file__).resolve().parents[1] / "nvidia" / "*" / "lib"
    for candidate in [*sorted(glob.glob(str(folders / name))), name]:
        try:
            # It looks for this one by name only, so it must have been loaded before.
            for builtins in glob.glob(str(Path(candidate).parent / "libnvrtc-builtins.so.*")):
                ctypes.CDLL(builtins)
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise CudaError(f"{name}, which comes with torch's CUDA builds, was not found")


@functools.lru_cache(maxsize=None)
def compiled(source: str, options: Tuple[str, ...]) -> bytes:
    """The machine code, from the cache if it is there."""
    version = ".".join(str(number) for number in _compiler_version())
    key = hashlib.sha256("\0".join([source, *options, version]).encode()).hexdigest()[:32]
    cache = user_cache()
    if cache is None:
        return compile_source(source, options)
    kept = cache / "cmg_runtime" / f"{key}.kernel"
    content = read_kept(kept) or b""
    if content[:32] == _seal(key, content[32:]):
        return content[32:]
    image = compile_source(source, options)
    with contextlib.suppress(OSError):  # a place that cannot be written costs two seconds at the next start
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, _seal(key, image) + image)
    return image


def _seal(key: str, image: bytes) -> bytes:
    """32 bytes that only a whole file of this kernel begins with."""
    return hashlib.sha256(key.encode() + image).digest()


def _compiler_version() -> Tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _compiler().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def compile_source(source: str, options: Sequence[str]) -> bytes:
    """Machine code for the architecture among ``options``.

    Raises:
        CudaError: the compiler's first complaint.
    """
    nvrtc, program = _compiler(), ctypes.c_void_p()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None):
        raise CudaError("NVRTC takes no program")
    try:
        given: List[bytes] = [option.encode() for option in options]
        status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        if status:
            complaints = _read(nvrtc, program, "ProgramLog").decode(errors="replace").splitlines()
            first = next((line for line in complaints if "error" in line), f"status {status}")
            raise CudaError(f"NVRTC {'.'.join(map(str, _compiler_version()))}: {first}")
        return _read(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    content = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, content)
    return content.raw
