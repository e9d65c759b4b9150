"""A robot's kinematic chain as the tables that the kernels walk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import torch

from cmg_runtime.folder.robot import KinematicChain
from cmg_runtime.window.geometry import matrix_from_quat

STEPS_AT_ONCE = 4
"""Steps are walked, and their bodies written, so many at a time."""

STEP_FLOATS, STEP_MARKS, SOLE_FLOATS = 15, 3, 4
"""Widths of the tables' rows; the kernels take them from here."""


@dataclass(frozen=True)
class ChainTables:
    """Groups of bodies, each walked by one program; the first has the soles.

    Each body has a frame whose origin lies on its joint's axis, which is the frame's z axis. A *step* goes from the
    frame of a body's parent to the body's: by ``o``, the constant rotation ``C``, and the joint's angle about z. The
    body's own origin is at ``m`` in its frame. A step without a body, at a group's end, goes nowhere.

    Attributes:
        floats: [groups, steps, 15] float32: C row by row, o, m.
        marks: [groups, steps, 3] int32: whether a path from the root begins; first and last + 1 of the body's soles.
        joints: [groups, steps] int32: the step's joint, or -1.
        targets: [groups, steps] int32: where in a row the body's x, and behind it y and z, belong, or -1.
        chunks: [groups] int32: how many times :data:`STEPS_AT_ONCE` steps a group has.
        soles: [S, 4] float32: centre in the frame of its body and radius, m.
    """

    floats: torch.Tensor
    marks: torch.Tensor
    joints: torch.Tensor
    targets: torch.Tensor
    chunks: torch.Tensor
    soles: torch.Tensor


@dataclass(frozen=True)
class _Step:
    body: int
    begins: bool
    target: int = -1
    soles: Tuple[int, int] = (0, 0)


