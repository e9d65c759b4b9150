"""The training task in mjlab, on the CPU: the reference in it, zero action, start states, training, deployment."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mjlab.asset_zoo.robots.unitree_go1.go1_constants import GO1_XML
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensordict import TensorDict

from cmg_gym.controller import Controller, Proprioception
from cmg_gym.env_cfg import FEET_CONTACT, make_env_cfg
from cmg_gym.learning.export import export_policy
from cmg_gym.learning.policies import load_policy
from cmg_gym.learning.runner import ResidualRunner, checkpoints
from cmg_gym.mdp import rewards
from cmg_gym.mdp.command_stages import TRAINING_STAGES
from cmg_gym.mdp.reference_command import ReferenceCommand, reference
from cmg_gym.mdp.reference_sources import PregeneratedSource
from cmg_gym.mdp.residual_action import ResidualJointAction
from cmg_gym.mdp.rewards import feet_in_contact
from cmg_gym.mdp.start_states import SETTLE_FRAMES
from cmg_gym.policy_card import read_card
from cmg_gym.rl_cfg import STEPS_PER_ITERATION, make_rl_cfg
from cmg_gym.robots import GO1, robot_of
from CMG_Ref.robot_g1 import mirror_map
from cmg_runtime import EngineError
from gym_case import (
    current_motion,
    deployable_engine,
    follow_rollout,
    g1_engine,
    make_engine,
    make_env,
    random_commands,
    zero,
)
from make_checkpoint import make_checkpoint, save_checkpoint

Patch = pytest.MonkeyPatch
# In one process: each that opens an environment spends seconds, and without a kernel cache minutes, on compiling.
pytestmark = pytest.mark.xdist_group("gym")


@pytest.fixture(scope="module")
def floating(seed: int) -> ManagerBasedRlEnv:
    """Four robots in the air, where nothing disturbs them."""
    return make_env(g1_engine()[0], 4, seed, play=True, gravity=False)


@pytest.fixture(scope="module")
def training(seed: int) -> RslRlVecEnvWrapper:
    """Sixteen robots on the ground, as in training."""
    return RslRlVecEnvWrapper(make_env(g1_engine()[0], 16, seed, play=False))


@pytest.fixture(scope="module")
def late(seed: int) -> ManagerBasedRlEnv:
    """Four robots in the air whose reference is looked up, and whose targets come up to three steps of physics late.

    Its episodes start from the trajectories of :func:`floating`, as on another GPU of the same training.
    """
    reference = {"cmg_mode": "pregenerated", "trajectory_seed": seed % 2**31}
    return make_env(g1_engine()[0], 4, seed + 1, play=True, gravity=False, delay_steps=3, **reference)


def short_cfg() -> dict[str, Any]:
    """PPO as it is, with half as many steps an iteration; a new one each time, since runners change theirs."""
    return asdict(make_rl_cfg()) | {"num_steps_per_env": STEPS_PER_ITERATION // 2}


def quarter_of_the_effort(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[29] rad: where each actuator, held off its target so far, gives a quarter of its largest torque."""
    model = env.sim.mj_model
    by_joint = {model.joint(int(joint)).name: index for index, joint in enumerate(model.actuator_trnid[:, 0])}
    actuators = [by_joint[f"robot/{name}"] for name in reference(env).engine.joint_names]
    quarter = 0.25 * model.actuator_forcerange[actuators, 1] / model.actuator_gainprm[actuators, 0]
    return torch.tensor(quarter, dtype=torch.float32)


def residual(env: ManagerBasedRlEnv) -> ResidualJointAction:
    action = env.action_manager.get_term("joint_pos")
    assert isinstance(action, ResidualJointAction)
    return action


@pytest.mark.slow
def test_reference_is_a_plain_rollout(floating: ManagerBasedRlEnv, generator: torch.Generator) -> None:
    follow_rollout(floating, g1_engine()[1], generator)


