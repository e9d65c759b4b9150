"""Reading and writing ``.pt`` files, without ever unpickling code."""

from __future__ import annotations

import contextlib
import io
import os
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from CMG_Ref.module import CMG
from CMG_Ref.plain_arrays import STAND_INS, PlainArray, PlainDtype
from cmg_runtime.kept_files import naming


@dataclass(frozen=True)
class Stats:
    """Normalisation: motion ``(m - mean) / std``, command min-max to [-1, 1]. rad, rad/s; m/s, m/s, rad/s."""

    motion_mean: torch.Tensor
    motion_std: torch.Tensor
    command_min: torch.Tensor
    command_max: torch.Tensor

    def normalise_motion(self, motion: torch.Tensor) -> torch.Tensor:
        """Physical units to the network's."""
        return (motion - self.motion_mean) / self.motion_std

    def physical_motion(self, motion: torch.Tensor) -> torch.Tensor:
        """The network's units to rad and rad/s."""
        return motion * self.motion_std + self.motion_mean

    def normalise_command(self, command: torch.Tensor) -> torch.Tensor:
        """m/s, m/s, rad/s to [-1, 1] over the stats' range."""
        return (command - self.command_min) / (self.command_max - self.command_min) * 2 - 1


_NUMPY_TYPES: list[Any] = [(stand_in, ".".join(name)) for name, stand_in in STAND_INS.items()]
_NUMPY_TYPES += [PlainArray, PlainDtype]

_PERMITTED = re.compile(
    r"collections\.OrderedDict|torch\.[A-Z][A-Za-z0-9]*(?<!Untyped)(?<!Typed)Storage"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter|sparse_tensor|meta_tensor_no_storage)"
    r"|torch\.serialization\._get_layout|torch\.(Size|device|u?int\d+|b?float\d+|complex\d+|bool)"
    r"|_codecs\.encode|builtins\.(set|complex)|" + "|".join(re.escape(".".join(name)) for name in STAND_INS)
)
"""Names that a pickle may have. torch's own list is longer: with some of it, such as ``bytearray`` and
``torch.Tensor``, a few bytes take any amount of memory."""

_MOST_PICKLES = 5
"""In a file of torch's older format, before the values of its tensors."""


def read_pt(path: str | Path) -> Any:
    """Load a ``torch.save`` file that holds nothing but containers, numbers, tensors and numpy arrays.

    Raises:
        ValueError: missing or damaged file, or one that needs other objects; those are never built.
    """
    path = Path(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); expected a torch.save file") from None
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(_NUMPY_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickle protocols; the user cannot act on it
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(content)
        return content
    except Exception as error:  # a damaged or hostile pickle can fail in any way; none of them may pass as a bug
        raise ValueError(_why_not_loaded(path, str(error))) from None


def _check_archive(path: Path) -> None:
    """Refuse an archive that holds more than its size (``torch.save`` compresses nothing), and names not permitted."""
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as stream:
            for _ in range(_MOST_PICKLES):
                _check_names(stream)
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("it unpacks to more than its size")
        for member in archive.infolist():
            if member.filename.endswith(".pkl"):
                _check_names(io.BytesIO(archive.read(member)))


def _check_names(stream: IO[bytes]) -> None:
    """Read one pickle without building anything of it."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL" and not _PERMITTED.fullmatch(".".join(str(argument).split(" ", 1))):
            raise ValueError(f"GLOBAL {'.'.join(str(argument).split(' ', 1))}")


def _check_tensors(content: Any) -> None:
    """Refuse tensors with more values than are stored: a few bytes can claim to be any number of them."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            left.extend(value)
        elif isinstance(value, torch.Tensor) and _claims_more(value):
            raise ValueError("a tensor has more values than are stored")


def _claims_more(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _why_not_loaded(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"class ([\w.]+)", message)
    if found:
        return (
            f"{path} needs {found[1]} to be loaded, which could run code; refused. "
            "Expected tensors and numpy arrays only: save it again without other objects"
        )
    return f"{path} is damaged or not a torch.save file; expected one, copy or make it again"


@contextlib.contextmanager
def write_beside(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary stream that becomes the file ``path`` when all is written; a reader never sees half of one."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with naming(path), open(partial, "wb") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_pt(path: str | Path, data: Any) -> None:
    """Write a ``.pt`` file, all of it or none."""
    with write_beside(path) as stream:
        torch.save(data, stream)


def save_checkpoint(path: str | Path, model_state_dict: dict[str, Any], stats: dict[str, Any], **extra: Any) -> None:
    """Write a checkpoint as users have them: ``model_state_dict``, ``stats`` and whatever else is given."""
    cpu = {name: value.detach().cpu() for name, value in model_state_dict.items()}
    write_pt(path, {"model_state_dict": cpu, "stats": stats, **extra})


def load_reference(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    data_file: str | Path | None = None,
) -> tuple[CMG, Stats]:
    """The reference model and its normalisation; sizes come from the tensors.

    Args:
        path: a checkpoint, or a bare ``state_dict``.
        device, dtype: where and in which float type both are returned.
        data_file: a ``cmg_training_data.pt`` whose stats are used instead of the checkpoint's.

    Raises:
        ValueError: unreadable, without stats, or not a CMG.
    """
    data = read_pt(path)
    try:
        state = data.get("model_state_dict", data)
        stats = (read_pt(data_file) if data_file else data)["stats"]
        experts = sum(name.startswith("layers.0.expert_biases.") for name in state)
        layers = len({name.split(".")[1] for name in state if name.startswith("layers.")})
        motion_dim = state[f"layers.{layers - 1}.expert_biases.0"].shape[0]
        input_dim, hidden_dim = state["layers.0.expert_weights.0"].shape
        gate_dim = state["gating.gating_network.0.bias"].shape[0]
        model = CMG(motion_dim, input_dim - motion_dim, hidden_dim, experts, layers, gate_dim)
        model.load_state_dict(state)
        values = {
            name: torch.as_tensor(np.asarray(stats[name]), dtype=dtype, device=device) for name in Stats.__annotations__
        }
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: not a CMG checkpoint with stats ({reason}); expected train.py's, or name the data file"
        ) from None
    return model.to(device, dtype).eval(), Stats(**values)
