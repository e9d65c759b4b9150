"""What ``fuzz.py`` fuzzes: for each reader a function of bytes, the errors that it may raise, and first inputs.

Formats with checksums inside (zip) or hashes beside them (engine folders) are put together around the fuzzed part,
which would never get past those otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import _read_card, load_checkpoint
from CMG_Ref.checkpoint.parameters import read_sizes, read_weights
from CMG_Ref.checkpoint.stats import load_data_file, read_stats, stats_of
from CMG_Ref.dataloader.reading import load_clip
from CMG_Ref.files.torch_files import read_pt
from cmg_runtime import load_engine
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.arrays import load_arrays
from cmg_runtime.folder.manifest import Manifest
from hostile_files import Call, archive, described, members, saved
from make_checkpoint import make_checkpoint

Target = tuple[Callable[[bytes], Any], tuple[type[Exception], ...], list[bytes]]
GOLDEN = Path(__file__).parent / "golden" / "schema_1"
SIZES: dict[str, Any] = {"num_joints": 1, "hidden_dim": 2, "num_experts": 1, "num_layers": 2}


def make_target(name: str, scratch: Path) -> Target:
    """The target of this name; files are written to ``scratch``."""
    targets: dict[str, Callable[[Path], Target]] = {
        "pt": _pt, "pt-pickle": _pt_pickle, "checkpoint": _checkpoint, "yaml": _yaml, "card": _card,
        "manifest": _manifest, "npz": _npz, "clip-npz": _clip_npz, "clip-pickle": _clip_pickle, "clip-csv": _clip_csv,
        "engine": _engine,
    }  # fmt: skip
    return targets[name](scratch)


def _values() -> list[Any]:
    stats = {"motion_mean": np.zeros(2, np.float32), "num_joints": 1, "scalar": np.float64(1.5)}
    return [
        {"a": torch.zeros(2, 3), "b": [torch.ones(1, dtype=torch.int8), (1, 2.5, None)]},
        {"stats": stats, "epoch": 3, "text": "x"},
        Call(os.system, "true"),
    ]


def _pt(scratch: Path) -> Target:
    """A whole file: zip archives, the older formats, and pickles of other tools."""
    path = scratch / "x.pt"
    seeds = [saved(value, _use_new_zipfile_serialization=new) for value in _values() for new in (True, False)]
    seeds += [pickle.dumps(value, protocol) for value in _values() for protocol in (0, 2, 5)]
    return _from_file(path, lambda: read_pt(path)), (ValueError,), seeds


def _from_file(path: Path, read: Callable[[], Any]) -> Callable[[bytes], Any]:
    """A function of bytes that writes them past Python, so that the watch sees only what the reader does."""
    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def run(content: bytes) -> Any:
        os.ftruncate(number, 0)
        os.pwrite(number, content, 0)
        return read()

    return run


def _pt_pickle(scratch: Path) -> Target:
    """The pickle inside an archive that is otherwise as torch writes it."""
    path = scratch / "x.pt"
    read = _from_file(path, lambda: read_pt(path))
    files = [members(saved(value, pickle_protocol=protocol)) for value in _values() for protocol in (2, 5)]
    name = next(name for name in files[0] if name.endswith("data.pkl"))
    return lambda content: read(archive({**files[0], name: content})), (ValueError,), [f[name] for f in files]


def _checkpoint(scratch: Path) -> Target:
    """A checkpoint whose keys, shapes and types are the input: JSON of name -> [dtype, shape], and of the stats."""
    made = make_checkpoint(scratch, **SIZES)
    content = read_pt(made.path)
    described = {name: [str(value.dtype)[6:], list(value.shape)] for name, value in content["model_state_dict"].items()}
    stats = {key: np.asarray(value).tolist() for key, value in content["stats"].items()}
    read_file = _from_file(made.path, lambda: load_checkpoint(made.path))

    def build(text: bytes) -> bytes:
        given = json.loads(text)
        state = {}
        for name, (dtype, shape) in given["weights"].items():
            expand = [int(size) % 2**40 for size in shape][:6]
            state[name] = torch.zeros([min(size, 4) for size in expand], dtype=getattr(torch, dtype))
            if any(size > 4 for size in expand):
                state[name] = torch.zeros([], dtype=getattr(torch, dtype)).expand(expand)
        return saved({"model_state_dict": state, "stats": given["stats"]})

    def read(text: bytes) -> None:
        try:
            file = build(text)
        except Exception:  # it describes no file
            return
        read_file(file)

    seeds = [json.dumps({"weights": described, "stats": stats}).encode()]
    return read, (CheckpointError,), seeds


def _stats_text() -> dict[str, Any]:
    return {"motion_mean": [0.0, 0.1], "motion_std": [1.0, 2.0], "command_min": [-1.0] * 3, "command_max": [1.0] * 3}


@functools.cache
def _sizes_of(folder: Path) -> Any:
    made = make_checkpoint(folder / "sizes", **SIZES)
    return read_sizes(read_weights(read_pt(made.path), made.path).state_dict, made.path)


def _yaml(scratch: Path) -> Target:
    path, sizes = scratch / "stats.yaml", _sizes_of(scratch)
    texts = [yaml.safe_dump(_stats_text()), yaml.safe_dump({"stats": _stats_text()}, default_flow_style=True)]
    texts += ["a: &x [1, 2]\nb: *x\n", "!!python/object/apply:os.system [true]", "<<: {a: 1}\n? b\n: !!set {c}\n"]
    texts += ["a: 1:30\nb: 0x1F\nc: 2001-12-14t21:59:43.10-05:00\nd: !!binary aGk=\ne: .inf\n"]
    dims = sizes.motion_dim, sizes.command_dim
    read = _from_file(path, lambda: read_stats(stats_of(load_data_file(path)), *dims, path))
    return read, (ValueError,), [text.encode() for text in texts]


def _card(scratch: Path) -> Target:
    path, sizes = scratch / "card.json", _sizes_of(scratch)
    stats = read_stats(_stats_text(), sizes.motion_dim, sizes.command_dim, path)
    card = {"name": "x", "joint_names": ["a"], "default_dof_pos": [0.5], "license": "l", "attribution": None}
    card["command_range"] = {"min": [-1, -0.5, 0], "max": [1, 1, 1]}
    read = _from_file(path, lambda: _read_card(path, sizes, stats))
    return read, (CheckpointError, ValueError), [json.dumps(card).encode()]


def _manifest(scratch: Path) -> Target:
    seeds = [(GOLDEN / "manifest.json").read_bytes()]
    small = json.loads(seeds[0])
    seeds.append(json.dumps({**small, "robot": None, "artifacts": small["artifacts"][:1]}).encode())
    return lambda content: Manifest.from_json(content.decode("utf-8", "replace")), (EngineError,), seeds


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def _npz(scratch: Path) -> Target:
    """The arrays inside; the zip around them is damaged by the target "clip-npz"."""
    seeds = [_npy(np.zeros((2, 3), kind)) for kind in ("f4", "f8", "i1", "U3", "?", ">c8")] + [_npy(np.array(1.5))]
    seeds += [_npy(np.zeros(2, [("a", "f4"), ("b", "i2", (2,))])), _npy(np.asfortranarray(np.eye(3)))]
    return lambda content: load_arrays(io.BytesIO(archive({"motion.npy": content}))), (ValueError,), seeds


def _clip_npz(scratch: Path) -> Target:
    path, stream = scratch / "clip.npz", io.BytesIO()
    arrays = {"fps": np.array(50), "dof_names": np.array(["a", "b"]), "dof_positions": np.zeros((4, 2))}
    arrays |= {"body_positions": np.zeros((4, 1, 3)), "body_rotations": np.ones((4, 1, 4))}
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # pyright: ignore[reportArgumentType]
    return _from_file(path, lambda: load_clip(path)), (ValueError,), [stream.getvalue(), packed.getvalue()]


def _clip_pickle(scratch: Path) -> Target:
    path = scratch / "clip.pkl"
    clip = {"fps": 50, "root_pos": np.zeros((4, 3)), "root_rot": np.ones((4, 4)), "dof_pos": np.zeros((4, 2))}
    tensors = {key: torch.as_tensor(value) for key, value in clip.items()}
    several = {"a": {"dof": np.zeros((4, 2)), "root_trans_offset": np.zeros((4, 3)), "root_rot": [[0, 0, 0, 1]] * 4}}
    values = (clip, Call(os.system, "true"), tensors, several)
    seeds = [pickle.dumps(value, protocol) for value in values for protocol in (0, 2, 4, 5)]
    seeds += [described(bytes(8) + b".", shape=(2,)), zlib.compress(seeds[0])]
    return _from_file(path, lambda: load_clip(path)), (ValueError,), seeds


def _clip_csv(scratch: Path) -> Target:
    path = scratch / "clip.csv"
    rows = "\n".join(",".join(["0.5"] * 36) for _ in range(4))
    return _from_file(path, lambda: load_clip(path)), (ValueError,), [rows.encode(), b"# x\n1,2e3,nan,-inf\n", b"1;2"]


def _engine(scratch: Path) -> Target:
    """A whole folder. The first byte says what the rest is: a part of it, with hashes that fit what it now holds."""
    folder = scratch / "engine"
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    manifest = (folder / "manifest.json").read_text()
    parts: list[tuple[str, str]] = [("manifest.json", "")]
    for file in ("bank.npz", "weights.npz"):
        parts += [(file, name) for name in sorted(members((GOLDEN / file).read_bytes()))]
    parts += [("cmg_fp32.onnx", "")]
    numbers = {file: os.open(folder / file, os.O_RDWR) for file, _ in parts}
    originals = {file: (GOLDEN / file).read_bytes() for file, _ in parts}
    arrays = {file: members(originals[file]) for file in ("bank.npz", "weights.npz")}

    def write(file: str, content: bytes) -> None:
        os.ftruncate(numbers[file], 0)
        os.pwrite(numbers[file], content, 0)

    def read(content: bytes) -> None:
        file, member = parts[(content[0] if content else 0) % len(parts)]
        changed = content[1:]
        if member:
            kept = {name: old for name, old in arrays[file].items() if name != member}
            changed = archive({**kept, member: changed} if changed else kept)
        original_hash, changed_hash = (hashlib.sha256(data).hexdigest() for data in (originals[file], changed))
        write("manifest.json", manifest.replace(original_hash, changed_hash).encode())
        write(file, changed)
        try:
            backend = "onnx" if file.endswith(".onnx") else "torch"
            engine = load_engine(folder, 2, backend=backend, precision="fp32")
            engine.reset()
            engine.step()
        finally:
            write(file, originals[file])

    seeds = []
    for number, (file, member) in enumerate(parts):
        seeds += [bytes([number]) + (arrays[file][member] if member else originals[file]), bytes([number])]
    return read, (EngineError, BackendUnavailable), seeds
