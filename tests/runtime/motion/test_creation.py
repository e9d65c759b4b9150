"""What an environment, its configuration and code of other implementations give a motion library."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.errors import EngineError
from cmg_runtime.folder.manifest import FILE_NAME
from cmg_runtime.motion_lib import MotionLibCMG, create_motion_lib_cmg
from cmg_runtime.motion_lib.robot_layout import KEY_BODIES
from dropin_case import MODES, NO_WRISTS, Case, g1_case, plain_bodies, walked
from mimic_case import LINKS, NUM_ENVS, SimulatedEnv

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def case() -> Case:
    return g1_case()


def test_a_configuration_needs_only_the_path(case: Case) -> None:
    cfg = SimpleNamespace(motion=SimpleNamespace(cmg_model_path=case.folder, cmg_num_motions=3, cmg_motion_length=5))
    lib = create_motion_lib_cmg(cfg, 2, "cpu")
    assert (lib.mode, lib.fps, lib.joint_names, lib.body_names) == ("pregenerated", 50.0, JOINT_NAMES, KEY_BODIES)
    assert lib.num_motions() == 3 and lib.get_motion_length(1).item() == pytest.approx(0.1)
    with pytest.raises(EngineError, match="no environment; give it one, or cfg, num_envs and device"):
        create_motion_lib_cmg(cfg)


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_says_everything_else(case: Case, mode: str) -> None:
    """As TWIST's: nine key bodies of which one is head_mocap, joints without wrists, half of the control rate."""
    bodies = [name for name in KEY_BODIES if name != "head_link"] + ["head_mocap"]
    env = SimulatedEnv(case, dt=0.04, cmg_mode=mode, key_bodies=bodies)
    env.gym.dofs = NO_WRISTS
    lib = create_motion_lib_cmg(env)
    assert (lib.mode, lib.joint_names, lib.body_names) == (mode, NO_WRISTS, LINKS)
    assert lib.num_motions() == (48 if mode == "pregenerated" else 2 * NUM_ENVS)
    ids = torch.arange(3)
    ahead = lib.calc_motion_frame(ids.repeat(2), [0.0] * 3 + [95 * 0.04] * 3)  # as far as cfg.env.tar_obs_steps looks
    assert lib.report() == (0, 0, 0, 0)
    places = lib.get_key_body_idx(bodies)
    whole = MotionLibCMG(
        case.folder, None, 48, 60, NUM_ENVS, "cpu", mode=mode, backend="torch", body_names=["head_mocap"]
    )
    dof_pos = whole.calc_motion_frame(ids, [0.0] * 3)[4]
    expected, _ = plain_bodies(case.chain, dof_pos.double().numpy(), tuple(bodies))
    torso, _ = plain_bodies(case.chain, dof_pos.double().numpy(), ("torso_link", "head_link"))
    np.testing.assert_allclose(ahead[6][:3, places].numpy(), expected, atol=1e-5)
    assert np.linalg.norm(expected[:, -1] - torso[:, 0], axis=1) == pytest.approx(0.4)  # straight above the torso's
    assert np.linalg.norm(expected[:, -1] - torso[:, 1], axis=1) == pytest.approx(math.hypot(0.004, 0.444))

    env.gym.dofs = (*NO_WRISTS[:5], NO_WRISTS[6], NO_WRISTS[5], *NO_WRISTS[7:])
    with pytest.raises(EngineError, match="joint 5 is 'right_hip_pitch_joint' in the simulation and 'left_ankle_roll"):
        create_motion_lib_cmg(env)


def test_an_engine_from_before_head_mocap_says_so(case: Case, tmp_path: Path) -> None:
    chain = case.chain
    last = chain.body_names.index("head_mocap")
    kept = [index for index in range(len(chain.body_names)) if index != last]
    per_body = {
        name: tuple(getattr(chain, name)[index] for index in kept)
        for name in (
            "body_names",
            "body_parents",
            "body_pos",
            "body_quat",
            "body_joints",
            "joint_axes",
            "joint_anchors",
        )
    }
    assert last == len(kept)  # nothing is fixed to it, and numbers of bodies stay
    shutil.copytree(case.folder, tmp_path / "old")
    old = dataclasses.replace(case.manifest, robot=dataclasses.replace(chain, **per_body))
    (tmp_path / "old" / FILE_NAME).write_text(old.to_json())
    lib = create_motion_lib_cmg(SimulatedEnv(case, cmg_model_path=str(tmp_path / "old")))
    assert lib.get_key_body_idx(["head_link"]) == [LINKS.index("head_link")]
    with pytest.raises(
        EngineError, match="^this engine was built before 'head_mocap' was one of its bodies; build it a"
    ):
        lib.get_key_body_idx(["head_mocap"])


