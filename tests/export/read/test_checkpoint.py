"""Every form of checkpoint that users have loads; every broken one is refused in one line, and runs nothing."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from make_checkpoint import FORMS, make_checkpoint, make_stats, save_checkpoint

SIZES: list[dict[str, int]] = [
    {"num_joints": 23, "hidden_dim": 40, "num_experts": 6, "num_layers": 4},
    {"num_joints": 3, "hidden_dim": 8, "num_experts": 1, "num_layers": 1, "command_dim": 1, "gating_hidden_dim": 5},
    {"num_joints": 29, "hidden_dim": 17, "num_experts": 2, "num_layers": 2, "gating_hidden_dim": 9},
]


def refusal(path: Path, data: Path | None = None) -> str:
    """The one line that a checkpoint is refused with."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, data)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_loads_every_form_and_size(tmp_path: Path, seed: int, form: str, sizes: dict[str, int]) -> None:
    made = make_checkpoint(tmp_path, form, seed=seed, **sizes)
    checkpoint = load_checkpoint(made.path, made.data)
    made.model.load_state_dict(checkpoint.state_dict, strict=True)
    found = checkpoint.sizes
    assert (found.num_joints, found.num_experts, found.num_layers) == tuple(
        sizes[key] for key in ("num_joints", "num_experts", "num_layers")
    )
    assert found.command_dim == sizes.get("command_dim", 3)
    assert found.gating_hidden_dim == sizes.get("gating_hidden_dim", sizes["hidden_dim"])
    for key in ("motion_mean", "motion_std", "command_min", "command_max"):
        np.testing.assert_array_equal(np.asarray(getattr(checkpoint.stats, key), np.float32), made.stats[key])
    assert checkpoint.stats_from == (made.data.name if made.data else "checkpoint")


@pytest.mark.parametrize("name", ["cmg_training_data.pt", "stats.yaml", "stats.yml"])
def test_finds_the_stats_beside_the_checkpoint(tmp_path: Path, seed: int, name: str) -> None:
    made = make_checkpoint(tmp_path, "bare+data" if name.endswith("pt") else "bare+yaml", num_joints=2, seed=seed)
    assert made.data is not None
    made.data.rename(tmp_path / name)
    assert load_checkpoint(made.path).stats_from == name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_strips_the_prefixes_of_wrappers(tmp_path: Path, seed: int, prefix: str) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    wrapped = {prefix + name: value for name, value in made.model.state_dict().items()}
    path, _ = save_checkpoint(tmp_path, wrapped, made.stats, "full")
    assert load_checkpoint(path).state_dict.keys() == made.model.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_takes_weights_of_other_float_types(tmp_path: Path, seed: int, dtype: torch.dtype) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    state = {name: value.to(dtype) for name, value in made.model.state_dict().items()}
    path, _ = save_checkpoint(tmp_path, state, made.stats, "full")
    for name, value in load_checkpoint(path).state_dict.items():
        torch.testing.assert_close(value, state[name].float(), rtol=0, atol=0)


