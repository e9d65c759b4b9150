"""Robot models become chains and soles; models that do not fit are refused in one line."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import cmg_export.read.joints
from cmg_export.errors import RobotError
from cmg_export.read.checkpoint import Checkpoint, load_checkpoint
from cmg_export.read.joints import resolve_joints
from cmg_export.read.robot import UNLIMITED, RobotModel, g1_model
from CMG_Ref.robot_g1 import JOINT_NAMES
from make_checkpoint import make_checkpoint
from python_process import run_python
from random_robot import random_robot

pytest.importorskip("mujoco")

needs_g1 = pytest.mark.skipif(g1_model() is None, reason="mjlab is not installed")

LEG = """
<body name="{side}_shin" pos="0 {y} -0.4">
  <joint name="{side}_knee" axis="0 1 0" range="-90 10"/>
  <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3"/>
  <body name="{side}_foot" pos="0 0 -0.35"><joint name="{side}_ankle" axis="0 1 0"/>{{{side}}}</body>
</body>
"""
BIPED = f"""
<mujoco model="biped">
  {{assets}}
  <worldbody>
    <geom type="{{plane}}" size="1 1 1"/>
    <body name="trunk" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.1 0.1 0.2"/>
      {LEG.format(side="left", y=0.1)}{LEG.format(side="right", y=-0.1)}
    </body>
    <body name="crate" pos="5 0 -9"><geom size="0.1"/></body>
  </worldbody>