@pytest.mark.slow
def test_a_pregenerated_reference_is_a_plain_rollout_too_and_lasts_for_an_episode(
    late: ManagerBasedRlEnv, floating: ManagerBasedRlEnv
) -> None:
    term, truth, source = reference(late), g1_engine()[1], reference(late).source
    assert isinstance(source, PregeneratedSource)
    low, high = term.engine.command_range
    drawn = []
    for _ in range(8):
        late.reset()
        drawn.append(term.command.clone())
    commands = torch.cat(drawn)
    assert bool(((commands >= low) & (commands <= high)).all()) and len(commands.unique(dim=0)) > 1
    latest = SETTLE_FRAMES + round(term.cfg.start_span_s * 50) - 1
    assert int(source._frame_ids.max()) <= latest
    source._frame_ids[:] = latest  # the last frame that an episode may start from
    late.step(zero(late))
    expected, command = current_motion(term).double(), term.command.clone()
    for _ in range(30):
        expected = truth.step(expected, command)
        late.step(zero(late))
        torch.testing.assert_close(current_motion(term).double(), expected, atol=2e-3, rtol=2e-3)
        assert torch.equal(term.command, command)
    steps = round(make_env_cfg().episode_length_s * 50)
    for _ in range(steps - 31):
        source.step()
    assert source._frame_ids.tolist() == [latest + steps] * 4  # without a jump
    # Of another seed, with the same trajectories; one goes on for longer.
    one, other = (states.pool.rows[: SETTLE_FRAMES + 1] for states in (term.states, reference(floating).states))
    assert torch.equal(one, other) and torch.equal(term.states.commands, reference(floating).states.commands)


@pytest.mark.slow
def test_targets_come_late_by_no_more_than_the_delay(late: ManagerBasedRlEnv, monkeypatch: Patch) -> None:
    """Each control step is four of physics; at its last one a delay of up to three has let the new target through."""
    controls: list[torch.Tensor] = []
    step, old_shares = late.sim.step, []
    monkeypatch.setattr(late.sim, "step", lambda: (controls.append(late.sim.data.ctrl.clone()), step()))
    late.reset()
    late.step(zero(late))
    for index in range(20):
        before = controls[-1]
        late.step(torch.full((4, 29), (-1.0) ** index))
        *early, last = controls[-4:]
        wanted = residual(late)._processed_actions  # actuators have an order of their own
        torch.testing.assert_close(last.sort().values, wanted.sort().values, atol=1e-5, rtol=0)
        new, old = (torch.stack([(control - whole).abs() < 1e-6 for control in early]) for whole in (last, before))
        assert bool((new | old).all())
        old_shares.append(old.float().mean(dim=(1, 2)))
    # Of the four delays, 0 to 3, three leave the old target in force at the first step of physics, then two, then one.
    assert torch.stack(old_shares).mean(dim=0).tolist() == pytest.approx([0.75, 0.5, 0.25], abs=0.2)


@pytest.mark.slow
def test_zero_action_follows_in_the_air(floating: ManagerBasedRlEnv, monkeypatch: Patch) -> None:
    term, action = reference(floating), residual(floating)
    same_starts = term.states._generator.get_state()

    def error() -> float:
        """rad, root mean square over joints and half a second, of twelve starts"""
        term.states._generator.set_state(same_starts)
        term.hold((0.8, 0.0, 0.0))
        errors = []
        for _ in range(3):
            floating.reset()
            for _ in range(25):
                floating.step(zero(floating))
                errors.append((term.robot.data.joint_pos - term.frames.dof_pos[:, 0]).square().mean())
        return float(torch.stack(errors).mean().sqrt())

    torch.testing.assert_close(action.lead_s, torch.full((29,), 4 / (20 * 3.1415926535)), atol=1e-5, rtol=1e-5)
    with_lead = error()
    monkeypatch.setattr(action, "lead_s", 0 * action.lead_s)
    assert with_lead < 0.06 and with_lead < 0.85 * error()


