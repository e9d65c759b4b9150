"""Prove an artifact on the GPU that it is first loaded on.

Plans for a GPU are often built where there is none ("built, not run" in the manifest), and a GPU of another kind runs
other code of the same file. So an artifact whose target is a CUDA device takes one step, and a rollout of two, from a
thousand states when it is first loaded on a kind of GPU, and is compared with the network of ``weights.npz`` in float64
on the CPU. What came of it is recorded in the folder, in a file that the manifest does not list: no hashed file is
touched.

This is a guard against a plan that computes something else on this machine. The whole of parity, with rollouts and
against the checkpoint itself, is ``make verify``.
"""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import torch

from cmg_runtime.backends import Backend
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.backends.trt.plan import driver_version
from cmg_runtime.errors import BackendUnavailable
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.arrays import load_bank, read_weights
from cmg_runtime.folder.kept_files import keep, read_kept
from cmg_runtime.folder.manifest import Artifact, Manifest
from cmg_runtime.folder.sources import installed_versions, package_files, sources_sha256

logger = logging.getLogger(__name__)

FILE_NAME = "first_load.json"
NUM_STATES = 1024

BATCHES = (64, 1024)
"""Those below an engine's own batch are proved with it: a plan has other code for small batches, and rebuilt windows
and rollouts run it."""

ONE_STEP_ALLOWED = {"fp32": 1e-5, "fp16": 2e-3}
"""Error of one step relative to float64, in normalised units: the tolerance of parity as well."""


def needs_proof(artifact: Artifact) -> bool:
    """Whether the artifact is for a GPU, and so is proved on each kind of GPU that loads it."""
    return artifact.target.get("device") == "cuda"


def prove_here(
    backend: Backend, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
) -> str:
    """Run the gate, unless the record says that this artifact passed it on this kind of GPU, in these batches.

    Args:
        backend: the artifact, loaded on ``device``.
        num_envs: the batch that the step is taken with, and smaller ones of :data:`BATCHES`.

    Returns:
        A few words for ``engine.selection``.

    Raises:
        BackendUnavailable: it failed, or there is nothing to compare it with.
    """
    about = _circumstances(backend, artifact, device)
    records = read_records(folder)
    record = _sound(records.get(artifact.name), about)
    proved = [] if record is None else record["batches"]
    batches = [batch for batch in sorted({*BATCHES, num_envs}) if batch <= num_envs and batch not in proved]
    if record is None or batches:
        error = max(
            0.0 if record is None else record["one_step_relative"],
            _one_step_error(backend, folder, manifest, batches, device),
        )
        allowed = ONE_STEP_ALLOWED[artifact.precision]
        record = {
            **about,
            "batches": sorted({*proved, *batches}),
            "status": "passed" if error <= allowed else "failed",
            "one_step_relative": error if error < float("inf") else None,
            "one_step_relative_allowed": allowed,
        }
        records[artifact.name] = record
        keep(Path(folder) / FILE_NAME, (json.dumps(records, indent=1, allow_nan=False) + "\n").encode())
    if record["status"] != "passed":
        raise BackendUnavailable(
            f"{artifact.name} failed parity on this GPU (one step: {record['one_step_relative']} relative, allowed "
            f"{record['one_step_relative_allowed']}); rebuild it on this machine, or choose another backend"
        )
    return f"one step checked on this GPU ({record['one_step_relative']:.1e} relative)"


