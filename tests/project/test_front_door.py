"""The Makefile passes on what it is told, and the runtime package stands alone, without a network too."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bare_checkout import bare_checkout, make, needs_make
from python_process import environment, run_python

ROOT = Path(__file__).resolve().parents[2]


def test_syntax_is_python_38() -> None:
    for folder in ("runtime", "CMG_Ref/module", "CMG_Ref/utils"):
        assert (paths := list((ROOT / folder).rglob("*.py")))
        for path in paths:
            ast.parse(path.read_text(), filename=str(path), feature_version=(3, 8))


@pytest.mark.slow
def test_runtime_installs_and_imports_alone(tmp_path: Path) -> None:
    source, site = tmp_path / "source" / "runtime", tmp_path / "site"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT / "runtime", source, ignore=ignored)
    shutil.copytree(ROOT / "CMG_Ref" / "utils", source.parent / "CMG_Ref" / "utils", ignore=ignored)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=300)

    def files(folder: Path, base: Path) -> set[Path]:
        return {path.relative_to(base) for path in folder.rglob("*.py")}

    runtime, utils = files(ROOT / "runtime", ROOT / "runtime"), files(ROOT / "CMG_Ref" / "utils", ROOT)
    assert files(site, site) == runtime - {Path("setup.py")} | utils
    done = run_python(
        "-c",
        "import cmg_runtime; print(cmg_runtime.__file__, cmg_runtime.__version__)",
        cwd=tmp_path,
        PYTHONPATH=str(site),
    )
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.split()
    assert Path(file).parent == site / "cmg_runtime"
    assert version == (ROOT / "runtime" / "cmg_runtime" / "VERSION").read_text().strip()


LIFE = """
import json, os, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith(("socket.", "urllib.")) else None)
import torch
import cmg_runtime.motion_lib, CMG_Ref.utils.cmg_motion_generator
from cmg_runtime import load_engine
sums = []
for backend in json.loads(sys.argv[2]):
    engine = load_engine(sys.argv[1], 7, backend=backend, horizon=4)
    engine.reset(command=[0.3, 0.1, -0.2])
    for _ in range(5):
        dof_pos, dof_vel = engine.step()
    engine.set_command([0.1, 0.0, 0.1], env_ids=[0])
    engine.rollout(engine.bank[:2], [0.1, 0.0, 0.1], num_frames=3)
    engine.report()
    sums.append(bool(torch.isfinite(dof_pos).all()))
handles = [os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
sockets = [handle for handle in handles if os.path.islink(handle) and os.readlink(handle).startswith("socket:")]
print(json.dumps([sums, opened, sockets]))
"""


def without_network() -> list[str]:
    """What runs a command in a network namespace that has nothing in it, or nothing where that is not allowed."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    return []


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list a process's open files")
def test_an_engines_life_opens_no_socket() -> None:
    """At run time nothing is fetched and nobody is told."""
    backends = ["torch", "torchscript", *(["onnx"] if importlib.util.find_spec("onnxruntime") else [])]
    folder = ROOT / "tests" / "golden" / "schema_1"
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", LIFE, str(folder), json.dumps(backends)],
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[True] * len(backends), [], []]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return bare_checkout(tmp_path)


BUNDLED = "CMG_Ref/runs/g1_all/cmg_final.pt"
RUNS = """
engine -> cmg_export BUNDLED
engine CKPT='my runs/x.pt' DATA='a b.yaml' OUT=engines/x NUM_ENVS=7 PRECISION=fp16 ROBOT=r.xml -> \
    cmg_export 'my runs/x.pt' --out engines/x --data 'a b.yaml' --num-envs 7 --precision fp16 --robot r.xml
parity -> cmg_export.parity engines/g1_all BUNDLED
parity CKPT=/data/walk/x.pt DATA=s.yaml -> cmg_export.parity engines/walk /data/walk/x.pt --data s.yaml
parity CKPT='my runs/a walk/x.pt' -> cmg_export.parity 'engines/a walk' 'my runs/a walk/x.pt'
train OUT=engines/x NUM_ENVS=7 BACKEND=torch ITERATIONS=3 GPUS=2 RESUME=1 ARGS='--seed 5' -> \
    cmg_gym.train --engine engines/x --num-envs 7 --backend torch --iterations 3 --gpus 2 --resume --seed 5
play OUT=engines/x POLICY='a b' BACKEND=onnx -> cmg_gym.play --engine engines/x --policy 'a b' --backend onnx
drive OUT=engines/x POLICY='a b' PORT=8081 -> cmg_gym.drive --engine engines/x --policy 'a b' --port 8081
evaluate OUT=engines/x POLICY='a b' BACKEND=onnx -> cmg_gym.evaluate --engine engines/x --policy 'a b' --backend onnx
sim2sim OUT=engines/x POLICY='a b' ARGS='--pushes' -> cmg_gym.sim2sim --engine engines/x --policy 'a b' --pushes
evaluate OUT=engines/y ARGS='--seconds 2' -> \
    cmg_export BUNDLED --out engines/y -> cmg_gym.evaluate --engine engines/y --seconds 2
train OUT=engines/y NUM_ENVS=3 -> cmg_export BUNDLED --out engines/y -> cmg_gym.train --engine engines/y --num-envs 3
"""
"""What is asked of make -> what Python is given; where there is no such engine yet, it is built first, without ARGS."""


