"""Checkpoints in every form that users have them and other code saves them: one reader, and every command uses it."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref import eval_cmg, make_bank
from CMG_Ref import train as train_command
from CMG_Ref.checkpoint import __main__ as checkpoint_command
from CMG_Ref.checkpoint.reader import as_reference, read_checkpoint
from CMG_Ref.evaluation.rollouts import Model
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import default_dof_pos
from hostile_files import archive, members
from make_checkpoint import FORMS, make_checkpoint, make_stats, save_checkpoint
from training_case import make_data

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
State = dict[str, torch.Tensor]

SIZES: list[dict[str, int]] = [
    {"num_joints": 23, "hidden_dim": 40, "num_experts": 6, "num_layers": 4},
    {"num_joints": 3, "hidden_dim": 8, "num_experts": 1, "num_layers": 1, "command_dim": 1, "gating_hidden_dim": 5},
    {"num_joints": 29, "hidden_dim": 17, "num_experts": 2, "num_layers": 2, "gating_hidden_dim": 9},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sizes", SIZES)
def test_loads_every_form_and_size(tmp_path: Path, seed: int, form: str, sizes: dict[str, int]) -> None:
    made = make_checkpoint(tmp_path, form, seed=seed, **sizes)
    checkpoint = load_checkpoint(made.path, made.data)
    made.model.load_state_dict(checkpoint.state_dict, strict=True)
    usual = {"command_dim": 3, "gating_hidden_dim": sizes["hidden_dim"]}
    for name, size in {**usual, **sizes}.items():
        if name != "hidden_dim" or sizes["num_layers"] > 1:  # else nothing is hidden
            assert getattr(checkpoint.sizes, name) == size
    for key in ("motion_mean", "motion_std", "command_min", "command_max"):
        np.testing.assert_array_equal(np.asarray(getattr(checkpoint.stats, key), np.float32), made.stats[key])
    assert checkpoint.stats_from == (made.data.name if made.data else "checkpoint")


def test_finds_the_stats_beside_the_checkpoint(tmp_path: Path, seed: int) -> None:
    for name in ("cmg_training_data.pt", "stats.yaml", "stats.yml"):
        form = "bare+data" if name.endswith("pt") else "bare+yaml"
        made = make_checkpoint(tmp_path / name, form, num_joints=2, seed=seed)
        assert made.data is not None
        made.data.rename(made.path.with_name(name))
        assert load_checkpoint(made.path).stats_from == name


def test_reads_arrays_pickled_by_numpy_1(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    files = members(made.path.read_bytes())
    name = next(name for name in files if name.endswith("data.pkl"))
    old = files[name].replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != files[name]
    made.path.write_bytes(archive({**files, name: old}))
    found = np.asarray(load_checkpoint(made.path).stats.motion_std, np.float32)
    np.testing.assert_array_equal(found, made.stats["motion_std"])


def test_stats_given_twice_must_agree(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    state, other = made.model.state_dict(), make_stats(2, 3, seed + 1)
    _, same = save_checkpoint(tmp_path / "same", state, made.stats, "bare+yaml")
    assert load_checkpoint(made.path, same).stats_from == "checkpoint"
    _, differing = save_checkpoint(tmp_path / "other", state, other, "bare+data")
    with pytest.raises(CheckpointError, match=r"^.*other stats.*\Z"):
        load_checkpoint(made.path, differing)


def test_reads_card_and_bank(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    made = make_checkpoint(tmp_path, num_joints=2, seed=seed)
    low, high = made.stats["command_min"] / 2, made.stats["command_max"] / 2
    card = {"name": "walker", "joint_names": ["b", "a"], "default_dof_pos": [0.5, -0.25], "license": "CC-BY-4.0"}
    card |= {"command_range": {"min": low.tolist(), "max": high.tolist()}, "recipe": {"anything": "else"}}
    (tmp_path / "card.json").write_text(json.dumps(card))
    bank = rng.normal(size=(7, 4)).astype(np.float32)
    np.savez(tmp_path / "bank.npz", motion=bank)
    checkpoint = load_checkpoint(made.path)
    assert checkpoint.card.joint_names == ("b", "a") and checkpoint.card.default_dof_pos == (0.5, -0.25)
    assert checkpoint.card.command_range is not None and checkpoint.card.command_range.source == "card"
    np.testing.assert_array_equal(np.asarray(checkpoint.card.command_range.min, np.float32), low)
    assert checkpoint.bank is not None
    np.testing.assert_array_equal(checkpoint.bank, bank)
    assert set(checkpoint.sha256) == {"checkpoint", "card", "bank"}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def shifted(state: State) -> State:
    """The same network trained on: other values."""
    return {name: value + 0.125 for name, value in state.items()}


def averaged(model: CMG) -> dict[str, Any]:
    """What torch's own moving average of a compiled model saves."""
    return AveragedModel(torch.nn.DataParallel(model), multi_avg_fn=get_ema_multi_avg_fn(0.9)).state_dict()


