"""Open files that strangers made, without running anything that they carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent

from cmg_export.errors import CheckpointError
from CMG_Ref.checkpoint_io import read_pt


def load_torch_file(path: Path) -> dict[str, Any]:
    """The dict in a ``torch.save`` file that holds nothing but containers, numbers, tensors and numpy arrays.

    Raises:
        CheckpointError: missing or unreadable file, not a dict, or one that needs other objects; those are
            never built.
    """
    try:
        content = read_pt(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dict, as torch.save(...) writes it")
    return content


def load_yaml_file(path: Path) -> Any:
    """The content of a YAML file; tags that name Python objects are refused.

    Raises:
        CheckpointError: missing or unreadable file, or not plain YAML.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.load(stream, _PlainLoader)
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}); expected a YAML file") from None
    except RecursionError:
        raise CheckpointError(f"{path} is nested too deeply; expected a mapping with motion_mean, ...") from None
    except Exception as error:  # values that do not fit their tags fail in many ways inside the library
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{path} is not plain YAML ({reason})") from None


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            raise yaml.YAMLError("it has aliases (*name); write the values out")
        return super().compose_node(parent, index)
