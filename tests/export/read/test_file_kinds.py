"""Files that people give for a checkpoint or for stats, and that are something else: each is called what it is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
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
from make_checkpoint import make_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 6912345\n"


def written(write: Callable[[io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def safetensors(rng: np.random.Generator) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    return len(header).to_bytes(8, "little") + header + rng.bytes(24)


def onnx_model() -> bytes:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    return onnx.helper.make_model(graph, producer_name="test").SerializeToString()


def torchscript() -> bytes:
    return written(lambda stream: torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), stream))


def flax(rng: np.random.Generator) -> bytes:
    """What ``flax.serialization.to_bytes({"params": {"kernel": array}})`` begins with."""
    return b"\x81\xa6params\x81\xa6kernel\xc7\x40\x01" + rng.bytes(64)


KINDS: dict[str, tuple[str, Callable[[bytes, np.random.Generator], bytes]]] = {
    "Git LFS pointer": ("6912345 bytes, was not fetched; run git lfs pull", lambda whole, rng: POINTER),
    "empty": ("is empty", lambda whole, rng: b""),
    "web page": ("is a web page", lambda whole, rng: b"\xef\xbb\xbf\n<!doctype html>\n<html>Sign in</html>"),
    "error of a store": ("is a web page", lambda whole, rng: b'<?xml version="1.0"?><Error>AccessDenied</Error>'),
    "JSON": ("is JSON ('{", lambda whole, rng: b'{\n "message": "Not Found"\n}'),
    "YAML": ("is YAML", lambda whole, rng: b"# stats\nmotion_mean: [1, 2]\n"),
    "text": ("is text ('epoch 3,", lambda whole, rng: b"epoch 3, loss 0.25\n" * 400),
    "TorchScript": ("TorchScript archive", lambda whole, rng: torchscript()),
    "safetensors": ("is a safetensors file", lambda whole, rng: safetensors(rng)),
    "ONNX": ("is an ONNX model", lambda whole, rng: onnx_model()),
    "npy": ("numpy .npy file", lambda whole, rng: written(lambda stream: np.save(stream, rng.normal(size=3)))),
    "npz": ("numpy .npz archive of std", lambda whole, rng: written(lambda s: np.savez(s, std=rng.normal(size=3)))),
    "flax": ("is MessagePack", lambda whole, rng: flax(rng)),
    "SavedModel": ("TensorFlow SavedModel", lambda whole, rng: b"\x08\x01\x12\xa3\x02\n\x41" + rng.bytes(60)),
    "HDF5": ("is an HDF5 file", lambda whole, rng: b"\x89HDF\r\n\x1a\n" + rng.bytes(60)),
    "gzip": ("packed with gzip", lambda whole, rng: gzip.compress(whole)),
    "xz": ("packed with xz", lambda whole, rng: lzma.compress(whole)),
    "bzip2": ("packed with bzip2", lambda whole, rng: bz2.compress(whole)),
    "tar": ("is a tar archive", lambda whole, rng: tar("run/cmg_final.pt", whole)),
    "torch of 2016": ("before 2017", lambda whole, rng: tar("sys_info", whole)),
    "zip around it": ("with run/model.pt inside", lambda whole, rng: zipped(**{"run/model.pt": whole})),
    "other zip": ("without data.pkl (it holds a.txt)", lambda whole, rng: zipped(**{"a.txt": b"a"})),
    "packed": ("holds more than its size", lambda whole, rng: written(
        lambda s: zipfile.ZipFile(s, "w", zipfile.ZIP_DEFLATED).writestr("x/data.pkl", bytes(99999)))),
    "noise": ("damaged or not a torch.save file", lambda whole, rng: b"\xf7" + rng.bytes(300)),
}  # fmt: skip
"""Kind -> what the refusal says, and the file, given the bytes of a whole checkpoint."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_called_what_it_is(
    tmp_path: Path, seed: int, rng: np.random.Generator, kind: str
) -> None:
    made = make_checkpoint(tmp_path / "made", "bare+data", num_joints=2, hidden_dim=8, seed=seed)
    said, build = KINDS[kind]
    path = tmp_path / "given.pt"
    path.write_bytes(build(made.path.read_bytes(), rng))
    for refused in (lambda: load_checkpoint(path, made.data), lambda: load_checkpoint(made.path, path)):
        with pytest.raises(CheckpointError) as caught:
            refused()
        message = str(caught.value)
        assert message.startswith(str(path)) and said in message and "\n" not in message
        assert ("damaged" in message) == (kind in ("noise", "text"))


@pytest.mark.parametrize("name", ["stats.yaml", "card.json", "bank.npz"])
def test_a_pointer_beside_a_checkpoint(tmp_path: Path, seed: int, name: str) -> None:
    made = make_checkpoint(
        tmp_path, "bare+yaml" if name == "stats.yaml" else "full", num_joints=2, hidden_dim=8, seed=seed
    )
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=f"{name} is a Git LFS pointer"):
        load_checkpoint(made.path)


def test_a_file_that_was_cut_off_says_so(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    content = {"a": torch.randn(50), "b": {"c": torch.arange(9)}}
    path = tmp_path / "x.pt"
    for older in (False, True):
        torch.save(content, path, _use_new_zipfile_serialization=not older)
        whole = path.read_bytes()
        assert torch.equal(read_pt(path)["a"], content["a"])
        size = len(whole) - int(rng.integers(1, 70))
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"cut off after {size} bytes"):
            read_pt(path)


def test_folders_and_pipes(tmp_path: Path) -> None:
    for name in ("model.pt", "model.txt"):
        (tmp_path / name).touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, r"is a folder; .*\(model.pt\)"),
        (tmp_path / "saved", "is a folder, a TensorFlow"),
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path / "absent.pt", "No such file"),
    ):
        with pytest.raises(ValueError, match=said):
            read_pt(path)
