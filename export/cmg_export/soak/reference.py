"""Where roots and bodies are in the plain rollout, in float64; its network is parity's reference.

None of it is the runtime's: the root goes along exact arcs as complex numbers, and bodies are placed one after the
other along the tree, as quaternions.
"""

from __future__ import annotations

import torch

from cmg_runtime.folder.robot import KinematicChain


def root_path(
    position: torch.Tensor, yaw: torch.Tensor, commands: torch.Tensor, dt: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where roots are after each of ``commands``.

    Args:
        position: [n] complex128, x + iy, m.
        yaw: [n] float64, rad.
        commands: [T, n, 3] float64, held for ``dt`` seconds each.

    Returns:
        Positions and yaws [T, n].
    """
    positions, yaws = [], []
    for vx, vy, rate in (command.unbind(dim=1) for command in commands):
        turned = rate * dt
        # The integral of exp(i w t) over the frame; a series where w is too small to divide by.
        exact = (torch.exp(1j * turned) - 1) / (1j * torch.where(rate == 0, 1.0, rate))
        arc = torch.where(turned.abs() < 1e-6, dt * (1 + 0.5j * turned), exact)
        position = position + torch.exp(1j * yaw) * arc * torch.complex(vx, vy)
        yaw = yaw + turned
        positions.append(position)
        yaws.append(yaw)
    return torch.stack(positions), torch.stack(yaws)


def place_bodies(chain: KinematicChain, dof_pos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bodies in the root's frame, and the root's height above the ground that the soles stand on.

    Args:
        dof_pos: [n, num_joints] float64, rad.

    Returns:
        [n, B, 3] and [n], m.
    """

    def constant(values: tuple[float, ...]) -> torch.Tensor:
        return dof_pos.new_tensor(values)

    n = len(dof_pos)
    still = dof_pos.new_zeros(n, 3)
    positions, rotations = [still], [constant((1.0, 0.0, 0.0, 0.0)).expand(n, 4)]
    for body in range(1, len(chain.body_names)):
        parent, joint = chain.body_parents[body], chain.body_joints[body]
        rest = constant(chain.body_quat[body])
        rest = (rest / rest.norm()).expand(n, 4)
        place = constant(chain.body_pos[body]).expand(n, 3)
        local = rest
        if joint >= 0:
            half, axis = dof_pos[:, joint, None] / 2, constant(chain.joint_axes[body])
            local = multiply(rest, torch.cat([torch.cos(half), torch.sin(half) * axis], dim=1))
            anchor = constant(chain.joint_anchors[body]).expand(n, 3)
            place = place + rotate(rest, anchor) - rotate(local, anchor)  # the hinge stays where it is
        positions.append(positions[parent] + rotate(rotations[parent], place))
        rotations.append(multiply(rotations[parent], local))
    lowest = []
    for body, point, radius in zip(chain.sole_bodies, chain.sole_points, chain.sole_radii, strict=True):
        centre = positions[body] + rotate(rotations[body], constant(point).expand(n, 3))
        lowest.append(centre[:, 2] - radius)
    return torch.stack(positions, dim=1), -torch.stack(lowest, dim=1).amin(dim=1)


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Products of quaternions [n, 4], (w, x, y, z)."""
    aw, bw, av, bv = a[:, :1], b[:, :1], a[:, 1:], b[:, 1:]
    scalar = aw * bw - (av * bv).sum(dim=1, keepdim=True)
    return torch.cat([scalar, aw * bv + bw * av + torch.linalg.cross(av, bv)], dim=1)


def rotate(quat: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Vectors [n, 3] turned by unit quaternions [n, 4]."""
    w, v = quat[:, :1], quat[:, 1:]
    return vector + 2 * torch.linalg.cross(v, w * vector + torch.linalg.cross(v, vector))
