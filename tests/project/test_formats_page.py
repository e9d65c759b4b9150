"""docs/formats.md is enough: its Python writes a checkpoint and a clip, and its commands compile and train them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cmg_gym.policy_card import PolicyCard
from cmg_runtime.folder.manifest import read_manifest
from python_process import run_python

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text()
STEPS = re.findall(r"^```python\n(.*?)^```\n|^    python ([^\n]*)\n", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_whoever_follows_the_page_compiles_and_trains(tmp_path: Path) -> None:
    by_hand = [script for script, _ in STEPS if script]
    assert len(by_hand) == 3 and not any("cmg" in line for script in by_hand[:2] for line in imports(script))
    for script, command in STEPS:
        done = run_python("-c", script, cwd=tmp_path) if script else run_python(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0, (script or command) + done.stdout + done.stderr
    manifest = read_manifest(tmp_path / "engines" / "by_hand")
    assert (manifest.name, manifest.sizes.num_joints, manifest.sizes.num_experts) == ("by_hand", 29, 2)
    assert manifest.command_range.max == pytest.approx((1.0, 0.3, 0.6))
    assert {path.name for path in (tmp_path / "trained").glob("*.*")} >= {"cmg_final.pt", "bank.npz"}


def imports(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith(("import ", "from "))]


def test_a_policy_is_as_the_page_says() -> None:
    """Every key that code and the bundled policy have is there; the network takes what the observation adds up to."""
    named = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("## Policy") :]))
    folder = ROOT / "legged_gym" / "policies" / "g1_neutral"
    card = json.loads((folder / "policy.json").read_text())
    assert {field.name for field in fields(PolicyCard)} | set(card) | set(card["observation"][0]) <= named
    policy = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    obs = np.zeros((5, sum(term["width"] for term in card["observation"])), dtype=np.float32)
    (actions,) = policy.run(["actions"], {"obs": obs})
    assert np.asarray(actions).shape == (5, len(card["joint_names"]))
