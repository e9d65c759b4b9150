"""Engines change places whole: readers never see part of one, and killed builds are cleared away."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cmg_export.publish
from cmg_export.publish import publish, staging
from killing import ended, in_child


def put(out: Path, content: str) -> None:
    with staging(out) as folder:
        (folder / "manifest.json").write_text(content)
        publish(folder, out)


@pytest.mark.parametrize("exchanges", [True, False])
def test_publishing_over_nothing_an_empty_folder_and_an_old_engine(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways: file systems that cannot exchange folders are left two renames."""
    if not exchanges:
        monkeypatch.setattr(cmg_export.publish, "_exchange", lambda a, b: False)
    out, empty = tmp_path / "engines" / "walker", tmp_path / "empty"
    put(out, "first")
    assert (out / "manifest.json").read_text() == "first"
    (out / "left.over").write_text("of the first")
    put(out, "second")
    empty.mkdir()
    put(empty, "third")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"manifest.json": "second"}
    assert (empty / "manifest.json").read_text() == "third"
    assert sorted(path.name for path in (*tmp_path.iterdir(), *out.parent.iterdir())) == ["empty", "engines", "walker"]


def test_readers_always_find_an_engine(tmp_path: Path) -> None:
    out, probe = tmp_path / "engine", (tmp_path / "a", tmp_path / "b")
    for folder in probe:
        folder.mkdir()
    if not cmg_export.publish._exchange(*probe):
        pytest.skip("this file system cannot exchange folders")
    put(out, "0")
    seen, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append((out / "manifest.json").read_text())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read)
        for version in range(1, 100):
            put(out, str(version))
        stop.set()
    reader.result()
    assert set(seen) <= {str(version) for version in range(100)}
    assert len(set(seen)) > 1


def test_leftovers_of_killed_builds_are_removed(tmp_path: Path) -> None:
    out, dead = tmp_path / "engine", in_child(lambda: None)
    assert ended(dead) == 0
    leftovers = [f".engine.building-{dead}", f".engine.building-{os.getpid()}", f".engine.building-{dead}.old"]
    others = [f".engine.building-{os.getppid()}", f".other.building-{dead}", ".engine.building-x", "engine.backup"]
    for name in [*leftovers, *others, "engine"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    with staging(out) as folder:
        assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "engine"])
    assert (out / "content").read_text() == "engine"
