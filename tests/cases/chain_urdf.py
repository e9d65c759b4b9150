"""A kinematic chain as a URDF: links of 1 kg, and spheres for its soles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from cmg_runtime.folder.robot import KinematicChain


def write_urdf(chain: KinematicChain, joint_names: Sequence[str], path: Path) -> Path:
    """Write the file; hinges go through their bodies' origins, and joints without one are fixed."""
    lines = ['<robot name="chain">']
    for body, name in enumerate(chain.body_names):
        lines.append(f'<link name="{name}"><inertial><mass value="1"/>')
        lines.append('<inertia ixx="0.01" iyy="0.01" izz="0.01" ixy="0" ixz="0" iyz="0"/></inertial>')
        for sole, point, radius in zip(chain.sole_bodies, chain.sole_points, chain.sole_radii, strict=True):
            if sole == body:
                lines.append(f'<collision><origin xyz="{_numbers(point)}"/>')
                lines.append(f'<geometry><sphere radius="{radius}"/></geometry></collision>')
        lines.append("</link>")
    for body in range(1, len(chain.body_names)):
        hinge = chain.body_joints[body]
        kind, name = ("fixed", f"to_{chain.body_names[body]}") if hinge < 0 else ("revolute", joint_names[hinge])
        assert not any(chain.joint_anchors[body])
        turn = Rotation.from_quat(np.roll(chain.body_quat[body], -1)).as_euler("xyz")
        lines.append(f'<joint name="{name}" type="{kind}">')
        lines.append(f'<parent link="{chain.body_names[chain.body_parents[body]]}"/>')
        lines.append(f'<child link="{chain.body_names[body]}"/>')
        lines.append(f'<origin xyz="{_numbers(chain.body_pos[body])}" rpy="{_numbers(turn)}"/>')
        if hinge >= 0:
            lines.append(f'<axis xyz="{_numbers(chain.joint_axes[body])}"/>')
            limits = f'lower="{chain.joint_lower[hinge]}" upper="{chain.joint_upper[hinge]}"'
            lines.append(f'<limit {limits} effort="150" velocity="30"/>')
        lines.append("</joint>")
    path.write_text("\n".join([*lines, "</robot>"]))
    return path


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
