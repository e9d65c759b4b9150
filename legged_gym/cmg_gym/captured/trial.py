"""Finding out what cannot be captured: code that waits for the host, or that changes plain values of Python's."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmg_gym.captured.pieces import flat
from cmg_gym.captured.refusals import CounterRead, Hoisted, Refusal

if TYPE_CHECKING:
    from cmg_gym.captured.graphs import Piece
    from cmg_gym.captured.world import CapturedWorld


def terms(env: CapturedWorld) -> Iterator[tuple[str, str, Any]]:
    """(piece, name, configuration) of every term that is a function of the environment."""
    for piece, manager in (("terminations", env.termination_manager), ("rewards", env.reward_manager)):
        for name, cfg in zip(manager._term_names, manager._term_cfgs, strict=True):
            yield piece, f"{piece[:-1]} {name!r}", cfg
    if env.metrics_manager.active_terms:
        for name, cfg in zip(env.metrics_manager.active_terms, env.metrics_manager._term_cfgs, strict=True):  # pyright: ignore
            yield "rewards", f"metric {name!r}", cfg
    for group, cfgs in env.observation_manager._group_obs_term_cfgs.items():
        for name, cfg in zip(env.observation_manager._group_obs_term_names[group], cfgs, strict=True):
            yield "observations", f"observation {group}/{name}", cfg
    for mode, cfgs in env.event_manager._mode_term_cfgs.items():
        for name, cfg in zip(env.event_manager._mode_term_names[mode], cfgs, strict=True):
            yield "events", f"event {name!r}", cfg


def hoist(env: CapturedWorld, refusing: Callable[[], Any]) -> list[Refusal]:
    """Take the terms that cannot be captured out of their managers; ``env.hoisted`` has them then.

    Args:
        refusing: a context in which what a graph does not allow raises a RuntimeError.
    """
    refused = []
    for piece, name, cfg in list(terms(env)):
        if piece == "events":
            continue
        run = lambda cfg=cfg: cfg.func(env, **cfg.params)  # noqa: E731
        reason = why_not(run, env, refusing)
        if reason is not None:
            cfg.func = Hoisted(cfg.func, env, cfg.params, piece, name)
            env.hoisted.append(cfg.func)
            refused.append(Refusal(name, reason, milliseconds(run, env)))
    return refused


def refuse(env: CapturedWorld, pieces: list[Piece], refusing: Callable[[], Any]) -> list[Refusal]:
    """Run the step a few times, and let the pieces that cannot be captured run as they are from here on."""
    refused: dict[str, Refusal] = {}
    a_step_ago: dict[int, dict[str, Any]] = {}
    for turn in range(3):  # in the first one, what is made at first use is made
        for index, piece in enumerate(pieces):
            if not piece.captured:
                piece.run()
                if turn == 0 and piece.reason:
                    refused[piece.name] = Refusal(piece.name, piece.reason, milliseconds(piece.run, env))
                continue
            before = env.state.plain()
            if turn == 0:
                with env.constants:
                    piece.run()
                continue
            reason = _error_of(piece.run, refusing)
            now = env.state.plain()
            if reason is None and turn == 2:
                reason = _changes(before, now, a_step_ago[index])
            a_step_ago[index] = now
            if reason is not None:
                piece.captured = False
                refused[piece.name] = Refusal(piece.name, reason, milliseconds(piece.run, env))
    for piece in pieces:  # several pieces may be called alike: the substeps'
        piece.captured &= piece.name not in refused
    return list(refused.values())


def _changes(before: dict[str, Any], after: dict[str, Any], a_step_ago: dict[str, Any]) -> str | None:
    """Why a piece cannot be captured that changes a plain value, and not back by the next step."""
    for path, value in after.items():
        if all(path not in earlier or earlier[path] != value for earlier in (before, a_step_ago)):
            return f"it changes {path}, which a graph would not"
    return None


def why_not(run: Callable[[], Any], env: CapturedWorld, refusing: Callable[[], Any]) -> str | None:
    """Why ``run`` cannot be captured."""
    with env.constants:
        run()
    before = env.state.plain()
    reason = _error_of(run, refusing)
    if reason is not None:
        return reason
    middle = env.state.plain()
    run()
    return _changes(middle, env.state.plain(), before)


def _error_of(run: Callable[[], Any], refusing: Callable[[], Any]) -> str | None:
    try:
        with refusing():
            run()
    except CounterRead:
        reason = "it reads common_step_counter, of which a graph would keep the value"
    except (RuntimeError, NotImplementedError) as error:
        reason = f"it waits for the host in {_place(error)}"
    else:
        return None
    run()
    return reason


def _place(error: BaseException) -> str:
    """The line of code that raised ``error``, outside of torch and of this package."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_between(frame)]
    if not frames:
        return "torch"
    path = Path(frames[-1].filename)
    return f"{path.parent.name}/{path.name}:{frames[-1].lineno} ({frames[-1].line})"


def _is_between(frame: traceback.FrameSummary) -> bool:
    path = Path(frame.filename)
    return "torch" in path.parts or path.parent == Path(__file__).parent or frame.name.startswith("__torch_")


def reads_forces(env: CapturedWorld, pieces: list[Piece]) -> bool:
    """Whether ``pieces`` read forces or accelerations, but for what contact sensors show: found out by spoiling them.

    The state is as before afterwards.
    """
    kept = [tensor for value in env.state.tensors() for tensor in value if tensor.is_floating_point()]
    kept += flat(env.observations)
    before, forces = [tensor.clone() for tensor in kept], env.physics.forces()
    for force in forces:
        force.fill_(torch.nan)
    for piece in pieces:
        piece.run()
    read = any(int(tensor.isnan().sum()) > int(old.isnan().sum()) for tensor, old in zip(kept, before, strict=True))
    read = read or _observed(env, [piece for piece in pieces if piece.name.startswith("observation")], forces)
    for tensor, old in zip(kept, before, strict=True):
        tensor.copy_(old)
    env.sim.forward()
    return read


def _observed(env: CapturedWorld, pieces: list[Piece], forces: list[torch.Tensor]) -> bool:
    """Whether observations change with ``forces``: one that compares them shows no NaN."""
    seen: list[list[torch.Tensor]] = []
    device = env.everyone.device
    for value in (0.0, 1e6, -1e6):
        for force in forces:
            force.fill_(value)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            for piece in pieces:
                piece.run()
        seen.append([tensor.clone() for tensor in flat(env.observations)])
    return any(not torch.equal(*pair) for others in seen[1:] for pair in zip(seen[0], others, strict=True))


def milliseconds(run: Callable[[], Any], env: CapturedWorld, count: int = 5) -> float:
    """Median time of ``run``, waited for."""
    cuda = str(env.device).startswith("cuda")
    times = []
    for _ in range(count):
        if cuda:
            torch.cuda.synchronize(env.device)
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize(env.device)
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[count // 2]
