"""The window's contract beyond its numbers: what a call leaves alone, ramps, wrong arguments, how rebuilds are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cmg_runtime import BackendUnavailable, Engine, EngineError, ReferenceFrames, inputs, load_engine
from cmg_runtime.inputs import EnvSelection
from cmg_runtime.window import rebuild
from cmg_runtime.window.frames import flat_places
from engine_folder import BACKENDS, SEED, Truth, make_engine_folder, state
from window_case import DEVICES, random_robot_case


@pytest.mark.parametrize(
    ("device", "backend"),
    [*(("cpu", backend) for backend in BACKENDS)]
    + [pytest.param("cuda", backend, marks=pytest.mark.gpu) for backend in (*BACKENDS, "fused")],
)
def test_other_windows_stay_bit_identical(device: str, backend: str, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    try:
        one, other = (load_engine(folder, 37, device, backend, "fp32", horizon=11) for _ in range(2))
    except BackendUnavailable as error:
        pytest.skip(str(error))
    motion, command = truth.states(37, generator), truth.commands(37, generator)
    for engine in (one, other):
        engine.reset(motion=motion, command=command)
        for _ in range(5):
            engine.step()
    ids, mask = [0, 7, 36], torch.zeros(37, dtype=torch.bool, device=device)
    mask[[3, 9]] = True
    one.reset(ids, motion=truth.states(3, generator), command=truth.commands(3, generator), root_pos=[1.0, 1.0, 0.0])
    one.set_command(command.flip(0), mask)
    one.set_command(command[:2], [20, 21])
    changed = torch.zeros(37, dtype=torch.bool).index_fill_(0, torch.tensor([*ids, 3, 9, 20, 21]), True)
    for _ in range(3):
        seen, untouched = one.future(range(11)), other.future(range(11))
        for name, value in seen._asdict().items():
            assert torch.equal(value.cpu()[~changed], getattr(untouched, name).cpu()[~changed]), name
        assert not torch.isclose(seen.dof_pos[:, 10], untouched.dof_pos[:, 10]).all(dim=1).cpu()[changed].any()
        one.step()
        other.step()


@pytest.mark.parametrize("device", DEVICES)
def test_the_current_frame_does_not_change_with_the_command(device: str, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engine = load_engine(folder, 5, device, "torch", horizon=4)
    engine.reset(motion=truth.states(5, generator), command=truth.commands(5, generator), root_pos=[3.0, -1.0, 0.1])
    for _ in range(3):
        engine.step()
    before = engine.future([0])
    engine.set_command(truth.commands(5, generator))
    for name, value in engine.future([0])._asdict().items():
        assert torch.equal(value, getattr(before, name)), name
    ahead = engine.future([1])
    engine.step()
    for name, value in engine.future([0])._asdict().items():
        assert torch.equal(value, getattr(ahead, name)), name


@pytest.mark.parametrize("horizon", [1, 2, 40])
@pytest.mark.parametrize("device", DEVICES)
def test_a_command_is_reached_linearly(device: str, horizon: int, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engine = load_engine(folder, 3, device, "torch", horizon=horizon, command_ramp_s=0.2)
    first, second = truth.commands(3, generator).to(device), truth.commands(3, generator).to(device)
    engine.reset(command=first)
    assert torch.equal(engine.command, first) and not engine.command_in_force.any()
    for k in range(1, 13):
        engine.step()
        assert torch.allclose(engine.command_in_force, first * min(k / 10, 1), atol=1e-6)
        engine.set_command(first)  # the same again: the ramp goes on
    engine.set_command(second[1], [1])
    for _ in range(4):
        engine.step()
    assert torch.allclose(engine.command_in_force[1], first[1] + 0.4 * (second[1] - first[1]), atol=1e-6)
    assert torch.equal(engine.command_in_force[[0, 2]], first[[0, 2]])
    halfway = engine.command_in_force[1]
    engine.set_command(first, [True, True, False])  # from where it is, not from where the ramp began
    for _ in range(5):
        engine.step()
    assert torch.allclose(engine.command_in_force[1], (halfway + first[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_reset_can_put_its_command_in_force_at_once(device: str, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engine = load_engine(folder, 3, device, "torch", horizon=5)
    engine.reset(command=truth.commands(3, generator))
    for _ in range(7):
        engine.step()
    first, in_force, before = engine.command.clone(), engine.command_in_force, engine.future(range(5))
    command = truth.commands(1, generator)[0].to(device)
    engine.reset([1], command=command, command_at_once=True)
    frames = engine.future(range(5))
    assert torch.equal(engine.command_in_force[[0, 2]], in_force[[0, 2]])
    assert torch.equal(engine.command[[0, 2]], first[[0, 2]])
    for name, value in frames._asdict().items():
        assert torch.equal(value[[0, 2]], getattr(before, name)[[0, 2]]), name
    assert torch.equal(engine.command_in_force[1], command)
    assert torch.allclose(frames.root_vel[1, 0, :2], command[:2]) and torch.equal(
        frames.root_ang_vel[1, 0, 2], command[2]
    )
    assert torch.allclose(frames.root_ang_vel[1, :, 2], command[2].expand(5))
    assert torch.allclose(frames.root_ang_vel[0, 4, 2], first[0, 2] * 11 / 25, atol=1e-6)  # the others are on their way
    for _ in range(30):
        engine.step()
    assert torch.equal(engine.command_in_force[[0, 2]], first[[0, 2]])


@pytest.mark.parametrize("device", DEVICES)
def test_an_engine_with_a_window_makes_the_frames_of_one_without(device: str, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engines = [load_engine(folder, 3, device, "torch", "fp32", horizon=h) for h in (1, 2, 96)]
    motion, commands = truth.states(3, generator), [truth.commands(3, generator) for _ in range(4)]
    for engine in engines:
        addresses = engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr()
        engine.reset(motion=motion)
        for t in range(40):
            if t % 10 == 0:
                engine.set_command(commands[t // 10])
            dof_pos, dof_vel = engine.step()
            assert dof_pos is engine.dof_pos and dof_vel is engine.dof_vel
        assert addresses == (engine.dof_pos.data_ptr(), engine.dof_vel.data_ptr(), engine.command.data_ptr())
    for engine in engines[1:]:
        assert truth.error(state(engine), state(engines[0]).double().cpu()) < 1e-4
        assert torch.equal(engine.future([0]).dof_pos[:, 0], engine.dof_pos)


def test_lookups_outside_the_window_are_clamped_and_counted() -> None:
    folder, _, _ = random_robot_case()
    engine = load_engine(folder, 4, horizon=6)
    engine.reset(command=[0.3, 0.1, 0.2])
    window = engine.future(range(6))
    seen = engine.frames([0, 1, 2, 3], [-3, 6, 5, 0])
    for row, (env, offset) in enumerate([(0, 0), (1, 5), (2, 5), (3, 0)]):
        assert torch.equal(seen.root_pos[row], window.root_pos[env, offset])
    assert engine.frames([], []).key_body_pos.shape == (0, 6, 3)
    with pytest.warns(RuntimeWarning, match="2 lookups were outside"):
        assert engine.report().lookups_clamped == 2


NAN = float("nan")
WRONG_CALLS = {
    "offset too far": (lambda e: e.future([0, 5]), r"offset 5 is outside the window of frames 0\.\.4"),
    "offset before": (lambda e: e.future([-1]), "offset -1"),
    "offsets of floats": (lambda e: e.future([0.5]), "sequence of integers"),
    "one offset": (lambda e: e.future(3), "sequence of integers"),
    "frames of unequal length": (lambda e: e.frames([0, 1], [0]), r"offsets has shape \[1\]; expected \[2\]"),
    "frames of floats": (lambda e: e.frames([0], [0.0]), "expected integers"),
    "frames of another environment": (lambda e: e.frames([3], [0]), r"env_ids has 3; expected 0\.\.2"),
    "root_pos of the wrong width": (lambda e: e.reset(root_pos=[0.0, 0.0]), r"root_pos has shape \[2\]"),
    "root_rot of the wrong width": (lambda e: e.reset(root_rot=[0.0, 0.0, 1.0]), r"root_rot has shape \[3\]"),
    "root_pos with NaN": (lambda e: e.reset(root_pos=[0.0, NAN, 0.0]), "root_pos has entries that are NaN"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_arguments(name: str) -> None:
    call, message = WRONG_CALLS[name]
    engine = load_engine(random_robot_case()[0], 3, horizon=5)
    engine.reset(command=[0.2, 0.0, 0.1])
    before = engine.future(range(5))
    with pytest.raises(EngineError, match=message) as caught:
        call(engine)
    assert "\n" not in str(caught.value)
    for field, value in engine.future(range(5))._asdict().items():
        assert torch.equal(value, getattr(before, field)), field


def test_root_motion_needs_three_commands(tmp_path: Path) -> None:
    make_engine_folder(tmp_path, SEED, ("fp32",), num_joints=5, command_dim=2)
    engine = load_engine(tmp_path, 2, backend="torch")
    engine.reset(command=[0.1, 0.1])
    engine.step()
    for call in (
        lambda: load_engine(tmp_path, 2, backend="torch", horizon=2),
        lambda: engine.make_pool(2, 3, [0.1, 0.1]),
    ):
        with pytest.raises(EngineError, match=r"root motion needs commands \(vx, vy, yaw rate\)"):
            call()


def test_wrong_windows() -> None:
    folder, _, _ = random_robot_case()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"horizon": 0}, "horizon is 0; expected an integer of at least 1"),
        ({"horizon": 2.5}, "horizon is 2.5"),
        ({"command_ramp_s": -0.1}, "command_ramp_s is -0.1; expected seconds"),
        ({"command_ramp_s": NAN}, "command_ramp_s is nan"),
        ({"key_bodies": ["tail"]}, "no body 'tail' in robot"),
        ({"key_bodies": "root"}, "expected a list of body names"),
    ]
    for arguments, message in wrong:
        with pytest.raises(EngineError, match=message) as caught:
            load_engine(folder, 2, **arguments)
        assert "\n" not in str(caught.value)
    engine = load_engine(folder, 2, horizon=3)
    with pytest.raises(EngineError, match="2 of 2 .* before future"):
        engine.future([0])
    engine = load_engine(folder, 2)
    engine.reset()
    for call in (lambda: engine.future([0]), lambda: engine.frames([0], [0]), lambda: engine.reset(root_pos=[0.0] * 3)):
        with pytest.raises(EngineError, match="horizon is 1; load the engine with a horizon of 2 or more"):
            call()


@pytest.mark.parametrize("device", DEVICES)
def test_without_a_robot_heights_and_bodies_are_refused_and_the_rest_works(
    made: tuple[Path, Truth], device: str, generator: torch.Generator
) -> None:
    folder, truth = made
    engine = load_engine(folder, 3, device, "torch", "fp32", horizon=4, command_ramp_s=0.0)
    motion, command = truth.states(3, generator), truth.commands(3, generator)
    engine.reset(motion=motion, command=command)
    frames = engine.future([0, 2])
    expected = truth.step(truth.step(motion, command), command)
    assert truth.error(torch.cat([frames.dof_pos[:, 1], frames.dof_vel[:, 1]], 1), expected) < 1e-5
    yaw = 2 * torch.atan2(frames.root_rot[:, 1, 3], frames.root_rot[:, 1, 0]).cpu()
    assert torch.allclose(yaw, command[:, 2] * 2 / 50, atol=1e-6)
    assert torch.equal(frames.root_ang_vel[:, 1, 2].cpu(), command[:, 2])
    for field in ("root_pos", "root_vel", "key_body_pos"):
        with pytest.raises(EngineError, match=f"{field} needs the robot's kinematics .* no robot"):
            getattr(frames, field)
    with pytest.raises(EngineError, match="key_bodies needs a robot"):
        load_engine(folder, 3, device, key_bodies=["pelvis"])


def test_the_padding_of_a_batch_changes_nothing(generator: torch.Generator) -> None:
    """What CUDA does with a batch larger than the number of ids, and with a mask, done on a CPU."""
    folder, truth, _ = random_robot_case()
    one, other = (load_engine(folder, 9, backend="torch", horizon=7) for _ in range(2))
    motion, command = truth.states(9, generator), truth.commands(9, generator)
    for engine in (one, other):
        engine.reset(motion=motion, command=command)
        engine.step()
    other.set_command(command.flip(0)[2:4], [2, 3])
    everyone, mask = torch.arange(9), torch.zeros(9, dtype=torch.bool)
    mask[2:4] = True
    selection = EnvSelection(9, mask=mask)
    one._state.ramp.retarget(selection, command.flip(0), mask)
    one._stepper.rebuild(torch.where(mask, everyone, 9))
    for field, value in one.future(range(7))._asdict().items():
        assert torch.equal(value[~mask], getattr(other.future(range(7)), field)[~mask]), field
        assert torch.allclose(value[mask], getattr(other.future(range(7)), field)[mask], atol=1e-5), field


def test_long_windows_of_many_environments_are_made_in_pieces(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, truth, _ = random_robot_case()
    motion, command = truth.states(6, generator), truth.commands(6, generator)
    engines = []
    for frames_at_once in (1 << 20, 20, 1):  # at once, 3 frames of 6 environments, single frames
        monkeypatch.setattr(rebuild, "FRAMES_AT_ONCE", frames_at_once)
        engine = load_engine(folder, 6, backend="torch", horizon=12)
        engine.reset(motion=motion, command=command)
        engines.append(engine)
    whole = engines[0].future(range(12))
    for engine in engines[1:]:
        for field, value in engine.future(range(12))._asdict().items():
            tolerance = 2e-3 if field == "root_vel" else 1e-5  # its z is a difference times 50
            assert torch.allclose(value, getattr(whole, field), atol=tolerance), field


def looked_at(engine: Engine, offsets: range) -> ReferenceFrames:
    assert engine._window is not None
    return engine._window.future(tuple(offsets))


def test_before_its_first_reset_a_window_is_at_rest() -> None:
    """What an environment keeps whose first reset a GPU ignores: see test_window_gpu.py."""
    folder, _, _ = random_robot_case()
    engine, reset = (load_engine(folder, 3, backend="torch", horizon=6) for _ in range(2))
    reset.reset(motion=torch.tensor(reset.manifest.stats.motion_mean))
    for name, value in looked_at(engine, range(6))._asdict().items():
        assert torch.equal(value, getattr(reset.future(range(6)), name)), name


def test_a_first_reset_that_is_ignored_leaves_a_window_at_rest(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values on a GPU are not looked at by the host; here, neither are those on a CPU."""
    folder, truth, _ = random_robot_case()
    engine, rest = (load_engine(folder, 3, backend="torch", horizon=6, command_ramp_s=0.0) for _ in range(2))
    motion, command = truth.states(3, generator), truth.commands(3, generator)
    rest.reset(motion=torch.tensor(rest.manifest.stats.motion_mean), command=command)
    motion[1, 4] = NAN
    monkeypatch.setattr(inputs, "require_finite", lambda tensor, name: None)
    engine.reset(motion=motion, command=command, root_pos=[3.0, 1.0, 0.5])
    for _ in range(3):
        for name, value in engine.future(range(6))._asdict().items():
            first = 1 if name in ("root_vel", "root_ang_vel") else 0  # the frame at rest was made under command 0
            expected = getattr(rest.future(range(6)), name)
            assert torch.allclose(value[1, first:], expected[1, first:], atol=1e-3 if first else 1e-5), name
        for one in (engine, rest):
            one.step()
    assert (engine.future([0]).root_pos[[0, 2], 0, 0] > 2).all()


