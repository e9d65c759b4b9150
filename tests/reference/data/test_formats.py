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


def root_pos(walking: Arrays) -> np.ndarray:
    return walking["body_positions"][:, 0]


def xyzw(walking: Arrays) -> np.ndarray:
    return walking["body_rotations"][:, 0][:, [1, 2, 3, 0]]


def holds(clip: Clip, walking: Arrays, fps: float = 50.0, atol: float = 1e-12) -> None:
    assert clip.fps == fps and clip.joint_names == JOINT_NAMES
    np.testing.assert_allclose(clip.dof_pos, walking["dof_positions"], atol=atol)
    np.testing.assert_allclose(clip.root_pos, root_pos(walking), atol=atol)
    np.testing.assert_allclose(clip.root_quat, walking["body_rotations"][:, 0], atol=atol)


def taken(folder: Path, conventions: Conventions | None = None) -> list[Clip]:
    found = read_folder(folder, conventions=conventions)
    assert [skipped.reason for skipped in found.skipped] == []
    return found.clips


def unwristed(walking: Arrays) -> Arrays:
    dof_pos = walking["dof_positions"].copy()
    dof_pos[:, [JOINT_NAMES.index(name) for name in WRIST_NAMES]] = 0
    return {**walking, "dof_positions": dof_pos}


@pytest.mark.parametrize("joints", [29, 23])
def test_lafan1_csv(tmp_path: Path, walking: Arrays, joints: int) -> None:
    columns = range(29) if joints == 29 else NO_WRISTS
    rows = np.concatenate([root_pos(walking), xyzw(walking), walking["dof_positions"][:, columns]], axis=1)
    np.savetxt(tmp_path / "walk1_subject1.csv", rows, delimiter=",", fmt="%.9f")
    (clip,) = taken(tmp_path)
    holds(clip, walking if joints == 29 else unwristed(walking), fps=30.0, atol=1e-8)
    assert any("30 fps assumed" in note for note in clip.notes)
    assert any("wrist joints filled" in note for note in clip.notes) == (joints == 23)
    (clip,) = taken(tmp_path, Conventions(fps=50.0))
    assert clip.fps == 50 and not any("assumed" in note for note in clip.notes)


def mjlab_arrays(walking: Arrays, joints: tuple[str, ...], bodies: tuple[str, ...]) -> Arrays:
    """As ``csv_to_npz`` writes: no names at all, in the simulator's order."""
    columns = [JOINT_NAMES.index(name) for name in joints]
    rows = [list(walking["body_names"]).index(name) for name in bodies]
    of_joints = {"joint_pos": "dof_positions", "joint_vel": "dof_velocities"}
    of_bodies = {"body_pos_w": "body_positions", "body_quat_w": "body_rotations"}
    of_bodies |= {"body_lin_vel_w": "body_linear_velocities", "body_ang_vel_w": "body_angular_velocities"}
    arrays = {key: walking[name][:, columns] for key, name in of_joints.items()}
    arrays |= {key: walking[name][:, rows] for key, name in of_bodies.items()}
    return {"fps": [50], **{key: values.astype(np.float32) for key, values in arrays.items()}}


def test_mjlab_npz_in_the_orders_of_both_simulators(tmp_path: Path, walking: Arrays) -> None:
    np.savez(tmp_path / "motion.npz", **mjlab_arrays(walking, JOINT_NAMES, tuple(walking["body_names"])))
    (clip,) = taken(tmp_path)
    holds(clip, walking, atol=1e-6)
    arrays = mjlab_arrays(walking, breadth_first_joint_names(), breadth_first_body_names())
    np.savez(tmp_path / "motion.npz", **arrays)
    (skipped,) = read_folder(tmp_path).skipped
    assert skipped.reason.endswith("with --joint-order isaaclab it fits")
    (clip,) = taken(tmp_path, Conventions(joint_order="isaaclab"))
    holds(clip, walking, atol=1e-6)


