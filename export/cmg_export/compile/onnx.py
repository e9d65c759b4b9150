"""Checkpoint -> ONNX, in a form that old runtimes read and that says by itself what it is.

Of the seconds that an export takes, most are torch's own: importing torch.export (2 CPU seconds, once) and filling
torch.onnx's table of operators (about one, every time). So it is run once, and the graph in half precision is the
one in float32 with casts. The optimiser is cheap and is needed: without it every ELU is five nodes and every shape a
concatenation of constants.
"""

from __future__ import annotations

import ast
import copy
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from cmg_runtime.backends.one_product import OneProductNetwork
from cmg_runtime.folder.kept_files import naming
from cmg_runtime.folder.manifest import Manifest

OPSET = 18
IR_VERSION = 10

_DOC = (
    "Conditional Motion Generator: one frame of 1/{fps:g} s. motion [num_envs, {motion_dim}]: {num_joints} joint "
    "positions (rad), then {num_joints} joint velocities (rad/s), in the order of the metadata's joint_names. command "
    "[num_envs, {command_dim}]: vx, vy (m/s) and yaw rate (rad/s) in the robot's own frame. next_motion is the motion "
    "one frame later; feed it back as motion. Inputs and outputs are physical units in float32: normalisation is in "
    "the graph."
)


def export_onnx(
    weights: dict[str, np.ndarray], precision: str, about: Manifest, path: Path, traced: onnx.ModelProto | None = None
) -> None:
    """Write the one-product graph as ONNX and check it.

    Args:
        weights: see ``OneProductNetwork``.
        precision: "fp32", or "fp16": casts and half-precision products are in the graph, weights in half.
        about: what the metadata is taken from; its artifacts are not looked at.
        path: the file to write; everything is in it.
        traced: what :func:`trace` gave for these weights, if it ran already.

    Raises:
        onnx.checker.ValidationError: the exporter wrote an invalid model.
    """
    model = onnx.ModelProto()
    model.CopyFrom(trace(weights) if traced is None else traced)
    if precision == "fp16":
        _halve(model)
    _describe(model, precision, about)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    with naming(path):
        path.write_bytes(model.SerializeToString(deterministic=True))


def trace(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The network's graph in float32, as ``torch.onnx.export`` writes it, with our names and without its notes."""
    network = OneProductNetwork(weights, "fp32").eval()
    num_envs = torch.export.Dim("num_envs")
    example = (torch.zeros(3, len(network.motion_mean)), torch.zeros(3, len(network.command_centre)))
    # The exporter says at every export that torchvision is not installed; nothing here needs it.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["motion", "command"],
            output_names=["next_motion"],
            dynamic_shapes=({0: num_envs}, {0: num_envs}),
        )
    assert program is not None
    model = program.model_proto
    _name_nodes(model)
    _drop_notes(model)
    return model


def _halve(model: onnx.ModelProto) -> None:
    """The experts' products in half precision, as in ``OneProductNetwork``: casts around them, weights in half."""
    graph = model.graph
    halved = {t.name: t for t in graph.initializer if t.name.startswith("layers.") and t.name.endswith(".weight")}
    nodes: list[onnx.NodeProto] = []
    for node in map(copy.deepcopy, graph.node):
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in halved:
            nodes.append(node)
            continue
        scope, (operand, weight, *bias), result = node.name.rpartition("/")[0], node.input, node.output[0]
        product = f"{result}_product" if bias else result
        nodes += [
            helper.make_node("Cast", [operand], [f"{result}_operand"], name=f"{scope}/half", to=TensorProto.FLOAT16),
            helper.make_node("MatMul", [f"{result}_operand", weight], [f"{result}_half"], name=f"{scope}/product"),
            helper.make_node("Cast", [f"{result}_half"], [product], name=f"{scope}/single", to=TensorProto.FLOAT),
        ]
        if bias:
            nodes.append(helper.make_node("Add", [product, *bias], [result], name=f"{scope}/biased"))
    for tensor in halved.values():
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    del graph.node[:]
    graph.node.extend(nodes)
    for value in [*graph.value_info]:
        if value.name in halved:
            graph.value_info.remove(value)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name each node after the module it comes from, "layers.1/MatMul": profilers show these names."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        name = "/".join([*[scope for scope in scopes[-2:-1] if scope], node.op_type])
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _drop_notes(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold stack traces with this machine's paths."""
    graph = model.graph
    for item in [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model]:
        item.doc_string = ""
        del item.metadata_props[:]


def _describe(model: onnx.ModelProto, precision: str, about: Manifest) -> None:
    sizes, stats, source = about.sizes, about.stats, about.source
    doc = _DOC.format(
        fps=about.fps, motion_dim=sizes.motion_dim, num_joints=sizes.num_joints, command_dim=sizes.command_dim
    )
    model.doc_string = doc
    model.graph.doc_string = doc
    model.graph.name = "cmg"
    model.graph.input[0].doc_string = "current motion state, rad and rad/s"
    model.graph.input[1].doc_string = "velocity command, m/s, m/s, rad/s"
    model.graph.output[0].doc_string = "motion state one frame later, rad and rad/s"
    metadata: dict[str, Any] = {
        "name": about.name,
        "precision": precision,
        "fps": about.fps,
        "joint_names": about.joint_names,
        "command_min": about.command_range.min,
        "command_max": about.command_range.max,
        "default_dof_pos": about.default_dof_pos,
        "normalisation": "inside the graph: (motion - motion_mean) / motion_std; command min-max to [-1, 1]",
        "stats": {key: getattr(stats, key) for key in ("motion_mean", "motion_std", "command_min", "command_max")},
        "checkpoint_sha256": source["sha256"],
        "license": source.get("license"),
        "attribution": source.get("attribution"),
    }
    for key, value in metadata.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