@pytest.mark.parametrize("device", DEVICES)
def test_of_the_rows_that_go_with_a_mask_only_the_chosen_are_looked_at(device: str, generator: torch.Generator) -> None:
    folder, truth, _ = random_robot_case()
    engine, same = (load_engine(folder, 4, device, "torch", horizon=3) for _ in range(2))
    motion, command = truth.states(4, generator), truth.commands(4, generator)
    for one in (engine, same):
        one.reset(motion=motion.flip(0), command=command.flip(0))
    ids, mask = [0, 3], torch.tensor([True, False, False, True])
    same.reset(ids, motion[ids], command[ids], root_pos=[1.0, 0.0, 0.0])
    motion[1], command[2] = NAN, float("inf")
    root_pos = torch.tensor([1.0, 0.0, 0.0]).repeat(4, 1)
    root_pos[1] = NAN
    engine.reset(mask, motion, command, root_pos=root_pos)
    for name, value in engine.future(range(3))._asdict().items():
        assert torch.allclose(value, getattr(same.future(range(3)), name), atol=1e-5), name
    assert engine.report() == same.report()
    if device == "cpu":
        wrongs: list[dict[str, Any]] = [{"motion": motion}, {"command": command}, {"root_pos": root_pos}]
        for wrong in wrongs:
            with pytest.raises(EngineError, match="NaN or infinite"):
                engine.reset(torch.tensor([True, True, True, False]), **wrong)


