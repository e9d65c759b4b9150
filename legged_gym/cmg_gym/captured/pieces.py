"""mjlab's step in pieces of a fixed shape.

mjlab asks the device which robots fall, and works on those. Here ids are as many as there are worlds, in every step:
a robot that something happens to stands for itself, and all others are replaced by the spare world, the last one. What
happens to that is of no interest, so mjlab's managers and terms run unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco_warp
import torch
import warp as wp
from mjlab.envs import types
from mjlab.managers import CommandTerm, EventTermCfg, MetricsManager
from mjlab.managers.event_manager import RecomputeLevel

from cmg_gym.captured import rewards
from cmg_gym.captured.graphs import Piece

if TYPE_CHECKING:
    from cmg_gym.captured.world import CapturedWorld


KINEMATICS = "kinematics"
OVERFLOWN = "Simulation/episodes_with_lost_contacts"
"""In how many of the episodes MuJoCo Warp had more contacts or constraints than it has room for."""


def step_pieces(env: CapturedWorld) -> list[Piece]:
    """The whole step, in order: see ``ManagerBasedRlEnv.step``."""
    pieces = [Piece("actions", lambda: env.action_manager.process_action(env.action_in))]
    for substep in range(env.cfg.decimation):
        step = env.sim.step
        if env.physics.halved:
            step = env.physics.step if substep else env.physics.second_half
        pieces += [
            Piece("actuators", lambda: _drive(env)),
            Piece("physics", step, captured=False, binds=False),
            Piece("sensors", lambda: _sense_contacts(env)),
        ]
    pieces += [
        Piece("terminations", lambda: _terminate(env), pure=True),
        Piece("rewards", lambda: _reward(env), pure=True),
        *_events(env),
        Piece("episodes that end", lambda: _note_ends(env)),
    ]
    if env.curriculum_manager.active_terms:
        names = asking(env)
        reason = f"{', '.join(names)} may ask which robots' episodes end, and the host waits for them" if names else ""
        pieces.append(Piece("curriculum", lambda: _advance_curriculum(env, names), captured=False, reason=reason))
    pieces += [
        Piece("reset of the physics", lambda: reset_physics(env), captured=False, binds=False),
        Piece("reset", lambda: env.scene.reset(env.reset_ids)),
        *_reset_events(env),
        Piece("reset of the managers", lambda: _reset_managers(env)),
        *_reset_curriculum(env),
        Piece(KINEMATICS, env.sim.forward, captured=False, binds=False),
    ]
    for name, term in terms_of_commands(env).items():
        pieces += _command(env, name, term)
    if env.scene.sensor_context is not None:
        pieces.append(Piece("cameras and rays", env.sim.sense, captured=False))
    pieces.append(Piece("observations", lambda: _observe(env), pure=True))
    return pieces


def terms_of_commands(env: CapturedWorld) -> dict[str, CommandTerm]:
    """The command terms by name."""
    return {name: env.command_manager.get_term(name) for name in env.command_manager.active_terms}  # pyright: ignore


def _drive(env: CapturedWorld) -> None:
    env.action_manager.apply_action()
    env.scene.write_data_to_sim()


def _sense_contacts(env: CapturedWorld) -> None:
    env.scene.update(dt=env.physics_dt)
    env.metrics_manager.compute_substep()


def _terminate(env: CapturedWorld) -> None:
    env.steps += 1
    env.episode_length_buf += 1
    env.reset_buf.copy_(env.termination_manager.compute())
    env.reset_terminated = env.termination_manager.terminated
    env.reset_time_outs = env.termination_manager.time_outs


def _reward(env: CapturedWorld) -> None:
    env.reward_buf = rewards.compute(env.reward_manager, env.reward_sums, env.step_dt)
    env.metrics_manager.compute()


def _events(env: CapturedWorld) -> list[Piece]:
    """Those of every step, and those whose time has come."""
    manager, pieces = env.event_manager, []
    if "step" in manager.available_modes:
        run = lambda: manager.apply(mode="step", dt=env.step_dt)  # noqa: E731
        reason = _recompute(env, "step")
        pieces.append(Piece("events of every step", run, captured=not reason, reason=reason))
    if "interval" in manager.available_modes:
        terms = manager._mode_term_cfgs["interval"]
        global_time = any(term.is_global_time for term in terms)
        reason = "a timer for all robots is the host's" if global_time else _recompute(env, "interval")
        run = (lambda: manager.apply(mode="interval", dt=env.step_dt)) if reason else (lambda: _fire(env, terms))
        pieces.append(Piece("events now and then", run, captured=not reason, reason=reason))
    return pieces


def _recompute(env: CapturedWorld, mode: Any) -> str:
    """Why events of ``mode`` cannot be captured, if constants of the model are recomputed behind them; else empty."""
    terms = env.event_manager._mode_term_cfgs[mode]
    recompute = any(getattr(term.func, "recompute", RecomputeLevel.none) != RecomputeLevel.none for term in terms)
    return "Warp recomputes constants of the model behind them" if recompute else ""


def _fire(env: CapturedWorld, terms: list[EventTermCfg]) -> None:
    for time_left, term in zip(env.event_manager._interval_term_time_left, terms, strict=True):
        assert term.interval_range_s is not None
        low, high = term.interval_range_s
        time_left -= env.step_dt
        now = time_left < 1e-6
        time_left.copy_(torch.where(now, torch.rand_like(time_left) * (high - low) + low, time_left))
        term.func(env, env.padded(now), **term.params)


def _note_ends(env: CapturedWorld) -> None:
    """Which episodes end, and what mjlab logs of them."""
    env.reset_ids.copy_(env.padded(env.reset_buf))
    env.reset_mask.copy_(env.reset_buf)
    env.reset_mask[-1] = True  # the spare world begins anew in every step, so it never drifts anywhere
    metrics = env.metrics_manager
    means = [env.reward_sums / env.max_episode_length_s]
    means += metrics_of(metrics) if isinstance(metrics, MetricsManager) else []
    means += [value for term in terms_of_commands(env).values() for value in term.metrics.values()]
    ended = env.reset_buf.clone()
    ended[-1] = False
    overflown = env.sim.data.overflow[:] != 0  # since the episode began
    env.statistics.add(ended, means, [*env.termination_manager._term_dones.values(), overflown])


def names_of_statistics(env: CapturedWorld) -> tuple[list[str], list[str]]:
    """The names of what :func:`_note_ends` adds, as mjlab logs it."""
    means = [f"Episode_Reward/{name}" for name in env.reward_manager._episode_sums]
    means += [f"Episode_Metrics/{name}" for name in env.metrics_manager.active_terms]
    for name, term in terms_of_commands(env).items():
        means += [f"Metrics/{name}/{metric}" for metric in term.metrics]
    counts = [f"Episode_Termination/{name}" for name in env.termination_manager._term_dones]
    return means, [*counts, OVERFLOWN]


def metrics_of(manager: MetricsManager) -> list[torch.Tensor]:
    """[worlds] of each metric of the episodes so far; see ``MetricsManager.reset``."""
    steps = manager._step_count.float().clamp(min=1.0)
    values = []
    for index, (name, total) in enumerate(manager._episode_sums.items()):
        by = {"max": manager._episode_max.get(name), "last": manager._step_values[:, index], "sum": total}
        value = by.get(manager._term_cfgs[index].reduce)
        values.append(total / steps if value is None else value)
    return values


def reset_physics(env: CapturedWorld) -> None:
    """As ``Simulation.reset``, which would first write its mask from ids."""
    sim = env.sim
    with wp.ScopedDevice(sim.wp_device):
        if sim.use_cuda_graph and sim.reset_graph is not None:
            wp.capture_launch(sim.reset_graph)
        else:
            mujoco_warp.reset_data(sim.wp_model, sim.wp_data, reset=sim._reset_mask_wp)


def _reset_events(env: CapturedWorld) -> list[Piece]:
    if "reset" not in env.event_manager.available_modes:
        return []
    steps: Any = env.steps  # a number of the host's would be that of the capture for ever
    apply = env.event_manager.apply
    run = lambda: apply(mode="reset", env_ids=env.reset_ids, global_env_step_count=steps)  # noqa: E731
    reason = _recompute(env, "reset")
    return [Piece("events of a reset", run, captured=not reason, reason=reason)]


def _advance_curriculum(env: CapturedWorld, asking_names: list[str]) -> None:
    """The curriculum: as mjlab does it in a reset, unless nobody asks which robots that is of."""
    if not asking_names:
        env.curriculum_manager.compute(env.reset_ids)
    elif len(ids := _ended(env)):
        env.curriculum_manager.compute(ids)


def asking(env: CapturedWorld) -> list[str]:
    """The terms of the curriculum that work with the robots whose episodes end."""
    manager = env.curriculum_manager
    terms = zip(manager.active_terms, getattr(manager, "_term_cfgs", ()), strict=True)
    return [name for name, cfg in terms if not getattr(cfg.func, "for_all_robots", False)]


def _reset_curriculum(env: CapturedWorld) -> list[Piece]:
    terms = getattr(env.curriculum_manager, "_class_term_cfgs", ())

    def reset() -> None:
        if len(ids := _ended(env)):
            for term in terms:
                term.func.reset(env_ids=ids)

    return [Piece("reset of the curriculum", reset, captured=False)] if terms else []


def _ended(env: CapturedWorld) -> torch.Tensor:
    """Robots whose episodes end; the host waits for them."""
    return env.reset_buf[: env.num_robots].nonzero().flatten()


def _reset_managers(env: CapturedWorld) -> None:
    """As ``ManagerBasedRlEnv._reset_idx`` behind the reset of the scene, without what it logs."""
    ids = env.reset_ids
    env.observation_manager.reset(ids)
    env.action_manager.reset(ids)
    env.reward_sums.masked_fill_(env.reset_mask, 0.0)
    for term in (*env.reward_manager._class_term_cfgs, *env.termination_manager._class_term_cfgs):
        term.func.reset(env_ids=ids)
    env.metrics_manager.reset(ids)
    for term in terms_of_commands(env).values():
        metrics, term.metrics = term.metrics, {}  # which it would read with a wait each
        try:
            term.reset(ids)
        finally:
            term.metrics = metrics
        for value in metrics.values():
            value.masked_fill_(env.reset_mask, 0.0)
    env.event_manager.reset(ids)
    env.episode_length_buf.masked_fill_(env.reset_mask, 0)
    env.scene.write_data_to_sim()


def _command(env: CapturedWorld, name: str, term: CommandTerm) -> list[Piece]:
    if type(term).compute is not CommandTerm.compute:
        reason = "it has a compute() of its own"
        return [Piece(f"command {name!r}", lambda: _compute_as_it_is(env, term), captured=False, reason=reason)]
    launches = getattr(term, "launches_graphs", False)
    return [
        Piece(f"command {name!r}: time", lambda: _resample(env, term)),
        Piece(f"command {name!r}", lambda: term._update_command(None), captured=not launches),
    ]


def _compute_as_it_is(env: CapturedWorld, term: CommandTerm) -> None:
    term.compute(env.step_dt * ~env.reset_mask)


def _resample(env: CapturedWorld, term: CommandTerm) -> None:
    term._update_metrics()
    term.time_left -= env.step_dt * ~env.reset_mask
    term._resample(env.padded(term.time_left <= 0.0))


def _observe(env: CapturedWorld) -> None:
    take_over(env, env.observation_manager.compute(update_history=True))


def take_over(env: CapturedWorld, observations: types.VecEnvObs) -> None:
    """Copy what was observed to where the environment always has it."""
    for mine, new in zip(flat(env.observations), flat(observations), strict=True):
        mine.copy_(new)
    env.obs_buf = env.observation_manager._obs_buffer = env.observations


def copied(observations: types.VecEnvObs, rows: int | None = None) -> types.VecEnvObs:
    """New tensors of the same values, of the first ``rows`` robots."""
    copies: types.VecEnvObs = {}
    for group, value in observations.items():
        if isinstance(value, torch.Tensor):
            copies[group] = value[:rows].clone()
        else:
            copies[group] = {name: part[:rows].clone() for name, part in value.items()}
    return copies


def flat(observations: types.VecEnvObs) -> list[torch.Tensor]:
    """The tensors of observations, whose groups are tensors or dicts of them."""
    tensors: list[torch.Tensor] = []
    for value in observations.values():
        tensors += [value] if isinstance(value, torch.Tensor) else list(value.values())
    return tensors
