"""The captured step's physics against MuJoCo Warp's own, and against linear algebra in float64."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco_warp
import numpy as np
import pytest
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv

from cmg_gym.captured import CapturedEnv, TrainingEnv, physics, solver
from cmg_gym.captured.lean import lean
from cmg_gym.captured.newton_step import SNIPPET
from cmg_gym.captured.pieces import OVERFLOWN
from gym_case import g1_engine, make_cfg
from recorded_graph import RecordedGraphs
from warp_of_threads import build

pytestmark = [pytest.mark.xdist_group("gym"), pytest.mark.slow]

ROBOTS = 12
STATE = ("qpos", "qvel", "qacc_warmstart", "ctrl", "time")


@pytest.fixture(scope="module")
def env() -> ManagerBasedRlEnv:
    return ManagerBasedRlEnv(make_cfg(g1_engine()[0], ROBOTS, 3, play=False), "cpu")


def walk(env: ManagerBasedRlEnv, seed: int) -> Any:
    """Some steps of walking, and of falling; the simulation's data, up to date."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        env.reset(seed=seed)
        for step in range(12):
            env.step((0.05 if step < 8 else 1.0) * torch.randn(ROBOTS, 29, generator=generator))
    env.sim.forward()
    return env.sim.wp_data


def values(array: Any) -> np.ndarray:
    return array.numpy().astype(np.float64)


def test_a_step_is_mujoco_warps(env: ManagerBasedRlEnv, seed: int) -> None:
    data, model = walk(env, seed), env.sim.wp_model
    kept = {name: getattr(data, name).numpy().copy() for name in STATE}

    def after(run: Callable[[], None]) -> dict[str, np.ndarray]:
        for name, value in kept.items():
            getattr(data, name).assign(value)
        run()
        names = ("qpos", "qvel", "sensordata", "nefc", "solver_niter", "qacc", "xpos")
        return {name: values(getattr(data, name)) for name in names}

    beside = physics.Beside(env.sim.wp_device, True)

    def in_halves() -> None:
        physics.first_half(model, data, beside)
        physics.second_half(model, data, beside)

    expected = after(lambda: mujoco_warp.step(model, data))
    for run in (lambda: physics.step(model, data, beside), in_halves):
        with lean(env.sim):
            found = after(run)
        assert np.array_equal(found["nefc"], expected["nefc"]) and expected["nefc"].max() > 20
        assert np.abs(found["solver_niter"] - expected["solver_niter"]).max() <= 2
        # Forces of several hundred N, of which float32 solutions are 1e-4 apart, act for 5 ms.
        np.testing.assert_allclose(found["xpos"], expected["xpos"], atol=1e-6)
        np.testing.assert_allclose(found["qpos"], expected["qpos"], atol=2e-5)
        np.testing.assert_allclose(found["qvel"], expected["qvel"], atol=4e-3)
        scale = 1 + np.abs(expected["sensordata"])
        assert np.quantile(np.abs(found["sensordata"] - expected["sensordata"]) / scale, 0.99) < 1e-2


def test_solutions_are_as_near_to_the_optimum_as_mujoco_warps(env: ManagerBasedRlEnv, seed: int) -> None:
    """Of the gradient M a - f - J' forces(J a - aref), in float64, which vanishes there."""
    data, model = walk(env, seed), env.sim.wp_model
    gradients = []
    for solve in (mujoco_warp.solve, solver.solve):
        solve(model, data)
        gradients.append(np.linalg.norm(gradient(model, data), axis=1))
        np.testing.assert_allclose(
            values(data.qfrc_constraint), constraint_forces(model, data, values(data.qacc)), rtol=1e-3, atol=0.3
        )
    theirs, ours = gradients
    assert np.median(ours) < 2 * np.median(theirs) + 1e-3 and ours.max() < 10 * theirs.max() + 1e-2


def gradient(model: Any, data: Any) -> np.ndarray:
    acceleration = values(data.qacc)
    force = constraint_forces(model, data, acceleration)
    return np.einsum("nij,nj->ni", inertia(model, data), acceleration) - values(data.qfrc_smooth) - force


def constraint_forces(model: Any, data: Any, acceleration: np.ndarray) -> np.ndarray:
    """[N, nv] of joint limits and pyramids of contacts: each pushes with D times how far it is violated."""
    assert not data.ne.numpy().any() and not data.nf.numpy().any()
    efc, result = data.efc, np.zeros_like(acceleration)
    for world, count in enumerate(data.nefc.numpy()):
        for row in range(count):
            first, length = efc.J_rowadr.numpy()[world, row], efc.J_rownnz.numpy()[world, row]
            where = slice(first, first + length)
            columns, jacobian = efc.J_colind.numpy()[world, 0, where], values(efc.J)[world, 0, where]
            beyond = jacobian @ acceleration[world, columns] - values(efc.aref)[world, row]
            if beyond < 0:
                result[world, columns] -= jacobian * values(efc.D)[world, row] * beyond
    return result


