"""A robot's kinematic chain as the tables that ``write_bodies`` walks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import torch

from cmg_runtime.kinematics import KinematicChain, cross_matrix, matrix_from_quat


@dataclass(frozen=True)
class ChainTables:
    """Groups of bodies, each walked by one program; the first has the soles.

    A *step* goes from a body's parent to the body. With its joint at angle q, s = sin q and v = 1 - cos q, the body's
    orientation in the parent's frame is ``R + s A + v B`` (Rodrigues, with the resting orientation multiplied in) and
    its origin ``o + s oa + v ob``.

    Attributes:
        floats: [groups, steps, 36] float32: R, A, B row by row, o, oa, ob.
        ints: [groups, steps, 5] int32: the joint; whether a path begins; the first float of the body's place in a row,
            or -1; first and last + 1 of its soles.
        soles: [S, 4] float32: centre in the body's frame and radius, m.
    """

    floats: torch.Tensor
    ints: torch.Tensor
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
    by_body: Dict[int, List[int]] = {}
    for position, sole in enumerate(order):
        by_body.setdefault(chain.sole_bodies[sole], []).append(position)
    targets = [(body, place + 3 * index) for index, body in enumerate(key_bodies)]
    sole_group: List[_Step] = []
    for body in _leaves(chain, list(by_body)):
        sole_group += _walk(chain, body, targets, by_body)
    groups = [sole_group]
    while targets:
        groups.append(_walk(chain, _leaves(chain, [body for body, _ in targets])[0], targets, by_body))
    steps = max(len(group) for group in groups)
    constants = _constants(chain)
    stay = torch.cat([torch.eye(3, dtype=torch.float64).flatten(), torch.zeros(27, dtype=torch.float64)])
    floats = stay.repeat(len(groups), steps, 1)
    ints = torch.tensor([0, 0, -1, 0, 0], dtype=torch.int32).repeat(len(groups), steps, 1)
    for g, group in enumerate(groups):
        for i, step in enumerate(group):
            floats[g, i] = constants[step.body]
            joint = max(chain.body_joints[step.body], 0)
            ints[g, i] = torch.tensor([joint, int(step.begins), step.target, *step.soles], dtype=torch.int32)
    soles = [[*chain.sole_points[sole], chain.sole_radii[sole]] for sole in order]
    return ChainTables(
        floats=floats.to(device, torch.float32),
        ints=ints.to(device),
        soles=torch.tensor(soles, dtype=torch.float32, device=device).reshape(-1, 4),
    )


def _walk(
    chain: KinematicChain, body: int, targets: List[Tuple[int, int]], by_body: Dict[int, List[int]]
) -> List[_Step]:
    """The steps from the root to ``body``. What they write is taken off ``targets``, their soles off ``by_body``."""
    path = [body]
    while chain.body_parents[path[-1]] >= 0:
        path.append(chain.body_parents[path[-1]])
    steps = []
    for index, passed in enumerate(reversed(path)):
        found = next((entry for entry in targets if entry[0] == passed), None)
        if found is not None:
            targets.remove(found)
        soles = by_body.pop(passed, [])
        span = (soles[0], soles[-1] + 1) if soles else (0, 0)
        steps.append(_Step(passed, index == 0, -1 if found is None else found[1], span))
    return steps


def _leaves(chain: KinematicChain, bodies: Sequence[int]) -> List[int]:
    """Those of ``bodies`` that are on no other one's path to the root, the deepest first."""

    def ancestors(body: int) -> List[int]:
        return [] if body < 0 else [chain.body_parents[body], *ancestors(chain.body_parents[body])]

    passed = {above for body in bodies for above in ancestors(body)}
    return sorted({body for body in bodies if body not in passed}, key=lambda body: -len(ancestors(body)))


def _constants(chain: KinematicChain) -> torch.Tensor:
    """[B, 36] float64, a step's floats for each body. The root is at the origin."""

    def wide(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    rest = matrix_from_quat(wide(chain.body_quat))
    cross = cross_matrix(wide(chain.joint_axes))
    a, b = rest @ cross, rest @ cross @ cross
    offset, anchor = wide(chain.body_pos), wide(chain.joint_anchors).unsqueeze(-1)
    # A joint turns about its anchor: the origin moves by (R - R(q)) anchor.
    moved_a, moved_b = -(a @ anchor).squeeze(-1), -(b @ anchor).squeeze(-1)
    constants = torch.cat([rest.flatten(1), a.flatten(1), b.flatten(1), offset, moved_a, moved_b], dim=1)
    constants[0] = torch.cat([torch.eye(3, dtype=torch.float64).flatten(), torch.zeros(27, dtype=torch.float64)])
    return constants
