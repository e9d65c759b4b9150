"""Endless motion under chosen commands, cut from clips by motion matching.

Clips visit few commands, leave them after a step or two, and rarely change from one gait to another.
The synthesiser draws a target command, finds frames of the library that move so (played faster or
slower) and continue the current pose well, plays them for about a second, and cross-fades to the next
find. Every sequence is labelled with the velocity that the played frames really have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from CMG_Ref.command_line import LARGEST_COUNT
from CMG_Ref.dataloader.clips import FPS
from CMG_Ref.dataloader.commands import smooth
from CMG_Ref.dataloader.library import MotionLibrary, is_leg


@dataclass(frozen=True)
class SynthesisConfig:
    """How sequences are made. Times in s, velocities in m/s and rad/s."""

    targets: Literal["walking", "all"] = "walking"
    """What target commands are drawn from: "walking" up to 1.5 m/s, or "all" directions and speeds up to 2.6 m/s."""
    num_sequences: int = 3000
    sequence_seconds: float = 7.0
    chunk_seconds: tuple[float, float] = (0.7, 2.0)
    """Length of a stretch of played frames, drawn uniformly."""
    hold_probability: float = 0.6
    """Chance that the next stretch keeps the target command."""
    blend_seconds: tuple[float, float] = (0.2, 0.5)
    """Cross-fade between stretches, drawn uniformly."""
    speed_range: tuple[float, float] = (0.6, 1.4)
    """Playback pace, as a factor."""
    num_candidates: int = 12000
    """Random frames of the library whose velocity is compared with the target at each cut."""
    num_compared: int = 1500
    """How many of those, the nearest in velocity, are compared in pose."""
    standing_start_probability: float = 0.12
    """Chance that a sequence begins in the robot's default standing pose, held still."""
    standing_hold_probability: float = 0.6
    """Chance that such a start goes on standing; else it is left for another command."""
    follow_probability: float = 0.15
    """Chance that commands follow the motion closely instead of being held."""
    steadiness: float = 0.0
    """Cost of stretches whose halves differ in velocity, and ten times that of legs that pause where they are to
    move. Without it, half a second of walking and half of standing pass for slow walking."""

    def __post_init__(self) -> None:
        if not 0 < self.num_candidates <= 10_000_000:
            raise ValueError(f"num_candidates is {self.num_candidates}, expected 1 to 10000000")
        if not 0 < self.num_compared < self.num_candidates:
            raise ValueError(
                f"num_compared is {self.num_compared}, expected at least 1 and fewer than num_candidates, "
                f"{self.num_candidates}"
            )
        for name, least, most in (("num_sequences", 1, LARGEST_COUNT), ("sequence_seconds", 1 / FPS, 3600)):
            if not least <= getattr(self, name) <= most:  # NaN is not
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} to {most}")
        for name, least, most in (
            ("chunk_seconds", 1 / FPS, 60),
            ("blend_seconds", 1 / FPS, 60),
            ("speed_range", 0.01, 10),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name} is {low} to {high}, expected {least} to {most}, the lower first")
        chances = ("hold_probability", "standing_start_probability", "standing_hold_probability", "follow_probability")
        for name, most in (*((name, 1) for name in chances), ("steadiness", 1000)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to {most}")


def draw_walking_target(rng: np.random.Generator) -> np.ndarray:
    """A target command (vx, vy, yaw rate) of walking: gaits drawn by what users ask for, not by what clips hold."""
    gait = rng.random()
    if gait < 0.40:  # forward, four in ten straight
        turn = rng.uniform(-1.0, 1.0) if rng.random() < 0.6 else 0.0
        return np.array([rng.uniform(0.15, 1.5), 0.0, turn])
    if gait < 0.54:  # backward
        return np.array([rng.uniform(-0.85, -0.15), 0.0, rng.choice([0.0, 0.0, rng.uniform(-0.5, 0.5)])])
    if gait < 0.72:  # sideways
        side = rng.choice([-1.0, 1.0]) * rng.uniform(0.15, 0.7)
        return np.array([0.0, side, rng.choice([0.0, 0.0, rng.uniform(-0.5, 0.5)])])
    if gait < 0.78:  # diagonal
        return np.array([rng.uniform(0.2, 0.9), rng.uniform(-0.4, 0.4), 0.0])
    if gait < 0.88:  # turning in place
        return np.array([0.0, 0.0, rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.2)])
    return np.zeros(3)


