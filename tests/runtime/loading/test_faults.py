"""Builds and their publishing survive being killed at any file operation, full disks and rivals."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import cmg_export.publish
from cmg_export.__main__ import main
from cmg_export.beside import beside
from cmg_export.publish import publish, staging
from cmg_runtime import load_engine, read_manifest
from cmg_runtime.folder.manifest import file_sha256
from engine_folder import BACKENDS, renamed_copy
from full_disk import largest_file
from killing import Snapshots, contents, ended, in_child, killed_at
from make_checkpoint import make_checkpoint


def put(source: Path, out: Path) -> None:
    with staging(out) as folder:
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
        publish(folder, out)


def can_exchange(folder: Path) -> bool:
    """Whether this file system exchanges folders in one step."""
    pair = folder / "one", folder / "other"
    for path in pair:
        path.mkdir()
    return cmg_export.publish._exchange(*pair)


@pytest.mark.parametrize("exchange", [True, False])
def test_publishing_killed_at_every_file_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(cmg_export.publish, "_exchange", lambda a, b: False)
    elif not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    old, new = renamed_copy(tmp_path / "old", "old"), renamed_copy(tmp_path / "new", "new")
    allowed = {name: contents(folder) for name, folder in (("old", old), ("new", new))}
    place = tmp_path / "place"
    out, operation, seen = place / "engine", 0, []
    killed = True
    while killed:
        shutil.rmtree(place, ignore_errors=True)
        put(old, out)
        killed = killed_at(operation, place, lambda: put(new, out))
        if exchange or out.exists():  # with two renames it is absent for a moment
            seen.append(read_manifest(out).name)
            assert contents(out) == allowed[seen[-1]]
        with staging(out):  # what the next build begins with
            assert contents(out) in allowed.values()
        assert os.listdir(place) == ["engine"]
        operation += 1
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}
    assert operation > 2 * len(allowed["new"])  # a copy in and a removal of each file at least
    load_engine(out, 2, backend="torch")


def test_a_build_killed_at_every_file_operation(tmp_path: Path, seed: int) -> None:
    """Of the command itself, not of publishing alone: every state of the disk that it passes through."""
    made = make_checkpoint(tmp_path / "in", seed=seed, num_joints=3, hidden_dim=8)
    place = tmp_path / "place"
    out = renamed_copy(place / "engine", "old")
    old = contents(out)
    snapshots = Snapshots(place)
    with snapshots.taken():
        assert main([str(made.path), "--out", str(out), "--precision", "fp32"]) == 0
    new = contents(out)
    assert old != new and len(snapshots.states) > 2 * len(new) and snapshots.operations > len(snapshots.states)
    seen = []
    for number, state in enumerate(snapshots.states):
        world = tmp_path / f"world_{number}" / "place"
        for name, content in state.items():
            (world / name).parent.mkdir(parents=True, exist_ok=True)
            (world / name).write_bytes(content)
        found = contents(world / "engine")
        assert found in (old, new)
        seen.append(found == new)
        with staging(world / "engine"):
            assert contents(world / "engine") == found
        assert os.listdir(world) == ["engine"]
        shutil.rmtree(world.parent)
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_the_command_killed(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path / "in", seed=seed, num_joints=3, hidden_dim=8)
    out = renamed_copy(tmp_path / "place" / "engine", "old")
    old = contents(out)
    pid = in_child(lambda: main([str(made.path), "--out", str(out), "--precision", "fp32"]))
    while not list(out.parent.glob(".engine.building-*/weights.npz")) and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    assert contents(out) == old
    assert len(os.listdir(out.parent)) == 2
    with staging(out):
        assert contents(out) == old
    assert os.listdir(out.parent) == ["engine"]


def test_two_builds_at_once(tmp_path: Path) -> None:
    sources = {name: renamed_copy(tmp_path / name, name) for name in ("a", "b")}
    out = tmp_path / "place" / "engine"

    def build(source: Path) -> None:
        for _ in range(20):
            put(source, out)

    children = [in_child(lambda source=source: build(source)) for source in sources.values()]
    assert [ended(child) for child in children] == [0, 0]
    assert os.listdir(out.parent) == ["engine"]
    assert contents(out) == contents(sources[read_manifest(out).name])


def test_a_disk_that_fills_up_during_a_build(tmp_path: Path, seed: int) -> None:
    """Files may have so many bytes and no more, so that another file is the one that does not fit."""
    made = make_checkpoint(tmp_path / "in", seed=seed, num_joints=5, hidden_dim=24)
    out, said = renamed_copy(tmp_path / "place" / "engine", "old"), tmp_path / "said"
    old = contents(out)

    def build() -> None:  # not here: what pytest catches is a file as well
        for limit in (5_000, 25_000):  # below the bank, and below TorchScript
            with said.open("a") as sys.stderr, largest_file(limit):
                print(main([str(made.path), "--out", str(out), "--precision", "fp32"]), file=sys.stderr)

    assert ended(in_child(build)) == 0
    lines = said.read_text().splitlines()
    assert lines[1::2] == ["2", "2"], lines
    assert all(line.startswith("cmg_export: ") for line in lines[::2]) and len(lines) == 4
    assert contents(out) == old
    assert os.listdir(out.parent) == ["engine"]


def test_two_commands_at_once(tmp_path: Path, seed: int) -> None:
    """Two builds of the whole command into one folder: it is one of the two, and nothing lies beside it."""
    out, expected, children = tmp_path / "place" / "engine", {}, []

    def build(path: Path) -> None:
        assert main([str(path), "--out", str(out), "--precision", "fp32"]) == 0

    for name, hidden in (("a", 8), ("b", 9)):
        expected[hidden] = make_checkpoint(tmp_path / name, seed=seed, num_joints=3, hidden_dim=hidden).path
        children.append(in_child(lambda path=expected[hidden]: build(path)))
    assert [ended(child) for child in children] == [0, 0]
    assert os.listdir(out.parent) == ["engine"]
    manifest = read_manifest(out)
    assert manifest.source["sha256"] == file_sha256(expected[manifest.sizes.hidden_dim])
    for artifact in manifest.artifacts:
        if artifact.backend in BACKENDS:
            engine = load_engine(out, 2, backend=artifact.backend)  # every file is this engine's: hashes are checked
            engine.reset()
            engine.step()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a thread")
def test_a_killed_build_leaves_no_process_behind(tmp_path: Path) -> None:
    """What computes beside it finds nobody to tell, and ends."""
    begun = tmp_path / "begun"

    def work() -> bytes:
        begun.write_text(str(os.getpid()))
        time.sleep(0.3)
        return bytes(1 << 20)  # more than a pipe holds

    def build() -> None:
        with beside(work):
            time.sleep(600)

    build_pid = in_child(build)
    while not begun.exists() or not begun.read_text():
        time.sleep(0.01)
    process = Path("/proc") / begun.read_text()
    assert process.exists()
    os.kill(build_pid, signal.SIGKILL)
    assert ended(build_pid) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while process.exists() and "\nState:\tZ" not in (process / "status").read_text():  # an orphan waits for init
        assert time.monotonic() < deadline
        time.sleep(0.05)
