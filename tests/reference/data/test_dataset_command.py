"""``python -m CMG_Ref.dataloader.dataset``: the file that it writes, what it says of clips, and its complaints."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from CMG_Ref.dataloader import dataset
from CMG_Ref.dataloader.reading import read_folder
from CMG_Ref.files.torch_files import read_pt
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.training.symmetry import is_symmetric
from synthetic_gait import clip_arrays, walk


def make_arrays(*velocity: float) -> dict[str, Any]:
    vx, vy, yaw = velocity
    return clip_arrays(walk((vx, vy, yaw), 8.0), (vx, vy, yaw))


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def as_csv(path: Path, arrays: dict[str, Any]) -> None:
    quat = arrays["body_rotations"][:, 0][:, [1, 2, 3, 0]]
    np.savetxt(path, np.hstack([arrays["body_positions"][:, 0], quat, arrays["dof_positions"]]), delimiter=",")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of three clips."""
    (tmp_path / "clips" / "deep" / "er").mkdir(parents=True)
    save(tmp_path / "clips" / "walk.npz", make_arrays(0.5, 0.0, 0.0))
    save(tmp_path / "clips" / "deep" / "er" / "back.npz", make_arrays(-0.4, 0.0, 0.0))
    as_csv(tmp_path / "clips" / "side.csv", make_arrays(0.0, 0.3, 0.0))
    return tmp_path / "clips"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["dataset", *map(str, arguments)])
    return dataset.main()


FAST = ("--num-sequences", 1, "--num-candidates", 300, "--num-compared", 40, "--workers", 1, "--playbacks", 1)


def test_the_data_file_is_as_users_have_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    out = tmp_path / "deep" / "cmg_training_data.pt"
    assert run(monkeypatch, folder, "--out", out, "--exclude", "side", "--seed", seed, *FAST) == 0
    data = read_pt(out)  # torch.load(weights_only=True) with numpy's types
    assert len(data["samples"]) == 1 + 4 and data["joint_names"] == list(JOINT_NAMES)
    for sample in data["samples"]:
        frames = len(sample["command"])
        assert sample["motion"].shape == (frames + 1, 58) and sample["command"].shape == (frames, 3)
        assert sample["motion"].dtype == sample["command"].dtype == np.float32
    stats = data["stats"]
    assert (stats["num_joints"], stats["motion_dim"], stats["command_dim"]) == (29, 58, 3)
    assert is_symmetric(stats, JOINT_NAMES)
    for key, width in (("motion_mean", 58), ("motion_std", 58), ("command_min", 3), ("command_max", 3)):
        assert stats[key].shape == (width,) and stats[key].dtype == np.float32
    assert list(tmp_path.joinpath("deep").iterdir()) == [out]


def test_errors_and_interrupts_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "bad" / "a.npz").write_bytes(b"not a clip")
    for expected, arguments in (
        ("empty: no .npz or .pkl", (tmp_path / "empty",)),
        ("absent: no .npz or .pkl", (tmp_path / "absent",)),
        ("its only clip cannot be used: a.npz: not a readable", (tmp_path / "bad",)),
        ("file", (folder, "--out", tmp_path / "file" / "d.pt")),
    ):
        assert run(monkeypatch, *arguments) == 2
        err = capfd.readouterr().err
        assert len(err.splitlines()) == 1 and err.startswith("CMG_Ref.dataloader.dataset: ") and expected in err

    def interrupt_all(samples: Any, config: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dataset, "playback_samples", interrupt_all)
    assert run(monkeypatch, folder, "--out", tmp_path / "d.pt", *FAST) == 130
    assert capfd.readouterr().err.splitlines()[-1] == "CMG_Ref.dataloader.dataset: interrupted"
    assert not (tmp_path / "d.pt").exists()


def test_what_is_not_used_is_named_and_counted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, arrays = tmp_path / "d.pt", make_arrays(0.5, 0.0, 0.0)
    (folder / ".cache").mkdir()
    save(folder / "degrees.npz", {**arrays, "dof_positions": np.degrees(arrays["dof_positions"])})
    save(folder / "short.npz", {k: v[:3] if len(v) > 99 else v for k, v in arrays.items()})
    arrays["dof_positions"][7, 3] = np.nan
    save(folder / "nan.npz", arrays)
    (folder / "._walk.npz").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    for name in (".cache/x.npz", "walk.mp4", "README"):
        (folder / name).touch()

    assert run(monkeypatch, folder, "--out", out, *FAST, "--exclude", "nan", "no_such") == 0
    printed = capfd.readouterr().out
    rows = {line.split()[0]: line.split()[1:7] for line in printed.splitlines()}
    assert rows["walk"][:4] == ["400", "8.0", "50", "0.50"] and rows["deep/er/back"][3] == "0.40"
    assert rows["side"][:4] == ["400", "13.3", "30", "0.18"]
    for said in (
        "30 fps assumed", "3 clips, ", "left out: nan", "--exclude names what is not there: no_such", "skipped 2:",
        "not clips: 4 files (1 .mp4, 2 hidden, 1 without suffix)", "._walk.npz", ".cache/x.npz", "walk.mp4", "README",
        "at least 4 frames", "with --angles degrees it fits",
    ):  # fmt: skip
        assert said in printed
    assert len(read_pt(out)["samples"]) == 1 + 2 * 3

    before = out.read_bytes()
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict") == 2
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1 and all(name in err for name in ("degrees.npz", "short.npz", "nan.npz"))
    assert out.read_bytes() == before
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict", "--exclude", "nan", "degrees", "short") == 0
    assert run(monkeypatch, folder, "--out", out, *FAST, "--strict", "--exclude", "nan", "degrees", "short", "x") == 2


def test_one_motion_in_several_files_counts_once(tmp_path: Path) -> None:
    arrays = make_arrays(0.5, 0.0, 0.0)
    save(tmp_path / "b.npz", arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    as_csv(tmp_path / "a.csv", arrays)
    found = read_folder(tmp_path)
    assert [(clip.name, clip.fps) for clip in found.clips] == [("b", 50)] and not found.skipped
    assert found.left_out == ["c.npz (the same motion as b.npz)", "a.csv (the same motion as b.npz)"]