@needs_make
@pytest.mark.parametrize("suffix", ["", " my clone"])
def test_make_passes_its_variables_on(checkout: Path, suffix: str) -> None:
    """In a clone whose path has spaces, too."""
    folder = checkout.rename(checkout.with_name(checkout.name + suffix))
    for made in ("engines/x", "my runs/a walk", "CMG_Ref/runs/g1_all"):
        (folder / made).mkdir(parents=True)
    (folder / "engines" / "x" / "manifest.json").touch()
    for line in RUNS.replace("\\\n", "").replace("BUNDLED", BUNDLED).strip().splitlines():
        asked, *runs = map(shlex.split, line.split(" -> "))
        expected = "".join("".join(f"[{word}]" for word in ["-m", *run]) + "\n" for run in runs)
        assert make(folder, *asked).stdout == expected, line


@needs_make
def test_a_misspelt_variable_is_refused_in_one_line(checkout: Path) -> None:
    for arguments, wrong, right in (
        ("engine CKPT=foo.pt NUM_ENV=7", "NUM_ENV", "NUM_ENVS"),
        ("engine BACKEND=torch", "BACKEND", "PRECISION"),  # another target's
        ("train gpus=2 NUM_ENVS=7", "gpus", "GPUS"),
        ("fuzz seconds=20", "seconds", "SECONDS"),
        ("test job=1", "job", "JOBS"),
        ("clean out=engines", "out", "PYTHON"),
    ):
        done = make(checkout, *arguments.split())
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        refused, taken = done.stderr.split("; it takes ")
        assert refused.endswith(f" takes no {wrong}") and right in taken.split()


@needs_make
def test_every_variable_that_a_target_uses_is_taken(checkout: Path) -> None:
    """What a recipe mentions, or what help and README show, is no misspelling."""
    text = (checkout / "Makefile").read_text()
    recipes = re.findall(r"^([a-z0-9-]+):[^\n]*##[^\n]*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert len(recipes) > 12
    for target, recipe in recipes:
        for name in re.findall(r"\$\((?:if |or |origin |filter-out \w+,\$\()?([A-Z_]+)[),]", recipe):
            if name not in ("PY", "PIP", "INSTALL", "VENV", "CHECKED", "MAKE", "MAKEFILE_LIST"):
                assert "takes no" not in make(checkout, "--dry-run", target, f"{name}=1").stderr, (target, name)


@needs_make
def test_help_is_the_default_and_names_every_target(checkout: Path) -> None:
    done = make(checkout)
    targets = re.findall(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.MULTILINE)[0].split()
    assert done.returncode == 0 and {"engine", "test", "train", "parity", "clean"} <= {*targets}
    assert [target for target in targets if f"make {target} " not in done.stdout] == []


@needs_make
def test_a_changed_list_installs_again_with_hashes_unless_told(checkout: Path) -> None:
    assert "pip" not in make(checkout, "test").stdout
    later = (checkout / ".venv" / ".engine").stat().st_mtime + 10
    os.utime(checkout / "requirements" / "test.txt", (later, later))
    done = make(checkout, "test").stdout
    assert "[--require-hashes]" in done and "[requirements/hashed/test.txt]" in done
    assert "[requirements/hashed/engine.txt]" not in done
    (checkout / ".venv" / ".engine").unlink()
    done = make(checkout, "engine", "HASHES=0").stdout
    assert "[--constraint][requirements/engine.txt][torch]" in done and "[-r][requirements/engine.txt]" in done
    assert "hashes" not in done
    (checkout / ".venv" / ".engine").unlink()
    done = make(checkout, "engine").stdout
    for name in ("cuda", "engine"):
        assert f"[--no-deps][--require-hashes][-r][requirements/hashed/{name}.txt]" in done


@needs_make
def test_no_python_is_one_line(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    done = make(checkout, "engine", "PYTHON=/no/such/python3.9")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1 and "/no/such/python3.9" in lines[0] and "3.10" in lines[0]
    assert not (checkout / ".venv").exists()


@needs_make
def test_clean_keeps_the_environment_and_the_documentation(checkout: Path) -> None:
    (checkout / "engines" / "g1_all").mkdir(parents=True)
    for file in ("engines/README.md", "engines/g1_all/manifest.json", "engines/.partial"):
        (checkout / file).touch()
    for folder in ("CMG_Ref", "examples", "export", "legged_gym", "tests"):
        (checkout / folder / "__pycache__").mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    assert [path.name for path in (checkout / "engines").iterdir()] == ["README.md"]
    assert not list(checkout.rglob("__pycache__"))
    assert (checkout / ".venv" / ".engine").exists()
