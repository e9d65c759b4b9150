"""BVH files -> clips of the G1: files worked out by hand, and a person whose steps and speed are known."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmg_export.read.robot import g1_model
from CMG_Ref.dataloader.clips import Clip, rotation
from CMG_Ref.dataloader.reading import load_clip, read_folder
from CMG_Ref.dataloader.retarget import __main__ as command
from CMG_Ref.dataloader.retarget.bvh import Bvh, read_bvh
from CMG_Ref.dataloader.retarget.person import NAMES, person
from CMG_Ref.dataloader.retarget.report import figures
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from mujoco_kinematics import MujocoKinematics
from synthetic_gait import clip_arrays, walk

CHILDREN = {
    "pelvis": ("chest", "left_hip", "right_hip"),
    "chest": ("left_shoulder", "right_shoulder"),
    **{
        f"{side}_{part}": (f"{side}_{after}",)
        for side in ("left", "right")
        for row in (("hip", "knee", "ankle", "toe"), ("shoulder", "elbow", "wrist"))
        for part, after in itertools.pairwise(row)
    },
}

Read = Callable[[str | bytes], Bvh]

TWO_BONES = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 6 Xposition Yposition Zposition %(order)s
  JOINT Arm
  {
    OFFSET 1 2 3
    CHANNELS 3 %(order)s
    End Site
    {
      OFFSET 0 0.5 0
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.02
0 0 0 0 0 0 0 0 0
10 20 30 %(angles)s
"""

THIGH, SHANK, ANKLE, FOOT = 0.42, 0.41, 0.075, 0.14  # m; the ankle above the ball, and the ball before the ankle
BALL = 0.02  # m from the ball to the ground
SMALLER = (0.654 + 0.035) / (THIGH + SHANK + ANKLE + BALL)
"""The robot's size as a share of the person's, from the axis of the hip's pitch to the ground."""
HIP = 0.84  # m above the ground, with knees bent
STRIDE = 0.9  # s; each foot stands for six tenths of it


def turn(axis: str, degrees: float) -> np.ndarray:
    """Of right-handed axes, as textbooks have it."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rows = {"X": [[1, 0, 0], [0, c, -s], [0, s, c]], "Y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}
    return np.array((rows | {"Z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]})[axis], dtype=float)


def two_bones(order: str, angles: tuple[float, ...] = (0.0,) * 6) -> str:
    names = " ".join(f"{axis}rotation" for axis in order)
    return TWO_BONES % {"order": names, "angles": " ".join(map(repr, angles))}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read the text of a BVH file."""

    def read_text(text: str | bytes) -> Bvh:
        path = tmp_path / "take.bvh"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_bvh(path)

    return read_text


@pytest.mark.parametrize("order", ["ZYX", "ZXY", "YXZ"])
def test_bvh_angles_turn_in_the_order_of_their_channels(read: Read, rng: np.random.Generator, order: str) -> None:
    angles = tuple(float(a) for a in rng.uniform(-170, 170, 6))
    bvh = read(two_bones(order, angles))
    assert bvh.names == ("Hips", "Arm", "Arm_end") and bvh.parents == (-1, 0, 1) and bvh.fps == pytest.approx(50)
    turns = [turn(axis, angle) for axis, angle in zip(order * 2, angles, strict=True)]
    hips, arm = np.linalg.multi_dot(turns[:3]), np.linalg.multi_dot(turns[3:])
    at_arm = np.array([10, 20, 30]) + hips @ [1, 2, 3]
    pos, rot = bvh.in_world()
    np.testing.assert_allclose(pos[1], [[10, 20, 30], at_arm, at_arm + hips @ arm @ [0, 0.5, 0]], atol=1e-12)
    np.testing.assert_allclose(rot[1, 1], hips @ arm, atol=1e-12)
    np.testing.assert_allclose(pos[0], [[0, 0, 0], [1, 2, 3], [1, 2.5, 3]], atol=1e-12)