def test_target_is_reference_and_residual_within_limits(
    floating: ManagerBasedRlEnv, generator: torch.Generator
) -> None:
    term, action = reference(floating), residual(floating)
    floating.reset()
    raw = 3 * torch.randn(4, 29, generator=generator)
    target = term.target
    wanted = target.dof_pos + action.lead_s * target.dof_vel + raw * quarter_of_the_effort(floating)
    low, high = term.robot.data.joint_pos_limits.unbind(dim=-1)
    action.process_actions(raw)
    torch.testing.assert_close(action._processed_actions, torch.minimum(torch.maximum(wanted, low), high))
    assert bool((wanted != action._processed_actions).any())


def test_mirrored_commands_give_mirrored_references(floating: ManagerBasedRlEnv, generator: torch.Generator) -> None:
    term = reference(floating)
    index, sign = mirror_map(tuple(term.engine.joint_names))
    both, signs = index + [29 + i for i in index], torch.tensor(sign * 2)
    commands = torch.tensor([[0.8, 0.0, 0.4], [0.6, 0.3, 0.0]])
    term.hold(torch.cat([commands, commands * torch.tensor([1.0, -1.0, -1.0])]))
    floating.reset()
    state = current_motion(term)[:2]
    term.engine.reset(motion=torch.cat([state, signs * state[:, both]]), command=term.engine.command)
    difference, movement = [], []
    for _ in range(25):
        floating.step(zero(floating))
        left, right = current_motion(term)[:, :29].split(2)
        mirrored = torch.tensor(sign) * right[:, index]
        difference.append((left - mirrored).square().mean())
        movement.append((left - right).square().mean())
    # The generator was trained alike on both sides but for a fifth of what they drifted apart.
    assert sum(difference) < 0.05 * sum(movement)


def assert_begun(
    term: ReferenceCommand, envs: torch.Tensor, joint_pos: float = 0, joint_vel: float = 0, tilt: float = 0
) -> None:
    """The state of ``envs`` is that of their current frame, but for so much noise."""
    frames, data = term.frames, term.robot.data
    low, high = data.soft_joint_pos_limits[envs].unbind(dim=-1)
    expected = frames.dof_pos[envs, 0].clamp(low, high)
    torch.testing.assert_close(data.joint_pos[envs], expected, atol=joint_pos + 1e-5, rtol=0)
    torch.testing.assert_close(data.joint_vel[envs], frames.dof_vel[envs, 0], atol=joint_vel + 1e-5, rtol=0)
    height = frames.root_pos[envs, 0, 2] + term.cfg.start_height
    torch.testing.assert_close(data.root_link_pos_w[envs, 2], height, atol=1e-4, rtol=0)
    quat, other = data.root_link_quat_w[envs], frames.root_rot[envs, 0]
    apart = torch.minimum((quat - other).norm(dim=1), (quat + other).norm(dim=1))
    assert bool((apart < 2 * math.sin(tilt) + 1e-4).all())


def test_episodes_start_on_the_reference_and_leave_others_alone(floating: ManagerBasedRlEnv) -> None:
    term, others, again = reference(floating), [0, 1, 3], torch.tensor([2])
    data = term.robot.data
    term.hold((0.8, 0.0, 0.0))
    floating.reset()
    floating.step(zero(floating))
    before = current_motion(term)
    floating.reset(env_ids=again)
    torch.testing.assert_close(current_motion(term)[others], before[others], atol=0, rtol=0)
    assert not torch.equal(current_motion(term)[2], before[2])
    assert_begun(term, again)
    torch.testing.assert_close(data.root_link_pos_w[2, :2], term.frames.root_pos[2, 0, :2], atol=1e-4, rtol=0)
    commands, low, high = (values.double().numpy() for values in (term.states.commands, *term.engine.command_range))
    nearest = commands[np.linalg.norm((commands - (0.8, 0.0, 0.0)) / (high - low), axis=1).argmin()]
    speed = float(data.root_link_lin_vel_w[2, :2].norm())
    assert speed == pytest.approx(np.linalg.norm(nearest[:2]), abs=1e-4)