def inner_wrappers(state: State) -> State:
    """Every layer compiled by itself, the gate checkpointed."""
    renamed = {name.replace("layers.1.", "layers.1._orig_mod."): value for name, value in state.items()}
    return {name.replace("gating.", "gating._checkpoint_wrapped_module."): value for name, value in renamed.items()}


MSD, DEEP = "model_state_dict", "agent.generator.net[_orig_mod.module.*]"
WRAPPED: dict[str, tuple[str, Callable[[CMG, State], dict[str, Any]]]] = {
    "compiled": (f"{MSD}[_orig_mod.*]", lambda m, s: {MSD: prefixed(s, "_orig_mod.")}),
    "bare": ("top level", lambda m, s: dict(s)),
    "bare, wrapped": ("top level[module._orig_mod.*]", lambda m, s: prefixed(s, "module._orig_mod.")),
    "lightning": ("state_dict[model.*]", lambda m, s: {"state_dict": {**prefixed(s, "model."), "w": torch.ones(1)}}),
    "model": ("model", lambda m, s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}),
    "deep": (DEEP, lambda m, s: {"agent": {"generator": {"net": prefixed(s, "_orig_mod.module.")}}}),
    "only ema": ("ema.model[module.*]", lambda m, s: {"ema": {"model": prefixed(s, "module.")}}),
    "torch's average": (f"{MSD}[module.module.*]", lambda m, s: {MSD: averaged(m)}),
    "layers wrapped": (MSD, lambda m, s: {MSD: inner_wrappers(s)}),
    "timm": ("state_dict", lambda m, s: {"state_dict": s, "state_dict_ema": shifted(s), "arch": "cmg"}),
    "average and not": (MSD, lambda m, s: {"ema": {"model": shifted(s)}, "model": shifted(s), MSD: s}),
    "wrapped and not": ("top level", lambda m, s: {**prefixed(shifted(s), "module."), **s}),
    "arrays": ("model", lambda m, s: {"model": {name: value.numpy() for name, value in s.items()}}),
    "halves": (MSD, lambda m, s: {MSD: {name: value.bfloat16() for name, value in s.items()}}),
    "doubles": (MSD, lambda m, s: {MSD: {name: value.double() for name, value in s.items()}}),
}
"""How it is saved -> where the reader says that it found the weights, and what makes the file's content."""