def inertia(model: Any, data: Any) -> np.ndarray:
    """[N, nv, nv], of its elements that are not zero."""
    places, elements = model.M_elemid.numpy()[: model.nv, : model.nv], values(data.M)
    lower = np.where(places >= 0, elements[:, places], 0.0)
    return np.tril(lower) + np.transpose(np.tril(lower, -1), (0, 2, 1))


def test_the_inertia_matrix_is_solved(env: ManagerBasedRlEnv, seed: int) -> None:
    data, model = walk(env, seed), env.sim.wp_model
    found = wp.empty_like(data.qacc_smooth)
    solver.factor_solve(model, data, data.M, None, None, found, data.qfrc_smooth)
    expected = np.linalg.solve(inertia(model, data), values(data.qfrc_smooth)[..., None])[..., 0]
    np.testing.assert_allclose(values(found), expected, rtol=1e-3, atol=1e-2 * np.abs(expected).max() / 100)


class Touched:
    """Which arrays launches read and write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: set[int] = set()
        self.written: set[int] = set()
        for name in ("launch", "launch_tiled"):
            monkeypatch.setattr(wp, name, self._noting(getattr(wp, name)))
        for name in ("zero_", "fill_"):
            monkeypatch.setattr(wp.array, name, self._noting_writes(getattr(wp.array, name)))

    def of(self, run: Callable[[], None]) -> tuple[set[int], set[int]]:
        self.read, self.written = set(), set()
        run()
        return self.read, self.written

    def _noting(self, launch: Any) -> Any:
        def noted(*arguments: Any, inputs: Any = (), outputs: Any = (), **named: Any) -> None:
            self.read |= pointers(inputs)
            self.written |= pointers(outputs)
            launch(*arguments, inputs=inputs, outputs=outputs, **named)

        return noted

    def _noting_writes(self, write: Any) -> Any:
        def noted(array: Any, *arguments: Any) -> Any:
            self.written |= pointers([array])
            return write(array, *arguments)

        return noted


def pointers(values: Any) -> set[int]:
    return {value.ptr for value in values if isinstance(value, wp.array) and value.ptr}


def test_what_runs_beside_each_other_shares_nothing_that_either_writes(
    env: ManagerBasedRlEnv, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = walk(env, seed), env.sim.wp_model
    named = {
        getattr(data, f.name).ptr: f.name
        for f in dataclasses.fields(data)
        if isinstance(getattr(data, f.name), wp.array)
    }
    equalities = {data.cvel.ptr, data.cdof_dot.ptr}  # read by kernels of equalities, of which there are none
    touched = Touched(monkeypatch)

    def shared(first: Callable[[], None], second: Callable[[], None]) -> set[str]:
        (read, written), (other_read, other_written) = touched.of(first), touched.of(second)
        both = written & (other_read | other_written) | read & other_written
        return {named[pointer] for pointer in both - equalities if pointer in named}

    def constraints() -> None:
        mujoco_warp.collision(model, data)
        mujoco_warp.make_constraint(model, data)

    def forces() -> None:
        mujoco_warp.crb(model, data)
        mujoco_warp.transmission(model, data)
        mujoco_warp.fwd_velocity(model, data)
        mujoco_warp.fwd_actuation(model, data)
        mujoco_warp.fwd_acceleration(model, data, factorize=True)

    assert shared(constraints, forces) == set()
    # Both only set flags of overflows.
    assert shared(lambda: mujoco_warp.sensor_acc(model, data), lambda: mujoco_warp.implicit(model, data)) <= {
        "overflow"
    }


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("rows", [35, 40, 18])
def test_a_warp_solves_what_a_cpu_solves(rows: int, seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(rows, rows))
    matrix, side = factor @ factor.T + 0.5 * np.eye(rows), generator.normal(size=rows)
    upper = np.where(np.triu(np.ones((rows, rows))) > 0, matrix, 1e30)  # what is below is never read
    numbers = " ".join(f"{value:.9g}" for value in (*upper.ravel(), *side))
    program = build(SNIPPET.format(n=rows), tmp_path)
    run = subprocess.run([program], input=f"{rows} {rows} {numbers}", capture_output=True, text=True, check=True)
    found = np.array([[float(part) for part in line.split()] for line in run.stdout.splitlines()])
    expected = np.linalg.solve(matrix, -side)
    for solution in found.T:
        np.testing.assert_allclose(solution, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_contacts_for_which_there_is_no_room_are_logged(seed: int) -> None:
    cfg = make_cfg(g1_engine()[0], 3, seed, play=False)
    cfg.sim.njmax = 24
    cfg.episode_length_s = 0.2
    captured = CapturedEnv(cfg, "cpu", graphs=RecordedGraphs())
    vec = TrainingEnv(captured)
    with torch.inference_mode():
        for _ in range(24):
            vec.step(torch.zeros(3, 29))
    assert captured.episode_statistics()[OVERFLOWN] > 0
