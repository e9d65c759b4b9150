"""The one-product graph and the files made from it against the reference in float64."""

from __future__ import annotations

import functools
import itertools
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import cmg_runtime
from cmg_export.compile.bank import BANK_SIZE, make_bank
from cmg_export.compile.torchscript import export_torchscript
from cmg_export.compile.weights import one_product_weights
from cmg_export.read.checkpoint import load_checkpoint
from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.manifest import CommandRange, Manifest
from compile_case import graph, network
from engine_folder import TOLERANCE, Truth
from make_checkpoint import make_checkpoint

PRECISIONS = ("fp32", "fp16")
HERE = str(Path(cmg_runtime.__file__).parent).encode()


def error(size: str, run: Callable[..., Any], count: int, generator: torch.Generator) -> float:
    """Of ``run`` for random inputs, against the form of the reference that blends the weights of every sample."""
    made = network(size).made
    truth = Truth(made.model, made.stats)
    truth.model = functools.partial(truth.model, blended=True)  # pyright: ignore[reportAttributeAccessIssue]
    motion, command = truth.states(count, generator), truth.commands(count, generator)
    expected, output = truth.step(motion, command), torch.as_tensor(run(motion, command))
    assert output.shape == expected.shape
    return truth.error(output, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", ["usual", "deep", "wide gate", "least"])
def test_network_is_the_reference(generator: torch.Generator, size: str, precision: str) -> None:
    weights = network(size).weights
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}
    found = OneProductNetwork(weights, precision)
    for count in (1, 300):
        assert error(size, found, count, generator) < TOLERANCE[precision]
    if (size, precision) == ("usual", "fp16"):
        assert error(size, found, 300, generator) > 1e-4  # half precision is used
    # What exporters record is the same arithmetic as what a CPU runs in its place.
    exported = OneProductNetwork(weights, precision, half_on_cpu=True)
    assert error(size, exported, 40, generator) < TOLERANCE[precision]
    with pytest.raises(ValueError, match="fp64"):
        OneProductNetwork(weights, "fp64")


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", ["deep", "wide gate", "least"])
def test_onnx(generator: torch.Generator, size: str, precision: str) -> None:
    path, about = graph(size, precision), network(size).about
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert HERE not in path.read_bytes()
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    check_borders(model, about)
    check_metadata(model, about, precision)
    check_layers(model, about, precision)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(motion: torch.Tensor, command: torch.Tensor) -> Any:
        return session.run(None, {"motion": motion.numpy(), "command": command.numpy()})[0]

    for count in (1, 2, 257):
        assert error(size, run, count, generator) < TOLERANCE[precision]


def check_borders(model: onnx.ModelProto, about: Manifest) -> None:
    borders = {}
    for value in [*model.graph.input, *model.graph.output]:
        assert value.doc_string
        tensor = value.type.tensor_type
        assert tensor.elem_type == onnx.TensorProto.FLOAT
        borders[value.name] = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    state = ["num_envs", about.sizes.motion_dim]
    assert borders == {"motion": state, "command": ["num_envs", about.sizes.command_dim], "next_motion": state}


def check_layers(model: onnx.ModelProto, about: Manifest, precision: str) -> None:
    """Each layer is one product, of operands in the right precision, and mixes its experts on its narrower side; and
    nothing is left that the exporter should have folded."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    types.update({tensor.name: tensor.data_type for tensor in inferred.initializer})
    products = [node for node in inferred.node if re.search(r"layers\.\d\.weight", " ".join(node.input))]
    assert len(products) == about.sizes.num_layers
    operand = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT
    assert {types[name] for node in products for name in node.input[:2]} == {operand}

    sizes, experts = about.sizes, about.sizes.num_experts
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    hidden = [sizes.hidden_dim] * (sizes.num_layers - 1)
    widths = [sizes.motion_dim + sizes.command_dim, *hidden, sizes.motion_dim]
    for index, (width_in, width_out) in enumerate(itertools.pairwise(widths)):
        weighs_input = width_in < width_out
        expected = (experts * width_in, width_out) if weighs_input else (width_in, experts * width_out)
        assert shapes[f"layers.{index}.weight"] == expected
        kinds = {node.op_type for node in model.graph.node if node.name.startswith(f"layers.{index}/")}
        assert ("ReduceSum" in kinds) == (not weighs_input)
        assert kinds <= {"Unsqueeze", "Mul", "Reshape", "Cast", "MatMul", "Gemm", "Add", "ReduceSum", "Elu", "Squeeze"}


def check_metadata(model: onnx.ModelProto, about: Manifest, precision: str) -> None:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    texts = {"precision": precision, "checkpoint_sha256": about.source["sha256"], "license": "CC-BY-4.0"}
    assert {key: metadata[key] for key in texts} == texts
    command_max = list(about.command_range.max)
    values = {"joint_names": list(about.joint_names), "fps": 50.0, "command_max": command_max}
    assert {key: json.loads(metadata[key]) for key in values} == values
    assert json.loads(metadata["stats"])["motion_std"] == list(about.stats.motion_std)
    assert "rad/s" in model.doc_string
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_torchscript(tmp_path: Path, generator: torch.Generator, precision: str) -> None:
    path = tmp_path / "cmg.ts"
    export_torchscript(network("wide gate").weights, precision, path)
    with zipfile.ZipFile(path) as archive:
        assert not any(HERE in archive.read(name) for name in archive.namelist())
    script: Any = torch.jit.load(str(path))
    for count in (1, 257):
        assert error("wide gate", script, count, generator) < TOLERANCE[precision]


@pytest.mark.parametrize("gain", [0.8, 40.0])
def test_bank_holds_states_that_the_network_reaches(tmp_path: Path, seed: int, gain: float) -> None:
    """Of a network that blows up: the mean pose alone."""
    made = make_checkpoint(tmp_path, seed=seed, num_joints=5, hidden_dim=48, gain=gain)
    checkpoint = load_checkpoint(made.path)
    stats, weights = checkpoint.stats, one_product_weights(checkpoint)
    commands = CommandRange(stats.command_min, stats.command_max, "stats")
    bank = make_bank(weights, stats, commands)
    np.testing.assert_array_equal(make_bank(weights, stats, commands), bank)
    if gain > 1:
        np.testing.assert_array_equal(bank, np.array([stats.motion_mean], np.float32))
        return
    assert BANK_SIZE // 2 < len(bank) <= BANK_SIZE  # rollouts of a random network that leave the bounds give none
    assert bank.shape[1] == 10 and bank.dtype == np.float32
    assert len(np.unique(bank, axis=0)) >= 64  # one a rollout, where every rollout settles
    deviations = (bank - np.array(stats.motion_mean, np.float32)) / np.array(stats.motion_std, np.float32)
    assert np.isfinite(bank).all() and np.abs(deviations).max() <= 6
