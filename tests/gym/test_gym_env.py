"""The training task in mjlab, on the CPU: the reference in it, zero action, start states, training, deployment."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensordict import TensorDict

from cmg_export.bench import __main__ as bench
from cmg_export.parity import Truth
from cmg_gym.command_stages import TRAINING_STAGES
from cmg_gym.controller import Controller, Proprioception, read_card
from cmg_gym.env_cfg import make_env_cfg
from cmg_gym.evaluation import run_episodes, summarise
from cmg_gym.export import export_policy
from cmg_gym.observations import reference
from cmg_gym.policies import load_policy
from cmg_gym.reference_sources import PregeneratedSource
from cmg_gym.residual_action import ResidualJointAction
from cmg_gym.rl_cfg import STEPS_PER_ITERATION, make_rl_cfg
from cmg_gym.runner import ResidualRunner, checkpoints
from cmg_gym.start_states import SETTLE_FRAMES
from CMG_Ref.robot_g1 import mirror_map
from gym_case import CHECKPOINT, current_motion, follow_rollout, make_env, make_g1_engine, zero

# In one process: each that opens an environment spends seconds, and without a kernel cache minutes, on compiling.
pytestmark = pytest.mark.xdist_group("gym")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("engine")
    return folder, make_g1_engine(folder)


@pytest.fixture(scope="module")
def floating(engine: tuple[Path, Truth], seed: int) -> ManagerBasedRlEnv:
    """Four robots in the air, where nothing disturbs them."""
    return make_env(engine[0], 4, seed, play=True, gravity=False)


@pytest.fixture(scope="module")
def training(engine: tuple[Path, Truth], seed: int) -> RslRlVecEnvWrapper:
    """Sixteen robots on the ground, as in training."""
    return RslRlVecEnvWrapper(make_env(engine[0], 16, seed, play=False))


@pytest.fixture(scope="module")
def late(engine: tuple[Path, Truth], seed: int) -> ManagerBasedRlEnv:
    """Four robots in the air whose reference is looked up, and whose targets come up to three steps of physics late.

    Its episodes start from the trajectories of :func:`floating`, as on another GPU of the same training.
    """
    reference = {"cmg_mode": "pregenerated", "trajectory_seed": seed % 2**31}
    return make_env(engine[0], 4, seed + 1, play=True, gravity=False, delay_steps=3, **reference)


def short_cfg() -> dict[str, Any]:
    """PPO as it is, with half as many steps an iteration; a new one each time, since runners change theirs."""
    return asdict(make_rl_cfg()) | {"num_steps_per_env": STEPS_PER_ITERATION // 2}


def quarter_of_the_effort(env: ManagerBasedRlEnv) -> torch.Tensor:
    """[29] rad: where each actuator, held off its target so far, gives a quarter of its largest torque."""
    model = env.sim.mj_model
    by_joint = {model.joint(int(joint)).name: index for index, joint in enumerate(model.actuator_trnid[:, 0])}
    actuators = [by_joint[f"robot/{name}"] for name in reference(env, "reference").engine.joint_names]
    quarter = 0.25 * model.actuator_forcerange[actuators, 1] / model.actuator_gainprm[actuators, 0]
    return torch.tensor(quarter, dtype=torch.float32)


def test_reference_is_a_plain_rollout(
    floating: ManagerBasedRlEnv, engine: tuple[Path, Truth], generator: torch.Generator
) -> None:
    follow_rollout(floating, engine[1], generator)


def test_a_pregenerated_reference_is_a_plain_rollout_too(late: ManagerBasedRlEnv, engine: tuple[Path, Truth]) -> None:
    term, truth = reference(late, "reference"), engine[1]
    late.reset()
    assert isinstance(term.source, PregeneratedSource)
    low, high = term.engine.command_range
    assert bool((term.command >= low).all() and (term.command <= high).all())
    assert len(term.command.unique(dim=0)) > 1
    term.source._frame_ids[:] = SETTLE_FRAMES  # so that none comes to its end, where it begins again
    late.step(zero(late))
    expected, command = current_motion(term).double(), term.command.clone()
    for _ in range(30):
        expected = truth.step(expected, command)
        late.step(zero(late))
        torch.testing.assert_close(current_motion(term).double(), expected, atol=2e-3, rtol=2e-3)
        assert torch.equal(term.command, command)


def test_a_pregenerated_reference_lasts_for_an_episode(late: ManagerBasedRlEnv) -> None:
    """From the last frame that an episode may start from, without a jump."""
    term = reference(late, "reference")
    late.reset()
    source = term.source
    assert isinstance(source, PregeneratedSource)
    latest = SETTLE_FRAMES + round(term.cfg.start_span_s * 50) - 1
    assert int(source._frame_ids.max()) <= latest
    source._frame_ids[:] = latest
    steps = round(make_env_cfg().episode_length_s * 50)
    for _ in range(steps):
        source.step()
    assert source._frame_ids.tolist() == [latest + steps] * 4


def test_targets_come_late_by_no_more_than_the_delay(late: ManagerBasedRlEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each control step is four of physics; at its last one a delay of up to three has let the new target through."""
    controls: list[torch.Tensor] = []
    step = late.sim.step
    monkeypatch.setattr(late.sim, "step", lambda: (controls.append(late.sim.data.ctrl.clone()), step()))
    late.reset()
    late.step(zero(late))
    action = late.action_manager.get_term("joint_pos")
    assert isinstance(action, ResidualJointAction)
    old_shares = []
    for index in range(20):
        before = controls[-1]
        late.step(torch.full((4, 29), (-1.0) ** index))
        *early, last = controls[-4:]
        for got, wanted in zip(last, action._processed_actions, strict=True):  # actuators have an order of their own
            torch.testing.assert_close(got.sort().values, wanted.sort().values, atol=1e-5, rtol=0)
        new, old = (torch.stack([(control - whole).abs() < 1e-6 for control in early]) for whole in (last, before))
        assert bool((new | old).all())
        old_shares.append(old.float().mean(dim=(1, 2)))
    first, second, third = torch.stack(old_shares).mean(dim=0).tolist()
    # Of the four delays, 0 to 3, three leave the old target in force at the first step of physics, then two, then one.
    assert (first, second, third) == pytest.approx((0.75, 0.5, 0.25), abs=0.2)


