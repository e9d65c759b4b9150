"""Publishing survives being killed at any file operation, full disks and rivals; damaged engines say so in a line."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cmg_export.publish
from cmg_export.publish import publish, staging
from cmg_runtime import load_engine, read_manifest
from cmg_runtime.errors import EngineError
from cmg_runtime.kept_files import replace_file
from CMG_Ref.checkpoint_io import read_pt, write_pt
from engine_folder import shared_engine_folder

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.scandir", "ctypes.dlsym")


def named(folder: Path, name: str) -> Path:
    """A copy of the shared engine under another name."""
    shutil.copytree(shared_engine_folder()[0], folder, ignore=shutil.ignore_patterns("checkpoint"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"test_engine"', f'"{name}"'))
    return folder


def put(source: Path, out: Path) -> None:
    with staging(out) as folder:
        for path in source.iterdir():
            shutil.copyfile(path, folder / path.name)
        publish(folder, out)


def in_child(task: Callable[[], Any]) -> int:
    """Run it in a forked process; the process's number."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    """0, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(operation: int, under: Path, task: Callable[[], Any]) -> bool:
    """Run the task in a process killed before its n-th file operation under a folder; whether it came to that."""

    def run() -> None:
        left = operation

        def count(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            if event in FILE_EVENTS and (event == "ctypes.dlsym" or str(args[0]).startswith(str(under))):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        task()

    status = ended(in_child(run))
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("exchange", [True, False])
def test_a_build_killed_at_every_file_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(cmg_export.publish, "_exchange", lambda a, b: False)
    old, new = named(tmp_path / "old", "old"), named(tmp_path / "new", "new")
    files = sorted(path.name for path in new.iterdir())
    place = tmp_path / "place"
    out, operation, seen = place / "engine", 0, set()
    while True:
        shutil.rmtree(place, ignore_errors=True)
        put(old, out)
        killed = killed_at(operation, place, lambda: put(new, out))
        if exchange or out.exists():  # with two renames it is absent for a moment
            assert sorted(path.name for path in out.iterdir()) == files
            seen.add(read_manifest(out).name)
            load_engine(out, 2, backend="torch")
        with staging(out):
            assert read_manifest(out).name in ("old", "new")
        assert os.listdir(place) == ["engine"]
        if not killed:
            break
        operation += 1
    assert seen == {"old", "new"}
    assert operation > 2 * len(files)


def test_two_builds_at_once(tmp_path: Path) -> None:
    sources = [named(tmp_path / name, name) for name in ("a", "b")]
    out = tmp_path / "place" / "engine"

    def build(source: Path) -> None:
        for _ in range(20):
            put(source, out)

    children = [in_child(lambda source=source: build(source)) for source in sources]
    assert [ended(child) for child in children] == [0, 0]
    assert os.listdir(out.parent) == ["engine"]
    assert read_manifest(out).name in ("a", "b")
    load_engine(out, 2, backend="torch")


@pytest.mark.parametrize("operation", range(12))
def test_a_checkpoint_killed_while_it_is_written(tmp_path: Path, operation: int) -> None:
    path = tmp_path / "cmg.pt"
    write_pt(path, {"epoch": 1})
    killed = killed_at(operation, tmp_path, lambda: write_pt(path, {"epoch": 2}))
    assert read_pt(path)["epoch"] in ((1, 2) if killed else (2,))
    write_pt(path, {"epoch": 3})
    assert read_pt(path)["epoch"] == 3
    assert os.listdir(tmp_path) == ["cmg.pt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(OSError):
            replace_file(path, bytes(5000))

    assert ended(in_child(fill)) == 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "swapped", "future", "deleted"])
def test_damaged_engines_say_so_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = named(tmp_path / "engine", "engine")
    running = load_engine(folder, 2, backend="torch")
    weights, manifest = folder / "weights.npz", folder / "manifest.json"
    content = bytearray(weights.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "truncated":
        weights.write_bytes(content[:-1])
    elif damage == "swapped":
        shutil.copyfile(folder / "bank.npz", weights)
    elif damage == "future":
        manifest.write_text(manifest.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    else:
        shutil.rmtree(folder)
    with pytest.raises(EngineError) as caught:
        load_engine(folder, 2, backend="torch")
    message = str(caught.value)
    expected = {"future": "schema version 2", "deleted": "make engine"}.get(damage, "does not match the hash")
    assert expected in message
    assert "\n" not in message
    running.step()  # what was loaded does not look at the folder again
