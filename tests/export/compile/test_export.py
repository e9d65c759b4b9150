"""The one-product graph and the files made from it against the reference in float64."""

from __future__ import annotations

import itertools
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import cmg_runtime
from cmg_export.compile.bank import BANK_SIZE, make_bank
from cmg_export.compile.onnx import export_onnx
from cmg_export.compile.torchscript import export_torchscript
from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.manifest import CommandRange, FileEntry, Manifest
from make_checkpoint import MadeCheckpoint, make_checkpoint

ALLOWED = {"fp32": 1e-5, "fp16": 2e-3}
SIZES: list[dict[str, Any]] = [
    {"num_joints": 23, "hidden_dim": 256, "num_experts": 6, "num_layers": 4},
    {"num_joints": 29, "hidden_dim": 33, "num_experts": 3, "num_layers": 2, "gating_hidden_dim": 70},
    {"num_joints": 4, "hidden_dim": 9, "num_experts": 1, "num_layers": 1, "command_dim": 1},
]


class Reference:
    """The blended form of the reference, per-sample weights and all, in float64 and physical units."""

    def __init__(self, made: MadeCheckpoint, rng: np.random.Generator) -> None:
        self.model = made.model.double()
        self.stats = {key: torch.tensor(made.stats[key]).double() for key in made.stats if "_m" in key or "_std" in key}
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**31)))

    def inputs(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        s, width = self.stats, len(self.stats["motion_mean"])
        motion = s["motion_mean"] + s["motion_std"] * torch.randn(count, width, generator=self.generator).double()
        share = torch.rand(count, len(s["command_min"]), generator=self.generator)
        return motion.float(), (s["command_min"] + (s["command_max"] - s["command_min"]) * share).float()

    @torch.no_grad()
    def error(self, output: Any, motion: torch.Tensor, command: torch.Tensor) -> float:
        """||output - truth|| / ||truth|| in normalised units."""
        s = self.stats
        x = (motion.double() - s["motion_mean"]) / s["motion_std"]
        c = 2 * (command.double() - s["command_min"]) / (s["command_max"] - s["command_min"]) - 1
        truth = self.model(x, c, blended=True)
        found = (torch.as_tensor(output).double() - s["motion_mean"]) / s["motion_std"]
        assert found.shape == truth.shape
        return float((found - truth).norm() / truth.norm())


def describe(made: MadeCheckpoint) -> Manifest:
    checkpoint = load_checkpoint(made.path)
    stats = checkpoint.stats
    return Manifest(
        name="test engine",
        source={"sha256": "ab" * 32, "license": "CC-BY-4.0"},
        sizes=checkpoint.sizes,
        fps=50.0,
        joint_names=tuple(f"joint_{index}" for index in range(checkpoint.sizes.num_joints)),
        default_dof_pos=None,
        stats=stats,
        command_range=CommandRange(stats.command_min, stats.command_max, "stats"),
        robot=None,
        bank=FileEntry("bank.npz", "0" * 64),
        artifacts=(),
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sizes", SIZES)
def test_network_is_the_reference(
    tmp_path: Path, seed: int, rng: np.random.Generator, sizes: dict[str, Any], precision: str
) -> None:
    made = make_checkpoint(tmp_path, seed=seed, **sizes)
    reference = Reference(made, rng)
    weights = one_product_weights(load_checkpoint(made.path))
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    network = OneProductNetwork(weights, precision)
    for count in (1, 300):
        motion, command = reference.inputs(count)
        assert reference.error(network(motion, command), motion, command) < ALLOWED[precision]
    # What exporters record is the same arithmetic as what a CPU runs in its place.
    exported = OneProductNetwork(weights, precision, half_on_cpu=True)
    motion, command = reference.inputs(40)
    assert reference.error(exported(motion, command), motion, command) < ALLOWED[precision]


def test_half_precision_is_used(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    made = make_checkpoint(tmp_path, seed=seed)
    reference = Reference(made, rng)
    motion, command = reference.inputs(300)
    network = OneProductNetwork(one_product_weights(load_checkpoint(made.path)), "fp16")
    assert reference.error(network(motion, command), motion, command) > 1e-4
    with pytest.raises(ValueError, match="fp64"):
        OneProductNetwork(one_product_weights(load_checkpoint(made.path)), "fp64")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx(tmp_path: Path, seed: int, rng: np.random.Generator, precision: str) -> None:
    made = make_checkpoint(tmp_path / "in", seed=seed, num_joints=23, hidden_dim=64, num_experts=6, num_layers=4)
    about, path = describe(made), tmp_path / "out" / "cmg.onnx"
    path.parent.mkdir()
    weights = one_product_weights(load_checkpoint(made.path))
    export_onnx(weights, precision, about, path)
    assert [file.name for file in path.parent.iterdir()] == ["cmg.onnx"]

    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    check_borders(model, about)
    check_metadata(model, about, precision)
    check_products(model, about, precision)
    check_sides(model, about)
    assert str(Path(cmg_runtime.__file__).parent).encode() not in path.read_bytes()

    reference = Reference(made, rng)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 2, 257):
        motion, command = reference.inputs(count)
        output = session.run(None, {"motion": motion.numpy(), "command": command.numpy()})[0]
        assert reference.error(output, motion, command) < ALLOWED[precision]

    again = tmp_path / "again.onnx"
    export_onnx(weights, precision, about, again)
    assert again.read_bytes() == path.read_bytes()


def check_borders(model: onnx.ModelProto, about: Manifest) -> None:
    borders = {}
    for value in [*model.graph.input, *model.graph.output]:
        assert value.doc_string
        tensor = value.type.tensor_type
        borders[value.name] = (tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim])
    single, sizes = onnx.TensorProto.FLOAT, about.sizes
    assert borders == {
        "motion": (single, ["num_envs", sizes.motion_dim]),
        "command": (single, ["num_envs", sizes.command_dim]),
        "next_motion": (single, ["num_envs", sizes.motion_dim]),
    }


def check_products(model: onnx.ModelProto, about: Manifest, precision: str) -> None:
    """Every layer is one product, of operands in the right precision."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    products = [node for node in inferred.node if re.search(r"layers\.\d\.weight", " ".join(node.input))]
    assert len(products) == about.sizes.num_layers
    expected = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT
    assert {types[name] for node in products for name in node.input[:2]} == {expected}


def check_sides(model: onnx.ModelProto, about: Manifest) -> None:
    """Each layer mixes its experts on its narrower side, and nothing is left that the exporter should have folded."""
    sizes = about.sizes
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    hidden = [sizes.hidden_dim] * (sizes.num_layers - 1)
    widths = [sizes.motion_dim + sizes.command_dim, *hidden, sizes.motion_dim]
    for index, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        weighs_input, experts = width_in < width_out, sizes.num_experts
        expected = (experts * width_in, width_out) if weighs_input else (width_in, experts * width_out)
        assert shapes[f"layers.{index}.weight"] == expected
        kinds = {node.op_type for node in model.graph.node if node.name.startswith(f"layers.{index}/")}
        assert ("ReduceSum" in kinds) == (not weighs_input)
        assert kinds <= {"Unsqueeze", "Mul", "Reshape", "Cast", "MatMul", "Gemm", "Add", "ReduceSum", "Elu", "Squeeze"}


def check_metadata(model: onnx.ModelProto, about: Manifest, precision: str) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["precision"] == precision
    assert json.loads(metadata["joint_names"]) == list(about.joint_names)
    assert json.loads(metadata["fps"]) == 50.0
    assert json.loads(metadata["stats"])["motion_std"] == list(about.stats.motion_std)
    assert json.loads(metadata["command_max"]) == list(about.command_range.max)
    assert metadata["checkpoint_sha256"] == about.source["sha256"]
    assert metadata["license"] == "CC-BY-4.0"
    assert "rad/s" in model.doc_string
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sizes", SIZES[1:])
def test_onnx_of_odd_sizes(
    tmp_path: Path, seed: int, rng: np.random.Generator, sizes: dict[str, Any], precision: str
) -> None:
    made = make_checkpoint(tmp_path, seed=seed, **sizes)
    path = tmp_path / "cmg.onnx"
    about = describe(made)
    export_onnx(one_product_weights(load_checkpoint(made.path)), precision, about, path)
    check_sides(onnx.load(path), about)
    reference = Reference(made, rng)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 30):
        motion, command = reference.inputs(count)
        output = session.run(None, {"motion": motion.numpy(), "command": command.numpy()})[0]
        assert reference.error(output, motion, command) < ALLOWED[precision]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_torchscript(tmp_path: Path, seed: int, rng: np.random.Generator, precision: str) -> None:
    made = make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=48, num_experts=2)
    weights = one_product_weights(load_checkpoint(made.path))
    path, again = tmp_path / "cmg.ts", tmp_path / "again.ts"
    export_torchscript(weights, precision, path)
    export_torchscript(weights, precision, again)
    assert path.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert not any(b"/network.py" in archive.read(name) for name in archive.namelist())
    script: Any = torch.jit.load(str(path))
    reference = Reference(made, rng)
    for count in (1, 257):
        motion, command = reference.inputs(count)
        assert reference.error(script(motion, command), motion, command) < ALLOWED[precision]


def test_bank_holds_states_that_the_network_reaches(tmp_path: Path, seed: int, rng: np.random.Generator) -> None:
    made = make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=48)
    checkpoint = load_checkpoint(made.path)
    stats = checkpoint.stats
    weights = one_product_weights(checkpoint)
    commands = CommandRange(stats.command_min, stats.command_max, "stats")
    bank = make_bank(weights, stats, commands)
    assert BANK_SIZE // 2 < len(bank) <= BANK_SIZE  # rollouts of a random network that leave the bounds give none
    assert bank.shape[1] == 10 and bank.dtype == np.float32
    assert len(np.unique(bank, axis=0)) >= 64  # one a rollout, where every rollout settles
    deviations = (bank - np.array(stats.motion_mean, np.float32)) / np.array(stats.motion_std, np.float32)
    assert np.isfinite(bank).all()
    assert np.abs(deviations).max() <= 6
    np.testing.assert_array_equal(make_bank(weights, stats, commands), bank)


def test_bank_of_a_network_that_blows_up_is_the_mean_pose(tmp_path: Path, seed: int) -> None:
    made = make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=48, gain=40.0)
    checkpoint = load_checkpoint(made.path)
    stats = checkpoint.stats
    bank = make_bank(
        one_product_weights(checkpoint), stats, CommandRange(stats.command_min, stats.command_max, "stats")
    )
    np.testing.assert_array_equal(bank, np.array([stats.motion_mean], np.float32))