def draw_any_target(rng: np.random.Generator) -> np.ndarray:
    """A target command (vx, vy, yaw rate) of any gait and speed. Half of the targets of each gait are slow ones."""

    def speed(least: float, slow: float, most: float) -> float:
        return rng.uniform(least, slow if rng.random() < 0.5 else most)

    def turn(most: float, chance: float) -> float:
        return rng.uniform(-most, most) if rng.random() < chance else 0.0

    side = rng.choice([-1.0, 1.0])
    gait = rng.random()
    if gait < 0.34:  # forward
        vx = speed(0.1, 0.8, 2.6)
        return np.array([vx, 0.0, turn(1.5 if vx < 1.5 else 0.8, 0.5)])
    if gait < 0.47:  # backward
        return np.array([-speed(0.1, 0.5, 1.05), 0.0, turn(0.8, 0.3)])
    if gait < 0.62:  # sideways
        return np.array([0.0, side * speed(0.12, 0.4, 0.9), turn(0.8, 0.2)])
    if gait < 0.78:  # diagonal
        forward = rng.choice([-1.0, 1.0])
        return np.array([forward * speed(0.1, 0.4, 0.8), side * speed(0.1, 0.3, 0.6), turn(0.8, 0.3)])
    if gait < 0.91:  # turning in place
        return np.array([0.0, 0.0, side * speed(0.25, 0.8, 1.6)])
    return np.zeros(3)


RANGES = {"all": ((-1.05, -0.9, -1.65), (2.6, 0.9, 1.65))}
"""Least and greatest vx, vy (m/s) and yaw rate (rad/s) of targets whose whole range the stats are to cover."""

_DRAW = {"walking": draw_walking_target, "all": draw_any_target}

Sample = dict[str, np.ndarray]
"""``motion`` [T + 1, 2 J] float32, joint positions (rad) then velocities (rad/s), and ``command`` [T, 3] float32
(m/s, m/s, rad/s): the command under which frame t becomes frame t + 1."""


def make_sample(dof_pos: np.ndarray, command: np.ndarray) -> Sample:
    """Of joint positions [T + 1, J] (rad) and a command at each [T + 1, 3]; the last begins no frame."""
    motion = np.concatenate([dof_pos, np.gradient(dof_pos, axis=0) * FPS], axis=1)
    return {"motion": motion.astype(np.float32), "command": command[:-1].astype(np.float32)}