def chain_tables(chain: KinematicChain, key_bodies: Sequence[int], place: int, device: torch.device) -> ChainTables:
    """Tables for a chain.

    Args:
        key_bodies: indices of bodies whose positions are written, one behind the other.
        place: the first float of the first of them in a row.
    """
    order = sorted(range(len(chain.sole_bodies)), key=lambda sole: chain.sole_bodies[sole])
    targets = [(body, place + 3 * index) for index, body in enumerate(key_bodies)]
    groups = _groups(chain, targets, [chain.sole_bodies[sole] for sole in order])
    chunks = [-(-len(group) // STEPS_AT_ONCE) for group in groups]
    shape = (len(groups), STEPS_AT_ONCE * max(chunks))
    frames = _joint_frames(chain)
    constants = _constants(chain, frames)
    nowhere = torch.cat([torch.eye(3, dtype=torch.float64).flatten(), torch.zeros(6, dtype=torch.float64)])
    floats = nowhere.expand(STEP_FLOATS).repeat(*shape, 1)
    marks = torch.zeros(*shape, STEP_MARKS, dtype=torch.int32)
    joints = torch.full(shape, -1, dtype=torch.int32)
    places = torch.full_like(joints, -1)
    for g, group in enumerate(groups):
        for i, step in enumerate(group):
            floats[g, i] = constants[step.body]
            marks[g, i] = torch.tensor([int(step.begins), *step.soles])
            joints[g, i] = chain.body_joints[step.body] if step.body > 0 else -1
            places[g, i] = step.target
    return ChainTables(
        floats=floats.to(device, torch.float32),
        marks=marks.to(device),
        joints=joints.to(device),
        targets=places.to(device),
        chunks=torch.tensor(chunks, dtype=torch.int32, device=device),
        soles=_soles(chain, order, frames).to(device, torch.float32),
    )


def _groups(chain: KinematicChain, targets: List[Tuple[int, int]], sole_bodies: Sequence[int]) -> List[List[_Step]]:
    """The steps of every group: each walks a few paths from the root, and together they meet all targets and soles.

    The root itself, which never moves, is a step only where something is asked of it.
    """
    by_body: Dict[int, List[int]] = {}
    for position, body in enumerate(sole_bodies):
        by_body.setdefault(body, []).append(position)
    at_root = [(body, place) for body, place in targets if body == 0]
    targets = [(body, place) for body, place in targets if body != 0]
    first = [_Step(0, True, soles=_span(by_body.pop(0)))] if 0 in by_body else []
    for body in _leaves(chain, list(by_body)):
        first += _path(chain, body, targets, by_body)
    groups = [first]
    while targets:
        groups.append(_path(chain, _leaves(chain, [body for body, _ in targets])[0], targets, by_body))
    min(groups, key=len).extend(_Step(0, True, place) for _, place in at_root)
    return groups


def _path(
    chain: KinematicChain, body: int, targets: List[Tuple[int, int]], by_body: Dict[int, List[int]]
) -> List[_Step]:
    """The steps from the root to ``body``. What they write is taken off ``targets``, their soles off ``by_body``."""
    path = [body]
    while chain.body_parents[path[-1]] > 0:
        path.append(chain.body_parents[path[-1]])
    steps = []
    for index, passed in enumerate(reversed(path)):
        found = next((entry for entry in targets if entry[0] == passed), None)
        if found is not None:
            targets.remove(found)
        soles = _span(by_body.pop(passed, []))
        steps.append(_Step(passed, index == 0, -1 if found is None else found[1], soles))
    return steps


def _span(positions: Sequence[int]) -> Tuple[int, int]:
    return (positions[0], positions[-1] + 1) if positions else (0, 0)


def _leaves(chain: KinematicChain, bodies: Sequence[int]) -> List[int]:
    """Those of ``bodies`` that are on no other one's path to the root, the deepest first."""

    def ancestors(body: int) -> List[int]:
        return [] if body < 0 else [chain.body_parents[body], *ancestors(chain.body_parents[body])]

    passed = {above for body in bodies for above in ancestors(body)}
    return sorted({body for body in bodies if body not in passed}, key=lambda body: -len(ancestors(body)))


@dataclass(frozen=True)
class _JointFrames:
    """The frame of each body in the body's own, float64: axes as columns [B, 3, 3], origins [B, 3] m."""

    axes: torch.Tensor
    origins: torch.Tensor


def _joint_frames(chain: KinematicChain) -> _JointFrames:
    """A body without a joint, and the root, keep their own frame."""
    axes, origins = [], []
    for body, joint in enumerate(chain.body_joints):
        turns = joint >= 0 and body > 0
        axes.append(_about(chain.joint_axes[body]) if turns else torch.eye(3, dtype=torch.float64))
        origins.append(_wide(chain.joint_anchors[body]) if turns else torch.zeros(3, dtype=torch.float64))
    return _JointFrames(torch.stack(axes), torch.stack(origins))


def _about(axis: Sequence[float]) -> torch.Tensor:
    """A rotation [3, 3] whose last column is the unit vector ``axis``."""
    z = _wide(axis)
    least = torch.zeros_like(z)
    least[z.abs().argmin()] = 1
    x = torch.linalg.cross(least, z)
    x = x / x.norm()
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=1)


def _constants(chain: KinematicChain, frames: _JointFrames) -> torch.Tensor:
    """[B, 15] float64, a step's floats for each body. The root is at the origin."""
    rest, offset = matrix_from_quat(_wide(chain.body_quat)), _wide(chain.body_pos)
    parents = torch.tensor(chain.body_parents).clamp(min=0)
    into_parent = frames.axes[parents].transpose(1, 2)
    rotation = into_parent @ rest @ frames.axes
    origin = offset + (rest @ frames.origins.unsqueeze(-1)).squeeze(-1) - frames.origins[parents]
    origin = (into_parent @ origin.unsqueeze(-1)).squeeze(-1)
    body = -(frames.axes.transpose(1, 2) @ frames.origins.unsqueeze(-1)).squeeze(-1)
    rotation[0], origin[0] = torch.eye(3, dtype=torch.float64), 0
    return torch.cat([rotation.flatten(1), origin, body], dim=1)


def _soles(chain: KinematicChain, order: Sequence[int], frames: _JointFrames) -> torch.Tensor:
    """[S, 4] float64, the soles in ``order``."""
    rows = [torch.zeros(0, SOLE_FLOATS, dtype=torch.float64)]
    for sole in order:
        body = chain.sole_bodies[sole]
        centre = frames.axes[body].T @ (_wide(chain.sole_points[sole]) - frames.origins[body])
        rows.append(torch.cat([centre, _wide([chain.sole_radii[sole]])]).unsqueeze(0))
    return torch.cat(rows)


def _wide(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
