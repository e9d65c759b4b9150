"""Files made to harm: refused in one line, before memory is taken for what they claim, and without running code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import resource
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.dataloader.reading import load_clip
from CMG_Ref.files.plain_pickle import load_plain
from CMG_Ref.files.torch_files import read_pt
from cmg_runtime import load_engine
from cmg_runtime.errors import EngineError
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.arrays import load_arrays
from cmg_runtime.folder.manifest import file_sha256
from hostile_files import ARCHIVES, CALLS, OUTSIDE, PICKLES, TENSORS, TRANSPOSED, Call, archive, members, saved
from killing import ended, in_child
from make_checkpoint import make_checkpoint

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "schema_1"
ALLOWED_MORE = 512 << 20
"""Bytes of address space that reading a hostile file may take."""

Reader = Callable[[Path], Any]


def refuse(path: Path, contents: Iterable[bytes], *readers: Reader, kind: type[Exception] = ValueError) -> None:
    """Each reader refuses a file of each content, in a child with little more memory than it has now; and nothing in
    the file has been run."""

    def task() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWED_MORE, used + ALLOWED_MORE))
        for content in contents:
            path.write_bytes(content)
            for read in readers:
                with pytest.raises(kind) as caught:
                    read(path)
                assert type(caught.value) is kind and "\n" not in str(caught.value)
                assert kind is not CheckpointError or str(path) in str(caught.value)

    assert ended(in_child(task)) == 0
    assert not OUTSIDE.exists()


def shared_lists(depth: int) -> list[Any]:
    """A list of 10 ** depth values in a few objects."""
    values: list[Any] = [0.0] * 10
    for _ in range(depth - 1):
        values = [values] * 10
    return values


def read_npz(path: Path) -> Any:
    return load_arrays(io.BytesIO(path.read_bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("case", CALLS)
def test_files_that_call(tmp_path: Path, case: str) -> None:
    """In plain pickles, in torch's older format, and in its archive of every protocol that this has."""
    content = {"fps": CALLS[case], "a": torch.zeros(1)}
    plain = [pickle.dumps(content, protocol) for protocol in (0, 2, 4, 5)]
    refuse(tmp_path / "x.pkl", plain, read_pt, load_clip)
    files = [saved(content, pickle_protocol=protocol) for protocol in (2, 4, 5)]
    refuse(tmp_path / "x.pt", [*files, saved(content, _use_new_zipfile_serialization=False)], read_pt)


def test_calls_in_checkpoints_are_named(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, "bare+data", num_joints=2, seed=seed)
    assert made.data is not None
    state, call = made.model.state_dict(), Call(os.mkdir, str(OUTSIDE))
    places: tuple[tuple[Path, Any], ...] = (
        (made.data, {"samples": [call], "stats": made.stats}),
        (made.path, {**state, "extra": call}),
        (made.path, {"model_state_dict": state, "stats": {**made.stats, "note": call}}),
    )
    for path, content in places:
        for zipped in (True, False):
            path.write_bytes(saved(content, _use_new_zipfile_serialization=zipped))
            with pytest.raises(CheckpointError, match=r"^.*mkdir.*refused.*\Z"):
                load_checkpoint(made.path, None if "stats" in content and path == made.path else made.data)
            assert not OUTSIDE.exists()


@pytest.mark.slow
@pytest.mark.parametrize("case", PICKLES)
def test_pickles_written_by_hand(tmp_path: Path, case: str) -> None:
    refuse(tmp_path / "x.pkl", [PICKLES[case]], read_pt, load_clip)


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_in_clips(tmp_path: Path, case: str) -> None:
    contents = [pickle.dumps({"dof_pos": TENSORS[case]}, protocol) for protocol in (2, 4)]
    refuse(tmp_path / "x.pkl", contents, load_clip)


@pytest.mark.slow
def test_lists_of_lists_and_a_bomb_in_clips(tmp_path: Path) -> None:
    clip = {"dof_pos": [[1.0]], "root_pos": 1, "root_rot": 1}
    contents = [pickle.dumps({**clip, key: shared_lists(12)}) for key in ("dof_pos", "fps", "dof_names")]
    refuse(tmp_path / "x.pkl", contents, load_clip)
    refuse(tmp_path / "x.pkl", [zlib.compress(pickle.dumps({"fps": bytes(400_000_000)}), 1)], read_pt, load_clip)


def test_a_storage_made_here_is_as_torch_has_it() -> None:
    """Otherwise the cases above would be refused for another reason."""
    made = load_plain(pickle.dumps([TRANSPOSED, torch.arange(4.0).reshape(2, 2).T]))
    assert np.array_equal(made[0], [[0, 2], [1, 3]]) and np.array_equal(made[1], made[0])


@pytest.mark.parametrize("case", ARCHIVES)
def test_npz_archives(tmp_path: Path, case: str) -> None:
    packing = zipfile.ZIP_DEFLATED if case == "bomb" else zipfile.ZIP_STORED
    refuse(tmp_path / "clip.npz", [archive({"motion.npy": ARCHIVES[case]()}, packing)], read_npz, load_clip)