def _sound(record: Optional[Dict[str, Any]], about: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The record, if it is of these circumstances, says "passed" and is whole; else None."""
    if record is None or record.get("status") != "passed" or any(record.get(key) != about[key] for key in about):
        return None
    error, batches = record.get("one_step_relative"), record.get("batches")
    whole = isinstance(error, float) and isinstance(batches, list) and all(type(batch) is int for batch in batches)
    return record if whole else None


def _circumstances(backend: Backend, artifact: Artifact, device: torch.device) -> Dict[str, Any]:
    """Everything that decides which code runs."""
    return {
        "sha256": artifact.sha256,
        "runtime": _runtime_sha256(),
        "gpu": torch.cuda.get_device_name(device),
        "driver": driver_version(),
        "torch": torch.__version__,
        "library": backend.library,
        "libraries": _library_versions(),
        "tools": dict(artifact.tools),
    }


@functools.lru_cache(maxsize=None)
def _runtime_sha256() -> str:
    """Of this package's own sources, kernels among them."""
    return sources_sha256(package_files(Path(__file__).parents[1]))


@functools.lru_cache(maxsize=None)
def _library_versions() -> Dict[str, str]:
    """Of those that compile here, whatever an artifact was made with."""
    return installed_versions(("triton", "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))


def read_records(folder: Path) -> Dict[str, Dict[str, Any]]:
    """Artifact -> what its last first load has recorded in ``folder``; empty where there is no such file, or a damaged
    one."""
    try:
        records = typed_json.loads((read_kept(Path(folder) / FILE_NAME) or b"{}").decode())
    except ValueError:
        return {}
    sound = isinstance(records, dict) and all(isinstance(record, dict) for record in records.values())
    return records if sound else {}


def _one_step_error(
    backend: Backend, folder: Path, manifest: Manifest, batches: Sequence[int], device: torch.device
) -> float:
    """``||output - truth|| / ||truth||`` in normalised units, the largest of all batches; infinite where an output is
    not finite or not written.

    Half of the states are the bank's, half random around the mean; a batch holds each of them as often as it takes
    to fill its rows, and every row is compared. Batches smaller than the number of states take several steps. A rollout
    of two frames is made besides: the second is compared with a step from the first as it came.
    """
    weights = [a for a in manifest.artifacts if a.backend == "torch" and a.usable]
    if not weights:
        raise BackendUnavailable("the engine folder has no weights.npz to check this artifact with; rebuild it")
    reference = OneProductNetwork(read_weights(folder, weights[0], manifest), "fp32").double()
    motion, command = _states(folder, manifest)
    errors: List[float] = []
    for batch in batches:
        rows = torch.arange(-(-NUM_STATES // batch) * batch) % NUM_STATES
        stepped, rolled_out = [], []
        for part in rows.split(batch):
            given = (motion[part].to(device), command[part].to(device))
            out = torch.full_like(given[0], float("nan"))
            backend.step(given[0], given[1], out)
            stepped.append(out.cpu())
            two = torch.full_like(given[0].expand(2, -1, -1), float("nan"))
            backend.rollout(given[0], torch.stack([given[1], given[1].flip(0)]), two)
            rolled_out.append(two.cpu())
        first, second = torch.cat(rolled_out, dim=1)
        turned = torch.cat([command[part].flip(0) for part in rows.split(batch)])
        with torch.no_grad():
            errors.append(_relative(reference, torch.cat(stepped), motion[rows], command[rows]))
            errors.append(_relative(reference, first, motion[rows], command[rows]))
            errors.append(_relative(reference, second, first, turned))
    return max(errors)


def _relative(reference: OneProductNetwork, output: torch.Tensor, motion: torch.Tensor, command: torch.Tensor) -> float:
    """Error of ``output`` relative to the reference's frame, in normalised units; infinite where it is not finite."""
    expected = (reference(motion.double(), command.double()) - reference.motion_mean) / reference.motion_std
    output = (output.double() - reference.motion_mean) / reference.motion_std
    error = float((output - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def _states(folder: Path, manifest: Manifest) -> Any:
    """Motion states [NUM_STATES, motion_dim] and commands within the range [NUM_STATES, command_dim], float32."""
    generator = torch.Generator().manual_seed(0)
    bank = load_bank(folder, manifest, torch.device("cpu"))
    visited = bank[torch.randint(len(bank), (NUM_STATES // 2,), generator=generator)]
    mean, std = torch.tensor(manifest.stats.motion_mean), torch.tensor(manifest.stats.motion_std)
    random = mean + std * torch.randn(NUM_STATES - len(visited), len(mean), generator=generator)
    low, high = torch.tensor(manifest.command_range.min), torch.tensor(manifest.command_range.max)
    command = low + (high - low) * torch.rand(NUM_STATES, len(low), generator=generator)
    return torch.cat([visited, random]), command
