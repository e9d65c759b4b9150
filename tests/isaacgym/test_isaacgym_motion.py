"""Motion without contacts, against closed forms: falling, swinging, drives, forces, properties of each environment."""

# Constants become names of gymapi when it is imported.
# pyright: reportAttributeAccessIssue=false

import math

import numpy as np
import pytest
import torch

from isaacgym import gymapi
from isaacgym_case import (
    BASE_MASS,
    BLOCK,
    BLOCK_INERTIA,
    BLOCK_MASS,
    HIP_INERTIA,
    HOPPER,
    LEG_LENGTH,
    LEG_MASS,
    Case,
)

pytestmark = pytest.mark.slow


def drives(mode, **values):
    """Sets the drive mode of all DOFs, and a value, or one for each environment."""

    def each(gym, env, index):
        props = gym.get_actor_dof_properties(env, 0)
        props["driveMode"][:] = mode
        for name, value in values.items():
            props[name][:] = value[index] if isinstance(value, list) else value
        gym.set_actor_dof_properties(env, 0, props)

    return each


def test_it_falls_as_gravity_says_and_gravity_can_change(tmp_path, generator):
    case = Case(tmp_path, BLOCK, 3, dt=0.002, substeps=2, height=5.0)
    case.root[:, 7:10] = torch.randn(3, 3, generator=generator)
    case.set_root()
    start = case.root.clone()
    case.step(100)
    time = 0.2
    expected = start[:, :3] + start[:, 7:10] * time
    expected[:, 2] -= 0.5 * 9.81 * time**2
    torch.testing.assert_close(case.root[:, :3], expected, atol=9.81 * 0.001 * time, rtol=0)
    torch.testing.assert_close(case.root[:, 9], start[:, 9] - 9.81 * time, atol=1e-4, rtol=0)
    speed = case.root[:, 7:10].clone()
    case.set_gravity(1.0, -2.0, 0.0)
    case.step(100)
    torch.testing.assert_close(case.root[:, 7:10], speed + torch.tensor([0.2, -0.4, 0.0]), atol=1e-4, rtol=0)
    assert case.gym.get_sim_time(case.sim) == pytest.approx(0.4)


def test_a_pendulum_swings_with_its_period(tmp_path):
    case = Case(tmp_path, HOPPER, 1, dt=0.002, fixed=True, ground_friction=None)
    case.dof[:, 0, 0] = 0.05
    case.set_dof()
    period = 2.0 * math.pi * math.sqrt(HIP_INERTIA / (LEG_MASS * 9.81 * LEG_LENGTH))
    case.step(round(period / 0.002))
    assert case.dof[0, 0, 0].item() == pytest.approx(0.05, rel=0.02)
    case.step(round(0.25 * period / 0.002))
    assert abs(case.dof[0, 0, 0].item()) < 0.002
    # The leg's point 0.2 m below the hip moves at 0.2 m times its speed.
    assert case.bodies[0, 1, 11].item() == pytest.approx(case.dof[0, 0, 1].item(), rel=1e-4)


def test_a_position_drive_is_a_damped_oscillator(tmp_path):
    stiffness, damping, target = 20.0, 0.2, 0.3
    each = drives(gymapi.DOF_MODE_POS, stiffness=stiffness, damping=damping)
    case = Case(tmp_path, HOPPER, 1, dt=0.0005, fixed=True, gravity=(0.0, 0.0, 0.0), ground_friction=None, each=each)
    case.gym.set_dof_position_target_tensor(case.sim, torch.full((1,), target))
    case.step(200)
    rate, omega = damping / (2 * HIP_INERTIA), math.sqrt(stiffness / HIP_INERTIA)
    omega_d, time = math.sqrt(omega**2 - rate**2), 0.1
    swing = math.cos(omega_d * time) + rate / omega_d * math.sin(omega_d * time)
    assert case.dof[0, 0, 0].item() == pytest.approx(target * (1.0 - math.exp(-rate * time) * swing), abs=0.003)


