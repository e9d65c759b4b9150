"""The velocity that joint angles show, by a small network that has learnt it from clips.

The standing foot alone tells the speed of walking ahead to some 10 %, but a third to a half of the speed of side steps:
the pelvis leans, and joint angles do not say how much. Clips say what leans go with what steps. So a network reads the
velocity from the feet (how they move, how high they are, how they are turned) around each frame, and is averaged over
the rollout. It is learnt from the clips, warped ones too, of which the velocity is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from CMG_Ref.dataloader.clips import FPS, Clip
from CMG_Ref.dataloader.library import build_library
from CMG_Ref.dataloader.warping import warped_clips
from CMG_Ref.files.torch_files import read_start, write_beside
from CMG_Ref.robot_g1 import JOINT_NAMES, KNEES
from CMG_Ref.robot_g1.chain import FEET, g1_chain
from cmg_runtime.folder.arrays import load_arrays
from cmg_runtime.window.kinematics import ForwardKinematics

READER_FILE = "velocity.npz"
AROUND = (-9, -6, -3, 0, 3, 6, 9)
"""Frames around the one that is read."""
PACES = (0.5, 0.62, 0.77, 0.9, 1.0, 1.13, 1.3)
"""At which clips are learnt."""

_HIDDEN = 128
_STEPS, _BATCH, _RATE = 6000, 512, 3e-3
_AXIS_WEIGHT = (1.0, 2.0, 0.5)  # a rad/s counts less than a m/s; side steps are rare
_INPUT_NOISE = 0.05  # of an input's spread
_LOWEST = 0.01  # m; sole points this much higher than the lowest count less
_WAIST = slice(12, 15)


class VelocityReader:
    """Reads mean velocities off joint angles.

    Args:
        values: what :func:`fit_reader` returns.
        device, dtype: of the joint angles that will come.
    """

    def __init__(
        self, values: dict[str, np.ndarray], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self._values = {name: torch.as_tensor(value, dtype=dtype, device=device) for name, value in values.items()}
        self._features = _Features(device, dtype)

    source = "read by a network that has learnt it from clips"

    def __call__(self, dof_pos: torch.Tensor) -> torch.Tensor:
        """Velocity at each frame [T, ..., 3] in the heading frame (m/s, m/s, rad/s) of dof_pos [T, ..., 29], rad."""
        v = self._values
        x = (self._features(dof_pos) - v["mean"]) / v["spread"]
        for layer in (0, 1, 2):
            x = torch.nn.functional.linear(x, v[f"weight{layer}"], v[f"bias{layer}"])
            x = torch.nn.functional.elu(x) if layer < 2 else x
        return x

    def mean(self, dof_pos: torch.Tensor) -> torch.Tensor:
        """Mean velocity over time: [T, ..., 29] -> [..., 3]. Frames that lack others around them are left out."""
        return self(dof_pos)[-AROUND[0] : -AROUND[-1]].mean(0)


def read_reader(path: Path) -> dict[str, np.ndarray]:
    """What :func:`write_reader` wrote.

    Raises:
        ValueError: it is missing, damaged or something else.
    """
    read_start(path, "an .npz of a velocity reader")
    inputs = _Features().width * len(AROUND)
    sizes = {"mean": (inputs,), "spread": (inputs,)}
    for layer, (width, wide) in enumerate(((inputs, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, 3))):
        sizes |= {f"weight{layer}": (wide, width), f"bias{layer}": (wide,)}
    try:
        with path.open("rb") as stream:
            arrays = load_arrays(stream)
        values = {name: arrays[name].astype(np.float32, casting="same_kind") for name in sizes}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a velocity reader ({error}); make it with eval_cmg --clips") from None
    if any(values[name].shape != size or not np.isfinite(values[name]).all() for name, size in sizes.items()):
        raise ValueError(f"{path}: not a velocity reader of these sizes; make it with eval_cmg --clips")
    return values


def write_reader(path: Path, values: dict[str, np.ndarray]) -> None:
    """Write what :func:`fit_reader` returns."""
    with write_beside(path) as stream:
        np.savez(stream, **values)  # type: ignore[arg-type]


def fit_reader(clips: list[Clip], seed: int = 0) -> dict[str, np.ndarray]:
    """Learn from clips of ``JOINT_NAMES``, their mirror images and what is warped from them, at several paces."""
    library = build_library([*clips, *warped_clips(clips)], JOINT_NAMES)
    features, inputs, wanted = _Features(), [], []
    for track in library.tracks:
        for pace in PACES:
            dof_pos, velocity = track.play(0.0, int((track.num_frames - 1) / pace), pace)
            inputs.append(features(torch.tensor(dof_pos, dtype=torch.float32)))
            wanted.append(torch.tensor(velocity, dtype=torch.float32))
    x, y = torch.cat(inputs), torch.cat(wanted)
    mean, spread = x.mean(0), x.std(0) + 1e-2
    layers = _learn((x - mean) / spread, y, torch.Generator().manual_seed(seed))
    return {"mean": mean.numpy(), "spread": spread.numpy(), **layers}


def _learn(x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> dict[str, np.ndarray]:
    """Weights and biases of three layers, by least squares."""
    sizes = (x.shape[1], _HIDDEN, _HIDDEN, 3)
    weights = [torch.randn(b, a, generator=generator).div_(a**0.5) for a, b in zip(sizes, sizes[1:], strict=False)]
    parameters = [p.requires_grad_() for w in weights for p in (w, torch.zeros(len(w)))]
    optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=1e-2)
    axis_weight = torch.tensor(_AXIS_WEIGHT)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        rows = torch.randint(len(x), (_BATCH,), generator=generator)
        h = x[rows] + _INPUT_NOISE * torch.randn(_BATCH, sizes[0], generator=generator)
        for layer in (0, 1, 2):
            h = torch.nn.functional.linear(h, parameters[2 * layer], parameters[2 * layer + 1])
            h = torch.nn.functional.elu(h) if layer < 2 else h
        loss = ((h - y[rows]).square() * axis_weight).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    names = [f"{kind}{layer}" for layer in range(3) for kind in ("weight", "bias")]
    return {name: parameter.detach().numpy() for name, parameter in zip(names, parameters, strict=True)}


class _Features:
    """What the network sees: the feet in the pelvis's frame, at the frames ``AROUND`` each."""

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        chain = g1_chain(FEET)
        self._kinematics = ForwardKinematics(chain, device, dtype)
        self._sole_bodies = torch.tensor(chain.sole_bodies, device=device)
        self._sole_points = torch.tensor(chain.sole_points, device=device, dtype=dtype)
        self._feet = torch.tensor([chain.body_index(name) for name in FEET], device=device)
        self.width = int(self._frame(torch.zeros(2, len(JOINT_NAMES), device=device, dtype=dtype)).shape[-1])

    def __call__(self, dof_pos: torch.Tensor) -> torch.Tensor:
        """[T, ..., 29] -> [T, ..., width * len(AROUND)]."""
        frames = self._frame(dof_pos)
        rows = torch.arange(len(frames), device=frames.device)
        return torch.cat([frames[(rows + offset).clamp(0, len(frames) - 1)] for offset in AROUND], dim=-1)

    def _frame(self, dof_pos: torch.Tensor) -> torch.Tensor:
        body_pos, body_rot = self._kinematics(dof_pos)
        offsets = (body_rot[..., self._sole_bodies, :, :] @ self._sole_points.unsqueeze(-1)).squeeze(-1)
        points = (body_pos[..., self._sole_bodies, :] + offsets).unflatten(-2, (2, -1))  # [T, ..., foot, point, xyz]
        height = points[..., 2]
        weight = torch.softmax(-height / _LOWEST, dim=-1).unsqueeze(-1)
        foot_rot = body_rot[..., self._feet, :, :]
        yaw = torch.atan2(foot_rot[..., 1, 0], foot_rot[..., 0, 0])
        lowest = height.amin(-1)
        parts: list[Any] = [
            (weight * -_rate(points[..., :2])).sum(-2).flatten(-2),
            2 * (weight * points[..., :2]).sum(-2).flatten(-2),
            -_rate(yaw),
            10 * (lowest - lowest.mean(-1, keepdim=True)),
            3 * foot_rot[..., :2, 2].flatten(-2),
            yaw,
            dof_pos[..., KNEES],
            2 * dof_pos[..., _WAIST],
        ]
        return torch.cat(parts, dim=-1)


def _rate(values: torch.Tensor) -> torch.Tensor:
    """Change a second along time."""
    return torch.gradient(values, dim=0)[0] * FPS