def test_bvh_lines_and_spaces_do_not_matter(read: Read, rng: np.random.Generator) -> None:
    text = two_bones("ZXY", tuple(float(a) for a in rng.uniform(-90, 90, 6)))
    plain = read(text)
    tabs = text.replace("\n  {", " {").replace(" ", "\t").replace("Frame\tTime:", "Frame Time:").replace("\n", " \r\n")
    other = read(b"\xef\xbb\xbf" + tabs.encode() + b"\r\n\r\n")
    np.testing.assert_array_equal(other.in_world()[0], plain.in_world()[0])
    assert other.names == plain.names and other.fps == plain.fps


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("MOTION", "MOTION:", "no line MOTION; expected a BVH file"),
        ("  JOINT Arm\n  {", "  JOINT Arm\n", "does not end|in the skeleton"),
        ("CHANNELS 3", "CHANNELS 4", "'CHANNELS 4 Z.*expected"),
        ("3 Zrotation", "3 Wrotation", "expected channels such as Xposition"),
        ("OFFSET 1 2 3", "OFFSET 1 2", "'OFFSET 1 2' in the skeleton; expected .*3 numbers"),
        ("OFFSET 1 2 3", "OFFSET 1 2 high", "'high'"),
        ("JOINT Arm", "JOINT Hips", "two joints have one name"),
        ("Frames: 2", "Frames: 3", "has 2 frames .* says 3"),
        ("Frames: 2", "Frames: many", "expected Frames: and how many"),
        ("OFFSET 1 2 3", "OFFSET 1 2 inf", "offsets of its skeleton hold NaN or infinity"),
        ("0.02", "0", "frame time is 0; expected 0.001 to 0.2 s"),
        ("10 20 30", "10 20", "frame 1 has 8 numbers; expected 9"),
        ("10 20 30", "10 nan 30", "frame 1 holds NaN"),
        ("10 20 30", "10 x 30", "could not convert"),
    ],
)
def test_damaged_bvh_files_are_refused_in_one_line(read: Read, old: str, new: str, said: str) -> None:
    text = two_bones("ZYX")
    assert old in text
    with pytest.raises(ValueError, match=said) as caught:
        read(text.replace(old, new, 1))
    assert "take.bvh: " in str(caught.value) and "\n" not in str(caught.value)


