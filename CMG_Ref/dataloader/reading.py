"""Motion clips from files and folders: each is read, checked, and taken or skipped with a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from CMG_Ref.dataloader.clips import Clip
from CMG_Ref.dataloader.conventions import Conventions, alternatives, interpret
from CMG_Ref.dataloader.evidence import MENDED_BY, Kind, doubts
from CMG_Ref.dataloader.formats import READERS, Recording, read_file
from CMG_Ref.robot_g1 import JOINT_NAMES
from cmg_runtime.errors import first_line

SHORTEST = 0.2  # s; ten frames at 50 Hz
LARGEST = 1e6  # a path of a kilometre in mm
_MOST_NAMED = 8


@dataclass(frozen=True)
class Skipped:
    """A file, or a clip of one, that is not used."""

    name: str
    reason: str


@dataclass(frozen=True)
class ClipFolder:
    """What a folder held.

    Attributes:
        clips: those used, sorted by path.
        skipped: clips that could not be used.
        left_out: clips left out as told, or because another file has the same motion.
        unmatched: names told to be left out that are not there.
        other: files that are no clips: hidden ones, and those of other suffixes.
    """

    folder: Path
    clips: list[Clip]
    skipped: list[Skipped]
    left_out: list[str]
    unmatched: list[str]
    other: list[str]

    def usable(self) -> list[Clip]:
        """The clips. Raises ``ValueError`` when there is none."""
        if self.clips:
            return self.clips
        if not self.skipped:
            raise ValueError(f"{self.folder}: every clip there is left out; name fewer with --exclude")
        first = self.skipped[0]
        count = f"none of {len(self.skipped)} clips can" if len(self.skipped) > 1 else "its only clip cannot"
        raise ValueError(f"{self.folder}: {count} be used: {first.name}: {first.reason}")

    def table(self) -> str:
        """What was read, one line for each clip, then everything that was not."""
        width = max([4, *(len(clip.name) for clip in self.clips)])
        lines = [f"{'clip':{width}}  frames  seconds     fps   mean m/s   max m/s   max rad/s"]
        for clip in self.clips:
            moved = np.linalg.norm(np.diff(clip.root_pos[:, :2], axis=0), axis=1) * clip.fps
            turned = np.abs(np.diff(clip.dof_pos, axis=0)).max() * clip.fps
            frames = len(clip.dof_pos)
            figures = f"{frames:6d}  {(frames - 1) / clip.fps:7.1f}  {clip.fps:6.4g}  {moved.mean():9.2f}"
            notes = f"   {'; '.join(clip.notes)}" if clip.notes else ""
            lines.append(f"{clip.name:{width}}  {figures}  {moved.max():8.2f}  {turned:10.1f}{notes}")
        seconds = sum((len(clip.dof_pos) - 1) / clip.fps for clip in self.clips)
        lines.append(f"{len(self.clips)} clips, {seconds:.0f} s")
        lines += [f"left out: {', '.join(self.left_out)}"] if self.left_out else []
        lines += [f"--exclude names what is not there: {', '.join(self.unmatched)}"] if self.unmatched else []
        if self.other:
            counts = Counter(_kind_of(name) for name in self.other)
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            named = f"{', '.join(self.other[:_MOST_NAMED])}{' ...' if self.other[_MOST_NAMED:] else ''}"
            lines.append(f"not clips: {len(self.other)} files ({kinds}): {named}")
        lines += [f"skipped {len(self.skipped)}:"] if self.skipped else []
        return "\n".join(lines + [f"  {skipped.name}: {skipped.reason}" for skipped in self.skipped])


def load_clip(path: str | Path, joint_names: tuple[str, ...] = (), conventions: Conventions | None = None) -> Clip:
    """The one motion of a file, not checked; see :mod:`CMG_Ref.dataloader.formats` for the layouts.

    Args:
        path: ``.npz``, ``.pkl`` or ``.csv``. Pickles are read without running code: one that asks for more than numpy
            arrays and torch tensors is refused.
        joint_names: joints to pick, in this order; empty keeps the file's. Joints without names must already be these.
        conventions: what to take the file for.

    Raises:
        ValueError: one line; unreadable, of no known layout, joints missing, values not finite, or several clips.
    """
    recordings = read_recordings(Path(path))
    if len(recordings) != 1:
        raise ValueError(f"{path}: it holds {len(recordings)} clips; expected one")
    return interpret(recordings[0], Path(path).stem, joint_names, conventions or Conventions())


def read_recordings(path: Path) -> list[Recording]:
    """The motions of a file, as it has them. Raises ``ValueError``: one line; unreadable, or of no known layout."""
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path}: unknown clip type {path.suffix!r}; expected .npz, .pkl or .csv")
    try:
        return read_file(path)
    except Exception as error:  # a damaged file can fail in any way; every one of them means the same to the user
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{path}: not a readable motion clip ({reason}); see CMG_Ref/README.md for layouts") from None


def read_folder(
    folder: str | Path,
    joint_names: tuple[str, ...] = JOINT_NAMES,
    exclude: tuple[str, ...] = (),
    conventions: Conventions | None = None,
    accept: tuple[Kind, ...] = (),
) -> ClipFolder:
    """Every clip of a folder and the folders in it.

    Args:
        folder: where to look.
        joint_names: joints to pick.
        exclude: clips to leave out: a file's name without suffix, with or without its folder, or a clip's whole name.
        conventions: what to take files for.
        accept: doubts that are no reason to skip a clip.

    Raises:
        ValueError: no clips there.
    """
    folder, conventions = Path(folder), conventions or Conventions()
    paths, other = _clip_files(folder)
    found = ClipFolder(folder, [], [], [], [], other)
    matched: set[str] = set()
    seen: dict[bytes, str] = {}
    for path in paths:
        file = path.relative_to(folder)
        stem = str(file.with_suffix(""))
        named = {stem, path.stem} & set(exclude)
        if named:
            matched |= named
            found.left_out.append(stem)
            continue
        try:
            recordings = read_recordings(path)
        except ValueError as error:
            found.skipped.append(Skipped(str(file), str(error).removeprefix(f"{path}: ")))
            continue
        for recording in recordings:
            key = f":{recording.key}" if recording.key else ""
            if stem + key in exclude:
                matched.add(stem + key)
                found.left_out.append(stem + key)
                continue
            try:
                clip = interpret(recording, stem, joint_names, conventions)
                require_believable(recording, clip, conventions, accept)
            except ValueError as error:
                found.skipped.append(Skipped(f"{file}{key}", str(error).removeprefix(f"{stem}{key}: ")))
                continue
            twin = seen.setdefault(_fingerprint(clip), f"{file}{key}")
            if twin == f"{file}{key}":
                found.clips.append(clip)
            else:
                found.left_out.append(f"{file}{key} (the same motion as {twin})")
    found.unmatched.extend(name for name in exclude if name not in matched)
    return found


def _clip_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of clips below a folder, and the names of the others. Raises ``ValueError``: no clips there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hidden = {path for path in files if any(part.startswith(".") for part in path.relative_to(folder).parts)}
    paths = [path for path in files if path.suffix.lower() in READERS and path not in hidden]
    paths.sort(key=lambda path: path.suffix.lower() == ".csv")  # of two files of one motion, that which tells its rate
    other = [str(path.relative_to(folder)) for path in files if path not in set(paths)]
    if not paths:
        held = f"; there are {', '.join(other[:_MOST_NAMED])}" if other else ""
        raise ValueError(f"{folder}: no .npz or .pkl or .csv clips there; expected a folder of motion clips{held}")
    return paths, other


def require_believable(recording: Recording, clip: Clip, conventions: Conventions, accept: tuple[Kind, ...]) -> None:
    """Refuse a clip that something speaks against.

    Raises:
        ValueError: what speaks against it, with the options that would mend it.
    """
    largest = max(float(np.abs(value).max(initial=0)) for value in clip.measured())
    if largest > LARGEST:
        raise ValueError(f"it holds values up to {largest:.2g}, expected none above {LARGEST:g} in any unit")
    against = next((d for d in doubts(clip) if d.kind not in accept), None)
    if against is not None:
        mend = _mended(recording, clip, conventions, accept)
        take = f"mend it, or take it as it is with --accept {against.kind}"
        raise ValueError(f"{against.text}; {f'with {mend.options()} it fits' if mend else take}")
    seconds = (len(clip.dof_pos) - 1) / clip.fps
    if seconds < SHORTEST:
        raise ValueError(f"too short: {seconds:.2g} s, expected {SHORTEST:g} s")


def _mended(recording: Recording, clip: Clip, conventions: Conventions, accept: tuple[Kind, ...]) -> Conventions | None:
    """The conventions nearest to those told under which nothing speaks against the clip."""
    found = list(doubts(clip))
    options = set().union(*(MENDED_BY.get(doubt.kind, set()) for doubt in found))
    for other in alternatives(recording, conventions, options, {_likely(doubt.fps) for doubt in found if doubt.fps}):
        try:
            read = interpret(recording, clip.name, clip.joint_names, other)
        except ValueError:
            continue
        if all(d.kind in accept for d in doubts(read)):
            return other
    return None


def _likely(fps: float) -> float:
    """A measured frame rate, to a whole number where it is near one."""
    return float(round(fps)) if round(fps) > 0 and abs(fps / round(fps) - 1) < 0.03 else round(fps, 4)


def _fingerprint(clip: Clip) -> bytes:
    """The same for the same motion in two files of the same frame rate: to 0.01 rad and 0.01 m."""
    return np.round(np.concatenate([clip.dof_pos, clip.root_pos], axis=1), 2).tobytes()


def _kind_of(name: str) -> str:
    path = Path(name)
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    return path.suffix.lower() or "without suffix"