def test_zero_action_follows_in_the_air(floating: ManagerBasedRlEnv) -> None:
    term = reference(floating, "reference")
    action = floating.action_manager.get_term("joint_pos")
    assert isinstance(action, ResidualJointAction)

    draws = term.states._generator
    same_starts = draws.get_state()

    def error() -> float:
        draws.set_state(same_starts)
        term.hold((0.8, 0.0, 0.0))
        errors = []
        for _ in range(4):
            floating.reset()
            for _ in range(50):
                floating.step(zero(floating))
                errors.append((term.robot.data.joint_pos - term.frames.dof_pos[:, 0]).square().mean())
        return float(torch.stack(errors).mean().sqrt())

    lead = action.lead_s.clone()
    torch.testing.assert_close(lead, torch.full((29,), 4 / (20 * 3.1415926535)), atol=1e-5, rtol=1e-5)
    with_lead = error()
    action.lead_s = 0 * lead
    try:
        without = error()
    finally:
        action.lead_s = lead
    assert with_lead < 0.08  # rad, root mean square over joints and a second, of sixteen starts
    assert with_lead < 0.85 * without


def test_target_is_reference_and_residual_within_limits(
    floating: ManagerBasedRlEnv, generator: torch.Generator
) -> None:
    term = reference(floating, "reference")
    action = floating.action_manager.get_term("joint_pos")
    assert isinstance(action, ResidualJointAction)
    floating.reset()
    raw = 3 * torch.randn(4, 29, generator=generator)
    target = term.target
    wanted = target.dof_pos + action.lead_s * target.dof_vel + raw * quarter_of_the_effort(floating)
    low, high = term.robot.data.joint_pos_limits.unbind(dim=-1)
    action.process_actions(raw)
    torch.testing.assert_close(action._processed_actions, torch.minimum(torch.maximum(wanted, low), high))
    assert bool((wanted != action._processed_actions).any())


def test_mirrored_commands_give_mirrored_references(floating: ManagerBasedRlEnv, generator: torch.Generator) -> None:
    term = reference(floating, "reference")
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