def a_person(family: str, speed: float, heading: float, slide: float = 1.0) -> str:
    """A BVH file, 4.4 s of a person who walks straight ahead with flat feet.

    Args:
        family: whose joints' names, unit, frame rate and order of angles.
        speed: of the legs, m/s.
        heading: degrees about the vertical axis, from +z to +x.
        slide: how many times as fast the root goes.
    """
    unit, fps, order = {"CMU's": (0.056444, 120, "ZYX"), "100STYLE's": (0.01, 60, "YXZ")}[family]
    t = np.arange(round(4.4 * fps)) / fps
    place = {"pelvis": (0, 0, 0), "chest": (0, 0.25, 0)}
    turned = {"pelvis": ("Y", np.full(len(t), heading))}
    for side, sign, phase in (("left", 1, 0.0), ("right", -1, 0.5)):
        place |= {f"{side}_hip": (sign * 0.09, 0, 0), f"{side}_knee": (0, -THIGH, 0), f"{side}_ankle": (0, -SHANK, 0)}
        place |= {f"{side}_toe": (0, -ANKLE, FOOT), f"{side}_shoulder": (sign * 0.18, 0.25, 0)}
        place |= {f"{side}_elbow": (sign * 0.28, 0, 0), f"{side}_wrist": (sign * 0.25, 0, 0)}
        ahead, up = foot(t, phase, speed)
        down = HIP - (up + ANKLE + BALL)
        reach, middle = np.hypot(ahead, down), np.arctan2(ahead, down)
        thigh = middle + np.arccos((THIGH**2 + reach**2 - SHANK**2) / (2 * THIGH * reach))
        shank = middle - np.arccos((SHANK**2 + reach**2 - THIGH**2) / (2 * SHANK * reach))
        for part, angle in (("hip", -thigh), ("knee", thigh - shank), ("ankle", shank)):
            turned[f"{side}_{part}"] = ("X", np.degrees(angle))
        turned[f"{side}_shoulder"] = ("Z", np.full(len(t), -sign * 75.0))  # arms hang
    forward = np.array([np.sin(np.radians(heading)), 0, np.cos(np.radians(heading))])
    columns = list((t[:, None] * speed * slide * forward + [0, HIP, 0]).T / unit)

    def joint(part: str) -> str:
        own_axis, angle = turned.get(part, ("X", np.zeros(len(t))))
        columns.extend(angle if axis == own_axis else np.zeros(len(t)) for axis in order)
        offset = " ".join(f"{value / unit:.5f}" for value in place[part])
        kind, count, positions = ("JOINT", 3, "") if part != "pelvis" else ("ROOT", 6, "Xposition Yposition Zposition")
        channels = f"CHANNELS {count} {positions} {' '.join(f'{axis}rotation' for axis in order)}"
        inside = "".join(map(joint, CHILDREN.get(part, ())))
        return f"{kind} {NAMES[family][part]}\n{{\nOFFSET {offset}\n{channels}\n{inside}}}\n"

    skeleton = joint("pelvis")
    rows = "\n".join(" ".join(f"{value:.5f}" for value in row) for row in np.stack(columns, axis=1))
    return f"HIERARCHY\n{skeleton}MOTION\nFrames: {len(t)}\nFrame Time: {1 / fps:.7f}\n{rows}\n"


def foot(t: np.ndarray, phase: float, speed: float) -> tuple[np.ndarray, np.ndarray]:
    """How far ahead of the hip a foot is, and above where it stands; m."""
    share = (t / STRIDE + phase) % 1
    swung = np.clip((share - 0.6) / 0.4, 0, 1)
    stride = speed * STRIDE
    standing = 0.3 * stride - share * stride
    return standing + stride * (swung - np.sin(2 * np.pi * swung) / (2 * np.pi)), 0.08 * np.sin(np.pi * swung) ** 2


def stands(count: int, phase: float) -> np.ndarray:
    """Whether a foot stands in each of ``count`` frames at 50 Hz, some frames after landing and before lifting."""
    share = (np.arange(count) / 50 / STRIDE + phase) % 1
    return (share > 0.1) & (share < 0.5)


def by_mujoco(clip: Clip) -> np.ndarray:
    """[T, 2, 3], m: where MuJoCo puts the axes of both ankles' roll in the world."""
    path = g1_model()
    assert path is not None
    kinematics, found = MujocoKinematics(path, JOINT_NAMES, "pelvis"), []
    for dof_pos, pos, turn in zip(clip.dof_pos, clip.root_pos, rotation(clip.root_quat), strict=True):
        kinematics.set(dof_pos)
        found.append([pos + turn.apply(kinematics.pose(name)[0]) for name in FEET])
    return np.array(found)


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["retarget", *map(str, words)])
    return command.main()


@pytest.mark.parametrize("family", NAMES)
def test_a_person_is_followed_at_the_size_of_the_robot(read: Read, rng: np.random.Generator, family: str) -> None:
    speed, heading = float(rng.uniform(0.7, 1.2)), float(rng.uniform(-180, 180))
    found = person(read(a_person(family, speed, heading)))
    travelled = np.diff(found.points["hips"], axis=0)[20:-20] * 50
    np.testing.assert_allclose(np.linalg.norm(travelled, axis=1), speed * SMALLER, rtol=0.02)
    np.testing.assert_allclose(found.heading(), np.radians(heading), atol=1e-6)
    along = np.arctan2(travelled[:, 1], travelled[:, 0])
    np.testing.assert_allclose(along, np.radians(heading), atol=0.02)
    for phase, side in ((0, "left"), (0.5, "right")):
        ball = found.points[f"{side}_toe"][stands(len(found.points["hips"]), phase)]
        np.testing.assert_allclose(ball[:, 2], 0, atol=0.004)
    faster = person(read(a_person(family, speed, heading)), start=1.0, end=3.0, rate=2.0)
    assert len(faster.points["hips"]) == pytest.approx(50, abs=1)


