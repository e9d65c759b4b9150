"""Whatever a checkpoint, or a file beside it, is instead of what is expected: refused in one line that names it.

Without warnings, and without code that a file holds being run; ``test_hostile.py`` has the files made to harm.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.files.torch_files import read_pt
from hostile_files import CALLS, OUTSIDE, archive, saved
from make_checkpoint import FORMS, MadeCheckpoint, make_checkpoint, save_checkpoint

NOISE = np.random.default_rng(int(os.environ["CMG_TEST_SEED"])).bytes(300)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 6912345\n"


def refusal(path: Path, data: Path | None = None) -> str:
    """The one line that a checkpoint is refused with."""
    with warnings.catch_warnings(), pytest.raises(CheckpointError) as caught:
        warnings.simplefilter("error")
        load_checkpoint(path, data)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


@pytest.fixture
def made(tmp_path: Path, seed: int) -> MadeCheckpoint:
    """Of two joints, three layers and four experts."""
    return make_checkpoint(tmp_path / "made", num_joints=2, hidden_dim=8, seed=seed)


FIRST, MIDDLE, GATE = "layers.0.expert_weights.1", "layers.1.expert_weights.2", "gating.gating_network.0.bias"
PARAMETERS: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("layers.1.expert_weights.4", lambda _: torch.zeros(3), "layers.1.expert_weights.4"),
    ("two\nlines", lambda _: torch.zeros(1), "two\\nlines"),
    ("layers.999999999999.expert_weights.0", lambda _: torch.zeros(2, 2), "layers.999999999999"),
    (FIRST, lambda v: v.T.contiguous(), FIRST),
    ("layers.0.expert_weights.0", lambda v: v.flatten(), "layers.0.expert_weights.0"),
    (MIDDLE, lambda v: torch.where(v == v.max(), torch.nan, v), MIDDLE),
    (MIDDLE, lambda v: v.double() * 1e300, MIDDLE),
    (MIDDLE, lambda v: v.long(), MIDDLE),
    (GATE, lambda v: v.to_sparse(), "sparse"),
    (GATE, lambda v: v.to("meta"), "no values"),
)
"""The parameter that is spoiled, how, and what is said."""


def test_spoiled_parameters_are_named(tmp_path: Path, made: MadeCheckpoint) -> None:
    state = made.model.state_dict()
    cases = [({**state, name: edit(state.get(name))}, said) for name, edit, said in PARAMETERS]
    cases += [({name: value for name, value in state.items() if name != MIDDLE}, MIDDLE)]
    cases += [({name: value for name, value in state.items() if "layers.2." not in name}, "layers.1")]
    for spoiled, said in cases:
        assert said in refusal(save_checkpoint(tmp_path, spoiled, made.stats, "full")[0])


STATS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("motion_std", "motion_std", lambda v: -v),
    ("motion_std", "motion_std[0]", lambda v: v * 0 + np.float32(1e-40)),
    ("motion_std", "motion_std[0]", lambda v: v.astype(float) * 0 + 1e300),
    ("motion_mean", "motion_mean", lambda v: v * np.nan),
    ("motion_mean", "motion_mean", lambda v: v[None]),
    ("motion_mean", "motion_mean", lambda v: ["a"] * len(v)),
    ("command_min", "command_min", lambda v: v[:2]),
    ("command_max", "command_min[1]", lambda v: np.array([v[0], -0.75, v[2]])),  # and so is the smallest
    ("num_joints", "num_joints", lambda v: np.array([v, v])),
    ("motion_dim", "motion_dim", lambda v: v + 2),
    ("command_dim", "command_dim", lambda v: v - 1),
]
"""The entry that is spoiled, what is said, and how it is spoiled."""


def test_spoiled_stats_are_named(tmp_path: Path, made: MadeCheckpoint) -> None:
    made.stats["command_min"][1] = -0.75
    for key, said, edit in STATS:
        stats = {**made.stats, key: edit(made.stats[key])}
        for form in FORMS:
            assert said in refusal(*save_checkpoint(tmp_path / form, made.model.state_dict(), stats, form)), form


def test_stats_that_are_not_there(tmp_path: Path, made: MadeCheckpoint) -> None:
    path, data = save_checkpoint(tmp_path, made.model.state_dict(), made.stats, "bare+yaml")
    assert data is not None
    assert "--data" in refusal(path)
    assert "absent.yaml" in refusal(path, tmp_path / "absent.yaml")
    for text, said in (("motion_mean: [0, 0, 0, 0]\n", "motion_std is missing"), ("[" * 5000, "nested too deeply")):
        data.write_text(text)
        assert said in refusal(path, data)


CARDS: list[tuple[str, Any]] = [
    ("cannot be read", "[" * 200_000),
    ("valid Unicode", '{"name": "\\ud800"}'),
    ("cannot be read", '{"default_dof_pos": [NaN]}'),
    ("holds a list", []),
    ("name", {"name": 3}),
    ("joint_names", {"joint_names": ["a", "a"]}),
    ("joint_names", {"joint_names": "ab"}),
    ("default_dof_pos", {"default_dof_pos": [1.0]}),
    ("default_dof_pos", {"default_dof_pos": [1.0, None]}),
    ("command_range", {"command_range": [0, 1]}),
    ("command_range.min[1]", {"command_range": {"min": [-0.1, 0.1, 0], "max": [0.1, 0.1, 0.1]}}),
    ("command_range[2]", {"command_range": {"min": [-0.1, -0.1, -9], "max": [0.1, 0.1, 0.1]}}),
]


def test_spoiled_cards(made: MadeCheckpoint) -> None:
    for said, card in CARDS:
        made.path.with_name("card.json").write_text(card if isinstance(card, str) else json.dumps(card))
        message = refusal(made.path)
        assert "card.json" in message and said in message


def test_spoiled_banks(made: MadeCheckpoint) -> None:
    """Numbers that are absurd, too: the gate of rollouts would pass with them."""
    arrays = [np.zeros((3, 5), "f4"), np.zeros((0, 4), "f4"), np.zeros((3, 4), int), np.full((3, 4), np.nan)]
    arrays += [np.full((4, 4), 1e30), np.full((4, 4), 1e300), np.array([[CALLS["command"]] * 4], dtype=object)]
    contents: list[dict[str, Any]] = [{"states": np.zeros((3, 4), "f4")}, *({"motion": motion} for motion in arrays)]
    for content in contents:
        np.savez(made.path.with_name("bank.npz"), **content)
        assert "bank.npz" in refusal(made.path)
    assert not OUTSIDE.exists()


def test_other_contents(tmp_path: Path, made: MadeCheckpoint) -> None:
    path, half = tmp_path / "x.pt", dict(list(made.model.state_dict().items())[:4])
    cases: list[tuple[Any, str]] = [
        *((content, "") for content in ([torch.zeros(2)], torch.zeros(2), {}, {"model_state_dict": {}})),
        ({"model_state_dict": {"actor.0.weight": torch.zeros(2, 2)}, "iter": 3}, "actor.0.weight"),
        ({"samples": [], "stats": made.stats}, "samples"),
        ({"model_state_dict": {**half, "two\nlines": torch.zeros(1)}}, "missing"),
        ({"ema": {"shadow_params": [torch.zeros(2)]}, "epoch": 2}, "ema, epoch"),
    ]
    for content, said in cases:
        torch.save(content, path)
        message = refusal(path, made.path)
        assert str(path) in message and said in message


def written(write: Callable[[io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def onnx_model() -> bytes:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    return onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])).SerializeToString()


def other_kinds(whole: bytes) -> dict[str, bytes]:
    """What the refusal says, and such a file; of a whole checkpoint, where it is packed."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return {
        "6912345 bytes, was not fetched; run git lfs pull": POINTER,
        "is empty": b"",
        "is a web page: ": b"\xef\xbb\xbf\n<!doctype html>\n<html>Sign in</html>",
        "is a web page": b'<?xml version="1.0"?><Error>AccessDenied</Error>',
        "is JSON ('{": b'{\n "message": "Not Found"\n}',
        "is YAML": b"# stats\nmotion_mean: [1, 2]\n",
        "is text ('epoch 3,": b"epoch 3, loss 0.25\n" * 400,
        "TorchScript archive": written(lambda stream: torch.jit.save(torch.jit.script(torch.nn.ELU()), stream)),
        "is a safetensors file": len(header).to_bytes(8, "little") + header + NOISE[:24],
        "is an ONNX model": onnx_model(),
        "numpy .npy file": written(lambda stream: np.save(stream, np.ones(3))),
        "numpy .npz archive of std": written(lambda stream: np.savez(stream, std=np.ones(3))),
        "is MessagePack": b"\x81\xa6params\x81\xa6kernel\xc7\x40\x01" + NOISE[:64],  # as flax writes it
        "TensorFlow SavedModel": b"\x08\x01\x12\xa3\x02\n\x41" + NOISE[:60],
        "is an HDF5 file": b"\x89HDF\r\n\x1a\n" + NOISE[:60],
        "packed with gzip": gzip.compress(whole),
        "packed with xz": lzma.compress(whole),
        "packed with bzip2": bz2.compress(whole),
        "is a tar archive": tarfile.TarInfo("run/cmg_final.pt").tobuf() + NOISE,
        "before 2017": tarfile.TarInfo("sys_info").tobuf() + NOISE,
        "with run/model.pt inside": archive({"run/model.pt": whole}),
        "without data.pkl (it holds a.txt)": archive({"a.txt": b"a"}),
        "more than its size": archive({"x/data.pkl": bytes(99999)}, zipfile.ZIP_DEFLATED),
        "damaged or not a torch.save file": b"\xf7" + NOISE,
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path: Path, made: MadeCheckpoint) -> None:
    """Given as a checkpoint, and as the stats of one that has none."""
    bare, data = save_checkpoint(tmp_path, made.model.state_dict(), made.stats, "bare+data")
    path = tmp_path / "given.pt"
    for said, content in other_kinds(bare.read_bytes()).items():
        path.write_bytes(content)
        for message in (refusal(path, data), refusal(bare, path)):
            assert message.startswith(str(path)) and said in message
            assert ("damaged" in message) == ("damaged" in said or "is text" in said)


