"""Files made to harm: refused in one line, before memory is taken for what they claim, and without running code."""

from __future__ import annotations

import io
import os
import pickle
import resource
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmg_export.errors import CheckpointError
from cmg_export.read.checkpoint import load_checkpoint
from CMG_Ref.dataloader.reading import load_clip
from CMG_Ref.files.plain_pickle import load_plain
from CMG_Ref.files.torch_files import read_pt
from cmg_runtime import load_engine
from cmg_runtime.errors import EngineError
from cmg_runtime.folder import typed_json
from cmg_runtime.folder.arrays import load_arrays
from cmg_runtime.folder.manifest import Manifest, file_sha256
from engine_folder import renamed_copy, shared_engine_folder
from make_checkpoint import make_checkpoint

ALLOWED_MORE = 512 << 20
"""Bytes of address space that reading a hostile file may take."""


def with_little_memory(task: Callable[[], Any]) -> int:
    """The exit status of a child that runs the task with little more memory than it has."""
    pid = os.fork()
    if pid == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWED_MORE, used + ALLOWED_MORE))
            task()
            os._exit(0)
        except BaseException as error:
            print(repr(error))
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refuses(read: Callable[[], Any], kind: type[Exception]) -> None:
    def task() -> None:
        with pytest.raises(kind) as caught:
            read()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)

    assert with_little_memory(task) == 0


def npy(shape: str, content: bytes = b"", dtype: str = "<f4") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive(members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return stream.getvalue()


ARCHIVES = {
    "absurd shape": archive({"motion.npy": npy("(1099511627776,)")}),
    "negative shape": archive({"motion.npy": npy("(-1, 4)")}),
    "endless empty strings": archive({"motion.npy": npy("(1099511627776,)", dtype="<U0")}),
    "bomb": archive({"motion.npy": npy("(75000000,)", bytes(300_000_000))}, zipfile.ZIP_DEFLATED),
    "objects": archive({"motion.npy": npy("(1,)", pickle.dumps([1])[:8].ljust(8), "|O")}),
    "nested": archive({"motion.npy": archive({"motion.npy": npy("(0,)")})}),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_npz_archives(tmp_path: Path, case: str) -> None:
    refuses(lambda: load_arrays(io.BytesIO(ARCHIVES[case])), ValueError)
    clip = tmp_path / "clip.npz"
    clip.write_bytes(ARCHIVES[case])
    refuses(lambda: load_clip(clip), ValueError)


@pytest.mark.parametrize("name", ["../outside.npy", "/tmp/cmg_outside.npy"])
def test_names_of_members_are_no_paths(tmp_path: Path, name: str) -> None:
    assert list(load_arrays(io.BytesIO(archive({name: npy("(1,)", bytes(4))})))) == [name[:-4]]
    assert os.listdir(tmp_path) == []
    assert not Path("/tmp/cmg_outside.npy").exists()


def test_tensors_that_claim_more_than_is_stored(tmp_path: Path, seed: int) -> None:
    path = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed).path
    content = read_pt(path)
    content["model_state_dict"]["layers.0.expert_weights.0"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(content, path)
    refuses(lambda: load_checkpoint(path), CheckpointError)


def test_packed_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(100_000_000, dtype=torch.uint8)}, path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    path.write_bytes(archive(members, zipfile.ZIP_DEFLATED))
    refuses(lambda: read_pt(path), ValueError)


def shared_lists(depth: int) -> list[Any]:
    """A list of 10 ** depth values in a few objects."""
    values: list[Any] = [0.0] * 10
    for _ in range(depth - 1):
        values = [values] * 10
    return values


def memo(number: int) -> bytes:
    return pickle.LONG_BINPUT + number.to_bytes(4, "little")


class Call:
    """Pickled as the call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


BILLIONS = 1 << 36
RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
CALLS = {
    "array of objects": Call(RECONSTRUCT, np.ndarray, (BILLIONS,), "O"),
    "ndarray itself": Call(np.ndarray, (BILLIONS,), "O"),
    "bytearray": Call(bytearray, BILLIONS),
    "tensor": Call(torch.Tensor, BILLIONS),
    "storage": Call(torch.UntypedStorage, BILLIONS),
    "wide type": Call(np.dtype, f"V{1 << 30}", False, True),
    "command": Call(os.system, "touch /tmp/cmg_outside"),
    "evaluated": Call(eval, "open('/tmp/cmg_outside', 'w')"),
    "imported": Call(__import__, "antigravity"),
    "module's own": Call(pickle.loads, pickle.dumps(Call(os.mkdir, "/tmp/cmg_outside"))),
    "attribute of a permitted module": Call(torch.hub.load, "a/b", "c"),
}


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("older", [False, True])
def test_checkpoints_that_call(tmp_path: Path, case: str, older: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1), "b": CALLS[case]}, path, _use_new_zipfile_serialization=not older)
    refuses(lambda: read_pt(path), ValueError)
    assert not Path("/tmp/cmg_outside").exists()


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_checkpoints_of_other_protocols_that_call(tmp_path: Path, case: str, protocol: int) -> None:
    """In a plain pickle, and in torch's archive where that has the protocol."""
    path, content = tmp_path / "x.pt", {"a": torch.zeros(1), "b": CALLS[case]}
    path.write_bytes(pickle.dumps(content, protocol))
    refuses(lambda: read_pt(path), ValueError)
    if protocol > 2:
        torch.save(content, path, pickle_protocol=protocol)
        refuses(lambda: read_pt(path), ValueError)
    assert not Path("/tmp/cmg_outside").exists()


DOUBLED = b")" + b"2\x86" * 60  # a tuple that is twice in the next, and so on
FLOATS = b"\x80\x04ctorch\nFloatStorage\n"
PICKLES = {
    "a storage called": FLOATS + b"J\xff\xff\xff\x7f\x85R.",
    "a storage made": FLOATS + b"J\xff\xff\xff\x7f\x85\x81.",
    "a tensor's state": pickle.dumps(torch.zeros(3), 4)[:-1] + b"N\x85b.",
    "a function's attributes": b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}\x8c\x0c__defaults__)s\x86b.",
    "a class's attributes": b"\x80\x04cnumpy\nndarray\nN}\x8c\x0c__setstate__Ns\x86b.",
    "what it made itself": b"\x80\x04ccollections\nOrderedDict\n)R)R.",
    "outside": b"\x80\x04(\x8c\x07storage" + FLOATS[2:] + b"\x8c\x010\x8c\x03cpuK\x01tQ.",
    "absurd bytes": b"\x80\x05\x96" + b"\xff" * 5 + bytes(3) + b".",
    "absurd number": b"\x80\x04N" + memo(2**32 - 1) + b".",
    "a key hashed for ever": b"\x80\x02}" + DOUBLED + b"K\x01s.",
    "a member hashed for ever": b"\x80\x04\x8f(" + DOUBLED + b"\x90.",
    "a frozen member hashed for ever": b"\x80\x04(" + DOUBLED + b"\x91.",
    "a pair hashed for ever": b"\x80\x02ccollections\nOrderedDict\n](" + DOUBLED + b"N\x86e\x85R.",
    "a set of what is hashed for ever": b"\x80\x02c__builtin__\nset\n](" + DOUBLED + b"e\x85R.",
    "an extension": b"\x80\x04\x82\x01.",
    "an old instance": b"(ios\nsystem\n.",
    "pieces of a name": b"\x80\x04\x8c\x02os\x94\x8c\x06systemh\x00\x8c\x06system\x93\x8c\x04true\x85R.",
}
"""Written by hand, each of what no pickler writes."""


