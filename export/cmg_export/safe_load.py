"""Open files that strangers made, without running anything that they carry."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from cmg_export.errors import CheckpointError

_MULTIARRAY: Any = getattr(np, "_core", None) or np.core  # numpy 2 renamed the package, and pickles name it
_FUNCTIONS = ("_reconstruct", "scalar")
_NUMPY_TYPES: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    *[
        (getattr(_MULTIARRAY.multiarray, function), f"numpy.{package}.multiarray.{function}")
        for package in ("core", "_core")
        for function in _FUNCTIONS
    ],
]
"""What a numpy array of numbers needs to be unpickled, under the names of numpy 1 and of numpy 2."""


def load_torch_file(path: Path) -> dict[str, Any]:
    """The dict in a ``torch.save`` file that holds nothing but containers, numbers, tensors and numpy arrays.

    Raises:
        CheckpointError: missing or unreadable file, not a dict, or one that needs other objects; those are
            never built.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}); expected a torch.save file") from None
    try:
        with torch.serialization.safe_globals(_NUMPY_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickle protocols; the user cannot act on it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can fail in any way; none of them may pass as a bug
        raise CheckpointError(_why_not_loaded(path, str(error))) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dict, as torch.save(...) writes it")
    return content


def _why_not_loaded(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"class ([\w.]+)", message)
    if found:
        return (
            f"{path} needs {found[1]} to be loaded, which could run code; refused. "
            "Expected tensors and numpy arrays only: save the state_dict again without other objects"
        )
    return f"{path} is damaged or not a torch.save file; expected a checkpoint, copy or train it again"


def load_yaml_file(path: Path) -> Any:
    """The content of a YAML file; tags that name Python objects are refused.

    Raises:
        CheckpointError: missing or unreadable file, or not plain YAML.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.safe_load(stream)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}); expected a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"{path} is not plain YAML ({' '.join(str(error).split())})") from None
