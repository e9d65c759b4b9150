"""manifest.json: what is written is what is read, and whatever else is read ends in one line."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import (
    Artifact,
    CommandRange,
    FileEntry,
    Manifest,
    Sizes,
    Stats,
    read_manifest,
    read_verified,
)
from cmg_runtime.folder.robot import KinematicChain

HASH = "0123456789abcdef" * 4


def make_manifest() -> Manifest:
    """Two joints, a root and two links."""
    return Manifest(
        name="biped",
        source={"checkpoint": "cmg_final.pt", "layers": [1, [2, 3]]},
        sizes=Sizes(4, 3, 2, 8, 8, 2, 2),
        fps=50.0,
        joint_names=("left", "right"),
        default_dof_pos=(0.1, -0.1),
        stats=Stats((0.0,) * 4, (1.0,) * 4, (-1.0,) * 3, (1.0,) * 3),
        command_range=CommandRange((-0.5, 0.0, -1.0), (0.5, 0.0, 1.0), "card"),
        robot=KinematicChain(
            name="biped",
            body_names=("root", "left", "right"),
            body_parents=(-1, 0, 0),
            body_pos=((0.0, 0.0, 0.0),) * 3,
            body_quat=((1.0, 0.0, 0.0, 0.0),) * 3,
            body_joints=(-1, 0, 1),
            joint_axes=((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0)),
            joint_anchors=((0.0, 0.0, 0.0),) * 3,
            joint_lower=(-1.0, -1.0),
            joint_upper=(1.0, 1.0),
            sole_bodies=(1, 2),
            sole_points=((0.0, 0.0, -0.3),) * 2,
            sole_radii=(0.01, 0.01),
        ),
        bank=FileEntry("bank.npz", HASH),
        artifacts=(
            Artifact("torch_fp32", "torch", "fp32", "weights.npz", HASH, {"device": "any"}, {"torch": "2.13.0"}),
            Artifact("onnx_fp16", "onnx", "fp16", None, None, parity={"status": "failed", "reason": "0.1 > 0.002"}),
        ),
    )


def test_what_is_written_is_read() -> None:
    manifest = make_manifest()
    text = manifest.to_json()
    read = Manifest.from_json(text)
    assert read == manifest
    assert read.to_json() == text
    bare = dataclasses.replace(manifest, robot=None, default_dof_pos=None, artifacts=())
    assert Manifest.from_json(bare.to_json()) == bare
    data = json.loads(text)
    data["fps"], data["stats"]["motion_std"] = 50, [1, 2, 3, 4]
    read = Manifest.from_json(json.dumps(data))  # integers are read as numbers
    assert isinstance(read.fps, float) and read.stats.motion_std == (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(ValueError, match="joint_names has 1 entries"):  # nor can it be made
        dataclasses.replace(manifest, joint_names=("left",))


Place = tuple[Any, ...]


def places(value: Any, path: Place = ()) -> Iterator[Place]:
    """The path of every value inside parsed JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def parent_of(data: Any, path: Place) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


FREE_FORM = ("source", "target", "tools", "parity")
"""Fields whose content is up to the writer."""

HOSTILE = [None, True, -1, 0, 2.5, 10**400, "", "../../etc/passwd", "a\nb", "\ud800"]
HOSTILE += [[], [[]], {}, {"a": 1}, [None], [["x"]], ["x"] * 4]
MUST_FAIL = [True, "a\nb", {"a": 1}, [None], [["x"]]]
"""Right for no field outside the free-form ones, strings apart."""


def refused(text: str, message: str = "") -> bool:
    """In one line."""
    try:
        Manifest.from_json(text)
    except EngineError as error:
        assert re.search(message, str(error)) and "\n" not in str(error) and len(str(error)) < 400, str(error)
        return True
    return False