def test_episodes_start_on_the_reference_and_leave_others_alone(floating: ManagerBasedRlEnv) -> None:
    term, data = reference(floating, "reference"), reference(floating, "reference").robot.data
    term.hold((0.8, 0.0, 0.0))
    floating.reset()
    floating.step(zero(floating))
    others, before = [0, 1, 3], current_motion(term)
    floating.reset(env_ids=torch.tensor([2]))
    torch.testing.assert_close(current_motion(term)[others], before[others], atol=0, rtol=0)
    assert not torch.equal(current_motion(term)[2], before[2])
    low, high = data.soft_joint_pos_limits[2].unbind(dim=-1)
    torch.testing.assert_close(data.joint_pos[2], term.frames.dof_pos[2, 0].clamp(low, high), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.joint_vel[2], term.frames.dof_vel[2, 0], atol=1e-5, rtol=0)
    root = term.frames.root_pos[2, 0] + torch.tensor([0.0, 0.0, term.cfg.start_height])
    torch.testing.assert_close(data.root_link_pos_w[2], root, atol=1e-4, rtol=0)
    torch.testing.assert_close(data.root_link_quat_w[2].abs(), term.frames.root_rot[2, 0].abs(), atol=1e-4, rtol=0)
    commands, low, high = (values.double().numpy() for values in (term.states.commands, *term.engine.command_range))
    nearest = commands[np.linalg.norm((commands - (0.8, 0.0, 0.0)) / (high - low), axis=1).argmin()]
    speed = data.root_link_lin_vel_w[2, :2].norm()
    assert float(speed) == pytest.approx(np.linalg.norm(nearest[:2]), abs=1e-4)


def test_episodes_that_begin_in_the_midst_start_on_the_reference(
    training: RslRlVecEnvWrapper, generator: torch.Generator
) -> None:
    """Robots that fell, step after step: state and current frame are of the same start, but for the noise."""
    world = training.unwrapped
    term = reference(world, "reference")
    noise, seen = term.cfg.start_noise, 0
    assert noise is not None
    training.reset()
    for _ in range(400):
        _, _, done, _ = training.step(4 * torch.randn(16, 29, generator=generator))
        began = done.bool()
        seen += int(began.sum())
        frames, data = term.frames, term.robot.data
        low, high = data.soft_joint_pos_limits[began].unbind(dim=-1)
        expected = frames.dof_pos[began, 0].clamp(low, high)
        torch.testing.assert_close(data.joint_pos[began], expected, atol=noise.joint_pos + 1e-5, rtol=0)
        torch.testing.assert_close(data.joint_vel[began], frames.dof_vel[began, 0], atol=noise.joint_vel + 1e-5, rtol=0)
        height = frames.root_pos[began, 0, 2] + term.cfg.start_height
        torch.testing.assert_close(data.root_link_pos_w[began, 2], height, atol=1e-4, rtol=0)
        turned = (data.root_link_quat_w[began] * frames.root_rot[began, 0]).sum(dim=1).abs()
        assert bool((turned > math.cos(2 * noise.tilt)).all())
        if seen > 10:
            return
    pytest.fail(f"only {seen} robots fell")


def test_critic_sees_twenty_frames_and_the_actor_no_root(training: RslRlVecEnvWrapper) -> None:
    world = training.unwrapped
    assert world.observation_manager.group_obs_dim["actor"] == (29 * 7 + 3 * 3,)
    cfg = world.observation_manager.get_term_cfg("critic", "future_dof_pos")
    assert len(cfg.params["offsets"]) == 20
    assert not {"base_lin_vel", "base_height"} & set(world.observation_manager.active_terms["actor"])


def test_robots_differ_and_the_critic_is_told_how(training: RslRlVecEnvWrapper) -> None:
    world = training.unwrapped

    def told(name: str) -> torch.Tensor:
        cfg = world.observation_manager.get_term_cfg("critic", name)
        return cfg.func(world, **cfg.params)

    widths = {"friction": (0.3, 1.2), "mass_ratio": (0.9, 1.15), "motor_strength": (0.9, 1.1)}
    widths |= {"centre_of_mass": (-0.03, 0.03), "encoder_bias": (-0.015, 0.015)}
    before = {name: told(name).clone() for name in widths}
    for name, (low, high) in widths.items():
        values = before[name]
        assert float(values.min()) >= low - 1e-5 and float(values.max()) <= high + 1e-5, name
        assert float(values[:, 0].max() - values[:, 0].min()) > 0.3 * (high - low), name
        assert len(values[:, 0].unique()) == 16, name
    # One friction for all of a robot's soles.
    model, mj_model = world.sim.model, world.sim.mj_model
    soles = [i for i in range(mj_model.ngeom) if re.search(r"foot\d_collision$", mj_model.geom(i).name)]
    assert len(soles) == 14
    torch.testing.assert_close(model.geom_friction[:, soles, 0], before["friction"].expand(-1, 14))
    training.reset()  # a new episode is the same robot's
    for name, values in before.items():
        assert torch.equal(told(name), values), name