@pytest.mark.slow
def test_episodes_that_begin_in_the_midst_start_on_the_reference(
    training: RslRlVecEnvWrapper, generator: torch.Generator
) -> None:
    """Robots that fell, step after step: state and current frame are of the same start, but for the noise."""
    term, seen = reference(training.unwrapped), 0
    noise = term.cfg.start_noise
    assert noise is not None
    training.reset()
    for _ in range(400):
        _, _, done, _ = training.step(4 * torch.randn(16, 29, generator=generator))
        assert_begun(term, done.bool(), noise.joint_pos, noise.joint_vel, noise.tilt)
        seen += int(done.sum())
        if seen > 10:
            return
    pytest.fail(f"only {seen} robots fell")


@pytest.mark.slow
def test_critic_sees_twenty_frames_and_how_robots_differ_and_the_actor_no_root(training: RslRlVecEnvWrapper) -> None:
    world = training.unwrapped
    manager, model, mj_model = world.observation_manager, world.sim.model, world.sim.mj_model
    assert manager.group_obs_dim["actor"] == (29 * 7 + 3 * 3,)
    assert not {"base_lin_vel", "base_height"} & set(manager.active_terms["actor"])
    assert len(manager.get_term_cfg("critic", "future_dof_pos").params["offsets"]) == 20

    def told(name: str) -> torch.Tensor:
        cfg = manager.get_term_cfg("critic", name)
        return cfg.func(world, **cfg.params).clone()

    widths = {"friction": (0.3, 1.2), "mass_ratio": (0.9, 1.15), "motor_strength": (0.9, 1.1)}
    widths |= {"centre_of_mass": (-0.03, 0.03), "encoder_bias": (-0.015, 0.015)}
    before = {name: told(name) for name in widths}
    for name, (low, high) in widths.items():
        values = before[name]
        assert float(values.min()) >= low - 1e-5 and float(values.max()) <= high + 1e-5, name
        assert float(values[:, 0].max() - values[:, 0].min()) > 0.3 * (high - low), name
        assert len(values[:, 0].unique()) == 16, name
    # One friction for all of a robot's soles.
    soles = [i for i in range(mj_model.ngeom) if re.search(r"foot\d_collision$", mj_model.geom(i).name)]
    assert len(soles) == 14
    torch.testing.assert_close(model.geom_friction[:, soles, 0], before["friction"].expand(-1, 14))
    training.reset()  # a new episode is the same robot's
    assert all(torch.equal(told(name), values) for name, values in before.items())


def test_curriculum_enters_the_stage_of_the_counter_also_when_resumed(
    training: RslRlVecEnvWrapper, tmp_path: Path
) -> None:
    world = training.unwrapped
    term, counter = reference(world), world.common_step_counter
    try:
        for stage in TRAINING_STAGES:
            world.common_step_counter = stage.iteration * STEPS_PER_ITERATION
            training.reset()
            assert term.sampler.stage is stage
            push = world.event_manager.get_term_cfg("push_robot").params["velocity_range"]
            assert push["x"] == (-0.5 * stage.push, 0.5 * stage.push)
            weights = [world.reward_manager.get_term_cfg(name).weight for name in ("feet_slip", "track_velocity")]
            assert weights == [-4.0 * stage.penalty, 2.0]
        runner = ResidualRunner(training, short_cfg(), str(tmp_path), "cpu")
        high = term.engine.command_range[1]
        for stage, least, most in ((TRAINING_STAGES[0], 0.0, 0.63), (TRAINING_STAGES[-1], 0.63, 1.0)):
            world.common_step_counter = stage.iteration * STEPS_PER_ITERATION
            runner._begin_anew()
            assert term.sampler.stage is stage
            reached = max(float((term.sampler.draw(500)[:, 0] / high[0]).max()) for _ in range(2))
            assert least < reached <= most
            assert int(term._wanted[:, 1].count_nonzero()) >= 3  # of 16, some of which stand, or do only something else
    finally:
        world.common_step_counter = counter
        training.reset()


