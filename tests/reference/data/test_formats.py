"""Motion files as other projects write them, written here in their layouts: each holds the clip that was put in."""

from __future__ import annotations

import gzip
import io
import pickle
import sys
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.conventions import Conventions
from CMG_Ref.dataloader.reading import load_clip, read_folder
from CMG_Ref.robot_g1 import JOINT_NAMES, WRIST_NAMES
from CMG_Ref.robot_g1.chain import breadth_first_body_names, breadth_first_joint_names
from synthetic_gait import whole_clip

Arrays = dict[str, Any]
NO_WRISTS = [JOINT_NAMES.index(name) for name in JOINT_NAMES if name not in WRIST_NAMES]


@pytest.fixture(scope="module")
def walking(seed: int) -> Arrays:
    return whole_clip(seed)


def holds(clip: Clip, walking: Arrays, fps: float = 50.0, atol: float = 1e-12, missing: tuple[str, ...] = ()) -> None:
    """``missing`` joints are zeros."""
    assert clip.fps == fps and clip.joint_names == JOINT_NAMES
    dof_pos = np.where(np.isin(JOINT_NAMES, missing), 0, walking["dof_positions"])
    np.testing.assert_allclose(clip.dof_pos, dof_pos, atol=atol)
    np.testing.assert_allclose(clip.root_pos, walking["body_positions"][:, 0], atol=atol)
    np.testing.assert_allclose(clip.root_quat, walking["body_rotations"][:, 0], atol=atol)


def refused(folder: Path) -> str:
    (skipped,) = read_folder(folder).skipped
    assert len(skipped.reason.splitlines()) == 1
    return skipped.reason


def lafan1(path: Path, walking: Arrays, columns: Any = slice(None)) -> None:
    content = gmr(walking, columns)
    rows = np.concatenate([content["root_pos"], content["root_rot"], content["dof_pos"]], axis=1)
    np.savetxt(path, rows, delimiter=",", fmt="%.9f")


def mjlab(path: Path, walking: Arrays, joints: tuple[str, ...] = JOINT_NAMES, bodies: Any = None) -> None:
    """As ``csv_to_npz`` writes: no names at all, in the simulator's order."""
    keys = {"joint_pos": "dof_positions", "joint_vel": "dof_velocities", "body_pos_w": "body_positions"}
    keys |= {"body_quat_w": "body_rotations", "body_lin_vel_w": "body_linear_velocities"}
    names, arrays = list(walking["body_names"]), {}
    for key, name in (keys | {"body_ang_vel_w": "body_angular_velocities"}).items():
        columns = [names.index(b) for b in bodies or names] if "body" in key else [JOINT_NAMES.index(j) for j in joints]
        arrays[key] = walking[name][:, columns].astype(np.float32)
    np.savez(path, fps=[50], **arrays)


def isaac_lab(path: Path, walking: Arrays) -> None:
    mjlab(path, walking, breadth_first_joint_names(), breadth_first_body_names())


def gmr(walking: Arrays, columns: Any = slice(None)) -> Arrays:
    root_pos, turn = walking["body_positions"][:, 0], walking["body_rotations"][:, 0]
    x, y, z = np.moveaxis(walking["body_positions"] - root_pos[:, None], 2, 0)
    cos, sin = 1 - 2 * turn[:, 3:] ** 2, 2 * turn[:, :1] * turn[:, 3:]  # the root turns about z alone
    return {
        "fps": 50, "root_pos": root_pos, "root_rot": turn[:, [1, 2, 3, 0]],
        "dof_pos": walking["dof_positions"][:, columns], "link_body_list": [str(n) for n in walking["body_names"]],
        "local_body_pos": np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=2),
    }  # fmt: skip


def tensors(content: Arrays) -> Arrays:
    content = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in content.items()}
    content["dof_pos"] = torch.stack([content["dof_pos"]] * 2, dim=1)[:, 1]  # a view with strides of its own
    return content


def lists(content: Arrays) -> Arrays:
    return {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in content.items()}


def bodiless(content: Arrays) -> Arrays:
    return {**content, "local_body_pos": None, "link_body_list": None}


