"""Files of engines and checkpoints: killed writers, full disks, folders to be read only, and damage of every kind."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

import pytest

from cmg_export.errors import ExportError
from cmg_export.publish import check_out, staging
from CMG_Ref.checkpoint_io import read_pt, write_pt
from cmg_runtime import load_engine, read_manifest
from cmg_runtime.errors import EngineError
from cmg_runtime.kept_files import replace_file
from engine_folder import renamed_copy
from killing import contents, ended, in_child, killed_at

NOBODY = 65534


@pytest.mark.parametrize("operation", range(12))
def test_a_checkpoint_killed_while_it_is_written(tmp_path: Path, operation: int) -> None:
    path = tmp_path / "cmg.pt"
    write_pt(path, {"epoch": 1})
    killed = killed_at(operation, tmp_path, lambda: write_pt(path, {"epoch": 2}))
    assert read_pt(path)["epoch"] in ((1, 2) if killed else (2,))
    write_pt(path, {"epoch": 3})
    assert read_pt(path)["epoch"] == 3
    assert os.listdir(tmp_path) == ["cmg.pt"]


@pytest.mark.parametrize("write", ["kept file", "checkpoint"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, write: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # Python ignores the signal; the write fails
        with pytest.raises((OSError, RuntimeError)):  # the latter is torch's
            replace_file(path, bytes(5000)) if write == "kept file" else write_pt(path, {"epoch": "1" * 5000})

    assert ended(in_child(fill)) == 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept"]


def test_a_folder_that_may_only_be_read() -> None:
    """As an ordinary user: permissions do not hold root."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        out = renamed_copy(Path(scratch) / "place" / "engine", "old")
        out.chmod(0o555)
        out.parent.chmod(0o555)
        load_engine(out, 2, backend="torch")  # now: what it imports on first use, the other user may not read

        def use() -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            for refused in (lambda: check_out(out, []), lambda: staging(out).__enter__()):
                with pytest.raises(ExportError, match="choose another --out"):
                    refused()
            with pytest.raises(OSError):
                replace_file(out / "first_load.json", b"{}")
            engine = load_engine(out, 2, backend="torch")  # reading is all that it needs
            engine.reset(command=[0.1, 0.0, 0.0])
            engine.step()

        before = contents(out)
        try:
            assert ended(in_child(use)) == 0
            assert contents(out) == before
        finally:
            out.parent.chmod(0o755)
            out.chmod(0o755)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "swapped", "future", "deleted"])
def test_damaged_engines_say_so_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = renamed_copy(tmp_path / "engine", "engine")
    running = load_engine(folder, 2, backend="torch")
    running.reset(command=[0.1, 0.0, 0.0])
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


@pytest.mark.parametrize("backend", ["torch", "torchscript", "onnx"])
def test_artifacts_of_another_engine(tmp_path: Path, seed: int, backend: str) -> None:
    """Each backend, and both ways round: another engine's file, and another engine's manifest."""
    other = Path(__file__).parent / "golden" / "schema_1"
    folder = renamed_copy(tmp_path / "engine", "engine")
    artifact = next(a for a in read_manifest(folder).artifacts if a.backend == backend and a.precision == "fp32")
    file = str(artifact.file)
    shutil.copyfile(other / file, folder / file)
    with pytest.raises(EngineError, match="does not match the hash"):
        load_engine(folder, 2, backend=backend, precision="fp32")
    shutil.copyfile(other / "manifest.json", folder / "manifest.json")  # its bank is not this one
    with pytest.raises(EngineError, match="does not match the hash"):
        load_engine(folder, 2, backend=backend, precision="fp32")
