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
from killing import Snapshots, contents, ended, in_child
from make_checkpoint import make_checkpoint


def command(checkpoint: Path, out: Path) -> int:
    return main([str(checkpoint), "--out", str(out), "--precision", "fp32"])


@pytest.fixture
def checkpoint(tmp_path: Path, seed: int) -> Path:
    return make_checkpoint(tmp_path / "in", seed=seed, num_joints=3, hidden_dim=8).path


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False])
def test_a_build_killed_at_every_file_operation(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Every state of the disk that the command passes through, where folders can be exchanged and elsewhere."""
    place, pair = tmp_path / "place", (tmp_path / "one", tmp_path / "other")
    for path in pair:
        path.mkdir()
    if not exchange:
        monkeypatch.setattr(cmg_export.publish, "_exchange", lambda a, b: False)
    elif not cmg_export.publish._exchange(*pair):
        pytest.skip("this file system cannot exchange folders")
    out = renamed_copy(place / "engine", "old")
    old, snapshots = contents(out), Snapshots(place)
    with snapshots.taken():
        assert command(checkpoint, out) == 0
    new = contents(out)
    load_engine(out, 2, backend="torch")
    assert old != new and len(snapshots.states) > 2 * len(new) and snapshots.operations > len(snapshots.states)
    seen, world = [], tmp_path / "world"
    for state in snapshots.states:
        for name, content in state.items():
            (world / name).parent.mkdir(parents=True, exist_ok=True)
            (world / name).write_bytes(content)
        found = contents(world / "engine")
        with staging(world / "engine"):  # what the next build begins with
            whole = contents(world / "engine")
        assert whole in (old, new) and (found == whole or not (found or exchange))  # absent between two renames
        seen.append(whole == new)
        assert os.listdir(world) == ["engine"]
        shutil.rmtree(world)
    assert seen == sorted(seen) and set(seen) == {False, True}


def test_the_command_killed(tmp_path: Path, checkpoint: Path) -> None:
    out = renamed_copy(tmp_path / "place" / "engine", "old")
    old = contents(out)
    pid = in_child(lambda: command(checkpoint, out))
    while not list(out.parent.glob(".engine.building-*/weights.npz")) and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    assert contents(out) == old and len(os.listdir(out.parent)) == 2
    with staging(out):
        assert contents(out) == old
    assert os.listdir(out.parent) == ["engine"]


@pytest.mark.slow
def test_two_builds_at_once(tmp_path: Path, checkpoint: Path) -> None:
    """Two that publish again and again, and one beside the command: it is one of them, whole."""
    sources, out = {name: renamed_copy(tmp_path / name, name) for name in ("a", "b")}, tmp_path / "place" / "engine"

    def put(source: Path, times: int = 1) -> None:
        for _ in range(times):
            with staging(out) as folder:
                shutil.copytree(source, folder, dirs_exist_ok=True)
                publish(folder, out)

    children = [in_child(lambda source=source: put(source, times=20)) for source in sources.values()]
    assert [ended(child) for child in children] == [0, 0]
    assert os.listdir(out.parent) == ["engine"]
    assert contents(out) == contents(sources[read_manifest(out).name])
    pid = in_child(lambda: os._exit(command(checkpoint, out)))
    while (status := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        put(sources["a"])
        time.sleep(0.03)
    assert status[1] == 0 and os.listdir(out.parent) == ["engine"]
    manifest = read_manifest(out)
    if manifest.name == "a":
        assert contents(out) == contents(sources["a"])
    else:
        assert manifest.source["sha256"] == file_sha256(checkpoint)
        for artifact in manifest.artifacts:
            if artifact.backend in BACKENDS:  # every file is this engine's: hashes are checked
                load_engine(out, 2, backend=artifact.backend).reset()


def test_a_disk_that_fills_up_during_a_build(tmp_path: Path, seed: int) -> None:
    """Files may have so many bytes and no more, so that another file is the one that does not fit."""
    checkpoint = make_checkpoint(tmp_path / "in", seed=seed, num_joints=5, hidden_dim=24).path
    out, said = renamed_copy(tmp_path / "place" / "engine", "old"), tmp_path / "said"
    old = contents(out)

    def build() -> None:  # not here: what pytest catches is a file as well
        for limit in (5_000, 25_000):  # below the bank, and below TorchScript
            with said.open("a") as sys.stderr, largest_file(limit):
                print(command(checkpoint, out), file=sys.stderr)

    assert ended(in_child(build)) == 0
    lines = said.read_text().splitlines()
    assert lines[1::2] == ["2", "2"], lines
    assert all(line.startswith("cmg_export: ") for line in lines[::2]) and len(lines) == 4
    assert contents(out) == old and os.listdir(out.parent) == ["engine"]


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