def pickled(protocol: int, change: Callable[[Arrays], Arrays], columns: Any = slice(None)) -> Callable[..., None]:
    return lambda path, walking: path.write_bytes(pickle.dumps(change(gmr(walking, columns)), protocol))


ASSUMED, FILLED = "30 fps assumed, as the layout has it", "6 wrist joints filled with zeros"
LAYOUTS: dict[str, tuple[str, Callable[..., None], dict[str, Any], float, tuple[str, ...]]] = {
    "LAFAN1": ("walk1_subject1.csv", lafan1, {}, 1e-8, (ASSUMED,)),
    "LAFAN1 at 50 fps": ("a.csv", lafan1, {"fps": 50.0}, 1e-8, ()),
    "LAFAN1, 23": ("a.csv", lambda path, walking: lafan1(path, walking, NO_WRISTS), {}, 1e-8, (ASSUMED, FILLED)),
    "mjlab": ("motion.npz", mjlab, {}, 1e-6, ()),
    "BeyondMimic": ("motion.npz", isaac_lab, {"joint_order": "isaaclab"}, 1e-6, ()),
    "GMR": ("a.pkl", pickled(2, dict), {}, 1e-12, ()),
    "GMR, tensors": ("a.pkl", pickled(4, tensors), {}, 1e-12, ()),
    "GMR, lists": ("a.pkl", pickled(5, lists), {}, 1e-12, ()),
    "GMR without bodies": ("a.pkl", pickled(4, bodiless), {}, 1e-12, ()),
    "GMR, 23": ("a.pkl", pickled(4, bodiless, NO_WRISTS), {}, 1e-12, (FILLED,)),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_file_holds_the_clip_that_was_put_in(tmp_path: Path, walking: Arrays, case: str) -> None:
    file, write, options, atol, notes = LAYOUTS[case]
    write(tmp_path / file, walking)
    found = read_folder(tmp_path, conventions=Conventions(**options))
    assert [skipped.reason for skipped in found.skipped] == []
    (clip,) = found.clips
    missing = WRIST_NAMES if FILLED in notes else ()
    holds(clip, walking, 30.0 if ASSUMED in notes else 50.0, atol, missing)
    assert clip.notes == notes


def test_what_a_file_says_twice_bears_witness(tmp_path: Path, walking: Arrays) -> None:
    isaac_lab(tmp_path / "a.npz", walking)
    assert refused(tmp_path).endswith("with --joint-order isaaclab it fits")
    (tmp_path / "a.npz").unlink()
    straight = {**walking, "dof_positions": walking["dof_positions"] * (np.array(JOINT_NAMES) != "left_elbow_joint")}
    for change, refusals in ((dict, 1), (tensors, 1), (lists, 1), (bodiless, 0)):
        pickled(4, change)(tmp_path / "a.pkl", straight)
        reasons = [skipped.reason for skipped in read_folder(tmp_path).skipped]
        assert len(reasons) == refusals and all("is stored" in reason for reason in reasons)


Pickler: Any = pickle._Pickler  # pyright: ignore[reportAttributeAccessIssue]


class JoblibPickler(Pickler):
    """Writes as ``joblib.dump`` does: each array is described, and its bytes follow, aligned, in the stream."""

    def __init__(self, stream: io.BytesIO, wrapper: Any) -> None:
        super().__init__(stream, 4)
        self._stream, self._wrapper, self._kept = stream, wrapper, []

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) is not np.ndarray:
            super().save(obj, save_persistent_id)
            return
        fortran = obj.flags.f_contiguous and not obj.flags.c_contiguous
        described = self._wrapper()
        described.__dict__ = {
            "subclass": np.ndarray, "shape": obj.shape, "order": "F" if fortran else "C", "dtype": obj.dtype,
            "allow_mmap": True, "numpy_array_alignment_bytes": 16,
        }  # fmt: skip
        self._kept.append(described)
        super().save(described)
        self.framer.commit_frame(force=True)
        padding = 16 - (self._stream.tell() + 1) % 16
        self._stream.write(bytes([padding]) + b"\xff" * padding + obj.tobytes("F" if fortran else "C"))


