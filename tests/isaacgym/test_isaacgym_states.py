"""Tensors: addresses, indexed sets, properties and their checks, names that are not there; the GPU against the CPU."""

# Constants become names of gymapi when it is imported.
# pyright: reportAttributeAccessIssue=false

import copy

import numpy as np
import pytest
import torch
import warp as wp

from devices import DEVICES
from isaacgym import gymapi
from isaacgym.structs import GymError
from isaacgym_case import HOPPER, Case


def tensors(case):
    return [case.root, case.dof, case.bodies, case.contacts, case.sensors]


def scramble(case, envs, generator):
    """New states for some environments, by the indexed calls; all rows of the tensors are changed, as users may."""
    indices = case.indices(*envs)
    num_envs = len(case.root)
    case.root[:, :3] = torch.rand(num_envs, 3, generator=generator) + 0.5
    turns = torch.randn(num_envs, 4, generator=generator)
    case.root[:, 3:7] = torch.nn.functional.normalize(turns, dim=1)
    case.root[:, 7:] = torch.randn(num_envs, 6, generator=generator)
    case.dof[:] = 2.0 * torch.rand(num_envs, 1, 2, generator=generator) - 1.0
    given = case.root.clone(), case.dof.clone()
    case.gym.set_actor_root_state_tensor_indexed(case.sim, case.root, indices[None], len(indices))  # of any shape
    case.gym.set_dof_state_tensor_indexed(case.sim, case.dof.view(-1, 2), indices, len(indices))
    return given


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_indexed_sets_change_the_named_and_no_bit_of_the_others(tmp_path, device, generator):
    case = Case(tmp_path, HOPPER, 5, device=device, height=0.3)
    case.step(30)
    addresses = [each.data_ptr() for each in tensors(case)]
    before = case.root.clone(), case.dof.clone()
    named, others = [3, 0], [1, 2, 4]
    root, dof = scramble(case, named, generator)
    case.refresh()
    torch.testing.assert_close(case.root[named], root[named], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(case.bodies[named, 0], root[named], atol=1e-5, rtol=1e-5)
    assert torch.equal(case.dof[named], dof[named])
    assert torch.equal(case.root[others], before[0][others])
    assert torch.equal(case.dof[others], before[1][others])
    case.step(30)
    assert [each.data_ptr() for each in tensors(case)] == addresses


@pytest.mark.slow
def test_a_reset_changes_no_bit_of_what_others_do_from_then_on(tmp_path, generator):
    case, twin = (Case(tmp_path, HOPPER, 5, height=0.3) for _ in range(2))
    for each in (case, twin):
        each.step(30)
    named, others = [3, 0], [1, 2, 4]
    scramble(case, named, generator)
    for each in (case, twin):
        each.step(40)
    for mine, its in zip(tensors(case), tensors(twin), strict=True):
        assert torch.equal(mine[others], its[others])
    assert (case.root[named] - twin.root[named]).abs().max().item() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("nan"), 1e8])
def test_an_environment_that_diverges_begins_anew_and_is_reported(tmp_path, device, value):
    case = Case(tmp_path, HOPPER, 3, device=device, height=0.3, sensor=gymapi.Transform())
    case.step(20)
    start = case.root.clone()
    case.root[1, 7] = value
    case.gym.set_actor_root_state_tensor_indexed(case.sim, case.root, case.indices(1), 1)
    with pytest.warns(RuntimeWarning, match="environments have diverged 1 times"):
        case.step()
        if device != "cpu":  # the host has seen it by the next step
            torch.cuda.synchronize()
            case.step()
    assert all(torch.isfinite(each).all() for each in tensors(case))
    if device == "cpu":
        case.step()  # it falls from where it was created
        assert case.root[1, 2].item() == pytest.approx(0.3, abs=0.001)
        assert case.root[1, 9].item() == pytest.approx(-9.81 * 0.005, rel=0.1)
    assert (case.root[[0, 2], :2] - start[[0, 2], :2]).abs().max().item() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_indexed_controls_act_on_the_named_alone(tmp_path, device):
    def each(gym, env, index):
        props = gym.get_actor_dof_properties(env, 0)
        props["driveMode"][:] = gymapi.DOF_MODE_POS if index < 2 else gymapi.DOF_MODE_VEL
        props["stiffness"][:], props["damping"][:] = 5.0, 0.1
        gym.set_actor_dof_properties(env, 0, props)

    options = {"fixed": True, "gravity": (0.0, 0.0, 0.0), "ground_friction": None, "each": each}
    case = Case(tmp_path, HOPPER, 6, device=device, **options)
    target = torch.full((6,), 0.5, device=device)
    case.gym.set_dof_position_target_tensor_indexed(case.sim, target, case.indices(0, 3), 2)
    case.gym.set_dof_velocity_target_tensor_indexed(case.sim, target, case.indices(1, 2), 2)
    case.gym.set_dof_actuation_force_tensor_indexed(case.sim, target, case.indices(4, 5), 1)
    case.step(3)
    # The first by position, the third by velocity, the fifth by effort; the others had the other kind of drive.
    moved = case.dof[:, 0, 1].abs() > 1e-3
    assert moved.tolist() == [True, False, True, False, True, False]
    case.gym.refresh_dof_force_tensor(case.sim)
    force = case.gym.acquire_dof_force_tensor(case.sim)
    assert (force.abs() > 1e-3).tolist() == moved.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not wp.is_cpu_available(), reason="this Warp compiles for no CPU")
