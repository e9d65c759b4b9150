"""Two packages of the name isaacgym: this one is not installed over another, nor imported beside one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isaacgym import shadowing
from python_process import run_python

PROJECT = Path(shadowing.__file__).parents[1]
OTHER = "# NVIDIA's\nNAME = 'other'\n"
METADATA = "Metadata-Version: 2.1\nName: isaacgym\nVersion: 1.0rc4\n"
KINDS = {
    "a package": ("isaacgym/__init__.py", OTHER),
    "an editable install": ("isaacgym-1.0rc4.dist-info/METADATA", METADATA),
    "an editable install of an older pip": ("isaacgym.egg-link", "/home/somebody/isaacgym/python\n.\n"),
    "an egg": ("isaacgym.egg-info/PKG-INFO", METADATA),
}


def put(folder: Path, kind: str) -> None:
    name, text = KINDS[kind]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.mark.parametrize("kind", KINDS)
def test_another_is_found(tmp_path: Path, kind: str) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(PROJECT / "isaacgym", ours / "isaacgym", ignore=shutil.ignore_patterns("__pycache__"))
    (ours / "isaacgym_warp-0.1.0.dist-info").mkdir()
    (ours / "isaacgym_warp-0.1.0.dist-info" / "METADATA").write_text(METADATA.replace("isaacgym", "isaacgym-warp"))
    folders = [str(ours), str(tmp_path / "nothing"), str(tmp_path / "theirs")]
    assert shadowing.find_other(folders) is None
    put(tmp_path / "theirs", kind)
    found = shadowing.find_other(folders)
    assert found is not None and found.startswith(str(tmp_path / "theirs"))


def test_it_is_not_imported_beside_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a package")
    monkeypatch.setattr(sys, "path", [str(PROJECT), str(tmp_path)])
    with pytest.raises(
        ImportError, match="there are two isaacgym: MuJoCo Warp's in .* and another in .*; keep one"
    ) as caught:
        shadowing.refuse_to_shadow()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sys, "path", [str(PROJECT), str(PROJECT)])
    shadowing.refuse_to_shadow()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_it_is_not_built_for_a_python_that_has_another(tmp_path: Path, kind: str | None) -> None:
    """What pip runs to install it, in a copy, with the folder of the user's own packages as the place to install to."""
    project = tmp_path / "project"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    words = ["-c", "import site; print(site.getusersitepackages())"]
    user = Path(run_python(*words, PYTHONUSERBASE=str(tmp_path / "user")).stdout.strip())
    if kind is not None:
        put(user, kind)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PYTHONUSERBASE"] = str(tmp_path / "user")
    command = [sys.executable, "setup.py", "-q", "bdist_wheel"]
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=300)
    if kind is None:
        assert done.returncode == 0, done.stderr
        assert [wheel.name.split("-")[0] for wheel in (project / "dist").glob("*.whl")] == ["isaacgym_warp"]
    else:
        assert done.returncode != 0
        assert f"error: isaacgym is installed here ({user}" in done.stderr.splitlines()[-1]
