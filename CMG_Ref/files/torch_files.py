"""Reading and writing ``.pt`` files, without ever unpickling code."""

from __future__ import annotations

import contextlib
import io
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from CMG_Ref.files.kinds import START, archive_kind, beginning_kind, folder_kind, text_kind
from CMG_Ref.files.pickle_check import NotPermitted, check_pickle
from CMG_Ref.files.plain_arrays import STAND_INS, PlainArray, PlainDtype
from CMG_Ref.files.safe_pickle import load_pickle
from CMG_Ref.files.words import some
from cmg_runtime.folder.kept_files import naming

_NUMPY_TYPES: list[Any] = [(stand_in, ".".join(name)) for name, stand_in in STAND_INS.items()]
_NUMPY_TYPES += [PlainArray, PlainDtype]

_OLDER_FORMAT = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The number that torch's format before zip archives begins with, as a pickle."""

_PICKLES = 5
"""In a file of that format, before the values of its tensors."""

_KEPT = ("model_state_dict", "state_dict", "model", "ema", "stats", "samples", "joint_names")
"""What of a file with more in it is worth saving again."""


def read_pt(path: str | Path) -> Any:
    """Load a ``torch.save`` file, or a pickle, that holds nothing but containers, numbers, tensors and numpy arrays.

    Raises:
        ValueError: a missing or damaged file, something else, or one that needs other objects; those are never built.
    """
    path = Path(path)
    start = read_start(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old formats; the user cannot act on it
            content = _read_archive(path) if start.startswith(b"PK\x03\x04") else _read_stream(path, start)
        _check_tensors(content)
        return content
    except _Unusable as error:
        reason = str(error)
    except NotPermitted as error:
        reason = _how_to_save_again(path, error)
    except Exception as error:  # a damaged or hostile pickle can fail in any way; none of them may pass as a bug
        told = " ".join(str(error).split())[:150] if isinstance(error, ValueError) else type(error).__name__
        reason = text_kind(start) or (
            f"is damaged or not a torch.save file ({told}; {path.stat().st_size} bytes); copy or make it again"
        )
    raise ValueError(f"{path} {reason}")


def read_start(path: Path, expected: str = "a torch.save file") -> bytes:
    """The first bytes of a file, for whoever reads the rest.

    Raises:
        ValueError: it is missing, may not be read, is no file, or begins as files of another kind do.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path} {folder_kind(path)}")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is a pipe or a device; expected a file, save what comes from it first")
        with open(path, "rb") as stream:
            start = stream.read(START)
        kind = beginning_kind(start, path.stat().st_size)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); expected {expected}") from None
    if kind:
        raise ValueError(f"{path} {kind}")
    return start


class _Unusable(Exception):
    """What is wrong with a file and what to do, to go behind its name."""


@contextlib.contextmanager
def _refusals_of_content() -> Iterator[None]:
    """What is refused of a file that is whole, such as an array of texts, is no damage."""
    try:
        yield
    except NotPermitted:
        raise
    except ValueError as error:
        told = " ".join(str(error).split())[:150]
        raise _Unusable(f"cannot be used ({told}); save it again with tensors, arrays of numbers and texts") from None


def _read_archive(path: Path) -> Any:
    """Of an archive that holds no more than its size (``torch.save`` compresses nothing)."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise _Unusable(f"is cut off after {size} bytes: an archive without its end; copy or download it again")
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        kind = archive_kind(list(members))
        if kind:
            raise _Unusable(kind)
        if sum(member.file_size for member in members.values()) > size:
            raise _Unusable("is packed: it holds more than its size; save it again with torch.save")
        pickles = {name: archive.read(name) for name in members if name.endswith(".pkl")}
        protocols = [check_pickle(io.BytesIO(content), len(content)) for content in pickles.values()]
        if set(protocols) == {2}:
            with _refusals_of_content(), torch.serialization.safe_globals(_NUMPY_TYPES):
                return torch.load(path, map_location="cpu", weights_only=True)
        name = next(name for name in pickles if name.endswith("/data.pkl"))
        folder = name.removesuffix("data.pkl")
        if members.get(folder + "byteorder") and archive.read(folder + "byteorder") != b"little":
            raise _Unusable("was saved by a machine of the other byte order; save it again with pickle_protocol=2")

        with _refusals_of_content():
            return load_pickle(pickles[name], lambda key, expected: archive.read(f"{folder}data/{key}"))


def _read_stream(path: Path, start: bytes) -> Any:
    """Of torch's format before archives, or of a pickle that another tool wrote."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if _OLDER_FORMAT not in start[:32]:
            content = stream.read()
            check_pickle(io.BytesIO(content), size)
            with _refusals_of_content():
                return load_pickle(content)
        protocols = [check_pickle(stream, size) for _ in range(_PICKLES)]
    if max(protocols) > 2:
        raise _Unusable("is of torch's older format in another pickle protocol; save it again with pickle_protocol=2")
    try:
        with _refusals_of_content(), torch.serialization.safe_globals(_NUMPY_TYPES):
            return torch.load(path, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        missing = re.search(r"expected (\d+) more bytes", str(error))
        if missing is None:
            raise
        raise _Unusable(f"is cut off after {size} bytes, {missing[1]} are missing; copy it again") from None


def _how_to_save_again(path: Path, error: NotPermitted) -> str:
    """The refusal of a file that needs other objects, with the line of Python that saves it without them."""
    kept = tuple(key for key in _KEPT if key in error.texts)
    saved = f"{{k: c[k] for k in {kept} if k in c}}" if kept else "{k: v for k, v in c.items() if torch.is_tensor(v)}"
    if any(name.startswith("torch.nn.modules.") for name in error.names):  # a whole model, not its parameters
        saved = "c.state_dict()"
    return (
        f"needs {some(error.names)} to be loaded, which could run code; refused. Expected tensors and numpy arrays "
        f"only: if you trust it, save it again where it was made: import torch; c = torch.load({str(path)!r}, 'cpu', "
        f"weights_only=False); torch.save({saved}, 'plain.pt')"
    )


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