</mujoco>
"""
BIPED_JOINTS = ("left_knee", "left_ankle", "right_knee", "right_ankle")
FOOT = '<geom size="0.02"/>'


def biped(path: Path, left: str = FOOT, right: str = FOOT, **changes: str) -> RobotModel:
    """With these geometries for feet."""
    path.write_text(BIPED.format(left=left, right=right, **{"assets": "", "plane": "plane", **changes}))
    return RobotModel(path)


def refusal(path: Path, joint_names: tuple[str, ...]) -> str:
    with pytest.raises(RobotError) as caught:
        RobotModel(path).chain(joint_names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def soles(model: RobotModel) -> dict[str, set[tuple[float, ...]]]:
    """Body name -> its sole spheres, (x, y, z, radius), to a micrometre."""
    chain = model.chain(BIPED_JOINTS)
    found: dict[str, set[tuple[float, ...]]] = {}
    for body, point, radius in zip(chain.sole_bodies, chain.sole_points, chain.sole_radii, strict=True):
        found.setdefault(chain.body_names[body], set()).add(rounded(*point, radius))
    return found


def rounded(*values: float) -> tuple[float, ...]:
    return tuple(np.round(values, 6) + 0.0)


def corners(x: float, y: float, z: float, of: tuple[float, float, float] = (0, 0, 0)) -> set[tuple[float, ...]]:
    """Of a box of these half sizes."""
    signs = itertools.product((-1, 1), repeat=3)
    return {rounded(of[0] + i * x, of[1] + j * y, of[2] + k * z, 0.0) for i, j, k in signs}


def test_soles_of_primitives(tmp_path: Path) -> None:
    """Neither of the shin above nor of the crate below; a foot higher than the band is none; and drawn geometry serves
    where nothing collides."""
    box = '<geom type="box" size="0.1 0.04 0.01" pos="0.02 0 -0.04"/>'
    capsule = '<geom type="capsule" size="0.01" fromto="-0.05 0 -0.035 0.1 0 -0.035"/>'
    assert soles(biped(tmp_path / "a.xml", box, capsule + '<geom size="0.02" pos="0 0 -0.02"/>')) == {
        "left_foot": corners(0.1, 0.04, 0.01, of=(0.02, 0, -0.04)),
        "right_foot": {(-0.05, 0.0, -0.035, 0.01), (0.1, 0.0, -0.035, 0.01), (0.0, 0.0, -0.02, 0.02)},
    }
    assert set(soles(biped(tmp_path / "a.xml", FOOT, '<geom size="0.02" pos="0 0 0.021"/>'))) == {"left_foot"}
    drawn = '<default><geom contype="0" conaffinity="0"/></default>'
    assert set(soles(biped(tmp_path / "a.xml", assets=drawn, plane="box"))) == {"left_foot", "right_foot"}
    turned = '<geom type="ellipsoid" size="0.1 0.05 0.02" euler="90 0 0"/>'  # its y axis points up
    found = soles(biped(tmp_path / "a.xml", '<geom type="cylinder" size="0.05 0.05"/>', turned))
    assert max(np.hypot(p[0], p[1]) for p in found["left_foot"]) == pytest.approx(0.05)
    assert [min(p[2] for p in found[f"{side}_foot"]) for side in ("left", "right")] == pytest.approx([-0.05] * 2)


def test_meshes_count_where_there_is_nothing_simpler(tmp_path: Path) -> None:
    vertices = "-1 -1 -1  1 -1 -1  -1 1 -1  1 1 -1  -1 -1 1  1 -1 1  -1 1 1  1 1 1  0 0 0.3"  # the last is inside
    assets = f'<asset><mesh name="m" scale="0.05 0.04 0.03" vertex="{vertices}"/></asset>'
    mesh = '<geom type="mesh" mesh="m"/>'
    model = biped(tmp_path / "a.xml", mesh, mesh + '<geom size="0.03" pos="0.1 0 0"/>', assets=assets)
    assert soles(model) == {"left_foot": corners(0.05, 0.04, 0.03), "right_foot": {(0.1, 0.0, 0.0, 0.03)}}


def test_limits_and_order(tmp_path: Path) -> None:
    chain = biped(tmp_path / "a.xml").chain(("right_ankle", "left_knee"))
    np.testing.assert_allclose(chain.joint_lower, (-UNLIMITED, -np.pi / 2))
    np.testing.assert_allclose(chain.joint_upper, (UNLIMITED, np.deg2rad(10)))
    assert chain.name == "biped" and "crate" not in chain.body_names
    assert dict(zip(chain.body_names, chain.body_joints, strict=True)) == {
        "trunk": -1, "left_shin": 1, "left_foot": -1, "right_shin": -1, "right_foot": 0,
    }  # fmt: skip


def test_models_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, ankle = tmp_path / "a.xml", '<joint name="left_ankle" axis="0 1 0"/>'
    rootless = '<mujoco><worldbody><body>{}<geom size="1"/></body></worldbody></mujoco>'
    no_models = ("", "PK", "<mujoco", "<robot/>", rootless.format('<joint type="x"/>'))
    slide, two = '<joint name="toe" type="slide"/>', ankle + '<joint name="left_roll" axis="1 0 0"/>'
    cases: list[tuple[str, tuple[str, ...], str]] = [
        *((text, (), str(path)) for text in no_models),
        ("<mujoco/>", (), "robot"),
        (rootless.format("<freejoint/>"), ("missing",), "missing"),
        (BIPED, (*BIPED_JOINTS, "left_hip", "waist"), "left_hip, waist"),
        (BIPED.replace(ankle, slide), ("left_knee", "toe"), "toe"),
        (BIPED.replace(ankle, two), ("left_ankle", "left_roll"), "left_foot"),
        (BIPED.replace("<freejoint/>", '<joint name="turn"/>'), ("turn",), "trunk"),
    ]
    assert "absent.xml" in refusal(tmp_path / "absent.xml", ())
    for text, joint_names, said in cases:
        path.write_text(text.format(left=FOOT, right=FOOT, assets="", plane="plane"))
        assert said in refusal(path, joint_names)
    assert [found.name for found in tmp_path.iterdir()] == ["a.xml"]  # no log file


def load(folder: Path, seed: int, num_joints: int, joint_names: list[str] | None = None) -> Checkpoint:
    made = make_checkpoint(folder, num_joints=num_joints, hidden_dim=8, seed=seed)
    if joint_names:
        (folder / "card.json").write_text(json.dumps({"joint_names": joint_names}))
    return load_checkpoint(made.path)


@needs_g1
def test_the_g1_is_found(tmp_path: Path, seed: int) -> None:
    """By all its joints, or a part of them."""
    imported = "mjlab" in sys.modules
    joints = resolve_joints(load(tmp_path / "all", seed, 29), None)
    assert ("mjlab" in sys.modules) == imported
    assert joints.names == JOINT_NAMES and (chain := joints.chain) is not None
    assert chain.body_joints[chain.body_index("right_knee_link")] == JOINT_NAMES.index("right_knee_joint")
    for name in ("head_link", "head_mocap", "left_rubber_hand", "right_rubber_hand"):
        assert chain.body_joints[chain.body_index(name)] == -1
    assert {chain.body_names[body] for body in chain.sole_bodies} == {"left_ankle_roll_link", "right_ankle_roll_link"}
    assert len(chain.sole_points) == 28  # two ends of seven capsules, twice
    assert set(chain.sole_radii) == {0.01}
    names = [name for name in JOINT_NAMES if "wrist" not in name][::-1]
    joints = resolve_joints(load(tmp_path / "part", seed, 23, names), None)
    assert joints.names == tuple(names) and (chain := joints.chain) is not None
    assert chain.body_joints[chain.body_index("left_wrist_yaw_link")] == -1


def test_without_a_robot(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    joints = resolve_joints(load(tmp_path / "a", seed, 2), None)
    assert joints.names == ("joint_0", "joint_1") and joints.chain is None
    monkeypatch.setattr(cmg_export.read.joints, "g1_model", lambda: None)
    joints = resolve_joints(load(tmp_path / "b", seed, 29), None)
    assert joints.names == JOINT_NAMES and joints.chain is None and "mjlab" in joints.note


def test_names_come_from_the_card_then_from_the_robot(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    robot = random_robot(rng, tmp_path / "robot.xml", num_bodies=4)
    assert resolve_joints(load(tmp_path / "a", seed, 3), robot.path).names == robot.joint_names
    names = robot.joint_names[2::-2]
    joints = resolve_joints(load(tmp_path / "b", seed, 2, [*names]), robot.path)
    assert joints.names == names and joints.chain is not None
    with pytest.raises(RobotError, match="3 hinge joints, the motion state 2"):
        resolve_joints(load(tmp_path / "c", seed, 2), robot.path)


@pytest.mark.slow
@needs_g1
@pytest.mark.parametrize("exported", ["osmesa", "no such renderer"])
def test_reading_a_model_needs_nothing_to_draw_with(exported: str) -> None:
    """Whatever MUJOCO_GL says, with or without that library; and Triton, which torch imports, loads after it.

    In a process of its own: mujoco looks at the variable when it is first imported.
    """
    code = (
        "import importlib.util, os; from cmg_export.read.robot import RobotModel, g1_model;"
        "from CMG_Ref.robot_g1.chain import FEET, g1_chain;"
        "print(len(RobotModel(g1_model()).hinge_names()), len(g1_chain(FEET).body_names), os.environ['MUJOCO_GL']);"
        "importlib.util.find_spec('triton') and importlib.import_module('triton')"
    )
    done = run_python("-c", code, MUJOCO_GL=exported)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2) == ["29", "13", f"{exported}\n"]