class Synthesiser:
    """Makes labelled sequences from a library. One instance serves many draws."""

    def __init__(self, library: MotionLibrary, config: SynthesisConfig, standing_dof_pos: np.ndarray | None) -> None:
        self.library = library
        self.config = config
        self.standing_dof_pos = standing_dof_pos
        self._require_long_clips()
        self._draw_target = _DRAW[config.targets]
        scale = np.array([1.0 if is_leg(name) else 0.4 for name in library.joint_names])
        self._pose_weight = scale / np.maximum(library.dof_pos.std(axis=0), 0.1)
        self._velocity_weight = 0.5 * scale / np.maximum(library.dof_vel.std(axis=0), 0.5)

    def _require_long_clips(self) -> None:
        """Refuse settings whose longest stretch no clip holds, before work begins that only a late draw would end."""
        longest = round(self.config.chunk_seconds[1] * FPS) + round(self.config.blend_seconds[1] * FPS)
        played = math.ceil(longest * max(1.0, self.config.speed_range[0]))
        if self.library.remaining.max() <= played + 1:
            raise ValueError(
                f"no clip goes on for {played / FPS:.1f} s, the longest stretch and cross-fade; "
                "add longer clips, or shorten chunk_seconds"
            )

    def sequence(self, rng: np.random.Generator) -> Sample:
        """One labelled sequence."""
        length = round(self.config.sequence_seconds * FPS) + 1
        target, held = self._draw_target(rng), 0  # ``held`` counts targets, so that frames of one target share a number
        dof_pos, velocity, stands = self._first_stretch(rng, target)
        hold = self.config.standing_hold_probability if stands else self.config.hold_probability
        target_of = np.zeros(len(dof_pos), dtype=int)
        while len(dof_pos) < length:
            if rng.random() >= hold:
                target, held = self._draw_target(rng), held + 1
            hold = self.config.hold_probability
            blend = min(round(rng.uniform(*self.config.blend_seconds) * FPS), len(dof_pos) - 2)
            target_of = target_of[: len(dof_pos) - blend]
            dof_pos, velocity = self._append(rng, target, dof_pos, velocity, blend)
            target_of = np.append(target_of, np.full(len(dof_pos) - len(target_of), held))
        dof_pos, velocity, target_of = dof_pos[:length], velocity[:length], target_of[:length]
        return make_sample(dof_pos, self._command(rng, velocity, target_of))

    def _command(self, rng: np.random.Generator, velocity: np.ndarray, target_of: np.ndarray) -> np.ndarray:
        """Commands as users give them: mostly held, stepped or ramped; at times following the motion closely.

        A held command is the mean velocity over all frames made for one target. Few commands follow the motion's
        own changes slowly: there a command of 0.2 m/s often means "about to walk", while the robot still stands,
        and a generator that learns this from many examples stands still when told to walk slowly.
        """
        if rng.random() < self.config.follow_probability:
            return smooth(velocity, rng.uniform(0.4, 1.0), FPS)
        sums = np.stack([np.bincount(target_of, velocity[:, axis]) for axis in range(3)], axis=1)
        held = (sums / np.bincount(target_of)[:, None])[target_of]
        return smooth(held, rng.uniform(0.02, 0.5), FPS)

    def _first_stretch(self, rng: np.random.Generator, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """The start: some frames of the target's gait, or (then True) of the default standing pose."""
        frames = round(rng.uniform(0.3, 1.5) * FPS)
        if self.standing_dof_pos is not None and rng.random() < self.config.standing_start_probability:
            target[:] = 0.0
            pose = self.standing_dof_pos + 0.02 * rng.standard_normal(len(self.standing_dof_pos))
            return np.repeat(pose[None], frames, axis=0), np.zeros((frames, 3)), True
        row, speed = self._best_row(rng, target, None, frames)
        return *self._play(row, frames, speed), False

    def _play(self, row: int, frames: int, speed: float) -> tuple[np.ndarray, np.ndarray]:
        track = self.library.tracks[self.library.track_of[row]]
        return track.play(self.library.frame_of[row], frames, speed)

    def _append(
        self, rng: np.random.Generator, target: np.ndarray, dof_pos: np.ndarray, velocity: np.ndarray, blend: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cross-fade over the last ``blend`` frames to a stretch that moves as the target says."""
        frames = round(rng.uniform(*self.config.chunk_seconds) * FPS) + blend
        seam = len(dof_pos) - blend
        tail = np.concatenate([dof_pos[seam], (dof_pos[seam] - dof_pos[seam - 1]) * FPS])
        row, speed = self._best_row(rng, target, tail, frames)
        new_pos, new_velocity = self._play(row, frames, speed)
        ramp = np.linspace(0, 1, blend + 2)[1:-1, None]
        weight = ramp * ramp * (3 - 2 * ramp)
        fade_pos = (1 - weight) * dof_pos[seam:] + weight * new_pos[:blend]
        fade_velocity = (1 - weight) * velocity[seam:] + weight * new_velocity[:blend]
        return (
            np.concatenate([dof_pos[:seam], fade_pos, new_pos[blend:]]),
            np.concatenate([velocity[:seam], fade_velocity, new_velocity[blend:]]),
        )

    def _best_row(
        self, rng: np.random.Generator, target: np.ndarray, tail: np.ndarray | None, frames: int
    ) -> tuple[int, float]:
        """The library frame, and the pace, that move as the target says and continue the tail best."""
        library, config = self.library, self.config
        rows = rng.integers(len(library.remaining), size=config.num_candidates)
        speed = np.ones(len(rows))
        if np.abs(target).max() > 0:
            mean = library.means(rows, np.full(len(rows), frames))[0]
            along = (mean @ target) / np.maximum((mean * mean).sum(1), 1e-6)
            speed = np.clip(along, *config.speed_range)
        played = np.ceil(frames * speed).astype(int)
        mean, joint_speed, paused = library.means(rows, played)
        error = speed[:, None] * mean - target  # m/s and rad/s count alike
        cost = 30.0 * (error**2).sum(1) + 0.3 * np.log(speed) ** 2
        if np.abs(target).max() == 0:
            cost += 10.0 * joint_speed  # a step on the spot averages to no velocity, but is not standing
        elif config.steadiness > 0:
            half = np.maximum(played // 2, 1)
            first, second = library.means(rows, half)[0], library.means(rows + half, half)[0]
            drift = ((speed[:, None] * (first - second) / 2) ** 2).sum(1)
            cost += config.steadiness * (drift + 10.0 * paused)
        cost[library.remaining[rows] <= played + 1] = np.inf
        best = np.argpartition(cost, config.num_compared)[: config.num_compared]
        rows, speed, cost = rows[best], speed[best], cost[best]
        if tail is not None:
            joints = len(library.joint_names)
            pose = (library.dof_pos[rows] - tail[:joints]) * self._pose_weight
            velocity = (speed[:, None] * library.dof_vel[rows] - tail[joints:]) * self._velocity_weight
            cost = cost + 0.04 * ((pose**2).sum(1) + (velocity**2).sum(1))
        winner = int(cost.argmin())
        if not np.isfinite(cost[winner]):
            raise ValueError(
                f"no clip goes on for {frames / FPS:.1f} s from where it was looked for; "
                "add longer clips, or shorten chunk_seconds"
            )
        return int(rows[winner]), float(speed[winner])