def test_ids_that_the_host_does_not_check_are_out_of_range_on_the_device() -> None:
    """Ids on a GPU: PyTorch's assert must see them. On a CPU, its own check does."""
    engine = load_engine(random_robot_case()[0], 3, backend="torch", horizon=4)
    engine.reset()
    assert engine._window is not None
    pool, one = engine.make_pool(5, 6, [0.1, 0.0, 0.0]), torch.tensor([1])
    for env_id in (-1, -2, 3, 4):
        with pytest.raises(IndexError):
            engine._window.lookup(torch.tensor([env_id]), one)
    for places in ((-1, 5), (5, 5), (3, 3), (7, 3)):
        flat = flat_places(one, torch.tensor([places[0]]), (6, 5), places[1])
        assert flat.tolist() == [30]
    assert flat_places(one, torch.tensor([4]), (6, 5), 5).tolist() == [9]
    assert torch.equal(pool.frames([4], [1]).dof_pos, pool.rows[1, 4:, :5])


@pytest.mark.parametrize("length", [3e19, 1e-23, 1e30, 1e-30])
def test_a_heading_may_be_of_any_length(length: float) -> None:
    engine = load_engine(random_robot_case()[0], 1, backend="torch", horizon=2)
    quat = torch.tensor([0.8, 0.0, 0.0, 0.6])
    engine.reset(root_rot=quat * length)
    assert torch.allclose(engine.future([0]).root_rot[0, 0], quat, atol=1e-6)
