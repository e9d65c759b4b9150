"""Parameters of a checkpoint: find them wherever they lie, work out the sizes, compare name by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.files.words import shown, some
from cmg_runtime.folder.manifest import Sizes

_WRAPPERS = re.compile(r"(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DataParallel, torch.compile, FSDP and checkpointing put into names; at the front it is one prefix of many."""

_OWN_NAME = re.compile(
    r"(?:^|\.)((?:gating\.(?:W)*gating_network\.(?:W)*\d+\.(?:W)*(?:weight|bias))"
    r"|(?:layers\.(?:W)*\d+\.(?:W)*expert_(?:weights|biases)\.(?:W)*\d+))$".replace("W", _WRAPPERS.pattern)
)
_AVERAGE = re.compile(r"(^|[._\[])(ema|swa|avg|averaged?|shadow|polyak|target)([._]|$)")
_BOOKKEEPING = {"n_averaged", "initted", "step", "num_updates", "decay"}
"""What moving averages keep beside their parameters."""

_FIRST = {"model_state_dict": 0, "": 1, "state_dict": 2, "model": 3}
"""Which parameters are taken of several; averages come behind all others."""

_DEEPEST = 5
_MOST_PLACES = 1000


@dataclass(frozen=True)
class Weights:
    """The parameters that were taken from a checkpoint.

    Attributes:
        state_dict: parameter name -> float32 tensor on the CPU, named as ``CMG_Ref.module.CMG``'s.
        found: where they lay, such as "model_state_dict", "top level" or "ema.model[module.*]" (names after
            "module.").
        others: where the checkpoint has other parameters of a CMG.
    """

    state_dict: dict[str, torch.Tensor]
    found: str
    others: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What was taken, and what else was there, in a few words."""
        if not self.others:
            return f"weights from {self.found}"
        listed = ", ".join(self.others)
        return f"weights from {self.found} (not from {listed}; python -m CMG_Ref.checkpoint writes one of them alone)"


@dataclass(frozen=True)
class _Place:
    """One set of a CMG's parameters: name -> value, the name of the place, and its place among others."""

    name: str
    order: tuple[bool, int, bool]
    values: dict[str, Any]


def read_weights(content: Any, path: Path, take: str | None = None) -> Weights:
    """The parameters in what a checkpoint's file holds.

    They may lie at the top level or in dictionaries at any place, ``model_state_dict``, ``state_dict``, ``model`` or
    ``ema`` for example, behind any prefix (``module.``, ``model.``, ``ema_model.``, ...). Of several the first in
    that order are taken, moving averages last.

    Args:
        content: of the file.
        path: of the file, for messages.
        take: the name of the place to take them from instead.

    Raises:
        ValueError: no parameters there, one that is no float tensor, or one that is not finite.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a dict, as torch.save(...) writes it")
    places = sorted(_places(content), key=lambda place: place.order)
    if not places:
        raise ValueError(f"{path} {_what_instead(content)}")
    chosen = places[0]
    if take is not None:
        found = [place for place in places if place.name == take]
        if not found:
            raise ValueError(f"{path} has no weights called {take}; it has {_names(place.name for place in places)}")
        chosen = found[0]
    tensors = {name: _tensor(name, value, path) for name, value in chosen.values.items()}
    return Weights(tensors, chosen.name, tuple(place.name for place in places if place is not chosen))


def _places(content: dict[Any, Any]) -> list[_Place]:
    """All sets of a CMG's parameters in nested dictionaries; each dictionary is looked at once."""
    found: list[_Place] = []
    left, seen = [("", content)], set()
    while left and len(seen) < _MOST_PLACES:
        where, values = left.pop(0)
        if id(values) in seen or where.count(".") >= _DEEPEST:
            continue
        seen.add(id(values))
        found += _places_in(where, values)
        for key, value in values.items():
            if isinstance(value, dict) and not str(key).startswith(("optim", "exp_avg")):
                left.append((f"{where}.{shown(key)}" if where else shown(key), value))
    return found