def test_poses_that_a_recording_jumps_from_are_left_out(read: Read) -> None:
    text = a_person("CMU's", 1.0, 0.0)
    head, rows = text.split("Frame Time: 0.0083333\n")
    row = rows.splitlines()
    first = " ".join(row[0].split()[:3]) + " 0" * (len(row[0].split()) - 3)
    with_rest_pose = "\n".join([head.replace("Frames: 528", "Frames: 529") + "Frame Time: 0.0083333", first, *row])
    np.testing.assert_allclose(person(read(with_rest_pose)).skeleton, person(read(text)).skeleton, atol=1e-9)
    row[200:] = [" ".join([str(float(r.split()[0]) + 30), *r.split()[1:]]) for r in row[200:]]
    with pytest.raises(ValueError, match=r"jumps at 1.67 s; leave that out with --start"):
        person(read("\n".join([head + "Frame Time: 0.0083333", *row])))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("LeftToeBase", "Toe1", "of CMU's LeftToeBase are missing; it has .*Toe1.*: rename"),
        ("OFFSET 1.59450", "OFFSET -1.59450", "LeftUpLeg is not on the .x side"),
        ("Frames: 528", "Frames: 40", "0.33 s from 0 s on; expected 0.5 s"),
    ],
)
def test_skeletons_that_cannot_be_followed_are_refused(read: Read, old: str, new: str, said: str) -> None:
    text = a_person("CMU's", 1.0, 0.0)
    assert old in text
    text = text.replace(old, new)
    if new == "Frames: 40":
        head, rows = text.split("Frame Time")
        text = head + "Frame Time" + "\n".join(rows.splitlines()[:41])
    with pytest.raises(ValueError, match=said):
        person(read(text))


def known_walk() -> Clip:
    """At 0.5 m/s ahead, 0.1 m/s to the left and 0.3 rad/s, on its soles."""
    velocity = (0.5, 0.1, 0.3)
    arrays = clip_arrays(walk(velocity, 6.0), velocity)
    root_pos, root_quat = (arrays[name][:, 0].copy() for name in ("body_positions", "body_rotations"))
    root_pos[:, 2] = 0.715
    return Clip("known", 50.0, JOINT_NAMES, arrays["dof_positions"], root_pos, root_quat)


def test_figures_are_those_of_a_walk_that_is_known() -> None:
    clip = known_walk()
    found = figures(clip)
    np.testing.assert_allclose(found.velocity, np.tile([0.5, 0.1, 0.3], (3, 1)).T, atol=0.02)
    assert max(found.slip) < 0.005 and abs(found.lowest) < 1e-3 and found.to_limit > 0 and found.at_limit == 0
    faster = figures(replace(clip, root_pos=clip.root_pos * [1.5, 1.5, 1]))  # 0.51 m/s of the root, half of it again
    assert faster.slip == pytest.approx((0.255, 0.255), abs=0.01)
    bent = clip.dof_pos.copy()
    bent[:30, JOINT_NAMES.index("left_knee_joint")] = 2.98  # 0.1 rad beyond
    assert figures(replace(clip, dof_pos=bent)).to_limit == pytest.approx(-0.1, abs=0.001)
    assert figures(replace(clip, dof_pos=bent)).at_limit == pytest.approx(0.1)
    in_the_air = figures(replace(clip, root_pos=clip.root_pos + [0, 0, 0.2]))
    assert np.isnan(in_the_air.slip).all() and in_the_air.lowest == pytest.approx(0.2, abs=1e-3)


