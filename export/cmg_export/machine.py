"""What measurements run on: which device, its clocks, and the versions of what runs there."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

from cmg_export.errors import ExportError
from cmg_runtime.folder.sources import installed_versions

_PACKAGES = ("torch", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "numpy")
_CLOCKS = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw")


def pick_device(name: str) -> torch.device:
    """The GPU, unless ``name`` is "cpu" or torch sees none; :func:`require_device` says so after the other options."""
    if name != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def require_device(name: str, device: torch.device) -> None:
    """Refuse "cuda" where :func:`pick_device` found none.

    Raises:
        ExportError: one line.
    """
    if name == "cuda" and device.type != "cuda":
        raise ExportError("device is cuda, but torch sees no GPU; use --device cpu")


def device_name(device: torch.device) -> str:
    """ "cpu" or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def processor() -> str:
    """The CPU's name, and how many of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.machine()


def versions() -> dict[str, str]:
    """Of the packages that run."""
    return dict(installed_versions(_PACKAGES))


def read_clocks(device: torch.device) -> dict[str, str]:
    """What nvidia-smi says now of the GPU; empty on a CPU, and where nvidia-smi does not answer."""
    if device.type != "cuda":
        return {}
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--query-gpu={','.join(_CLOCKS)}", "--format=csv,noheader"]
    for selection in ([gpu], [f"--id={device.index or 0}"]):  # containers may number or name GPUs otherwise
        try:
            done = subprocess.run([*command, *selection], capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return dict(zip(_CLOCKS, (cell.strip() for cell in done.stdout.splitlines()[0].split(",")), strict=True))
    return {}