def test_curriculum_enters_the_stage_of_the_counter(training: RslRlVecEnvWrapper) -> None:
    world = training.unwrapped
    term, counter = reference(world, "reference"), world.common_step_counter
    try:
        for stage in TRAINING_STAGES:
            world.common_step_counter = stage.iteration * STEPS_PER_ITERATION
            training.reset()
            assert term.sampler.stage is stage
            push = world.event_manager.get_term_cfg("push_robot").params["velocity_range"]
            assert push["x"] == (-0.5 * stage.push, 0.5 * stage.push)
    finally:
        world.common_step_counter = counter
        training.reset()


def test_a_resumed_training_begins_in_the_stage_that_it_had_come_to(
    training: RslRlVecEnvWrapper, tmp_path: Path
) -> None:
    world = training.unwrapped
    term, counter = reference(world, "reference"), world.common_step_counter
    sideways = next(stage for stage in TRAINING_STAGES if stage.vy != (0.0, 0.0))
    runner = ResidualRunner(training, short_cfg(), str(tmp_path), "cpu")
    try:
        world.common_step_counter = 0
        training.reset()
        assert not term._wanted[:, 1].any()
        world.common_step_counter = sideways.iteration * STEPS_PER_ITERATION
        runner._begin_anew()
        assert term.sampler.stage is sideways
        assert int(term._wanted[:, 1].count_nonzero()) > 8  # but for the share that stands
    finally:
        world.common_step_counter = counter
        runner._begin_anew()