@pytest.mark.parametrize("case", PICKLES)
def test_pickles_written_by_hand(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(PICKLES[case])
    refuses(lambda: read_pt(path), ValueError)


def test_an_archive_whose_key_is_hashed_for_ever(tmp_path: Path) -> None:
    doubled = b")q\x00" + b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60))
    (tmp_path / "x.pt").write_bytes(archive({"x/data.pkl": b"\x80\x02}" + doubled + b"K\x01s.", "x/version": b"3\n"}))
    refuses(lambda: read_pt(tmp_path / "x.pt"), ValueError)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_archives_whose_tensors_claim_more(tmp_path: Path, protocol: int) -> None:
    """More than is stored, by a pickle changed after it was written, or by strides of zero."""
    path = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, path, pickle_protocol=protocol)
    refuses(lambda: read_pt(path), ValueError)
    torch.save({"a": torch.zeros(77)}, path, pickle_protocol=protocol)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    if protocol > 2:  # without its frame, whose length would be wrong
        assert members[name][2:3] == pickle.FRAME
        members[name] = members[name][:2] + members[name][11:]
    assert members[name].count(b"K\x4d") == 2  # numbers stored, and the tensor's size
    for count in (1, 2):
        members[name] = members[name].replace(b"K\x4d", b"J\xff\xff\xff\x7f", count)
        path.write_bytes(archive(members))
        refuses(lambda: read_pt(path), ValueError)


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_clips_that_call(tmp_path: Path, case: str, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"fps": CALLS[case]}, protocol))
    refuses(lambda: load_clip(path), ValueError)
    assert not Path("/tmp/cmg_outside").exists()