@pytest.mark.slow
def test_every_wrong_missing_or_unknown_value_anywhere_ends_in_one_line() -> None:
    good, count = json.loads(make_manifest().to_json()), 0
    for path in list(places(good)):
        parent, key = parent_of(good, path), path[-1]
        value, free = parent[key], any(key in FREE_FORM for key in path)
        for wrong in HOSTILE:
            parent[key] = wrong
            is_refused = refused(json.dumps(good))
            count += is_refused
            if wrong in MUST_FAIL and not free and not (isinstance(value, str) and isinstance(wrong, str)):
                assert is_refused, (path, wrong)
        parent[key] = value
    assert count > 1000
    for path in [(), *places(good)]:
        if any(key in FREE_FORM for key in path[:-1]):
            continue
        data = copy.deepcopy(good)
        inside = parent_of(data, (*path, None))
        if isinstance(inside, dict) and path[-1:] not in [(name,) for name in FREE_FORM]:
            inside["surprise"] = 1
            assert refused(json.dumps(data)), path
        if path:
            data = copy.deepcopy(good)
            del parent_of(data, path)[path[-1]]
            optional = path[-1] in ("target", "tools", "parity") or path in (("artifacts", 0), ("artifacts", 1))
            assert refused(json.dumps(data)) != optional, path


WRONG = {
    "a dimension short": (("stats", "motion_std"), [1.0, 1.0, 1.0], r"motion_std has 3 entries; expected 4"),
    "zero std": (("stats", "motion_std", 1), 0.0, "not positive"),
    "empty command range of stats": (("stats", "command_max", 1), -1.0, "not below"),
    "command range upside down": (("command_range", "min", 0), 0.6, "above"),
    "a joint twice": (("joint_names", 1), "left", "joint_names has the same name twice"),
    "motion of another width": (("sizes", "motion_dim"), 5, "motion_dim is 5 for 2 joints"),
    "no experts": (("sizes", "num_experts"), 0, "num_experts is 0"),
    "a path": (("bank", "file"), "../bank.npz", "plain name"),
    "a hidden file": (("bank", "file"), ".bank", "plain name"),
    "no hash": (("artifacts", 0, "sha256"), None, "64 hex digits"),
    "an artifact twice": (("artifacts", 1, "name"), "torch_fp32", "artifacts has the same name twice"),
    "precision": (("artifacts", 0, "precision"), "fp8", "expected fp32 or fp16"),
    "parity": (("artifacts", 0, "parity", "status"), "ok", "expected passed, failed, not_run"),
    "a cycle of bodies": (("robot", "body_parents", 1), 2, "not a tree"),
    "a joint that is not there": (("robot", "body_joints", 2), 2, "a joint that is not there"),
    "a sole on no body": (("robot", "sole_bodies", 0), 3, "a body that is not there"),
    "a flat vector": (("robot", "body_pos", 1), [0.0, 0.0], "body_pos has 2 entries; expected 3"),
    "no rotation": (("robot", "body_quat", 1), [0.0] * 4, "zero quaternion"),
    "limits upside down": (("robot", "joint_lower", 1), 2.0, "joint_lower is above"),
    "frozen": (("fps",), 0.0, "fps is 0.0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rules(name: str) -> None:
    path, value, message = WRONG[name]
    data = json.loads(make_manifest().to_json())
    parent_of(data, path)[path[-1]] = value
    assert refused(json.dumps(data), message)


def test_texts_that_are_no_manifest() -> None:
    for text in ("", "{", "[]", "7", '"manifest"', "{}", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN"):
        assert refused(text), text[:12]
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):
        assert refused(make_manifest().to_json().replace('"fps": 50.0', f'"fps": {number}'), "finite")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """What a folder lacks and files that were changed: test_runtime_loading.py."""
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EngineError, match="not UTF-8 text.*expected an engine folder"):
        read_manifest(tmp_path)
    with pytest.raises(EngineError, match="no file"):
        read_verified(tmp_path, Artifact("a", "torch", "fp32", None, None, parity={"status": "failed"}))
