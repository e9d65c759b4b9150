"""The parts of the training package that need no environment."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from mjlab.envs import ManagerBasedRlEnvCfg
from mjlab.tasks.registry import list_tasks, load_env_cfg

from cmg_gym import train
from cmg_gym.bars import GRID, grid_within, judge
from cmg_gym.evaluation import CommandResult, Episodes, summarise
from cmg_gym.learning.launch import run_training
from cmg_gym.learning.runner import KEPT_EVERY, stale_checkpoints
from cmg_gym.mdp.command_stages import TRAINING_STAGES, CommandStage, StagedCommands, stage_at, stage_ranges
from cmg_gym.mdp.reference_sources import PregeneratedSource
from cmg_gym.mdp.start_states import SETTLE_FRAMES, StartStates
from cmg_gym.robots import G1, ROBOTS, robot_of
from cmg_gym.tasks import TASK
from cmg_gym.train import Options, training_of
from cmg_runtime import EngineError, load_engine, read_manifest
from cmg_runtime.commands.sampler import STRATEGIES
from gym_case import g1_engine

ROOT = Path(__file__).resolve().parents[2]
LOW, HIGH = (-0.7, -0.5, -0.8), (1.4, 0.5, 0.8)


@pytest.fixture
def folder() -> Path:
    return g1_engine()[0]


WORKER = """
import sys, cloudpickle, mjlab
from mjlab.tasks.registry import list_tasks, load_runner_cls
from rsl_rl.utils import resolve_callable
found = sys.argv[2] in list_tasks()
run, training = cloudpickle.loads(open(sys.argv[1], 'rb').read())
algorithm = resolve_callable(training.agent.algorithm.class_name).__name__
seed = training.env.commands['reference'].trajectory_seed
print(found, load_runner_cls(sys.argv[2]).__name__, run.__name__, algorithm, training.env.scene.num_envs, seed)
"""


@pytest.mark.slow
def test_mjlab_and_its_workers_find_the_tasks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher sends each worker, a new process that imported nothing of ours, the configuration as bytes."""
    entry = r'\[project\.entry-points\."mjlab\.tasks"\]\n(\w+) = "([\w.]+)"'
    match = re.search(entry, (ROOT / "pyproject.toml").read_text())
    assert match is not None
    importlib.metadata.EntryPoint(match[1], match[2], "mjlab.tasks").load()
    assert {robot.task for robot in ROBOTS} <= set(list_tasks())
    assert load_env_cfg(TASK, play=True).curriculum == {}

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("cmg_gym.command_line.require_room", lambda *_: None)  # of GPUs that are not there
    training = training_of(Options(num_envs=5, engine=folder, gpus=2, seed=11))
    assert training.gpus == 2
    (tmp_path / "sent").write_bytes(cloudpickle.dumps((run_training, training)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WORKER, str(tmp_path / "sent"), TASK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found, worker = done.stdout.splitlines()[-1].split(" ", 1)
    assert worker == "ResidualRunner run_training SharedNormalizationPPO 5 11", done.stderr
    installed = "cmg_gym" in {entry.name for entry in importlib.metadata.entry_points(group="mjlab.tasks")}
    assert found == str(installed)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_stays_within_the_command_range(strategy: str, seed: int) -> None:
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    commands = StagedCommands([CommandStage(0, strategy)], (low, high), 0.25, 0.4, 0.3, seed).draw(2000)
    assert bool(((commands >= low) & (commands <= high)).all())
    assert abs(float((commands == 0).all(dim=1).float().mean()) - 0.25) < 0.06  # stand
    assert float((commands[:, 0] == high[0]).float().mean()) < 0.01  # not heaped up at the bounds of the checkpoint


def test_commands_of_one_axis_are_drawn_and_no_corners(seed: int) -> None:
    bounds = torch.tensor(LOW), torch.tensor(HIGH)
    commands = StagedCommands([CommandStage(0)], bounds, 0.1, 0.4, 0.0, seed).draw(4000)
    shares = torch.maximum(commands / bounds[0], commands / bounds[1])
    assert float(shares.norm(dim=1).max()) < 1 + 1e-5
    parts = commands.count_nonzero(dim=1)
    for number, share in ((0, 0.1), (1, 0.36), (2, 0.0), (3, 0.54)):
        assert abs(float((parts == number).float().mean()) - share) < 0.05
    alone = commands[parts == 1]
    for found, bound in ((alone.amin(dim=0), bounds[0]), (alone.amax(dim=0), bounds[1])):
        assert bool((found / bound > 0.95).all())
    slow = StagedCommands([CommandStage(0)], bounds, 0.0, 0.0, 1.0, seed).draw(4000)
    assert (
        float((slow.abs() < 0.1).all(dim=1).float().mean())
        > 0.05
        > float((commands[parts == 3].abs() < 0.1).all(dim=1).float().mean())
    )


def test_stages_follow_each_other_and_widen() -> None:
    assert stage_at(TRAINING_STAGES, 0) is TRAINING_STAGES[0]
    bounds, widest = (torch.tensor(LOW), torch.tensor(HIGH)), torch.zeros(3)
    commands = StagedCommands(TRAINING_STAGES, bounds, 0, 0, 0, 0)
    for before, after in zip(TRAINING_STAGES, TRAINING_STAGES[1:], strict=False):
        assert stage_at(TRAINING_STAGES, after.iteration - 0.1) is before
        assert stage_at(TRAINING_STAGES, after.iteration) is after
        assert before.push <= after.push and before.difficulty <= after.difficulty
    for stage in TRAINING_STAGES[:4]:
        commands.stage = stage
        reached = commands.draw(4000).abs().amax(dim=0)
        assert bool((reached > widest).all()) and bool((reached > 0).all())  # every direction in every stage
        widest = reached
    assert stage_ranges(CommandStage(0, vx=(0.4, 0.8)), LOW, HIGH)[0] == (0.4, 0.8)
    for stage, message in (
        (CommandStage(900, vx=(2.0, 3.0)), "leaves nothing"),
        (CommandStage(900, "sideways"), "unknown strategy 'sideways'.*strafe_left"),
    ):
        with pytest.raises(EngineError, match=message):
            StagedCommands([CommandStage(0), stage], bounds, 0, 0, 0, 0)


def test_bars_are_of_the_command() -> None:
    assert len(GRID) >= 30 and len(set(GRID)) == len(GRID)
    clipped = grid_within(LOW, HIGH)
    assert (1.4, 0.0, 0.0) in clipped and len(set(clipped)) == len(clipped) < len(GRID)
    good = {"survival": 1.0, "velocity_error": 0.1, "yaw_error": 0.1, "joint_error": 9.0, "slip": 0.07, "power": 50.0}

    def missed(command: tuple[float, ...], pushes: bool = False, watts: float | None = None, **figures: float) -> str:
        judged = judge(CommandResult(command, 32, **{**good, **figures}), pushes, watts)
        return " ".join(name for name, met in judged.items() if not met)

    slow, fast = (0.6, 0.3, 0.5), (2.0, 0.0, 0.0)
    assert missed(slow) == missed(fast) == ""
    assert missed(slow, velocity_error=0.15, slip=0.09) == "velocity slip"
    assert missed(fast, velocity_error=0.15, slip=0.3) == ""
    assert missed(fast, velocity_error=0.21, yaw_error=0.13) == "velocity yaw"
    assert missed(slow, survival=0.98, velocity_error=math.nan) == "survival velocity"
    assert missed(slow, True, survival=0.96, velocity_error=1.0) == "" != missed(slow, True, survival=0.94)
    assert (missed(slow, watts=49.0), missed(slow, watts=51.0)) == ("power", "")
    assert missed((0.0, 0.0, 0.0), watts=1.0) == ""


def test_pregenerated_frames_are_the_trajectories(folder: Path, seed: int) -> None:
    engine = load_engine(folder, 3)
    states = StartStates(engine, num_trajectories=5, num_frames=20, ahead=4, seed=seed, trajectory_seed=seed)
    offsets = (0, 1, 4)
    source = PregeneratedSource(states, 3, offsets, engine.device)
    starts = states.draw(states.commands[[4, 2, 3]])
    frame_ids = starts.frame_ids
    assert starts.trajectory_ids.tolist() == [4, 2, 3] and int(frame_ids.min()) >= SETTLE_FRAMES
    source.plan(starts, torch.zeros(3, 3), torch.zeros(3, 4))
    source.start(torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(source.command, states.commands[[4, 2, 3]])
    last = states.pool.num_frames - 1 - offsets[-1]
    for _ in range(40):  # past the end of every trajectory
        for place, offset in enumerate(offsets):
            expected = states.pool.frames(starts.trajectory_ids, frame_ids + offset)
            assert torch.equal(source.frames().key_body_pos[:, place], expected.key_body_pos)
        source.step()
        frame_ids = torch.where(frame_ids >= last, SETTLE_FRAMES, frame_ids + 1)
    assert states.pool.lookups_clamped() == 0


@pytest.mark.slow
def test_gpus_start_episodes_from_the_same_trajectories_and_standing_ones_from_many(folder: Path, seed: int) -> None:
    def states_of(worker: int, trajectory_seed: int) -> StartStates:
        engine = load_engine(folder, 1, backend="torch", horizon=2, seed=worker)
        return StartStates(engine, 60, num_frames=50, ahead=1, seed=worker, trajectory_seed=trajectory_seed)

    first, second, others = states_of(7, seed), states_of(8, seed), states_of(7, seed + 1)
    assert torch.equal(first.commands, second.commands) and torch.equal(first.pool.rows, second.pool.rows)
    assert not torch.equal(first.draw(first.commands).frame_ids, second.draw(first.commands).frame_ids)
    assert not torch.equal(first.pool.rows[0], others.pool.rows[0])  # initial states; nothing of commands yet
    standing = first.draw(torch.zeros(200, 3)).trajectory_ids
    assert not first.commands[standing].any() and len(standing.unique()) == 6
    assert torch.equal(first.draw(first.commands[6:]).trajectory_ids, torch.arange(6, 60))


def test_summary_is_of_moving_averages_up_to_the_fall(rng: np.random.Generator) -> None:
    """Two robots of each of three commands; velocities are averaged over a second, and count after two."""
    steps, lived, grid = 200, (200, 150, 200, 200, 60, 40), rng.normal(size=(3, 3))
    command, velocity = grid.repeat(2, axis=0), rng.normal(size=(steps, 6, 3))
    alive = np.arange(steps)[:, None] < lived
    joint_error, slip, power = rng.uniform(0, 9, (3, steps, 6))
    given = [torch.from_numpy(values) for values in (command, velocity, joint_error, slip, power, alive)]
    results = summarise(Episodes(*given, step_s=0.02), torch.from_numpy(grid))
    assert [result.survival for result in results] == [0.5, 1, 0] and {result.episodes for result in results} == {2}
    assert np.isnan([results[2].velocity_error, results[2].yaw_error]).all()  # fell too early
    for index, result in enumerate(results):
        robots = slice(2 * index, 2 * index + 2)
        figures = [np.sqrt((joint_error[:, robots][alive[:, robots]] ** 2).mean())]
        figures += [values[:, robots][alive[:, robots]].mean() for values in (slip, power)]
        assert [result.joint_error, result.slip, result.power] == pytest.approx(figures, rel=1e-5)
        measured = [(t, n) for n in (2 * index, 2 * index + 1) for t in range(100, lived[n])]
        if measured:
            off = np.array([velocity[t - 49 : t + 1, n].mean(axis=0) - command[n] for t, n in measured])
            expected = (np.linalg.norm(off[:, :2], axis=1).mean(), np.abs(off[:, 2]).mean())
            assert (result.velocity_error, result.yaw_error) == pytest.approx(expected, rel=1e-4)


def test_old_checkpoints_go(tmp_path: Path) -> None:
    for name in (
        *(f"model_{n}.pt" for n in (0, 99, 100, KEPT_EVERY, KEPT_EVERY + 1, KEPT_EVERY + 2)),
        "model_7.unfinished",
    ):
        (tmp_path / name).touch()
    assert {path.name for path in stale_checkpoints(tmp_path)} == {"model_99.pt", "model_100.pt"}


def test_train_options_reach_the_configuration(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(train, "launch", launched.append)
    numbers = Options(num_envs=7, iterations=9, gpus=0, delay_steps=2, logs=tmp_path, captured=False)
    train.train(dataclasses.replace(numbers, engine=folder, backend="torch", mode="pregenerated"))
    (given,) = launched
    assert (lags(given.env), lags(load_env_cfg(TASK))) == ({2}, {0})
    command = given.env.commands["reference"]
    assert (given.env.scene.num_envs, given.agent.max_iterations, given.gpus) == (7, 9, 0)
    assert given.captured is False and given.checkpoint is None
    assert (command.engine, command.cmg_backend, command.cmg_mode) == (str(folder.resolve()), "torch", "pregenerated")


def lags(env: ManagerBasedRlEnvCfg) -> set[int]:
    articulation = env.scene.entities["robot"].articulation
    assert articulation is not None
    return {actuator.delay_max_lag for actuator in articulation.actuators}


def test_the_engine_tells_the_robot(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert robot_of(manifest) is G1
    with pytest.raises(EngineError, match=r"has 29 joints, right_wrist_yaw_joint \.\. .*robots.py \(g1, go1\)"):
        robot_of(dataclasses.replace(manifest, joint_names=G1.joint_names[::-1]))


def test_resume_goes_on_from_the_newest_checkpoint(folder: Path, tmp_path: Path) -> None:
    """Names say nothing of age; and the run that is last by name was interrupted before its first checkpoint."""
    experiment = tmp_path / "cmg_residual_g1"
    runs = (("a copy of an older run", 999), ("2026-01-01_00-00-00", 99))
    runs += (("2026-01-01_00-00-00_a+b", 3), ("2026-01-01_00-00-00_a+b", 12))
    for age, (run, iteration) in enumerate(runs):
        path = experiment / run / f"model_{iteration}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"infos": {}}, path)
        os.utime(path, (age, age))
    (experiment / "2026-01-02").mkdir()
    found = training_of(Options(engine=folder, gpus=0, resume=True, logs=tmp_path)).checkpoint
    assert found == experiment / "2026-01-01_00-00-00_a+b" / "model_12.pt"


def test_a_resumed_training_tells_what_has_changed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "cmg_residual_g1" / "run" / "model_7.pt"
    checkpoint.parent.mkdir(parents=True)
    before = {"generator": read_manifest(folder).source["sha256"], "gpus": 1, "num_envs": 64}
    before |= {"mode": "realtime", "delay_steps": 0}

    def said() -> str:
        training_of(Options(num_envs=64, engine=folder, gpus=0, resume=True, logs=tmp_path))
        return capsys.readouterr().out

    for changed, line in (
        ({}, ""),
        ({"mode": "pregenerated"}, "  mode of the reference: realtime, before pregenerated\n"),
        ({"num_envs": 4096}, "  robots on each GPU: 64, before 4096\n"),
        ({"gpus": 2}, "  GPUs: 1, before 2\n"),
    ):
        torch.save({"infos": {"trained_with": {**before, **changed}}}, checkpoint)
        assert said() == f"Going on from {checkpoint}\n{line}"
    torch.save({"infos": {"trained_with": {**before, "generator": "abc" * 20}}}, checkpoint)
    for content, message in (
        (checkpoint.read_bytes(), r"was trained with another generator \(abcabc.*--engine"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n", "is no checkpoint of this task .*git lfs pull"),
        (b"half a checkpoint", "is no checkpoint of this task"),
    ):
        checkpoint.write_bytes(content)
        with pytest.raises(EngineError, match=message):
            said()