def test_a_gpu_moves_as_a_cpu_does_on_any_stream(tmp_path, generator):
    """Free motion, a landing, and a reset, by the graph; half of the steps on a stream of their own."""
    cpu, gpu = (Case(tmp_path, HOPPER, 8, device=device, substeps=2, height=0.5) for device in ("cpu", "cuda"))
    root, dof = scramble(cpu, range(8), generator)
    gpu.root.copy_(root)
    gpu.dof.copy_(dof)
    gpu.set_root()
    gpu.set_dof()
    stream = torch.cuda.Stream()
    for _ in range(5):
        cpu.step(2)
        gpu.step()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            gpu.step()
        torch.cuda.current_stream().wait_stream(stream)
        for mine, its in zip(tensors(cpu), tensors(gpu), strict=True):
            torch.testing.assert_close(its.cpu(), mine, atol=0.02, rtol=0.02)
    for each in (cpu, gpu):
        each.step(1000)
    weight = 9.81 * 5.0
    torch.testing.assert_close(gpu.contacts.sum(1)[:, 2].cpu(), torch.full((8,), weight), rtol=0.01, atol=0.0)


@pytest.mark.gpu
def test_stepping_does_not_wait_for_the_gpu(tmp_path):
    case = Case(tmp_path, HOPPER, 8, device="cuda", substeps=2)
    force = torch.zeros(16, 3, device="cuda")
    indices, efforts = case.indices(1, 3), torch.zeros(8, device="cuda")
    case.step(2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            case.gym.set_dof_actuation_force_tensor(case.sim, efforts)
            case.gym.apply_rigid_body_force_tensors(case.sim, force, None, gymapi.GLOBAL_SPACE)
            case.step()
            case.gym.set_actor_root_state_tensor_indexed(case.sim, case.root, indices, 2)
            case.gym.set_dof_state_tensor_indexed(case.sim, case.dof.view(-1, 2), indices, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_properties_come_back_and_wrong_calls_say_what_is_wrong(tmp_path):
    seen = []

    def each(gym, env, index):
        dof = gym.get_actor_dof_properties(env, 0)
        dof["friction"][:], dof["lower"][:] = 0.1 * index, -0.5
        gym.set_actor_dof_properties(env, 0, dof)
        bodies = gym.get_actor_rigid_body_properties(env, 0)
        bodies[1].mass = 2.0
        gym.set_actor_rigid_body_properties(env, 0, bodies, recomputeInertia=True)
        assert gym.get_actor_dof_properties(env, 0)["friction"][0] == np.float32(0.1 * index)
        again = gym.get_actor_rigid_body_properties(env, 0)[1]
        assert (again.mass, again.inertia.y.y) == (2.0, pytest.approx(0.008))
        with pytest.raises(GymError, match="1 rigid body properties were given; 2 were expected"):
            gym.set_actor_rigid_body_properties(env, 0, bodies[:1])
        with pytest.raises(GymError, match="has an actor already"):
            gym.create_actor(env, seen[0] if seen else None, gymapi.Transform(), "second", 0, 0)
        seen.append(env)

    case = Case(tmp_path, HOPPER, 2, each=each)
    gym, sim, env = case.gym, case.sim, seen[1]
    counts = gym.get_sim_actor_count(sim), gym.get_sim_dof_count(sim), gym.get_sim_rigid_body_count(sim)
    assert (gym.get_env_count(sim), *counts) == (2, 2, 2, 4)
    assert gym.get_actor_index(env, 0, gymapi.DOMAIN_SIM) == 1
    assert gym.find_actor_rigid_body_index(env, 0, "leg", gymapi.DOMAIN_SIM) == 3
    assert gym.find_actor_dof_handle(env, 0, "hip") == 0
    assert gym.find_actor_rigid_body_handle(env, 0, "arm") == -1
    assert not hasattr(gym, "get_jacobian")
    for message, call in [
        ("gym.get_jacobian is not there", lambda: gym.get_jacobian(sim)),
        ("create_env came after prepare_sim", lambda: gym.create_env(sim, gymapi.Vec3(), gymapi.Vec3(), 1)),
        ("torch.float32 on cpu were expected", lambda: gym.set_actor_root_state_tensor(sim, case.root.double())),
        ("as many numbers as in", lambda: gym.set_actor_root_state_tensor(sim, case.root[:1])),
        (
            "torch.int32 on cpu were expected",
            lambda: gym.set_dof_state_tensor_indexed(sim, case.dof, torch.tensor([0]), 1),
        ),
        (
            "indices go from -1 to 2; there are 2",
            lambda: gym.set_dof_state_tensor_indexed(sim, case.dof, case.indices(2, -1), 2),
        ),
    ]:
        with pytest.raises(GymError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_simulation_is_refused_before_anything_is_built():
    gym, params = gymapi.acquire_gym(), gymapi.SimParams()
    with pytest.raises(GymError, match="z is up"):
        gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
    params.up_axis = gymapi.UP_AXIS_Z
    for name, value in (("dt", 0.0), ("substeps", 0)):
        wrong = copy.copy(params)
        setattr(wrong, name, value)
        with pytest.raises(GymError, match=f"{name} is 0"):
            gym.create_sim(0, -1, gymapi.SIM_PHYSX, wrong)
    sim = gym.create_sim(0, -1, gymapi.SIM_PHYSX, params)
    with pytest.raises(GymError, match="there is no actor"):
        gym.prepare_sim(sim)
    with pytest.raises(GymError, match="not prepared"):
        gym.simulate(sim)


def test_it_prints_what_a_long_preparation_waits_for_and_nothing_else(tmp_path, capfd, monkeypatch):
    for seconds, said in ((60.0, 0), (0.0, 1)):
        monkeypatch.setattr("isaacgym.sim.LONG", seconds)
        Case(tmp_path, HOPPER, 1).step()
        lines = capfd.readouterr().out.splitlines()
        assert len(lines) == said and all("compiles its kernels" in line for line in lines)
    assert wp.config.log_level > wp.LOG_INFO