def test_paths_that_are_there_and_those_that_are_not(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "walk").symlink_to(case.folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMG_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("engines/walk", "$CMG_ENGINES/walk", "~/engines/walk"):
        assert create_motion_lib_cmg(SimulatedEnv(case, cmg_model_path=path)).num_motions() == 48
    (tmp_path / "scripts").mkdir()
    monkeypatch.chdir(tmp_path / "scripts")
    missing = (
        rf"cmg_model_path is 'engines/walk', and {tmp_path}/scripts/engines/walk is not there; .* \$CMG_ENGINES/g1"
    )
    for path, message in (("engines/walk", missing), (None, "cmg_model_path is missing; expected an engine folder")):
        with pytest.raises(EngineError, match=message):
            create_motion_lib_cmg(SimulatedEnv(case, cmg_model_path=path))


def test_how_far_motions_go_and_where_the_ground_ends(case: Case) -> None:
    env: Any = SimulatedEnv(case, cmg_motion_length=100, cmg_num_motions=12)
    lib = create_motion_lib_cmg(env)
    pose, commands, far = np.zeros((12, 3)), lib.motion_commands.double().numpy(), []
    for _ in range(200):  # a start anywhere in a motion, and a motion's length from there
        pose = walked(pose, commands, 0.02)
        far.append(np.hypot(pose[:, 0], pose[:, 1]).max())
    assert lib.max_distance == pytest.approx(max(far), rel=1e-3)

    sizes = {"num_rows": 10, "terrain_length": 18.0, "num_cols": 40, "terrain_width": 4.0}
    env.env_origins = torch.tensor([[1.0, 80.0, 0.0], [90.0, 154.0, 0.0]])  # 1 m from one edge
    for mesh_type, border, expected in (
        (
            "trimesh",
            0.5,
            [r"motions go up to \d+ m .* ends 2 m from an environment's origin; .*border_size to \d+, or"],
        ),
        ("trimesh", lib.max_distance, []),
        ("plane", 0.5, []),
        ("trimesh", None, []),
    ):
        env.cfg.terrain = SimpleNamespace(mesh_type=mesh_type, border_size=border, **sizes)
        if border is None:  # a terrain of another kind
            del env.cfg.terrain.border_size
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            create_motion_lib_cmg(env)
        assert len(told) == len(expected)
        assert all(re.match(pattern, str(warning.message)) for pattern, warning in zip(expected, told))


def test_names_of_other_implementations(case: Case) -> None:
    given: Any = (case.folder, None, 6, 30, 4, "cpu")
    lib = MotionLibCMG(*given, mode="pregenerated", backend="torch")
    assert (lib.dof_dim, lib.dt, lib.motion_length, lib.safe_motion_length) == (29, 0.02, 30, 30)
    assert torch.equal(lib.motion_commands, lib.get_motion_command(torch.arange(6)))
    for name in ("dof_pos_pool", "dof_vel_pool", "motion_pool"):
        with pytest.raises(
            AttributeError, match=rf"no attribute '{name}'; calc_motion_frame\(motion_ids, motion_times\)"
        ):
            getattr(lib, name)
    assert not hasattr(lib, "something_else")
    with pytest.raises(
        TypeError, match="no argument 'preload_duration'; motion_length is the frames that a motion lasts"
    ):
        MotionLibCMG(*given, preload_duration=500)
    with pytest.raises(TypeError, match="no argument 'motion_file'$"):
        MotionLibCMG(*given, motion_file="x")
    with pytest.raises(EngineError, match="cmg_preload_duration is not read; set cfg.motion.cmg_motion_length"):
        create_motion_lib_cmg(SimulatedEnv(case, cmg_preload_duration=500))


IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import module.cmg
from module.cmg import CMG
from utils.cmg_motion_generator import CMGMotionGenerator, CommandSmoother
from utils.command_sampler import CommandSampler
import torch
assert "CMG_Ref" not in sys.modules
print(CMG(hidden_dim=8)(torch.zeros(2, 58), torch.zeros(2, 3)).shape, CMGMotionGenerator.__module__)
"""


def test_existing_code_has_cmg_ref_itself_on_the_path(tmp_path: Path) -> None:
    import cmg_runtime

    path = str(Path(cmg_runtime.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(ROOT / "CMG_Ref")],
        env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torch.Size([2,", "58])", "cmg_runtime.motion_generator.generator"]
