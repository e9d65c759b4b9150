"""Which machine a TensorRT plan is for, and why it cannot be loaded on another, in one line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

import torch

from cmg_runtime.backends.trt.library import RUNNERS, advice, find_runner
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.manifest import Artifact

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class PlanTarget:
    """What the manifest says of a plan.

    Attributes:
        file: of the engine folder.
        library, version: what built it.
        compute_capability: "8.9" and the like, all that it was built for.
        gpu: name of the GPU that it was tuned on; None for a plan that any GPU of the capabilities finishes itself.
        hardware_compatibility: "none", "same_compute_capability" or "ampere_plus".
        version_compatible: whether newer versions of the library load it.
    """

    file: str
    library: str
    version: str
    compute_capability: Tuple[str, ...]
    gpu: Optional[str]
    hardware_compatibility: str
    version_compatible: bool

    @staticmethod
    def of(artifact: Artifact) -> PlanTarget:
        """Read an artifact's ``target``.

        Raises:
            EngineError: it does not describe a plan.
        """
        target = artifact.target
        try:
            plan = PlanTarget(
                file=str(artifact.file),
                library=target["library"],
                version=target["version"],
                compute_capability=tuple(target["compute_capability"]),
                gpu=target["gpu"],
                hardware_compatibility=target["hardware_compatibility"],
                version_compatible=target["version_compatible"],
            )
        except (KeyError, TypeError) as error:
            raise EngineError(
                f"{artifact.name} has a target that does not describe a plan ({type(error).__name__} {error}); "
                "rebuild the engine folder"
            ) from None
        if plan.library not in RUNNERS:
            raise EngineError(f"{artifact.name} is for the library {plan.library!r}; expected {' or '.join(RUNNERS)}")
        words = (plan.version, plan.hardware_compatibility, *plan.compute_capability)
        if not all(isinstance(word, str) for word in words) or not re.match(r"\d+\.\d+(\.|$)", plan.version):
            raise EngineError(f"{artifact.name} has a target that does not describe a plan; rebuild the engine folder")
        return plan

    def check_device(self, device: torch.device) -> None:
        """Refuse a device that the plan was not built for.

        Raises:
            BackendUnavailable: one line.
        """
        if device.type != "cuda":
            raise BackendUnavailable(f"{self.file} is a TensorRT plan; use device='cuda', or choose another backend")
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        here = f"{capability[0]}.{capability[1]}"
        any_newer = self.hardware_compatibility == "ampere_plus"
        if here not in self.compute_capability and not (any_newer and capability >= (8, 0)):
            built_for = "8.0 and newer" if any_newer else ", ".join(self.compute_capability)
            raise BackendUnavailable(
                f"{self.file} was built by {self.library} for compute capability {built_for} and this GPU, {name}, "
                f"has {here}; {advice(device)}"
            )
        if self.gpu not in (None, name) and self.hardware_compatibility == "none":
            raise BackendUnavailable(
                f"{self.file} was built and measured on a {self.gpu} and this GPU is a {name}; {advice(device)}"
            )

    def find_library(self) -> Any:
        """The module of the installed library that loads the plan.

        Raises:
            BackendUnavailable: one line.
        """
        try:
            return find_runner(self.library, self.version, self.version_compatible)
        except BackendUnavailable as error:
            raise BackendUnavailable(f"{self.file} was built by {self.library} {self.version}: {error}") from None


def driver_version() -> Optional[str]:
    """Version of the NVIDIA kernel driver, "580.65.06"; None where there is none to be seen."""
    try:
        match = re.search(r"\b(\d{3,}\.\d+(\.\d+)*)\b", _DRIVER_FILE.read_text())
    except OSError:
        return None
    return match[1] if match else None