@pytest.mark.parametrize("content", [b"N" + memo(2**32 - 1) + b".", b"\x96" + b"\xff" * 5 + bytes(3) + b"."])
def test_pickles_that_claim_more_than_they_hold(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    refuses(lambda: load_clip(path), ValueError)


def storage(count: int, content: bytes) -> Call:
    """A torch storage as a plain pickle holds it: torch's older file format, in bytes."""
    before, persistent = pickle.dumps({"little_endian": True}, 2), pickle.BINPERSID + pickle.STOP
    reference = pickle.PROTO + b"\2" + pickle.MARK + b"\x8c\7storage" + b"ctorch\nFloatStorage\n" + b"\x8c\1a\x8c\3cpu"
    reference += pickle.dumps(count, 2)[2:-1] + b"Nt" + persistent
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    whole = magic + before + reference + pickle.dumps(["a"], 2) + count.to_bytes(8, "little") + content
    return Call(torch.storage._load_from_bytes, whole)


def tensor(held: Any, size: Any, stride: Any, offset: Any = 0) -> Call:
    return Call(REBUILD, held, offset, size, stride, False, {})


REBUILD: Any = torch.zeros(1).__reduce_ex__(2)[0]
FOUR = storage(4, np.arange(4, dtype="<f4").tobytes())
TENSORS = {
    "more values than stored": tensor(FOUR, (1 << 20, 1 << 20), (0, 0)),
    "beyond the end": tensor(FOUR, (4,), (1 << 30,)),
    "before the start": tensor(FOUR, (2,), (1,), -2),
    "backward": tensor(FOUR, (4,), (-1,), 3),
    "an absurd storage": tensor(storage(BILLIONS, b""), (4,), (1,)),
    "an absurd empty shape": tensor(FOUR, (BILLIONS, 0), (1, 1)),
    "sizes that are none": tensor(FOUR, [4], (1.0,)),
    "no storage": tensor(np.zeros((2, 2)), (4,), (1,)),
    "code within": tensor(Call(torch.storage._load_from_bytes, pickle.dumps(CALLS["command"])), (4,), (1,)),
    "another format within": tensor(Call(torch.storage._load_from_bytes, b"PK\3\4" * 9), (4,), (1,)),
}


@pytest.mark.parametrize("case", TENSORS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_in_clips(tmp_path: Path, case: str, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"dof_pos": TENSORS[case]}, protocol))
    refuses(lambda: load_clip(path), ValueError)
    assert not Path("/tmp/cmg_outside").exists()


def test_a_storage_made_here_is_as_torch_has_it() -> None:
    """Otherwise the cases above would be refused for another reason."""
    made = load_plain(pickle.dumps([tensor(FOUR, (2, 2), (1, 2)), torch.arange(4.0).reshape(2, 2).T]))
    assert np.array_equal(made[0], [[0, 2], [1, 3]]) and np.array_equal(made[1], made[0])


JOBLIB = b"\x80\4cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
DESCRIBED = {"subclass": None, "order": "C", "dtype": np.dtype("f4"), "numpy_array_alignment_bytes": None}
STREAMS = {
    "absurd joblib shape": JOBLIB + pickle.dumps({**DESCRIBED, "shape": (BILLIONS,)}, 2)[2:-1] + b"b" + bytes(99),
    "negative joblib shape": JOBLIB + pickle.dumps({**DESCRIBED, "shape": (-1, 4)}, 2)[2:-1] + b"b" + bytes(99),
    "joblib of objects": JOBLIB + pickle.dumps({**DESCRIBED, "dtype": np.dtype("O")}, 2)[2:-1] + b"b" + bytes(99),
    "packed bomb": zlib.compress(pickle.dumps({"fps": bytes(400_000_000)}), 9),
    "packed, cut off": zlib.compress(pickle.dumps({"fps": bytes(4000)}))[:-3],
    "state for a function": b"cnumpy.core.multiarray\n_reconstruct\n}U\1aI1\nsb.",
    "state for a class": b"cnumpy\nndarray\nN}U\3newI1\ns\x86b.",
    "hashed for ever": b"(" * 2 + b")" + b"2\x86" * 60 + b"Ntd.",
    "hashed for ever in a set": b"\x80\4\x8f()" + b"2\x86" * 60 + b"\x90.",
    "lists of lists": pickle.dumps({"dof_pos": shared_lists(12), "root_pos": 1, "root_rot": 1}),
    "fps of lists": pickle.dumps({"dof_pos": 1, "root_pos": 1, "root_rot": 1, "fps": shared_lists(12)}),
    "names of lists": pickle.dumps({"dof_pos": [[1.0]], "root_pos": 1, "root_rot": 1, "dof_names": shared_lists(12)}),
}