def test_a_velocity_drive_approaches_its_target_and_efforts_accelerate(tmp_path):
    each = drives(gymapi.DOF_MODE_VEL, damping=[0.5, 0.5, 0.0], effort=[30.0, 0.1, 30.0], armature=[0.0, 0.0, 0.02])
    case = Case(tmp_path, HOPPER, 3, dt=0.001, fixed=True, gravity=(0.0, 0.0, 0.0), ground_friction=None, each=each)
    case.gym.set_dof_velocity_target_tensor(case.sim, torch.full((3,), 2.0))
    case.gym.set_dof_actuation_force_tensor(case.sim, torch.tensor([0.0, 0.0, 0.3]))
    case.step(50)
    expected = [
        2.0 * (1.0 - math.exp(-0.5 / HIP_INERTIA * 0.05)),
        0.1 / HIP_INERTIA * 0.05,  # the drive is at its effort limit
        0.3 / (HIP_INERTIA + 0.02) * 0.05,  # armature adds to the inertia
    ]
    np.testing.assert_allclose(case.dof[:, 0, 1].numpy(), expected, rtol=0.02)


def test_forces_last_one_step_and_act_where_and_along_what_they_say(tmp_path):
    """A block with its own mass and centre of mass in each environment, turned by 90 degrees about x: y is up."""

    def each(gym, env, index):
        props = gym.get_actor_rigid_body_properties(env, 0)
        props[0].mass = BLOCK_MASS * (1 + index)
        props[0].com = gymapi.Vec3(0.0, 0.1 * index, 0.0)
        gym.set_actor_rigid_body_properties(env, 0, props, recomputeInertia=True)

    case = Case(tmp_path, BLOCK, 3, gravity=(0.0, 0.0, 0.0), ground_friction=None, each=each)
    mass, dt = torch.tensor([BLOCK_MASS * (1 + index) for index in range(3)]), 0.005
    turned = case.root.clone()
    turned[:, 3:7] = torch.tensor([math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)])
    force = torch.tensor([1.0, 2.0, 3.0]).repeat(3, 1)
    at_rest = torch.zeros(3, 6)

    def velocities(**call):
        """After two steps, with a force for the first: linear of the centre of mass, angular."""
        case.gym.set_actor_root_state_tensor(case.sim, turned)
        apply = "apply_rigid_body_force_at_pos_tensors" if "posTensor" in call else "apply_rigid_body_force_tensors"
        getattr(case.gym, apply)(case.sim, **call)
        case.step(2)
        arm = torch.zeros(3, 3)
        arm[:, 2] = 0.1 * torch.arange(3)  # the body's y axis, in the world
        linear = case.root[:, 7:10] + torch.linalg.cross(case.root[:, 10:13], arm)
        return torch.cat([linear, case.root[:, 10:13]], 1)

    expected = at_rest.clone()
    expected[:, :3] = force * dt / mass[:, None]
    for space in (gymapi.ENV_SPACE, gymapi.GLOBAL_SPACE):
        torch.testing.assert_close(velocities(forceTensor=force, space=space), expected, atol=1e-5, rtol=1e-3)
    expected[:, :3] = torch.tensor([1.0, -3.0, 2.0]) * dt / mass[:, None]
    torch.testing.assert_close(velocities(forceTensor=force, space=gymapi.LOCAL_SPACE), expected, atol=1e-5, rtol=1e-3)
    # A torque about the body's z, which is -y of the world; the inertia has grown with the mass.
    expected = at_rest.clone()
    expected[:, 4] = -0.5 * dt / (BLOCK_INERTIA[2] * mass / BLOCK_MASS)
    torque = torch.tensor([0.0, 0.0, 0.5]).repeat(3, 1)
    found = velocities(torqueTensor=torque, space=gymapi.LOCAL_SPACE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    # A force along the world's x at the body's origin turns those whose centre of mass is above it (about y).
    expected = at_rest.clone()
    expected[:, 0] = 1.0 * dt / mass
    expected[:, 4] = -0.1 * torch.arange(3) * dt / (BLOCK_INERTIA[2] * mass / BLOCK_MASS)
    push = torch.tensor([1.0, 0.0, 0.0]).repeat(3, 1)
    found = velocities(forceTensor=push, posTensor=turned[:, :3].clone(), space=gymapi.ENV_SPACE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    found = velocities(forceTensor=push, posTensor=torch.zeros(3, 3), space=gymapi.LOCAL_SPACE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_velocities_are_what_positions_do(tmp_path, generator):
    """Tumbling in free space: velocities of bodies' origins and rates of turn in the world, by differences."""
    case = Case(tmp_path, HOPPER, 4, dt=0.0005, gravity=(0.0, 0.0, 0.0), ground_friction=None)
    case.root[:, 3:7] = torch.nn.functional.normalize(torch.randn(4, 4, generator=generator), dim=1)
    case.root[:, 7:] = torch.randn(4, 6, generator=generator)
    case.dof[:] = 2.0 * torch.rand(4, 1, 2, generator=generator) - 1.0  # away from the limits
    case.set_root()
    case.set_dof()
    case.refresh()
    torch.testing.assert_close(case.bodies[:, 0], case.root, atol=2e-6, rtol=1e-5)
    before = case.bodies.clone()
    case.step()
    now = case.bodies.clone()
    torch.testing.assert_close(now[:, 0], case.root, atol=2e-6, rtol=1e-5)
    mean = 0.5 * (before + now)
    torch.testing.assert_close((now - before)[..., :3] / 0.0005, mean[..., 7:10], atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(turn_rates(before, now) / 0.0005, mean[..., 10:13], atol=5e-3, rtol=5e-3)


def turn_rates(before, now):
    """Twice the vector part of now * before^-1, which is the turn from one to the other, in the world's frame."""
    a, b = before[..., 3:7], now[..., 3:7]
    vector = a[..., 3:] * b[..., :3] - b[..., 3:] * a[..., :3] + torch.linalg.cross(a[..., :3], b[..., :3])
    sign = torch.sign((a * b).sum(-1, keepdim=True))
    return 2.0 * sign * vector


def test_a_fixed_base_stays_where_it_is_set(tmp_path):
    case = Case(tmp_path, HOPPER, 2, fixed=True)
    case.root[1, :7] = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])
    case.set_root()
    case.step(5)
    expected = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], [1.0, 2.0, 3.0, 0.0, 0.0, 0.70710678, 0.70710678]])
    torch.testing.assert_close(case.root[:, :7], expected)
    torch.testing.assert_close(case.bodies[:, 0, :7], expected)
    # The hip is 0.05 m ahead of the base, which is along y after a quarter turn.
    torch.testing.assert_close(case.bodies[1, 1, :3], torch.tensor([1.0, 2.05, 2.95]))


def test_an_effort_acts_between_two_bodies(tmp_path):
    """It turns both of them and leaves the robot's momentum at zero."""
    case = Case(tmp_path, HOPPER, 1, dt=0.0005, gravity=(0.0, 0.0, 0.0), ground_friction=None)
    case.gym.set_dof_actuation_force_tensor(case.sim, torch.tensor([0.5]))
    case.step(10)
    leg = LEG_MASS * center_velocity(case.bodies[0, 1], (0.0, 0.0, -LEG_LENGTH))
    base = BASE_MASS * center_velocity(case.bodies[0, 0], (0.03, -0.02, 0.01))
    assert leg.norm().item() > 0.01
    assert (leg + base).norm().item() < 0.01 * leg.norm().item()


def center_velocity(state, center):
    axis, w, vector = state[3:6], state[6], torch.tensor(center)
    twice = 2.0 * torch.linalg.cross(axis, vector)
    arm = vector + w * twice + torch.linalg.cross(axis, twice)
    return state[7:10] + torch.linalg.cross(state[10:13], arm)