def test_what_is_logged_is_the_mean_of_an_episode(floating: ManagerBasedRlEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    term, errors = reference(floating, "reference"), []
    floating.reset()
    update = term._update_metrics

    def recorded() -> None:
        update()
        errors.append((term.robot.data.joint_pos - term.target.dof_pos).square().mean(dim=1).sqrt().clone())

    monkeypatch.setattr(term, "_update_metrics", recorded)
    floating.reset(env_ids=torch.tensor([1, 3]))
    errors.clear()  # that was of the new states and the old reference
    for _ in range(7):
        floating.step(torch.full_like(zero(floating), 0.1))
    assert len(errors) == 7 and float(torch.stack(errors).std(dim=0).min()) > 0
    logged = term.reset(torch.tensor([1, 3]))
    assert logged["error_joint"] == pytest.approx(float(torch.stack(errors)[:, [1, 3]].mean()), rel=1e-5)


def test_shares_are_measured(engine: tuple[Path, Truth], tmp_path: Path) -> None:
    """The whole section on a small scale: how long things take is not looked at, what is counted is."""
    options = ["--sections", "time-share", "--engine", str(engine[0]), "--checkpoint", str(CHECKPOINT)]
    few = ["--num-envs", "4", "--time-share.steps", "1", "--time-share.warm-up", "1", "--time-share.textbook-envs", "2"]
    assert bench.main([*options, *few, "--backends", "torch", "trt", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "bench.json").read_text())
    found = report["time_share"]
    (share,) = found["shares"]
    assert share["backend"] == "torch"
    assert 0 < share["reference"] < share["step"] and 0 < share["queued"] < share["step"]
    assert found["num_envs"] == 4 and found["frames_ahead"] == 40 and found["textbook_frame_ms"] > 0
    assert any(line.startswith("time share of trt: ") for line in report["left_out"])


def test_training_runs_and_resumes(training: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    logs = tmp_path / "run"
    runner = ResidualRunner(training, short_cfg(), str(logs), "cpu")
    runner.learn(2)
    assert [path.name for path in checkpoints(logs)] == ["model_0.pt", "model_1.pt"]
    events = EventAccumulator(str(logs)).Reload()
    losses = [tag for tag in events.Tags()["scalars"] if tag.startswith("Loss/")]
    assert {"Loss/value", "Loss/surrogate"} <= set(losses)
    for tag in losses:
        values = [event.value for event in events.Scalars(tag)]
        assert len(values) == 2 and all(math.isfinite(value) for value in values), tag

    counter = training.unwrapped.common_step_counter
    resumed = ResidualRunner(training, short_cfg(), str(logs), "cpu")
    training.unwrapped.common_step_counter = 0
    resumed.load(str(logs / "model_1.pt"))
    assert resumed.current_learning_iteration == 2
    assert resumed.alg.learning_rate == runner.alg.learning_rate
    assert training.unwrapped.common_step_counter == counter
    for ours, theirs in zip(resumed.alg.actor.parameters(), runner.alg.actor.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    resumed.learn(3)
    assert checkpoints(logs)[-1].name == "model_2.pt"
    seen = training.get_observations()
    with torch.inference_mode():  # the newest checkpoint of the run, and what was exported of it
        actions = [load_policy(path, training)(seen) for path in (logs, logs / "policy")]
    assert float(actions[0].abs().max()) > 0.01
    torch.testing.assert_close(actions[0], actions[1], atol=1e-4, rtol=1e-4)


class Interrupted(Exception):
    """In place of the signal that ends a process."""


class InterruptedRunner(ResidualRunner):
    """Is stopped right after its second checkpoint."""

    def save(self, path: str, infos: dict | None = None) -> None:
        super().save(path, infos)
        if path.endswith("model_1.pt"):
            raise Interrupted


def test_environments_of_other_seeds_share_trajectories(floating: ManagerBasedRlEnv, late: ManagerBasedRlEnv) -> None:
    one, other = (reference(env, "reference").states for env in (floating, late))
    assert torch.equal(one.commands, other.commands)
    num_frames = SETTLE_FRAMES + 1
    assert torch.equal(one.pool.rows[:num_frames], other.pool.rows[:num_frames])  # one goes on for longer


def test_an_interrupted_run_has_the_curve_of_its_checkpoints(training: RslRlVecEnvWrapper, tmp_path: Path) -> None:
    runner = InterruptedRunner(training, short_cfg(), str(tmp_path), "cpu")
    with pytest.raises(Interrupted):
        runner.learn(9)
    events = EventAccumulator(str(tmp_path)).Reload()  # what is on the disk, while the writer is still open
    assert [event.step for event in events.Scalars("Loss/value")] == [0, 1]
    resumed = ResidualRunner(training, short_cfg(), str(tmp_path / "resumed"), "cpu")
    resumed.load(str(checkpoints(tmp_path)[-1]))
    resumed.learn(2)  # it has these already; what the interruption took is the export
    assert checkpoints(tmp_path / "resumed") == []
    assert read_card(tmp_path / "resumed" / "policy").iterations == 2


def test_deployment_reproduces_the_environment(
    floating: ManagerBasedRlEnv, engine: tuple[Path, Truth], generator: torch.Generator, tmp_path: Path
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
    controller = Controller(str(tmp_path), str(engine[0]))  # as text; Paths are what the others give

    term, data = reference(floating, "reference"), reference(floating, "reference").robot.data
    action = floating.action_manager.get_term("joint_pos")
    assert isinstance(action, ResidualJointAction)
    command = (0.7, 0.0, 0.3)
    term.hold(command)
    observations, _ = env.reset()
    controller.reset(term.frames.dof_pos[0, 0], term.frames.dof_vel[0, 0], command)
    for step in range(60):
        robot = Proprioception(
            floating.scene["robot/imu_ang_vel"].data[0].numpy(),
            data.projected_gravity_b[0].numpy(),
            data.joint_pos_biased[0].numpy(),
            data.joint_vel[0].numpy(),
        )
        targets = controller.step(command, robot)
        actions = policy(observations)
        assert float(actions.abs().max()) > 0.01
        np.testing.assert_allclose(controller.action, actions[0].numpy(), atol=2e-3)
        if step == 20:
            command = (1.0, 0.1, -0.2)
            term.hold(command)
        observations, _, _, _ = env.step(actions)
        np.testing.assert_allclose(targets, action._processed_actions[0].numpy(), atol=2e-3)


def test_evaluation_measures_each_command(training: RslRlVecEnvWrapper) -> None:
    grid = torch.tensor([[0.5, 0.0, 0.0], [0.8, 0.0, 0.4]])
    commands = grid.repeat_interleave(8, dim=0)
    episodes = run_episodes(training, lambda _: torch.zeros(16, 29), commands, num_steps=60)
    results = summarise(episodes, grid)
    assert [result.command for result in results] == [(0.5, 0.0, 0.0), (0.8, 0.0, 0.4)]
    # Nothing keeps a robot up without a policy: most have fallen after 1.2 s, and none comes to life again.
    assert all(result.survival < 0.5 and result.joint_error < 0.3 for result in results)
    assert bool((episodes.alive[1:] <= episodes.alive[:-1]).all())