def test_what_is_written_is_read_and_checked(tmp_path: Path) -> None:
    clip = known_walk()
    command.write_clip(tmp_path / "walk.npz", clip)
    read_back = load_clip(tmp_path / "walk.npz", JOINT_NAMES)
    np.testing.assert_allclose(read_back.dof_pos, clip.dof_pos, atol=1e-6)
    np.testing.assert_allclose(read_back.root_quat, clip.root_quat, atol=1e-6)
    again = read_back.recorded.root_ang_vel
    assert again is not None
    np.testing.assert_allclose(again[1:-1], np.tile([0, 0, 0.3], (len(again) - 2, 1)), atol=1e-3)
    assert [clip.name for clip in read_folder(tmp_path).clips] == ["walk"]


def test_without_mink_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mink", None)
    assert run_command(monkeypatch, tmp_path / "walk.bvh", "--out", tmp_path / "clips") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs mink" in line and "pip install mink==" in line and not (tmp_path / "clips").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", NAMES)
def test_a_walk_becomes_a_clip_whose_feet_stand_still(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rng: np.random.Generator,
    family: str,
) -> None:
    pytest.importorskip("mink", reason="mink is not installed; it is optional, and retargeting needs it")
    speed, heading = float(rng.uniform(0.9, 1.2)), float(rng.uniform(-180, 180))
    (tmp_path / "walk.bvh").write_text(
        a_person(family, speed, heading, slide=1.1)
    )  # feet slide at a tenth of the speed
    (tmp_path / "slides.bvh").write_text(a_person(family, speed, heading, slide=2.0))
    (tmp_path / "none.bvh").write_text("HIERARCHY")
    (tmp_path / "empty.bvh").write_text("")
    takes = [tmp_path / f"{name}.bvh" for name in ("walk", "none", "empty", "slides")]
    assert run_command(monkeypatch, *takes, "--out", tmp_path / "clips") == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "2 of 4 files could not be used" in line and "none.bvh: no line MOTION" in line
    assert "empty.bvh: no line MOTION" in said.out.splitlines()[-1]
    assert [row.split()[0] for row in said.out.splitlines()[:3]] == ["clip", "walk", "slides"]
    assert (tmp_path / "clips" / "walk.png").read_bytes().startswith(b"\x89PNG")

    read = read_folder(tmp_path / "clips")
    (clip,) = (clip for clip in read.clips if clip.name == "walk")  # the reader takes it
    lower, upper = (np.array(getattr(g1_chain(), f"joint_{side}")) for side in ("lower", "upper"))
    assert (clip.dof_pos >= lower - 1e-6).all() and (clip.dof_pos <= upper + 1e-6).all()
    travelled = np.linalg.norm(np.diff(clip.root_pos[20:-20, :2], axis=0), axis=1).mean() * 50
    assert travelled == pytest.approx(1.1 * speed * SMALLER, rel=0.05)
    feet = by_mujoco(clip)
    sliding = np.linalg.norm(np.gradient(feet[..., :2], axis=0), axis=2) * 50
    for number, phase in enumerate((0.0, 0.5)):
        standing = stands(len(feet), phase)
        assert sliding[standing, number].max() < 0.02
        np.testing.assert_allclose(feet[standing, number, 2], 0.035, atol=0.003)  # the ankle, above the sole
        assert feet[~standing, number, 2].max() > 0.07
    slides = load_clip(tmp_path / "clips" / "slides.npz", JOINT_NAMES)
    assert figures(slides).slip[0] > 0.3 * speed > 0.02 > figures(clip).slip[0]

    assert run_command(monkeypatch, takes[-1], "--rate", "5", "--no-pictures", "--out", tmp_path / "fast") == 0
    said = capsys.readouterr()
    assert "1 would be skipped:\n  slides.npz: " in said.out and "expected below" in said.out
    assert [path.name for path in (tmp_path / "fast").iterdir()] == ["slides.npz"]