def test_what_is_logged_is_the_mean_of_an_episode(floating: ManagerBasedRlEnv, monkeypatch: Patch) -> None:
    term, errors, deviations = reference(floating), [], []
    floating.reset()
    update = term._update_metrics

    def recorded() -> None:
        update()
        deviations.append(term.robot_velocity() - term.command)
        errors.append((term.robot.data.joint_pos - term.target.dof_pos).square().mean(dim=1).sqrt().clone())

    monkeypatch.setattr(term, "_update_metrics", recorded)
    floating.reset(env_ids=torch.tensor([1, 3]))
    errors.clear()  # that was of the new states and the old reference
    deviations.clear()
    for _ in range(7):
        floating.step(torch.full_like(zero(floating), 0.1))
    assert len(errors) == 7 and float(torch.stack(errors).std(dim=0).min()) > 0
    average = torch.zeros(2, 3)
    for deviation in deviations:
        average += 0.02 * (deviation[[1, 3]] - average)
    torch.testing.assert_close(term.mean_error[[1, 3]], average, atol=1e-6, rtol=1e-4)
    held = torch.exp(-(average[:, :2].norm(dim=1) ** 2) / 0.3**2)
    torch.testing.assert_close(rewards.hold_velocity(floating, "reference", 0.3)[[1, 3]], held)
    logged = term.reset(torch.tensor([1, 3]))
    assert logged["error_joint"] == pytest.approx(float(torch.stack(errors)[:, [1, 3]].mean()), rel=1e-5)


class InterruptedRunner(ResidualRunner):
    """Is stopped right after its second checkpoint."""

    def save(self, path: str, infos: dict | None = None) -> None:
        super().save(path, infos)
        if path.endswith("model_1.pt"):
            raise InterruptedError