def joblib_dump(content: Any, patch: pytest.MonkeyPatch) -> bytes:
    module: Any = types.ModuleType("joblib.numpy_pickle")
    module.NumpyArrayWrapper = type("NumpyArrayWrapper", (), {"__module__": module.__name__})
    patch.setitem(sys.modules, "joblib", types.ModuleType("joblib"))
    patch.setitem(sys.modules, module.__name__, module)
    stream = io.BytesIO()
    JoblibPickler(stream, module.NumpyArrayWrapper).dump(content)
    return stream.getvalue()


@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress])
def test_phc_joblib_of_several_clips(
    tmp_path: Path, walking: Arrays, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    def motion(part: slice, columns: Any = slice(None)) -> Arrays:
        of = {k: v[part] for k, v in gmr(walking, columns).items() if isinstance(v, np.ndarray)}
        human = {"pose_aa": np.zeros((len(of["root_pos"]), 27, 3), np.float32), "smpl_joints": None, "fps": 50}
        dof = np.asfortranarray(of["dof_pos"])
        return {"root_trans_offset": of["root_pos"], "dof": dof, "root_rot": of["root_rot"], **human}

    content = {"0-walk_poses": motion(slice(None)), "0-short": motion(slice(40), NO_WRISTS), "0-bad": motion(slice(9))}
    (tmp_path / "amass_all.pkl").write_bytes(pack(joblib_dump(content, monkeypatch)))
    found = read_folder(tmp_path)
    assert [clip.name for clip in found.clips] == ["amass_all:0-walk_poses", "amass_all:0-short"]
    holds(found.clips[0], walking)
    assert len(found.clips[1].dof_pos) == 40 and "6 wrist joints" in found.clips[1].notes[0]
    assert [(s.name, "too short" in s.reason) for s in found.skipped] == [("amass_all.pkl:0-bad", True)]
    assert len(read_folder(tmp_path, exclude=("amass_all:0-short", "0-none")).clips) == 1
    with pytest.raises(ValueError, match="3 clips; expected one"):
        load_clip(tmp_path / "amass_all.pkl")


def test_a_layout_that_is_none_says_what_it_holds(tmp_path: Path, walking: Arrays) -> None:
    np.savez(tmp_path / "a.npz", poses=np.zeros((4, 72)), trans=np.zeros((4, 3)), mocap_framerate=120)
    (tmp_path / "b.csv").write_text("x,y,z\n" + "1,2,3\n" * 9)
    (tmp_path / "e.csv").write_text("1,2,3\n" * 9)
    for name, content in (("c", {**gmr(walking), "fps": None}), ("d", [1, 2]), ("f", gmr(walking, NO_WRISTS[1:]))):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
    reasons = {skipped.name: skipped.reason for skipped in read_folder(tmp_path).skipped}
    assert "lacks dof_names, dof_positions" in reasons["a.npz"] and "poses, trans, mocap" in reasons["a.npz"]
    assert "could not convert" in reasons["b.csv"]
    assert "frames a second; name them: --fps" in reasons["c.pkl"]
    assert "a list, expected a dictionary" in reasons["d.pkl"]
    assert "3 columns, expected 36 or 30" in reasons["e.csv"]
    assert "22 unnamed joints, expected 29 or 23" in reasons["f.pkl"]
    assert len(read_folder(tmp_path, conventions=Conventions(fps=50.0)).clips) == 1
    assert load_clip(tmp_path / "f.pkl", conventions=Conventions(fps=50.0)).joint_names == ()
    with pytest.raises(ValueError, match="unknown clip type"):
        load_clip(tmp_path / "a.bvh")


def test_damaged_files_are_refused_in_one_line(tmp_path: Path, walking: Arrays, rng: np.random.Generator) -> None:
    np.savez_compressed(tmp_path / "a.npz", **walking)
    for suffix, whole in (("npz", (tmp_path / "a.npz").read_bytes()), ("pkl", pickle.dumps(gmr(walking)))):
        for content in (*(whole[:cut] for cut in (0, *rng.integers(1, len(whole) - 1, 8))), rng.bytes(500)):
            (tmp_path / f"a.{suffix}").write_bytes(content)
            assert "not a readable motion clip" in refused(tmp_path)
        (tmp_path / f"a.{suffix}").unlink()