def test_a_pointer_beside_a_checkpoint(tmp_path: Path, made: MadeCheckpoint) -> None:
    for name, form in (("stats.yaml", "bare+yaml"), ("card.json", "full"), ("bank.npz", "full")):
        path, _ = save_checkpoint(tmp_path / name, made.model.state_dict(), made.stats, form)
        path.with_name(name).write_bytes(POINTER)
        assert f"{name} is a Git LFS pointer" in refusal(path)


def test_damaged_files(tmp_path: Path, made: MadeCheckpoint, rng: np.random.Generator) -> None:
    whole, path = made.path.read_bytes(), tmp_path / "damaged.pt"
    for content in (rng.bytes(4096), *(whole[: int(cut)] for cut in rng.integers(1, len(whole) - 1, 12))):
        path.write_bytes(content)
        assert str(path) in refusal(path)
    content = {"a": torch.randn(50), "b": {"c": torch.arange(9)}}
    for older in (False, True):
        whole = saved(content, _use_new_zipfile_serialization=not older)
        path.write_bytes(whole)
        assert torch.equal(read_pt(path)["a"], content["a"])
        size = len(whole) - int(rng.integers(1, 70))
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"cut off after {size} bytes"):
            read_pt(path)


def test_folders_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    for name in ("model.pt", "model.txt", "saved/saved_model.pb"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe")
    saying = {"": "(model.pt)", "saved": "is a folder, a TensorFlow", "pipe": "is a pipe", "absent.pt": "No such file"}
    for name, said in saying.items():
        message = refusal(tmp_path / name)
        assert str(tmp_path / name) in message and said in message