def outputs(model: Model, dims: tuple[int, int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return model(*(torch.randn(5, dim, generator=generator, dtype=torch.float64) for dim in dims))


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_wherever_they_lie(tmp_path: Path, seed: int, form: str) -> None:
    made = make_checkpoint(tmp_path / "made", num_joints=4, hidden_dim=9, num_experts=3, num_layers=2, seed=seed)
    made.model.bfloat16().float()  # so that halves are exact
    found, build = WRAPPED[form]
    path = tmp_path / "x.pt"
    torch.save({**build(copy.deepcopy(made.model), made.model.state_dict()), "stats": made.stats}, path)
    expected = outputs(made.model.double(), (8, 3), seed)
    checkpoint = load_checkpoint(path)
    assert checkpoint.weights.found == found and found in checkpoint.weights.note
    assert checkpoint.stats_from == "checkpoint" and checkpoint.state_dict.keys() == made.model.state_dict().keys()
    assert {value.dtype for value in checkpoint.state_dict.values()} == {torch.float32}
    model, _ = as_reference(read_checkpoint(path), dtype=torch.float64)
    assert torch.equal(outputs(model, (8, 3), seed), expected)


def test_of_several_the_others_are_named_and_can_be_taken(
    tmp_path: Path, seed: int, monkeypatch: Patch, capsys: Capture
) -> None:
    made = make_checkpoint(tmp_path / "made", num_joints=2, hidden_dim=8, seed=seed)
    path, out = tmp_path / "x.pt", tmp_path / "new" / "ema.pt"
    state = made.model.state_dict()
    other = {name: value * 0.5 for name, value in state.items()}
    averages = {**prefixed(shifted(state), "online_model."), **prefixed(state, "ema_model."), "step": torch.tensor([7])}
    torch.save({"model": other, "ema": averages, "stats": made.stats}, path)
    weights = load_checkpoint(path).weights
    assert weights.found == "model"
    assert set(weights.others) == {"ema[online_model.*]", "ema[ema_model.*]"}

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["checkpoint", str(path), *map(str, words)])
        return checkpoint_command.main()

    assert run() == 0
    assert "model" in capsys.readouterr().out
    assert run("--take", "ema[ema_model.*]", "--out", out) == 0
    assert "2 joints" in capsys.readouterr().out
    alone = load_checkpoint(out)
    assert alone.weights.found == "model_state_dict" and not alone.weights.others
    assert all(torch.equal(alone.state_dict[name], value) for name, value in state.items())
    assert alone.stats == load_checkpoint(made.path).stats
    before = path.read_bytes()
    for words, complaint in ((("--take", "nowhere"), "ema[ema_model.*]"), (("--out", path), "another --out")):
        assert run(*words) == 2
        err = capsys.readouterr().err
        assert complaint in err and len(err.splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("tool", ["torch", "pickle"])
def test_every_pickle_protocol(tmp_path: Path, seed: int, rng: np.random.Generator, tool: str) -> None:
    """And what is read and saved again is an ordinary file."""
    made = make_checkpoint(tmp_path / "made", num_joints=2, hidden_dim=8, seed=seed)
    state = dict(made.model.state_dict())
    state["layers.1.expert_weights.0"] = state["layers.1.expert_weights.0"].T.contiguous().T  # with strides of its own
    base, values = torch.randn(40, dtype=torch.float64), 10 * rng.standard_normal((4, 3))
    one_bias = "layers.0.expert_biases.1"
    kinds = ("int8", "uint8", "int16", "int64", "float16", "bfloat16", "bool", "complex64")
    arrays = [values.astype(dtype) for dtype in ("f2", "<f4", ">f8", "i1", "<i8", "?")]
    content = {
        "model_state_dict": {**state, one_bias: torch.nn.Parameter(state[one_bias])},
        "stats": made.stats,
        "tensors": [base[3:9], base[::7], base.view(5, 8)[:, 2], torch.zeros(0, 3), torch.tensor(2.5)],
        "kinds": [torch.arange(5).to(getattr(torch, kind)) for kind in kinds],
        "arrays": [*arrays, *map(np.asfortranarray, arrays)],
        "other": [None, True, -(1 << 70), 2.5, "caf\u00e9", b"\x00\xff", (1, "a"), {3, 4}, 1j, torch.float16],
        "more": [np.float64(0.5), torch.Size([2]), arrays[2][0, 0]],
    }
    path = tmp_path / "x.pt"
    for protocol in (1, 3, 4, 5) if tool == "torch" else (0, 2, 4, 5):
        if tool == "torch":
            torch.save(content, path, pickle_protocol=protocol)
        else:
            path.write_bytes(pickle.dumps(content, protocol))
        for _ in range(2):
            checkpoint = load_checkpoint(path)
            assert all(torch.equal(checkpoint.state_dict[name], value) for name, value in state.items())
            stored = np.asarray(checkpoint.stats.motion_std, np.float32)
            np.testing.assert_array_equal(stored, made.stats["motion_std"])
            read = read_pt(path)
            assert all(read[key] == content[key] for key in ("other", "more"))
            for key in ("tensors", "kinds"):
                for one, other in zip(read[key], content[key], strict=True):
                    assert one.dtype == other.dtype and torch.equal(one, other)
            for one, other in zip(read["arrays"], content["arrays"], strict=True):
                assert one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
                assert np.array_equal(one, other)
            torch.save(read, path)
            assert b"PlainArray" not in path.read_bytes()


@pytest.mark.slow
def test_every_command_reads_a_wrapped_checkpoint(
    tmp_path: Path, seed: int, rng: np.random.Generator, monkeypatch: Patch, capsys: Capture
) -> None:
    """``make_bank`` and ``eval_cmg`` of a G1, and ``train --init``: each says where the weights lay."""
    made = make_checkpoint(tmp_path / "made", hidden_dim=8, num_experts=2, num_layers=2, gain=0.5, seed=seed)
    std = np.array([0.02] * 29 + [1.0] * 29, np.float32)
    stats = {**made.stats, "motion_mean": np.array(default_dof_pos() + [0.0] * 29, np.float32), "motion_std": std}
    path, found = tmp_path / "x.pt", "state_dict[_orig_mod.module.*]"
    torch.save({"state_dict": prefixed(made.model.state_dict(), "_orig_mod.module."), "stats": stats}, path)

    def run(main: Callable[[], int], *words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        return main()

    assert run(make_bank.main, path, "--num-states", 3) == 0
    assert found in capsys.readouterr().out
    frames = ("--num-rollouts", 4, "--num-frames", eval_cmg.MIN_FRAMES)
    assert run(eval_cmg.main, path, *frames, "--device", "cpu", "--bank", tmp_path / "bank.npz") == 1  # untrained
    assert found in capsys.readouterr().out

    small = make_checkpoint(tmp_path / "small", num_joints=3, hidden_dim=12, num_experts=2, num_layers=2, seed=seed)
    torch.save(prefixed(small.model.state_dict(), "module."), tmp_path / "init.pt")
    torch.save(make_data(rng), tmp_path / "data.pt")
    sizes = ("--hidden-dim", 12, "--num-experts", 2, "--num-layers", 2, "--batch-size", 4, "--symmetric-part", 0)
    short = ("--phases", 1, 1, "--learning-rate", 1e-9, "--ema", 0, "--device", "cpu")
    where = ("--data", tmp_path / "data.pt", "--out", tmp_path / "out", "--init", tmp_path / "init.pt")
    assert run(train_command.main, *where, *sizes, *short) == 0
    assert "top level[module.*]" in capsys.readouterr().out
    trained = read_checkpoint(tmp_path / "out" / "cmg_final.pt").weights.state_dict
    for name, value in small.model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-6)


def test_the_line_that_saves_a_checkpoint_again_does(tmp_path: Path, seed: int, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    made = make_checkpoint(tmp_path / "made", num_joints=2, hidden_dim=8, seed=seed)
    state = made.model.state_dict()
    settings = argparse.Namespace(learning_rate=1e-3)
    contents = {
        "argparse.Namespace": {"state_dict": state, "stats": made.stats, "args": settings, "where": Path("a")},
        "torch.nn.modules": made.model,
        "Namespace": {**state, "args": settings},
    }
    for number, (named, content) in enumerate(contents.items()):
        for protocol in (2, 4):
            torch.save(content, "it's.pt", pickle_protocol=protocol)
            with pytest.raises(CheckpointError, match=r"^.*refused.*\Z") as caught:
                load_checkpoint("it's.pt")
            message = str(caught.value)
            assert named in message
            exec(message[message.index("import torch") :], {})
            again = load_checkpoint("plain.pt", None if number == 0 else made.path)
            assert all(torch.equal(again.state_dict[name], value) for name, value in state.items())
