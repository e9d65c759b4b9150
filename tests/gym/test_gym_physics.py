"""The captured step's physics against MuJoCo Warp's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mujoco_warp
import numpy as np
import pytest
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv
from mujoco import MjData, MjModel, mj_forward, mj_step  # pyright: ignore[reportAttributeAccessIssue]

from cmg_gym.captured import CapturedEnv, TrainingEnv, physics
from cmg_gym.captured.beside import Beside
from cmg_gym.captured.lean import lean
from cmg_gym.captured.pieces import OVERFLOWN
from gym_case import g1_engine, make_cfg
from recorded_graph import RecordedGraphs

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


def test_a_step_is_mujoco_warps(env: ManagerBasedRlEnv, seed: int) -> None:
    data, model = walk(env, seed), env.sim.wp_model
    kept = {name: getattr(data, name).numpy().copy() for name in STATE}

    def after(run: Callable[[], None]) -> dict[str, np.ndarray]:
        for name, value in kept.items():
            getattr(data, name).assign(value)
        run()
        names = ("qpos", "qvel", "sensordata", "nefc", "solver_niter", "qacc", "xpos")
        return {name: getattr(data, name).numpy().copy() for name in names}

    beside = Beside(env.sim.wp_device, True)

    def in_halves() -> None:
        physics.first_half(model, data, beside)
        physics.second_half(model, data, beside)

    expected = after(lambda: mujoco_warp.step(model, data))
    for run in (lambda: physics.step(model, data, beside), in_halves):
        with lean(env.sim):
            found = after(run)
        assert expected["nefc"].max() > 20 and expected["solver_niter"].max() > 2
        for name, value in expected.items():
            assert np.array_equal(found[name], value), name  # on a GPU, sums are added in any order


class Watching(Beside):
    """Knows which arrays are read and written beside each other."""

    def __init__(self, device: wp.Device, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(device, True)
        self._read: dict[str, set[int]] = {}
        self._written: dict[str, set[int]] = {}
        self._now = "before"
        self._alive: list[Any] = []  # or others would come to where they were
        self.forks: list[set[int]] = []
        for name in ("launch", "launch_tiled"):
            monkeypatch.setattr(wp, name, self._noting(getattr(wp, name)))
        for name in ("zero_", "fill_"):
            monkeypatch.setattr(wp.array, name, self._noting_writes(getattr(wp.array, name)))

    @contextmanager
    def work(self) -> Iterator[None]:
        self._read, self._written = ({"aside": set(), "along": set()} for _ in range(2))
        self._now = "aside"
        yield
        self._now = "along"

    def end(self) -> None:
        assert self._now == "along", "nothing is beside it"
        self._now = "before"
        (aside, along), (wrote_aside, wrote_along) = self._read.values(), self._written.values()
        assert wrote_aside and wrote_along
        self.forks.append(wrote_aside & (along | wrote_along) | aside & wrote_along)

    def _noting(self, launch: Any) -> Any:
        def noted(*arguments: Any, inputs: Any = (), outputs: Any = (), **named: Any) -> None:
            self._note(inputs, outputs)
            launch(*arguments, inputs=inputs, outputs=outputs, **named)

        return noted

    def _noting_writes(self, write: Any) -> Any:
        def noted(array: Any, *arguments: Any) -> Any:
            self._note([], [array])
            return write(array, *arguments)

        return noted

    def _note(self, inputs: Any, outputs: Any) -> None:
        if self._now != "before":
            self._alive += [*inputs, *outputs]
            self._read[self._now] |= pointers(inputs)
            self._written[self._now] |= pointers(outputs)


def pointers(values: Any) -> set[int]:
    return {value.ptr for value in values if isinstance(value, wp.array) and value.ptr}


def test_what_runs_beside_each_other_shares_nothing_that_either_writes(
    env: ManagerBasedRlEnv, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, model = walk(env, seed), env.sim.wp_model
    assert model.neq == 0
    read_by_equalities, flags = {data.cvel.ptr, data.cdof_dot.ptr}, {data.overflow.ptr}
    watching = Watching(env.sim.wp_device, monkeypatch)
    physics.step(model, data, watching)
    constraints, *of_the_solver, sensors = watching.forks
    assert len(of_the_solver) == 2 + 2 * model.opt.iterations
    assert constraints <= read_by_equalities and sensors <= flags and not any(of_the_solver)


ACCELEROMETER = """<mujoco><option integrator="implicitfast"/>
<worldbody><geom type="plane" size="5 5 .1"/>
<body pos="0 0 .2"><freejoint/><geom size=".1"/><site name="s"/></body></worldbody>
<sensor><accelerometer site="s"/></sensor></mujoco>"""


def test_sensors_of_accelerations_come_before_the_integration(monkeypatch: pytest.MonkeyPatch) -> None:
    mj_model = MjModel.from_xml_string(ACCELEROMETER)
    mj_data = MjData(mj_model)
    mj_forward(mj_model, mj_data)
    with wp.ScopedDevice("cpu"):
        model, data = mujoco_warp.put_model(mj_model), mujoco_warp.put_data(mj_model, mj_data, nworld=2)
        watching = Watching(wp.get_device("cpu"), monkeypatch)
        physics.step(model, data, watching)
    constraints, *others = watching.forks
    assert constraints <= {data.cvel.ptr, data.cdof_dot.ptr} and not any(fork - {data.overflow.ptr} for fork in others)
    mj_step(mj_model, mj_data)
    np.testing.assert_allclose(data.sensordata.numpy()[0], mj_data.sensordata, atol=1e-4)


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