@pytest.mark.parametrize("case", STREAMS)
def test_streams_in_clips(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(STREAMS[case])
    refuses(lambda: load_clip(path), ValueError)


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f8", "i1", "<u8", "?"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_in_pickles_are_read_as_they_were(
    tmp_path: Path, rng: np.random.Generator, dtype: str, protocol: int
) -> None:
    written = (10 * rng.standard_normal((4, 3))).astype(dtype)
    clip = {
        "fps": np.float64(50),
        "root_pos": np.asfortranarray(written),
        "root_rot": np.ones((4, 4)),
        "dof_pos": written,
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(clip, protocol))
    read = load_clip(tmp_path / "x.pkl")
    assert np.array_equal(read.dof_pos, written) and np.array_equal(read.root_pos, written) and read.fps == 50
    torch.save({"a": written, "b": written[0, 0], "c": np.asfortranarray(written)}, tmp_path / "x.pt")
    for _ in range(2):  # and saved again, it is an ordinary array
        content = read_pt(tmp_path / "x.pt")
        for key in ("a", "c"):
            assert content[key].dtype == written.dtype.newbyteorder("=") and np.array_equal(content[key], written)
        assert content["b"] == written[0, 0]
        torch.save(content, tmp_path / "x.pt")
        assert b"PlainArray" not in (tmp_path / "x.pt").read_bytes()


@pytest.mark.parametrize("change", ["lost", "narrower", "integers", "one more"])
def test_weights_of_another_network(tmp_path: Path, change: str) -> None:
    """With hashes that fit: kernels would read beyond such arrays."""
    folder = renamed_copy(tmp_path / "engine", "engine")
    weights, manifest = folder / "weights.npz", folder / "manifest.json"
    old = file_sha256(weights)
    with open(weights, "rb") as stream:
        arrays = load_arrays(stream)
    bias = arrays.pop("layers.1.bias")
    if change == "one more":
        arrays.update({"layers.1.bias": bias, "layers.9.bias": bias})
    elif change != "lost":
        arrays["layers.1.bias"] = bias[:, :-1] if change == "narrower" else bias.astype(np.int32)
    np.savez(weights, **arrays)  # pyright: ignore[reportArgumentType]
    manifest.write_text(manifest.read_text().replace(old, file_sha256(weights)))
    with pytest.raises(EngineError, match="other weights than this network's") as caught:
        load_engine(folder, 2, backend="torch")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["motion_mean", "num_joints"])
def test_shared_lists_in_a_checkpoint(tmp_path: Path, seed: int, key: str) -> None:
    path = make_checkpoint(tmp_path, num_joints=2, hidden_dim=8, seed=seed).path
    content = read_pt(path)
    content["stats"][key] = shared_lists(12)
    torch.save(content, path)
    refuses(lambda: load_checkpoint(path), CheckpointError)


LAUGHS = "a0: &a0 [1,1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "a: !!bool x", "a: !!timestamp x", "!!python/object/apply:os.mkdir [x]", "? [a]\n: b", "\0", "- *a"],
)
def test_yaml(tmp_path: Path, seed: int, text: str) -> None:
    made = make_checkpoint(tmp_path, "bare+yaml", num_joints=2, hidden_dim=8, seed=seed)
    assert made.data is not None
    made.data.write_text(text)
    refuses(lambda: load_checkpoint(made.path, made.data), CheckpointError)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[NaN]", "[-Infinity]", "[" * 200_000, "{", "[" + "9" * 9999 + "]"]
)
def test_json(text: str) -> None:
    refuses(lambda: typed_json.loads(text), ValueError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_fail_in_another_way(tmp_path: Path, data: st.DataObject) -> None:
    folder = shared_engine_folder()[0]
    name = data.draw(st.sampled_from(["manifest.json", "bank.npz"]))
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        if name == "bank.npz":
            load_arrays(io.BytesIO(bytes(content)))
        else:
            Manifest.from_json(bytes(content).decode(errors="replace"))
    except (EngineError, ValueError) as error:
        assert type(error) in (EngineError, ValueError)
        assert "\n" not in str(error)
