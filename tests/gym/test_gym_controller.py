"""The control loop where something goes wrong: what it damps, what it counts, and what it refuses before it moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmg_gym.controller import LATE_LIMIT_S, Controller, Proprioception
from cmg_gym.policy_card import read_card
from cmg_runtime import EngineError
from cmg_runtime.folder.manifest import file_sha256
from gym_case import BUNDLED_POLICY, deployable_engine, g1_engine

pytestmark = pytest.mark.xdist_group("gym")

NUM_JOINTS, PERIOD_S = 29, 0.02


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller(BUNDLED_POLICY, deployable_engine())


def standing(**changes: Any) -> Proprioception:
    pose = np.array(read_card(BUNDLED_POLICY).default_dof_pos)
    upright = Proprioception(np.zeros(3), np.array([0.0, 0.0, -1.0]), pose, np.zeros(NUM_JOINTS))
    return replace(upright, **changes)


@pytest.mark.parametrize(
    ("felt", "fault"),
    [
        (standing(dof_vel=np.full(NUM_JOINTS, np.nan)), "dof_vel is not finite"),
        (standing(base_ang_vel=np.array([0.0, np.inf, 0.0])), "base_ang_vel is not finite"),
        (standing(projected_gravity=np.zeros(3)), "projected_gravity has length 0.00"),
        (standing(projected_gravity=np.array([0.9, 0.0, -0.43])), "leans by 64 degrees"),
    ],
)
def test_what_cannot_be_controlled_is_damped(controller: Controller, felt: Proprioception, fault: str) -> None:
    controller.reset()
    controller.step((0.5, 0, 0), standing())
    assert controller.fault is None and (controller.kp == np.array(controller.card.kp, np.float32)).all()
    for robot in (felt, standing()):  # it stays damped
        target = controller.step((0.5, 0, 0), robot)
        assert controller.fault is not None and fault in controller.fault
        assert not controller.kp.any() and (controller.kd > 0).all()
        np.testing.assert_allclose(target, robot.dof_pos, rtol=1e-6)
    controller.reset()
    assert controller.fault is None and controller.kp.all()


def test_late_steps_are_counted_and_too_late_is_a_fault(controller: Controller) -> None:
    controller.reset()
    for now in (10.0, 10.0 + PERIOD_S, 10.0 + 2.9 * PERIOD_S):
        controller.step((0, 0, 0), standing(), now)
    assert (controller.late_steps, controller.fault) == (1, None)
    controller.step((0, 0, 0), standing(), 10.0 + 2.9 * PERIOD_S + LATE_LIMIT_S + 0.01)
    assert controller.fault is not None and "came 0.110 s after the last one" in controller.fault
    assert controller.late_steps == 2
    controller.reset()
    controller.step((0, 0, 0), standing(), 11.0)
    controller.step((0, 0, 0), standing(), 10.0)
    assert controller.fault is not None  # a clock that goes back


def test_a_command_that_is_not_finite_means_standing(controller: Controller) -> None:
    controller.reset(command=(0.8, 0, 0))
    for _ in range(30):
        controller.step((np.nan, 0, 0), standing())
    assert controller.ignored_commands == 30 and controller.fault is None
    np.testing.assert_array_equal(controller.command_in_force, 0)
    controller.step((5.0, 0, 0), standing())
    for _ in range(30):
        controller.step((5.0, 0, 0), standing())
    low_high = json.loads((deployable_engine() / "manifest.json").read_text())["command_range"]
    assert controller.command_in_force[0] == np.float32(low_high["max"][0])


@pytest.mark.parametrize("output", [np.inf, -np.inf, np.nan])
def test_a_network_that_gives_what_is_no_number_is_damped_at_once(output: float, tmp_path: Path) -> None:
    """Infinity too, which joint limits would make a number of."""
    controller = Controller(constant_policy(tmp_path, output), deployable_engine())
    target = controller.step((0.5, 0, 0), standing())
    assert controller.fault == "a network's output is not finite" and not controller.kp.any()
    np.testing.assert_allclose(target, standing().dof_pos, rtol=1e-6)


def test_a_generator_that_runs_away_is_damped(tmp_path: Path) -> None:
    engine = edited_engine(tmp_path, lambda manifest: None)
    model = onnx.load(str(engine / "cmg_fp32.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "motion_std":
            tensor.CopyFrom(numpy_helper.from_array(1e6 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, str(engine / "cmg_fp32.onnx"))
    sign_again(engine)
    controller = Controller(BUNDLED_POLICY, engine)
    controller.step((0.5, 0, 0), standing())
    assert controller.fault is not None and "the generator gives" in controller.fault and not controller.kp.any()


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        (0.5, {}, r"command has shape \[\]; expected 3"),  # else forward, sideways and turning at once
        ((0.5, 0), {}, r"command has shape \[2\]"),
        ([[0.5, 0, 0]], {}, r"command has shape \[1, 3\]"),
        ((0, 0, 0), {"dof_pos": np.zeros(1)}, r"dof_pos has shape \[1\]; expected 29"),
        ((0, 0, 0), {"dof_vel": np.zeros(28)}, r"dof_vel has shape \[28\]"),
        ((0, 0, 0), {"projected_gravity": np.array([0.0, -1.0])}, r"projected_gravity has shape \[2\]"),
        ((0, 0, 0), {"base_ang_vel": np.zeros(4)}, r"base_ang_vel has shape \[4\]"),
    ],
)
def test_what_has_another_length_is_refused_and_nothing_moves_on(
    command: Any, changes: dict[str, np.ndarray], message: str
) -> None:
    disturbed, other = (Controller(BUNDLED_POLICY, deployable_engine()) for _ in range(2))
    for step in range(4):
        if step == 2:
            with pytest.raises(EngineError, match=message):
                disturbed.step(command, standing(**changes))
        target, expected = (each.step((0.8, 0, 0), standing()) for each in (disturbed, other))
        np.testing.assert_array_equal(target, expected)


def test_a_reset_to_what_is_no_state_changes_nothing(controller: Controller) -> None:
    controller.reset()
    controller.step((0, 0, 0), standing(dof_vel=np.full(NUM_JOINTS, np.nan)))
    for wrong, message in (
        ({"dof_pos": np.zeros(30), "dof_vel": np.zeros(28)}, "dof_pos has shape"),  # as long as a state, together
        ({"dof_pos": np.zeros(28)}, "dof_pos has shape"),
        ({"command": (0.5, 0)}, "command has shape"),
        ({"dof_pos": np.full(NUM_JOINTS, np.inf)}, "not finite"),
    ):
        with pytest.raises(EngineError, match=message):
            controller.reset(**wrong)
        assert controller.fault is not None
    controller.reset()
    assert controller.fault is None


def test_gains_that_are_handed_out_cannot_be_changed_for_good(controller: Controller) -> None:
    controller.reset()
    for gains in (controller.kp, controller.kd):
        with pytest.raises(ValueError, match="read-only"):
            gains *= 0.5
    controller.reset()
    np.testing.assert_allclose(controller.kp, controller.card.kp, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("kp", [1.0] * 28, "kp is not a finite number for each of 29 joints"),
        ("kd", [float("nan")] * 29, "kd is not a finite number"),
        ("effort_limit", ["much"] * 29, "could not convert"),
        ("fps", 0, "fps is 0"),
        ("engine_sha256", None, "engine_sha256 is None"),
        ("kp", None, "no exported policy of this version"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_card_that_was_edited_wrongly_is_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    card = json.loads((BUNDLED_POLICY / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**card, name: value}))
    with pytest.raises(EngineError, match=message) as refusal:
        read_card(tmp_path)
    assert "\n" not in str(refusal.value)
    del card["kp"], card["armature"]
    (tmp_path / "policy.json").write_text(json.dumps(card))
    with pytest.raises(EngineError, match="no kp, armature: it is older"):
        read_card(tmp_path)


def test_files_that_do_not_belong_together_are_refused_before_the_first_step(tmp_path: Path) -> None:
    card = json.loads((BUNDLED_POLICY / "policy.json").read_text())
    fewer = {**card, "observation": card["observation"][:-1]}
    unknown = {**card, "observation": [*card["observation"], {"name": "smell", "width": 3, "offsets": []}]}
    for number, (changed, network, message) in enumerate(
        (
            (card, None, "cannot read .*policy.onnx"),
            (card, b"no network", "cannot be run by onnxruntime"),
            (fewer, (BUNDLED_POLICY / "policy.onnx").read_bytes(), "takes 212 numbers .* expected 183 and 29"),
            (unknown, (BUNDLED_POLICY / "policy.onnx").read_bytes(), "observes 'smell'"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "policy.json").write_text(json.dumps(changed))
        if network is not None:
            (folder / "policy.onnx").write_bytes(network)
        with pytest.raises(EngineError, match=message) as refusal:
            Controller(folder, deployable_engine())
        assert "\n" not in str(refusal.value)

    def other_order(manifest: dict[str, Any]) -> None:
        manifest["joint_names"] = manifest["joint_names"][::-1]

    def other_rate(manifest: dict[str, Any]) -> None:
        manifest["fps"] = 100.0

    def other_checkpoint(manifest: dict[str, Any]) -> None:
        manifest["source"]["sha256"] = "ab" * 32

    for change in (other_order, other_rate):
        with pytest.raises(EngineError, match="are not the policy's"):
            Controller(BUNDLED_POLICY, edited_engine(tmp_path, change))
    with pytest.raises(EngineError, match="trained with another checkpoint"):
        Controller(BUNDLED_POLICY, edited_engine(tmp_path, other_checkpoint))
    with pytest.raises(EngineError, match="no ONNX file in fp32"):
        Controller(BUNDLED_POLICY, g1_engine()[0])


def constant_policy(folder: Path, output: float) -> Path:
    """A copy of the bundled policy's folder whose network gives one number, whatever it is given."""
    card = read_card(BUNDLED_POLICY)
    shutil.copy(BUNDLED_POLICY / "policy.json", folder)
    width = sum(term.width for term in card.observation)
    weight = numpy_helper.from_array(np.zeros((width, NUM_JOINTS), np.float32), "weight")
    bias = numpy_helper.from_array(np.full(NUM_JOINTS, output, np.float32), "bias")
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["obs", "weight", "bias"], ["actions"])],
        "constant",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, [None, NUM_JOINTS])],
        [weight, bias],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(folder / "policy.onnx"))
    return folder


def edited_engine(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the engine folder with another manifest."""
    engine = folder / "engine"
    shutil.copytree(deployable_engine(), engine, dirs_exist_ok=True)
    manifest = json.loads((deployable_engine() / "manifest.json").read_text())
    change(manifest)
    (engine / "manifest.json").write_text(json.dumps(manifest))
    return engine


def sign_again(engine: Path) -> None:
    """Write the hash of the ONNX file as it is now into the manifest."""
    manifest = json.loads((engine / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        if artifact["file"] == "cmg_fp32.onnx":
            artifact["sha256"] = file_sha256(engine / "cmg_fp32.onnx")
    (engine / "manifest.json").write_text(json.dumps(manifest))
