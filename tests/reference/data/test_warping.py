"""Steps warped to another velocity, against a walk whose footholds and velocity are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.commands import heading_velocity
from CMG_Ref.dataloader.warping import VELOCITIES, warp, warped_clips
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.robot_g1.chain import g1_chain
from CMG_Ref.robot_g1.gait import StanceVelocity
from CMG_Ref.robot_g1.leg_ik import LegKinematics
from synthetic_gait import clip_arrays, walk


def straight(speed: float, seconds: float = 8.0) -> Clip:
    velocity = (speed, 0.0, 0.0)
    arrays = clip_arrays(walk(velocity, seconds), velocity)
    root_pos, root_quat = (arrays[name][:, 0].copy() for name in ("body_positions", "body_rotations"))
    return Clip("straight", 50.0, JOINT_NAMES, arrays["dof_positions"], root_pos, root_quat)


def test_legs_reach_where_the_feet_were(rng: np.random.Generator) -> None:
    legs, dof_pos = LegKinematics(), walk((0.5, 0.1, 0.3), 2.0)
    away = dof_pos.copy()
    away[:, :12] += rng.uniform(-0.15, 0.15, (len(dof_pos), 12))
    found, missed = legs.reach(away, legs.feet(dof_pos))
    assert missed.max() < 1e-4
    np.testing.assert_allclose(found, dof_pos, atol=5e-3)
    far = legs.feet(dof_pos)
    far[..., 2, 3] -= 1.0
    found, missed = legs.reach(dof_pos, far)
    lower, upper = np.array(g1_chain().joint_lower), np.array(g1_chain().joint_upper)
    assert missed.min() > 0.3 and (found >= lower - 1e-9).all() and (found <= upper + 1e-9).all()


@pytest.mark.slow
def test_the_standing_foot_goes_at_the_velocity_asked_for(rng: np.random.Generator) -> None:
    clip = straight(0.5)
    for _ in range(3):
        vx, vy, rate = (float(v) for v in rng.uniform((-0.3, -0.2, -0.9), (0.5, 0.2, 0.9)))
        velocity = (vx, vy, rate)
        warped = warp(clip, velocity)
        assert warped is not None and len(warped.dof_pos) > 200
        of_root = heading_velocity(warped.root_pos, warped.root_quat, warped.fps)
        np.testing.assert_allclose(of_root.mean(axis=0), velocity, atol=0.02)
        of_feet = StanceVelocity(dtype=torch.float64).mean(torch.from_numpy(warped.dof_pos))
        np.testing.assert_allclose(of_feet, velocity, atol=0.06)


@pytest.mark.slow
def test_steady_straight_clips_are_warped_and_no_others() -> None:
    turning, aside = straight(0.6), straight(0.6)
    angle = np.linspace(0, 2, len(turning.root_pos))
    turning.root_quat[:] = np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)
    aside.root_pos[:] = aside.root_pos[:, [1, 0, 2]]
    halting = straight(0.6)
    halting.root_pos[200:] = halting.root_pos[199]
    found = warped_clips([straight(0.6), turning, aside, halting], workers=1)
    assert len(found) == len(VELOCITIES[0][1])
    (fast,) = (c for c in warped_clips([straight(1.0)], workers=1) if " -0.9" in c.name)
    assert heading_velocity(fast.root_pos, fast.root_quat, 50.0).mean(axis=0)[2] == pytest.approx(-0.9, abs=0.02)