def gmr(walking: Arrays, columns: Any = slice(None)) -> Arrays:
    names = [str(name) for name in walking["body_names"]]
    turn = walking["body_rotations"][:, 0]
    local = walking["body_positions"] - root_pos(walking)[:, None]
    cos, sin = 1 - 2 * turn[:, 3] ** 2, 2 * turn[:, 0] * turn[:, 3]  # the root turns about z alone
    local = np.stack(
        [cos[:, None] * local[..., 0] + sin[:, None] * local[..., 1],
         cos[:, None] * local[..., 1] - sin[:, None] * local[..., 0], local[..., 2]], axis=2,
    )  # fmt: skip
    return {
        "fps": 50, "root_pos": root_pos(walking), "root_rot": xyzw(walking),
        "dof_pos": walking["dof_positions"][:, columns], "local_body_pos": local, "link_body_list": names,
    }  # fmt: skip


@pytest.mark.parametrize(("protocol", "values"), [(2, "arrays"), (4, "tensors"), (5, "lists"), (4, "no bodies")])
def test_gmr_pickle(tmp_path: Path, walking: Arrays, protocol: int, values: str) -> None:
    content = gmr(walking)
    if values == "tensors":
        content = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in content.items()}
        content["dof_pos"] = torch.stack([content["dof_pos"]] * 2, dim=1)[:, 1]  # a view with strides of its own
    elif values == "lists":
        content = {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in content.items()}
    elif values == "no bodies":
        content |= {"local_body_pos": None, "link_body_list": None}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    (clip,) = taken(tmp_path)
    holds(clip, walking)
    bent = np.asarray(content["dof_pos"]) * np.where(np.array(JOINT_NAMES) == "left_elbow_joint", 0, 1)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**content, "dof_pos": bent}))
    skipped = read_folder(tmp_path).skipped  # where the file tells of bodies, they bear witness
    assert (values == "no bodies") == (not skipped or "is stored" not in skipped[0].reason)


def test_gmr_pickle_of_23_joints(tmp_path: Path, walking: Arrays) -> None:
    content = {**gmr(walking, NO_WRISTS), "local_body_pos": None}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    (clip,) = taken(tmp_path)
    holds(clip, unwristed(walking))
    assert clip.notes == ("6 wrist joints filled with zeros",)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({**content, "dof_pos": content["dof_pos"][:, :22]}))
    assert "22 unnamed joints, expected 29 or 23" in read_folder(tmp_path).skipped[0].reason


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


@pytest.fixture
def joblib_dump(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], bytes]:
    module = types.ModuleType("joblib.numpy_pickle")
    wrapper = type("NumpyArrayWrapper", (), {"__module__": module.__name__})
    module.NumpyArrayWrapper = wrapper  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "joblib", types.ModuleType("joblib"))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def dump(content: Any) -> bytes:
        stream = io.BytesIO()
        JoblibPickler(stream, wrapper).dump(content)
        return stream.getvalue()

    return dump


@pytest.mark.parametrize("pack", [bytes, zlib.compress, gzip.compress])
def test_phc_joblib_of_several_clips(
    tmp_path: Path, walking: Arrays, joblib_dump: Callable[[Any], bytes], pack: Callable[[bytes], bytes]
) -> None:
    def motion(part: slice, columns: Any = slice(None)) -> Arrays:
        return {
            "root_trans_offset": root_pos(walking)[part],
            "pose_aa": np.zeros((len(root_pos(walking)[part]), 27, 3), np.float32),
            "dof": np.asfortranarray(walking["dof_positions"][part][:, columns]),
            "root_rot": xyzw(walking)[part],
            "smpl_joints": None,
            "fps": 50,
        }

    content = {"0-walk_poses": motion(slice(None)), "0-short": motion(slice(40), NO_WRISTS), "0-bad": motion(slice(9))}
    (tmp_path / "amass_all.pkl").write_bytes(pack(joblib_dump(content)))
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
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({**gmr(walking), "fps": None}))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps([gmr(walking)]))
    (tmp_path / "e.csv").write_text("1,2,3\n" * 9)
    reasons = {skipped.name: skipped.reason for skipped in read_folder(tmp_path).skipped}
    assert "lacks dof_names, dof_positions" in reasons["a.npz"] and "poses, trans, mocap" in reasons["a.npz"]
    assert "could not convert" in reasons["b.csv"]
    assert "frames a second; name them: --fps" in reasons["c.pkl"]
    assert "a list, expected a dictionary" in reasons["d.pkl"]
    assert "3 columns, expected 36 or 30" in reasons["e.csv"]
    assert len(read_folder(tmp_path, conventions=Conventions(fps=50.0)).clips) == 1