def test_damaged_archives(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = (GOLDEN / "bank.npz").read_bytes()
    cut = [whole[: int(size)] for size in rng.integers(1, len(whole) - 1, 20)]
    refuse(tmp_path / "bank.npz", [b"PK", *cut], read_npz)
    for place, change in zip(rng.integers(len(whole), size=150), rng.integers(1, 256, 150), strict=True):
        changed = np.frombuffer(whole, np.uint8).copy()
        changed[place] ^= change
        with contextlib.suppress(ValueError):  # it may be read, but fails in no other way
            load_arrays(io.BytesIO(changed.tobytes()))


def test_names_of_members_are_no_paths(tmp_path: Path) -> None:
    for name in ("../outside", str(OUTSIDE)):
        np.savez(stream := io.BytesIO(), **{name: np.zeros(1)})  # pyright: ignore[reportArgumentType]
        assert zipfile.ZipFile(stream).namelist() == [f"{name}.npy"] and list(load_arrays(stream)) == [name]
    assert os.listdir(tmp_path) == [] and not Path(f"{OUTSIDE}.npy").exists()


def test_archives_whose_tensors_claim_more(tmp_path: Path) -> None:
    """More than is stored, by a pickle changed after it was written, by strides of zero or by packing; and one whose
    key is hashed for ever."""
    contents = [archive(members(saved({"a": torch.zeros(100_000_000, dtype=torch.uint8)})), zipfile.ZIP_DEFLATED)]
    doubled = b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    contents += [archive({"x/data.pkl": b"\x80\x02}" + doubled + b"K\x01s.", "x/version": b"3\n"})]
    for protocol in (2, 4, 5):
        contents += [saved({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, pickle_protocol=protocol)]
        files = members(saved({"a": torch.zeros(77)}, pickle_protocol=protocol))
        name = next(name for name in files if name.endswith("data.pkl"))
        if protocol > 2:  # without its frame, whose length would be wrong
            assert files[name][2:3] == pickle.FRAME
            files[name] = files[name][:2] + files[name][11:]
        assert files[name].count(b"K\x4d") == 2  # numbers stored, and the tensor's size
        for count in (1, 2):
            contents += [archive({**files, name: files[name].replace(b"K\x4d", b"J\xff\xff\xff\x7f", count)})]
    refuse(tmp_path / "x.pt", contents, read_pt)


def test_checkpoints_that_claim_more(tmp_path: Path, seed: int) -> None:
    path = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed).path
    content, first = read_pt(path), "layers.0.expert_weights.0"
    wide = {**content["model_state_dict"], first: torch.zeros(1).expand(1 << 20, 1 << 20)}
    contents = [saved({**content, "model_state_dict": wide})]
    for key in ("motion_mean", "num_joints"):
        contents += [saved({**content, "stats": {**content["stats"], key: shared_lists(12)}})]
    refuse(path, contents, load_checkpoint, kind=CheckpointError)


LAUGHS = "a0: &a0 [1,1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))
YAML = (
    LAUGHS, "a: !!bool x", "a: !!timestamp x", "!!python/object/apply:os.mkdir [/tmp/cmg_outside]", "? [a]\n: b", "\0",
    "- *a", "- 1\n- 2\n", "motion_mean: [1, 2\n", "",
)  # fmt: skip


def test_yaml(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, "bare+yaml", num_joints=2, hidden_dim=8, seed=seed)
    assert made.data is not None
    texts = [text.encode() for text in YAML]
    refuse(made.data, texts, lambda path: load_checkpoint(made.path, path), kind=CheckpointError)


def test_json(tmp_path: Path) -> None:
    texts = ('{"a": 1, "a": 2}', "[NaN]", "[-Infinity]", "[" * 200_000, "{", "[" + "9" * 9999 + "]")
    contents = [text.encode() for text in texts]
    refuse(tmp_path / "x.json", contents, lambda path: typed_json.loads(path.read_text()))


@pytest.mark.parametrize("change", ["lost", "narrower", "integers", "one more"])
def test_weights_of_another_network(tmp_path: Path, change: str) -> None:
    """With hashes that fit: kernels would read beyond such arrays."""
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "engine"))
    weights, manifest = folder / "weights.npz", folder / "manifest.json"
    old, arrays = file_sha256(weights), read_npz(weights)
    bias = arrays.pop("layers.1.bias")
    if change == "one more":
        arrays.update({"layers.1.bias": bias, "layers.9.bias": bias})
    elif change != "lost":
        arrays["layers.1.bias"] = bias[:, :-1] if change == "narrower" else bias.astype(np.int32)
    np.savez(weights, **arrays)  # pyright: ignore[reportArgumentType]
    manifest.write_text(manifest.read_text().replace(old, file_sha256(weights)))
    with pytest.raises(EngineError, match=r"^.*other weights than this network's.*\Z"):
        load_engine(folder, 2, backend="torch")
