"""What is to be known of a clip: its speeds, how its feet stand, how near its joints are to what they can."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.commands import heading, heading_velocity, smooth
from CMG_Ref.dataloader.retarget.bodies import CHAIN, body_poses, sole_points

_CONTACT = 0.005  # m; a sole whose lowest point is less high touches the ground
_AT_LIMIT = 0.005  # rad
_AVERAGED = 0.3  # s, of velocities
_SHOWN, _APART = 10, 0.75  # moments in a picture, and how far apart, m
_COLOURS = {"left": "#2563a8", "right": "#b5482a", "": "#202020"}


@dataclass(frozen=True)
class Figures:
    """Of one clip.

    Attributes:
        frames: how many.
        velocity: [3, 3]: of vx, vy (m/s) and yaw rate (rad/s) in the heading frame, over 0.3 s, 5, 50 and 95 %.
        slip: median and mean speed over ground of a sole's lowest point while it touches, m/s; NaN where none does.
        lowest: lowest point of the soles, m.
        to_limit: least distance of a joint to its limit, rad; negative beyond it.
        at_limit: share of the frames in which some joint is within 0.005 rad of its limit.
        fastest: highest speed of a joint, rad/s.
    """

    frames: int
    velocity: np.ndarray
    slip: tuple[float, float]
    lowest: float
    to_limit: float
    at_limit: float
    fastest: float


def figures(clip: Clip) -> Figures:
    """Measure a clip of the G1's 29 joints by itself, whoever made it."""
    soles = sole_points(*body_poses(clip))
    height, moved = np.maximum(soles[1:, ..., 2], soles[:-1, ..., 2]), np.diff(soles[..., :2], axis=0)
    point = height.argmin(axis=2)[..., None]
    touches = np.take_along_axis(height, point, 2) < _CONTACT
    slip = np.take_along_axis(np.linalg.norm(moved, axis=3), point, 2)[touches] * clip.fps
    space = np.minimum(clip.dof_pos - np.array(CHAIN.joint_lower), np.array(CHAIN.joint_upper) - clip.dof_pos)
    velocity = smooth(heading_velocity(clip.root_pos, clip.root_quat, clip.fps), _AVERAGED, clip.fps)
    return Figures(
        frames=len(clip.dof_pos),
        velocity=np.percentile(velocity, (5, 50, 95), axis=0).T,
        slip=(float(np.median(slip)), float(slip.mean())) if len(slip) else (np.nan, np.nan),
        lowest=float(soles[..., 2].min()),
        to_limit=float(space.min()),
        at_limit=float((space < _AT_LIMIT).any(axis=1).mean()),
        fastest=float(np.abs(np.diff(clip.dof_pos, axis=0)).max() * clip.fps),
    )


def table(rows: dict[str, Figures]) -> str:
    """A line for each clip, under what the columns are."""
    width = max([4, *map(len, rows)])
    speeds = "  ".join(f"{title:>20}" for title in ("vx m/s 5/50/95 %", "vy m/s", "yaw rate rad/s"))
    lines = [f"{'clip':{width}}  frames  {speeds}  slip m/s (mean)  lowest m  to limit rad  at limit  most rad/s"]
    for name, row in rows.items():
        speeds = "  ".join(f"{' / '.join(f'{value:.2f}' for value in axis):>20}" for axis in row.velocity)
        slip, limits = f"{row.slip[0]:.3f} ({row.slip[1]:.2f})", f"{row.to_limit:12.3f}  {row.at_limit:8.1%}"
        lines.append(
            f"{name:{width}}  {row.frames:6d}  {speeds}  {slip:>15}  {row.lowest:8.3f}  {limits}  {row.fastest:10.1f}"
        )
    return "\n".join(lines)


def picture(clip: Clip, recorded: np.ndarray, names: tuple[str, ...], parents: tuple[int, ...]) -> bytes:
    """A strip of the person above the robot at the same moments, half from the side and half from the front. PNG.

    Args:
        clip: the robot's motion.
        recorded: [T, J, 3], m, world: the person's joints.
        names: of those; what is called left is blue, right is red.
        parents: index of each one's parent, -1 for the root.
    """
    import matplotlib  # takes its time

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pos, rot = body_poses(clip)
    robot = np.concatenate([pos, sole_points(pos, rot).reshape(len(pos), -1, 3)], axis=1)
    robot_names = CHAIN.body_names + tuple(CHAIN.body_names[body] for body in CHAIN.sole_bodies)
    frames, yaws = np.linspace(0, len(pos) - 1, _SHOWN).astype(int), heading(clip.root_quat)
    figure, rows = plt.subplots(2, 1, figsize=(1.3 * _SHOWN, 5), constrained_layout=True)
    for axes, points, of, links, title in (
        (rows[0], recorded, names, parents, f"{clip.name}: the person, at the robot's size"),
        (rows[1], robot, robot_names, CHAIN.body_parents + CHAIN.sole_bodies, "the robot"),
    ):
        for moment, frame in enumerate(frames):
            x, y, up = (points[frame] - points[frame, 0] * [1, 1, 0]).T
            cos, sin = np.cos(yaws[frame]), np.sin(yaws[frame])
            along = moment * _APART + 0.8 * (x * cos + y * sin) - 0.6 * (y * cos - x * sin)
            for joint, parent in enumerate(links[1:], start=1):
                colour = next(c for word, c in _COLOURS.items() if word in of[joint].lower())
                axes.plot(along[[parent, joint]], up[[parent, joint]], color=colour, lw=1.5)
            axes.text(moment * _APART, -0.13, f"{frame / clip.fps:.1f} s", ha="center", fontsize=8)
        axes.axhline(0, color="#a0a0a0", lw=0.8, zorder=0)
        axes.set(title=title, aspect="equal", xlim=(-_APART, _SHOWN * _APART), ylim=(-0.2, 1.4))
        axes.axis("off")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100, format="png")
    plt.close(figure)
    return stream.getvalue()
