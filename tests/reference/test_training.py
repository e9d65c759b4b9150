"""Training on tiny networks: the rollout against the reference, symmetry, windows, and going on after a stop."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from CMG_Ref.module import CMG
from CMG_Ref.robot_g1 import JOINT_NAMES
from CMG_Ref.training.batches import WindowSampler
from CMG_Ref.training.inputs import initial_model
from CMG_Ref.training.objective import WalkingVelocity, disturb, rollout
from CMG_Ref.training.step import TrainStep
from CMG_Ref.training.symmetry import MirrorSymmetry
from make_checkpoint import make_stats
from synthetic_gait import walk
from training_case import TINY, make_data

CPU = torch.device("cpu")
INPUT = torch.ones(2, 6), torch.ones(2, 3)


def mirrored(values: torch.Tensor) -> torch.Tensor:
    """Motion [.., 6] or command [.., 3] of ``NAMES`` in the mirror, written out by hand."""
    if values.shape[-1] == 3:
        return values * torch.tensor([1.0, -1.0, -1.0])
    return values[..., [2, 1, 0, 5, 4, 3]] * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])


def asymmetry(model: CMG) -> float:
    motion, command = torch.randn(50, 6), torch.randn(50, 3)
    with torch.no_grad():
        straight = mirrored(model(motion, command))
        return float((model(mirrored(motion), mirrored(command)) - straight).abs().max() / straight.abs().max())


def test_rollout_is_forward_fed_back(seed: int) -> None:
    torch.manual_seed(seed)
    for experts, layers in ((1, 1), (3, 2), (4, 3)):
        model = CMG(10, 3, 14, experts, layers, 9).double()
        motion, command = torch.randn(7, 10).double(), torch.randn(5, 7, 3).double()
        frames = rollout(model, motion, command)
        for k in range(5):
            motion = model(motion, command[k])
            torch.testing.assert_close(frames[k], motion, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("experts", "layers"), [(1, 1), (3, 2), (4, 3)])
def test_symmetric_training_keeps_left_and_right_alike(
    seed: int, rng: np.random.Generator, experts: int, layers: int
) -> None:
    torch.manual_seed(seed)
    config, data = dataclasses.replace(TINY, num_experts=experts, num_layers=layers), make_data(rng)
    names, sampler = tuple(data["joint_names"]), WindowSampler(data, CPU, TINY.balance)
    trainer = TrainStep(initial_model(config, data["stats"], names), sampler, config, data["stats"], names)
    fresh, average = trainer.averaged_model(), [p.detach().clone() for p in trainer.model.parameters()]

    def train(symmetric: bool) -> None:
        trainer.configure(4, symmetric=symmetric)
        for _ in range(8):
            trainer.step(3e-3)
            for mean, parameter in zip(average, trainer.model.parameters(), strict=True):
                mean.lerp_(parameter.detach(), 1 - config.ema)
        torch.testing.assert_close(trainer.state()["average"], average)

    train(symmetric=True)
    assert asymmetry(trainer.model) < 1e-5 and asymmetry(trainer.averaged_model()) < 1e-5
    assert not torch.allclose(fresh(*INPUT), trainer.model(*INPUT), atol=1e-3), "nothing was learnt"
    train(symmetric=False)
    with_all = copy.deepcopy(trainer.model)
    with_all.load_state_dict(dict(zip(with_all.state_dict(), trainer.state()["average"], strict=True)))
    assert asymmetry(trainer.model) > 1e-4
    assert 0.05 < asymmetry(trainer.averaged_model()) / asymmetry(with_all) < 0.5
    torch.manual_seed(seed)
    assert asymmetry(initial_model(dataclasses.replace(config, symmetric_part=0), data["stats"], ())) > 0.01


def test_symmetric_weights_keep_their_variance(seed: int) -> None:
    torch.manual_seed(seed)
    plain, symmetric = CMG(), CMG()
    MirrorSymmetry(symmetric, JOINT_NAMES).initialise_(symmetric)
    for layer in (0, 1, 2):
        spread = [m.layers[layer].expert_weights[1].std().item() for m in (plain, symmetric)]
        assert spread[1] == pytest.approx(spread[0], rel=0.05)


def test_windows_stay_within_their_sample(seed: int) -> None:
    torch.manual_seed(seed)
    stats, samples = make_stats(1, 3, seed), []
    for number, frames in enumerate((5, 9, 30)):  # every value tells its sample and its frame
        time = np.arange(frames + 1, dtype=np.float32)
        motion, command = np.stack([np.full_like(time, number), time], axis=1), np.stack([time[:-1]] * 3, axis=1)
        samples.append({"motion": motion, "command": command})
    low, high = stats["command_min"], stats["command_max"]
    sampler = WindowSampler({"samples": samples, "stats": stats}, CPU, balance=0.0)
    for frames, number_of_starts in ((1, 44), (5, 1 + 5 + 26), (9, 1 + 22), (30, 1)):
        sampler.set_num_frames(frames)
        motion, command = sampler.draw(3000)
        assert motion.shape == (frames + 1, 3000, 2) and command.shape == (frames, 3000, 3)
        raw = np.rint(motion.numpy() * stats["motion_std"] + stats["motion_mean"])
        assert (raw[..., 0] == raw[0, :, 0]).all(), "a window spans two samples"
        np.testing.assert_array_equal(np.diff(raw[..., 1], axis=0), 1)
        np.testing.assert_array_equal(np.rint((command.numpy() + 1) / 2 * (high - low) + low)[..., 0], raw[:-1, :, 1])
        assert len(np.unique(raw[0], axis=0)) == number_of_starts
    with pytest.raises(ValueError, match="31 transitions"):
        sampler.set_num_frames(31)


def test_rare_commands_are_drawn_more_often_when_balanced(seed: int) -> None:
    torch.manual_seed(seed)
    samples = [
        {"motion": np.zeros((n + 1, 2), np.float32), "command": np.full((n, 3), v, np.float32)}
        for n, v in ((900, 0.4), (100, -0.4))
    ]
    for balance, share in ((0.0, 0.1), (0.5, 0.25), (1.0, 0.5)):
        sampler = WindowSampler({"samples": samples, "stats": make_stats(1, 3, seed)}, CPU, balance)
        sampler.set_num_frames(1)
        command = sampler.draw(4000)[1][0, :, 0]
        assert float((command < command.mean()).float().mean()) == pytest.approx(share, abs=0.05)


def test_changes_of_command_are_drawn_more_often_when_told_to(seed: int) -> None:
    torch.manual_seed(seed)
    command = np.zeros((400, 3), np.float32)
    command[200:] = (0.0, 0.5, 0.0)
    samples = [{"motion": np.arange(802, dtype=np.float32).reshape(401, 2), "command": command}]
    stats = {**make_stats(1, 3, seed), "motion_mean": np.zeros(2), "motion_std": np.ones(2)}
    for changes, share in ((1.0, 50 / 400), (4.0, 200 / 550)):
        sampler = WindowSampler({"samples": samples, "stats": stats}, CPU, balance=0.0, changes=changes)
        sampler.set_num_frames(1)
        frame = sampler.draw(8000)[0][0, :, 0] / 2
        assert ((frame >= 175) & (frame < 225)).float().mean() == pytest.approx(share, abs=0.03)


def test_noise_is_held_over_the_window(seed: int) -> None:
    torch.manual_seed(seed)
    motion, command = torch.zeros(4000, 6), torch.zeros(5, 4000, 3)
    noisy, noisy_command = disturb(motion, command, 0.1, 0.02)
    assert (noisy_command == noisy_command[:1]).all()
    assert noisy_command[0].std().item() == pytest.approx(0.02, rel=0.1)
    amplitude = noisy.square().mean(dim=1).sqrt()
    assert 0.1 < amplitude.max() < 1.0 and amplitude.min() < 0.01
    assert torch.equal(disturb(motion, command, 0.0, 0.0)[0], motion)


def test_walking_velocity_compares_speeds_over_ground(seed: int) -> None:
    stats = make_stats(29, 3, seed)
    mean, std = torch.tensor(stats["motion_mean"]), torch.tensor(stats["motion_std"])
    poses = [walk(velocity, 1.6) for velocity in ((0.4, 0.0, 0.0), (0.7, 0.0, 0.0), (0.4, 0.0, 0.3))]
    motions = [torch.tensor(np.concatenate([pose, 0 * pose], axis=1), dtype=torch.float32)[:, None] for pose in poses]
    slow, fast, left = ((motion - mean) / std for motion in motions)
    walking = WalkingVelocity(stats, CPU)
    predicted = slow.clone().requires_grad_()
    assert walking.error(predicted, slow).item() == 0
    for other in (fast, left):
        assert walking.error(predicted, other).item() == pytest.approx(0.3**2 / 3, rel=0.2)
    walking.error(predicted, fast).backward()
    assert predicted.grad is not None and predicted.grad.isfinite().all()
    assert (predicted.grad[..., :12] != 0).any() and (predicted.grad[..., 15:] == 0).all()


def test_schedules() -> None:
    config = dataclasses.replace(TINY, phases=((300, 1), (500, 4), (200, 32)), learning_rate=0.01)
    found = {step: config.rollout_frames(step) for step in (0, 299, 300, 799, 800, 999)}
    assert found == {0: (1, 300), 299: (1, 300), 300: (4, 800), 799: (4, 800), 800: (32, 1000), 999: (32, 1000)}
    with pytest.raises(ValueError, match="1000"):
        config.rollout_frames(config.num_steps)
    rates = [config.learning_rate_at(step) for step in range(1000)]
    assert all(np.diff(rates[:150]) > 0) and all(np.diff(rates[200:]) < 0) and rates[0] < 1e-4
    assert rates[199] == pytest.approx(0.01, rel=0.1) and rates[-1] == pytest.approx(1e-4, rel=0.01)
    assert rates[500] == pytest.approx(0.01 * (0.01 + 0.99 / 2))
    for phases in ((), ((0, 1),), ((10, 0),)):
        with pytest.raises(ValueError, match="phases"):
            dataclasses.replace(TINY, phases=phases)
