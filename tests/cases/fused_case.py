"""Networks and frame writers of the ``fused`` backend for tests, beside what they are compared with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.backends.fused.capacity import Device, by_hand
from cmg_runtime.backends.fused.launch import OPERANDS, FrameNetwork
from cmg_runtime.backends.fused.packing import pack
from cmg_runtime.backends.fused.tiles import Tiles
from cmg_runtime.folder.manifest import Manifest, Sizes, Stats
from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.window.frames import FrameLayout
from cmg_runtime.window.state import CommandRamp, WindowBuffers
from engine_folder import Truth, bare_manifest
from make_checkpoint import make_checkpoint


def fused_network(
    precision: str, num_rows: int, device: torch.device, seed: int, tiles: Tiles | None = None, **sizes: Any
) -> tuple[FrameNetwork, Truth]:
    """The kernels for a fresh random checkpoint, with the device's own tiles or these, and the float64 model of it."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_checkpoint(Path(folder), seed=seed, **sizes)
        weights = one_product_weights(load_checkpoint(made.path))
    packed = pack(weights, OPERANDS[precision][0], device)
    tiles = tiles or by_hand(precision, packed.shapes, Device.of(device))
    return FrameNetwork(packed, precision, num_rows, device, tiles), Truth(made.model, made.stats)


def manifest_of_robot(robot: KinematicChain) -> Manifest:
    """A manifest of a robot all of whose joints the motion state has, without artifacts."""
    joints = len(robot.joint_lower)
    stats = Stats((0.0,) * 2 * joints, (1.0,) * 2 * joints, (-1.0,) * 3, (1.0,) * 3)
    return bare_manifest(Sizes(2 * joints, 3, joints, 16, 16, 2, 3), stats, robot=robot)


def poisoned(like: torch.Tensor) -> torch.Tensor:
    """A tensor for results in which nothing that stays unwritten can pass."""
    return torch.full_like(like, float("nan"))


def random_buffers(
    num_envs: int,
    horizon: int,
    layout: FrameLayout,
    ramp_frames: float,
    generator: torch.Generator,
    device: torch.device,
) -> WindowBuffers:
    """A window's buffers, full of random numbers: the same ones for the same generator state."""

    def random(*shape: int) -> torch.Tensor:
        return (0.7 * torch.randn(*shape, generator=generator)).to(device)

    columns, motion = num_envs + 1, layout.motion_dim
    ramp = CommandRamp(columns, 3, ramp_frames, device)
    ramp.initial, ramp.target = random(columns, 3), random(columns, 3)
    ramp.elapsed = torch.randint(0, 30, (columns,), generator=generator).float().to(device)
    ring, current, following = random(horizon, columns, layout.width), random(columns, motion), random(columns, motion)
    buffers = WindowBuffers(num_envs, horizon, ring, current, following, random(columns, 3), ramp)
    slots = torch.randint(0, horizon, (columns,), generator=generator)  # of each column its own
    buffers.head = (slots * columns + torch.arange(columns)).to(device)
    buffers.newest_root, buffers.ground = 3 * random(columns, 4), random(columns)
    buffers.newest_motion, buffers.placement = random(columns, motion), random(columns, 4)
    buffers.fresh = (torch.rand(columns, generator=generator) < 0.5).to(device)
    return buffers


def contents(buffers: WindowBuffers) -> dict[str, torch.Tensor]:
    """What a frame writer writes, of all environments, on the CPU; not the scratch column."""
    names = ("head", "current", "newest_motion", "newest_root", "next_command", "fresh")
    written = {name: getattr(buffers, name) for name in names}
    written |= {"frames": buffers.ring.transpose(0, 1), "elapsed": buffers.ramp.elapsed}
    return {name: value[: buffers.num_envs].cpu() for name, value in written.items()}


def compare(expected: WindowBuffers, seen: WindowBuffers, layout: FrameLayout) -> None:
    """Assert that two frame writers wrote the same, to float32's rounding."""
    wanted, found = contents(expected), contents(seen)
    vertical = layout.root_vel + 2  # a difference of heights, times 50 frames a second
    for contained in (wanted, found):
        contained["vertical"] = contained["frames"][..., vertical].clone()
        contained["frames"] = contained["frames"][..., : layout.used].clone()
        contained["frames"][..., vertical] = 0
    for name, value in wanted.items():
        tolerance = 2e-4 if name == "vertical" else 1e-5 if seen.ring.is_cuda else 2e-6
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def use_both(
    plain: Any,
    writer: Any,
    device: torch.device,
    num_envs: int,
    horizon: int,
    ramp_frames: float,
    ids: torch.Tensor,
    different: int,
    count: int,
    generator: torch.Generator,
) -> None:
    """Everything that a frame writer does, by two of them on buffers with the same contents; compared after each part.

    Args:
        plain, writer: on the CPU; and on ``device``.
        ids: columns [N] that get ``count`` frames more, of which the first ``different`` are not there twice.
    """
    layout = writer.layout
    atol, rtol = (2e-5, 1e-5) if device.type == "cuda" else (1e-6, 1e-6)
    begin, pair = generator.get_state(), []
    for on in (torch.device("cpu"), device):
        generator.set_state(begin)
        pair.append(random_buffers(num_envs, horizon, layout, ramp_frames, generator, on))
    expected, seen = pair
    numbers = torch.randint(0, 1 << 40, (num_envs + 1,), generator=generator)  # beyond 32 bits
    seen_numbers = numbers.clone().to(device)
    for time in range(min(horizon + 1, 6)):
        expected.next_motion.normal_(generator=generator)
        seen.next_motion.copy_(expected.next_motion)
        moving = torch.rand(num_envs, generator=generator) < 0.5 if time % 2 else None
        plain.append(expected, numbers, moving)
        writer.append(seen, seen_numbers, None if moving is None else moving.to(device))
    compare(expected, seen, layout)
    assert torch.equal(seen_numbers.cpu(), numbers)

    motions = torch.randn(count, len(ids), layout.motion_dim, generator=generator)
    commands = torch.randn(count, len(ids), 3, generator=generator)
    root, some = torch.randn(len(ids), 4, generator=generator), slice(different)
    seen_ids, seen_motions, seen_commands, seen_root = (t.clone().to(device) for t in (ids, motions, commands, root))
    plain.extend(expected, ids, motions, commands, root, 1)
    writer.extend(seen, seen_ids, seen_motions, seen_commands, seen_root, 1)
    compare(expected, seen, layout)
    torch.testing.assert_close(seen_root.cpu(), root, atol=atol, rtol=rtol)

    plain.place(expected, ids[some], root[some])
    writer.place(seen, seen_ids[some], seen_root[some])
    compare(expected, seen, layout)
    torch.testing.assert_close(seen_root.cpu(), root, atol=atol, rtol=rtol)

    seen_commands = poisoned(seen_commands)
    plain.commands(expected, ids, 1, commands)
    writer.commands(seen, seen_ids, 1, seen_commands)
    of_envs = ids < expected.num_envs  # not the scratch column's
    torch.testing.assert_close(seen_commands.cpu()[:, of_envs], commands[:, of_envs], atol=1e-6, rtol=1e-6)

    plain.finish(expected, ids[some], motions[-1, some], root[some])
    writer.finish(seen, seen_ids[some], seen_motions[-1, some], root[some].to(device))
    compare(expected, seen, layout)
