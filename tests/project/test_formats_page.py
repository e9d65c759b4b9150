"""docs/formats.md says what is in the files; test_snippets.py follows the page."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnxruntime

from cmg_gym.policy_card import PolicyCard
from documents import blocks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text()


def test_checkpoint_and_clip_are_written_without_this_project() -> None:
    by_hand = [block.text for block in blocks("docs/formats.md") if block.language == "python"][:2]
    imported = {name for text in by_hand for name in re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)}
    assert imported == {"json", "pathlib", "numpy", "torch"}


def test_a_policy_is_as_the_page_says() -> None:
    """Every key that code and the bundled policy have is there; the network takes what the observation adds up to."""
    named = set(re.findall(r"`(\w+)`", TEXT[TEXT.index("## Policy") :]))
    folder = ROOT / "legged_gym" / "policies" / "g1_all"
    card = json.loads((folder / "policy.json").read_text())
    assert {field.name for field in fields(PolicyCard)} | set(card) | set(card["observation"][0]) <= named
    policy = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    obs = np.zeros((5, sum(term["width"] for term in card["observation"])), dtype=np.float32)
    (actions,) = policy.run(["actions"], {"obs": obs})
    assert np.asarray(actions).shape == (5, len(card["joint_names"]))