@pytest.mark.slow
def test_training_runs_is_interrupted_and_resumes(training: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    logs, world = tmp_path / "run", training.unwrapped
    runner = InterruptedRunner(training, short_cfg(), str(logs), "cpu")
    with pytest.raises(InterruptedError):
        runner.learn(9)
    assert [path.name for path in checkpoints(logs)] == ["model_0.pt", "model_1.pt"]
    events = EventAccumulator(str(logs)).Reload()  # what is on the disk, while the writer is still open
    losses = [tag for tag in events.Tags()["scalars"] if tag.startswith("Loss/")]
    assert {"Loss/value", "Loss/surrogate"} <= set(losses)
    for tag in losses:
        assert [event.step for event in events.Scalars(tag)] == [0, 1]
        assert all(math.isfinite(event.value) for event in events.Scalars(tag)), tag

    counter = world.common_step_counter
    resumed = ResidualRunner(training, short_cfg(), str(tmp_path / "resumed"), "cpu")
    world.common_step_counter = 0
    resumed.load(str(logs / "model_1.pt"))
    assert resumed.current_learning_iteration == 2
    assert resumed.alg.learning_rate == runner.alg.learning_rate
    assert world.common_step_counter == counter
    for ours, theirs in zip(resumed.alg.actor.parameters(), runner.alg.actor.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    resumed.learn(2)  # it has these already; what the interruption took is the export
    assert checkpoints(tmp_path / "resumed") == []
    assert read_card(tmp_path / "resumed" / "policy").iterations == 2

    again = ResidualRunner(training, short_cfg(), str(logs), "cpu")
    again.load(str(logs / "model_1.pt"))
    again.learn(3)
    assert checkpoints(logs)[-1].name == "model_2.pt"
    seen = training.get_observations()
    with torch.inference_mode():  # the newest checkpoint of the run, and what was exported of it
        actions = [load_policy(path, training)(seen) for path in (logs, logs / "policy")]
    assert float(actions[0].abs().max()) > 0.01
    torch.testing.assert_close(actions[0], actions[1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_deployment_reproduces_the_environment(
    floating: ManagerBasedRlEnv, generator: torch.Generator, tmp_path: Path
) -> None:
    env = RslRlVecEnvWrapper(floating)
    runner = ResidualRunner(env, asdict(make_rl_cfg()), None, "cpu")
    with torch.no_grad():  # an untrained policy does next to nothing
        for parameter in runner.alg.actor.parameters():
            parameter.mul_(1.5)
    seen = env.get_observations()["actor"]
    spread = seen[:1] + 0.5 * torch.randn(256, seen.shape[1], generator=generator)
    runner.alg.actor.update_normalization(TensorDict({"actor": spread}, batch_size=[256]))
    export_policy(runner, tmp_path)
    policy = load_policy(tmp_path, env)
    controller = Controller(str(tmp_path), str(deployable_engine()))  # as text; Paths are what the others give

    term, data, command = reference(floating), reference(floating).robot.data, (0.7, 0.0, 0.3)
    term.hold(command)
    observations, _ = env.reset()
    controller.reset(term.frames.dof_pos[0, 0], term.frames.dof_vel[0, 0], command)
    for step in range(60):
        measured = (data.projected_gravity_b, data.joint_pos_biased, data.joint_vel)
        robot = Proprioception(*(x[0].numpy() for x in (floating.scene["robot/imu_ang_vel"].data, *measured)))
        targets = controller.step(command, robot)
        actions = policy(observations)
        assert float(actions.abs().max()) > 0.01
        np.testing.assert_allclose(controller.action, actions[0].numpy(), atol=2e-3)
        if step == 20:
            command = (1.0, 0.1, -0.2)
            term.hold(command)
        observations, _, _, _ = env.step(actions)
        np.testing.assert_allclose(targets, residual(floating)._processed_actions[0].numpy(), atol=2e-3)


@pytest.mark.slow
def test_an_export_is_of_one_policy_or_of_none(floating: ManagerBasedRlEnv, tmp_path: Path, monkeypatch: Patch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    runner = ResidualRunner(RslRlVecEnvWrapper(floating), asdict(make_rl_cfg()), None, "cpu")
    export_policy(runner, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for place, left in (("torch.onnx.export", before), ("cmg_gym.learning.export.replace_file", None)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(place, interrupt)
            export_policy(runner, tmp_path)
        if left is not None:
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
    with pytest.raises(EngineError, match="no exported policy"):  # and not the new network with the old card
        Controller(tmp_path, deployable_engine())


@pytest.mark.slow
def test_another_robot_is_an_entry_and_an_engine(seed: int, generator: torch.Generator, tmp_path: Path) -> None:
    """A Go1 of mjlab's, on a generator of random weights whose states lie about its standing pose."""
    made = make_checkpoint(tmp_path, num_joints=12, seed=seed)
    mean = np.array([*[0.1, 0.9, -1.8, -0.1, 0.9, -1.8] * 2, *[0.0] * 12], dtype=np.float32)
    std = np.array([0.1] * 12 + [1.0] * 12, dtype=np.float32)
    save_checkpoint(tmp_path, made.model.state_dict(), made.stats | {"motion_mean": mean, "motion_std": std}, "full")
    np.savez(tmp_path / "bank.npz", motion=mean + std * torch.randn(40, 24, generator=generator).numpy())
    truth = make_engine(tmp_path, made.path, GO1_XML)
    env = RslRlVecEnvWrapper(make_env(tmp_path, 2, seed, play=False))
    world = env.unwrapped
    term, action = reference(world), residual(world)
    assert robot_of(term.engine.manifest) is GO1
    commands = random_commands(term, 2, generator)
    term.hold(commands)
    observations, _ = env.reset()
    assert observations["actor"].shape == (2, 12 * 7 + 3 * 3)
    assert feet_in_contact(world, FEET_CONTACT).shape == (2, 4)
    assert "track_contacts" not in world.reward_manager.active_terms  # it has no body at its feet
    low, high = term.robot.data.joint_pos_limits.unbind(dim=-1)
    for _ in range(3):
        target, expected = term.target, truth.step(current_motion(term).double(), commands).float()
        torch.testing.assert_close(torch.cat([target.dof_pos, target.dof_vel], dim=1), expected, atol=1e-3, rtol=1e-3)
        wanted = expected[:, :12] + 4 / (20 * math.pi) * expected[:, 12:]  # kd / kp, as mjlab's actuators have it
        observations, rewards, _, _ = env.step(zero(world))
        torch.testing.assert_close(action._processed_actions, wanted.clamp(low, high), atol=2e-3, rtol=0)
        seen = torch.cat([observations["actor"], observations["critic"], rewards[:, None]], dim=1)
        assert bool(torch.isfinite(seen).all())