def test_reads_arrays_pickled_by_numpy_1(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    rewrite_pickle(made.path, b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(
        np.asarray(load_checkpoint(made.path).stats.motion_std, np.float32), made.stats["motion_std"]
    )


def test_stats_given_twice_must_agree(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    _, same = save_checkpoint(tmp_path / "same", made.model.state_dict(), made.stats, "bare+yaml")
    assert load_checkpoint(made.path, same).stats_from == "checkpoint"
    other = make_stats(2, 3, seed + 1)
    _, differing = save_checkpoint(tmp_path / "other", made.model.state_dict(), other, "bare+data")
    assert "other stats" in refusal(made.path, differing)


SAMPLES: dict[str, tuple[str, Any]] = {
    "as they are": ("", lambda motion, command: (motion, command)),
    "others, as many": ("", lambda motion, command: (motion[::2], command * 0.9)),
    "degrees": ("motion_", lambda motion, command: (np.degrees(motion), command)),
    "velocities in degrees": ("motion_std", lambda motion, command: (motion * [1, 1, 1, 57.3, 57.3, 57.3], command)),
    "another order": ("motion_mean", lambda motion, command: (motion[:, [1, 2, 0, 4, 5, 3]], command)),
    "turns in degrees": ("command_max[2]", lambda motion, command: (motion, command * [1, 1, 57.3])),
    "km/h in the stats": ("command_max[0]", lambda motion, command: (motion, command / [4.2, 1, 1])),
}


@pytest.mark.parametrize("case", SAMPLES)
def test_stats_that_contradict_the_samples_beside_them(
    tmp_path: Path, seed: int, rng: np.random.Generator, case: str
) -> None:
    said, edit = SAMPLES[case]
    made = make_checkpoint(tmp_path, "bare+data", num_joints=3, hidden_dim=8, seed=seed)
    made.stats["motion_mean"][:3], made.stats["motion_std"][:3] = rng.permutation([-0.9, 0.1, 0.8]), 0.2
    made.stats["command_min"][:], made.stats["command_max"][:] = -1.5, 2.0
    _, data = save_checkpoint(tmp_path, made.model.state_dict(), made.stats, "bare+data")
    assert data is not None
    content = torch.load(data, weights_only=False)
    for sample in content["samples"]:
        altered = edit(sample["motion"].astype(np.float64), sample["command"].astype(np.float64))
        sample["motion"], sample["command"] = (values.astype(np.float32) for values in altered)
    torch.save(content, data)
    if said:
        message = refusal(made.path, data)
        assert said in message and "in the samples beside them" in message and str(data) in message
    else:
        load_checkpoint(made.path, data)


def test_reads_card_and_bank(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    low, high = made.stats["command_min"] / 2, made.stats["command_max"] / 2
    card = {
        "name": "walker",
        "joint_names": ["b", "a"],
        "command_range": {"min": low.tolist(), "max": high.tolist()},
        "default_dof_pos": [0.5, -0.25],
        "license": "CC-BY-4.0",
        "attribution": "somebody",
        "recipe": {"anything": "else"},
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    bank = rng.normal(size=(7, 4)).astype(np.float32)
    np.savez(tmp_path / "bank.npz", motion=bank)
    checkpoint = load_checkpoint(made.path)
    assert checkpoint.card.joint_names == ("b", "a")
    assert checkpoint.card.default_dof_pos == (0.5, -0.25)
    assert checkpoint.card.command_range is not None
    assert checkpoint.card.command_range.source == "card"
    np.testing.assert_array_equal(np.asarray(checkpoint.card.command_range.min, np.float32), low)
    assert checkpoint.bank is not None
    np.testing.assert_array_equal(checkpoint.bank, bank)
    assert set(checkpoint.sha256) == {"checkpoint", "card", "bank"}


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["checkpoint", "stats", "data"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, seed: int, zipped: bool, place: str) -> None:
    marker = tmp_path / "it_ran"
    made = make_checkpoint(tmp_path, "bare+data", num_joints=2, seed=seed)
    assert made.data is not None
    state = made.model.state_dict()
    path, content = {
        "checkpoint": (made.path, {**state, "extra": Hostile(marker)}),
        "stats": (made.path, {"model_state_dict": state, "stats": {**made.stats, "note": Hostile(marker)}}),
        "data": (made.data, {"samples": [Hostile(marker)], "stats": made.stats}),
    }[place]
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(made.path, None if place == "stats" else made.data)
    assert not marker.exists()
    assert "refused" in message
    assert "mkdir" in message


def rewrite_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in the pickle of a ``torch.save`` file."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickle_name = next(name for name in records if name.endswith("data.pkl"))
    assert old in records[pickle_name]
    records[pickle_name] = records[pickle_name].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_damaged_files(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    whole = make_checkpoint(tmp_path / "whole", num_joints=2, hidden_dim=8, seed=seed).path.read_bytes()
    legacy = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, legacy, _use_new_zipfile_serialization=False)
    path = tmp_path / "damaged.pt"
    contents = [b"", b"not a checkpoint", bytes(rng.bytes(4096)), legacy.getvalue()[:-7]]
    contents += [whole[: int(cut)] for cut in rng.integers(1, len(whole) - 1, 12)]
    for content in contents:
        path.write_bytes(content)
        assert str(path) in refusal(path)
    assert "no such file" in refusal(tmp_path / "absent.pt").lower()
    assert str(tmp_path) in refusal(tmp_path)


def test_other_contents(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for content in ([torch.zeros(2)], torch.zeros(2), {}, {"model_state_dict": {}}, {"epoch": 3, "loss": 0.5}):
        torch.save(content, path)
        assert str(path) in refusal(path)


def edit_state(state: dict[str, torch.Tensor], case: str) -> str:
    """Spoil a state dict of 3 layers and 4 experts; the parameter that the refusal has to name."""
    name = "layers.1.expert_weights.2"
    if case == "missing":
        del state[name]
    elif case == "missing gate":
        name = "gating.gating_network.2.weight"
        del state[name]
    elif case == "missing layer":
        for key in [key for key in state if key.startswith("layers.1.")]:
            del state[key]
        name = "layers.1."
    elif case == "missing last layer":
        for key in [key for key in state if key.startswith("layers.2.")]:
            del state[key]
        name = "layers.1"
    elif case == "extra":
        name = "layers.1.expert_weights.4"
        state[name] = torch.zeros(3)
    elif case == "unknown":
        name = "critic.weight"
        state[name] = torch.zeros(3)
    elif case == "shape":
        state[name] = state[name][:, 1:]
    elif case == "transposed":
        name = "layers.0.expert_weights.1"
        state[name] = state[name].T.contiguous()
    elif case == "dimensions":
        name = "layers.0.expert_weights.0"
        state[name] = state[name].flatten()
    elif case == "nan":
        state[name][3, 1] = float("nan")
    elif case == "inf":
        name = "layers.2.expert_biases.0"
        state[name][0] = -float("inf")
    elif case == "too large for float32":
        state[name] = state[name].double() * 1e300
    elif case == "integers":
        state[name] = state[name].long()
    return name


STATE_CASES = (
    "missing", "missing gate", "missing layer", "missing last layer", "extra", "unknown", "shape", "transposed",
    "dimensions", "nan", "inf", "too large for float32", "integers",
)  # fmt: skip


@pytest.mark.parametrize("case", STATE_CASES)
def test_spoiled_parameters_are_named(tmp_path: Path, seed: int, case: str) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed)
    state = {name: value.clone() for name, value in made.model.state_dict().items()}
    name = edit_state(state, case)
    path, _ = save_checkpoint(tmp_path, state, made.stats, "full")
    assert name in refusal(path)


STATS_CASES: list[tuple[str, Any]] = [
    ("motion_std", lambda v: v * 0),
    ("motion_std", lambda v: -v),
    ("motion_std", lambda v: v * 1e-46),
    ("motion_std", lambda v: v * np.nan),
    ("motion_std", lambda v: v[:-1]),
    ("motion_mean", lambda v: np.append(v, 0)),
    ("motion_mean", lambda v: v * np.inf),
    ("motion_mean", lambda v: v[None]),
    ("motion_mean", lambda v: ["a"] * len(v)),
    ("motion_mean", lambda v: None),
    ("command_min", lambda v: v[:2]),
    ("command_max", lambda v: -v - 10),
    ("num_joints", lambda v: v + 1),
    ("motion_dim", lambda v: v + 2),
    ("command_dim", lambda v: v - 1),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("key", "edit"), STATS_CASES)
def test_spoiled_stats_are_named(tmp_path: Path, seed: int, form: str, key: str, edit: Any) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed)
    stats = {**made.stats, key: edit(made.stats[key])}
    path, data = save_checkpoint(tmp_path, made.model.state_dict(), stats, form)
    assert key in refusal(path, data)


def test_command_range_must_not_be_empty(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed)
    index = int(rng.integers(3))
    made.stats["command_max"][index] = made.stats["command_min"][index]
    path, _ = save_checkpoint(tmp_path, made.model.state_dict(), made.stats, "full")
    assert f"command_min[{index}]" in refusal(path)


def test_stats_that_are_not_there(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, "bare+yaml", num_joints=2, hidden_dim=8, seed=seed)
    assert made.data is not None
    assert "--data" in refusal(made.path)
    assert "absent.yaml" in refusal(made.path, tmp_path / "absent.yaml")
    for text in ("- 1\n- 2\n", "motion_mean: [1, 2\n", "", "a: !!python/object/apply:os.getcwd []\n", "\0"):
        made.data.write_text(text)
        assert str(made.data) in refusal(made.path, made.data)
    made.data.write_text("motion_mean: [0, 0, 0, 0]\n")
    assert "motion_std is missing" in refusal(made.path, made.data)


CARDS: list[tuple[str, Any]] = [
    ("cannot be read", "{"),
    ("holds a list", []),
    ("name", {"name": 3}),
    ("joint_names", {"joint_names": ["a"]}),
    ("joint_names", {"joint_names": ["a", "a"]}),
    ("joint_names", {"joint_names": "ab"}),
    ("default_dof_pos", {"default_dof_pos": [1.0]}),
    ("default_dof_pos", {"default_dof_pos": [1.0, None]}),
    ("command_range", {"command_range": [0, 1]}),
    ("max is missing", {"command_range": {"min": [0, 0, 0]}}),
    ("command_range.min[1]", {"command_range": {"min": [-0.1, 0.1, 0], "max": [0.1, 0.1, 0.1]}}),
    ("command_range[2]", {"command_range": {"min": [-0.1, -0.1, -9], "max": [0.1, 0.1, 0.1]}}),
]


@pytest.mark.parametrize(("part", "card"), CARDS)
def test_spoiled_card(tmp_path: Path, seed: int, part: str, card: Any) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed)
    (tmp_path / "card.json").write_text(card if isinstance(card, str) else json.dumps(card))
    message = refusal(made.path)
    assert "card.json" in message
    assert part in message


def test_spoiled_bank(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed)
    bank = tmp_path / "bank.npz"
    arrays: list[dict[str, np.ndarray]] = [
        {"states": np.zeros((3, 4), np.float32)},
        {"motion": np.zeros((3, 5), np.float32)},
        {"motion": np.zeros((0, 4), np.float32)},
        {"motion": np.zeros(4, np.float32)},
        {"motion": np.zeros((3, 4), np.int64)},
        {"motion": np.full((3, 4), np.nan, np.float32)},
        {"motion": np.array([[Hostile(tmp_path / "it_ran")] * 4], dtype=object)},
    ]
    for content in arrays:
        np.savez(bank, **content)  # pyright: ignore[reportArgumentType]
        assert "bank.npz" in refusal(made.path)
    bank.write_bytes(b"PK")
    assert "bank.npz" in refusal(made.path)
    assert not (tmp_path / "it_ran").exists()