def _places_in(where: str, values: dict[Any, Any]) -> list[_Place]:
    """The sets of parameters in one dictionary, one for each prefix; with whatever else has the same prefix."""
    sets: dict[str, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for key, value in values.items():
        match = _OWN_NAME.search(str(key))
        if match is None or not isinstance(value, (torch.Tensor, np.ndarray)):
            rest[str(key)] = value
            continue
        parameters = sets.setdefault(str(key)[: match.start(1)], {})
        own = _WRAPPERS.sub("", match[1])
        parameters[own if own not in parameters else match[1]] = value
    known = _BOOKKEEPING | (set() if where else {"stats"})
    places = []
    for prefix, parameters in sets.items():
        others = tuple(other for other in sets if other != prefix and other.startswith(prefix))
        inside = [name for name in rest if name.startswith(prefix) and not name.startswith(others)]
        parameters |= {name.removeprefix(prefix): rest[name] for name in inside if name not in known}
        name = (where or "top level") + (f"[{shown(prefix)}*]" if prefix else "")
        average = bool(_AVERAGE.search(f"{where}.{prefix}".lower()))
        places.append(_Place(name, (average, _FIRST.get(where, 4), prefix != ""), parameters))
    return places


def _what_instead(content: dict[Any, Any]) -> str:
    weights = content.get("model_state_dict", content)
    if not isinstance(weights, dict) or not weights:
        return (
            "has a model_state_dict without parameters; expected name -> tensor" if content else "holds an empty dict"
        )
    inside = "its model_state_dict has" if weights is not content else "it has"
    return (
        f"has no parameters of a CMG ({inside}: {_names(weights)}); expected layers.0.expert_weights.0, ... at the top "
        "level or in model_state_dict, state_dict, model or ema"
    )


def _tensor(name: str, value: Any, path: Path) -> torch.Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"{path}: parameter {shown(name)} is a {kind}; expected a floating-point tensor")
    if value.layout != torch.strided or value.is_meta:
        raise ValueError(f"{path}: parameter {shown(name)} is sparse or has no values; expected a dense tensor")
    tensor = value.detach().to(torch.float32).contiguous()
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{path}: parameter {shown(name)} holds NaN or infinite values; expected finite weights")
    return tensor


def read_sizes(state_dict: dict[str, torch.Tensor], path: Path) -> Sizes:
    """Sizes of the network, after comparing every parameter's name and shape with what they imply.

    Raises:
        ValueError: naming the missing or unexpected parameters, or the shape that does not fit.
    """
    layers = [int(match[1]) for name in state_dict if (match := re.match(r"layers\.(\d+)\.", name))]
    last_layer = max(layers, default=0)
    if last_layer >= len(state_dict):
        raise ValueError(
            f"{path}: unexpected parameters of layers.{last_layer}; expected layers numbered from 0 without gaps"
        )
    gate_in = _matrix(state_dict, "gating.gating_network.0.weight", path)
    gate_out = _matrix(state_dict, "gating.gating_network.2.weight", path)
    first = _matrix(state_dict, "layers.0.expert_weights.0", path)
    last = _matrix(state_dict, f"layers.{last_layer}.expert_weights.0", path)
    motion_dim, command_dim = last.shape[1], gate_in.shape[1] - last.shape[1]
    if command_dim < 1 or motion_dim < 2 or motion_dim % 2:
        raise ValueError(
            f"{path}: the network takes {gate_in.shape[1]} values and its last layer, layers.{last_layer}, gives "
            f"{motion_dim}; expected an even motion state and, on the way in, a command beside it"
        )
    sizes = Sizes(
        motion_dim=motion_dim,
        command_dim=command_dim,
        num_joints=motion_dim // 2,
        hidden_dim=first.shape[1],
        gating_hidden_dim=gate_in.shape[0],
        num_experts=gate_out.shape[0],
        num_layers=last_layer + 1,
    )
    _compare(state_dict, _expected_shapes(sizes), path)
    return sizes


def _names(names: Iterable[Any]) -> str:
    return some(names, most=6, longest=100)


def _matrix(state_dict: dict[str, torch.Tensor], name: str, path: Path) -> torch.Tensor:
    if name not in state_dict:
        raise ValueError(f"{path}: parameter {name} is missing (there are: {_names(state_dict)})")
    if state_dict[name].dim() != 2 or 0 in state_dict[name].shape:
        raise ValueError(f"{path}: parameter {name} has shape {list(state_dict[name].shape)}; expected a matrix")
    return state_dict[name]


def _expected_shapes(sizes: Sizes) -> dict[str, list[int]]:
    width_in = sizes.motion_dim + sizes.command_dim
    shapes = {
        "gating.gating_network.0.weight": [sizes.gating_hidden_dim, width_in],
        "gating.gating_network.0.bias": [sizes.gating_hidden_dim],
        "gating.gating_network.2.weight": [sizes.num_experts, sizes.gating_hidden_dim],
        "gating.gating_network.2.bias": [sizes.num_experts],
    }
    widths = [width_in] + [sizes.hidden_dim] * (sizes.num_layers - 1) + [sizes.motion_dim]
    for layer in range(sizes.num_layers):
        for expert in range(sizes.num_experts):
            shapes[f"layers.{layer}.expert_weights.{expert}"] = widths[layer : layer + 2]
            shapes[f"layers.{layer}.expert_biases.{expert}"] = [widths[layer + 1]]
    return shapes


def _compare(state_dict: dict[str, torch.Tensor], shapes: dict[str, list[int]], path: Path) -> None:
    missing = [name for name in shapes if name not in state_dict]
    if missing:
        raise ValueError(f"{path}: parameters are missing: {_names(missing)}")
    extra = [name for name in state_dict if name not in shapes]
    if extra:
        raise ValueError(f"{path}: parameters that no CMG of this size has: {_names(extra)}")
    for name, shape in shapes.items():
        found = list(state_dict[name].shape)
        if found != shape:
            raise ValueError(f"{path}: parameter {name} has shape {found}; expected {shape}")
