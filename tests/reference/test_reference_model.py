"""The reference network against the formula in plain numpy, and its parameters against what checkpoints hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.module import CMG


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def formula(state: dict[str, np.ndarray], motion: np.ndarray, command: np.ndarray, experts: int, layers: int) -> Any:
    """``y = sum_e c_e (x W_e + b_e)``, one sample at a time; the output and the gate's coefficients."""
    outputs, gates = [], []
    for row in range(len(motion)):
        x = np.concatenate([motion[row], command[row]])
        hidden = elu(state["gating.gating_network.0.weight"] @ x + state["gating.gating_network.0.bias"])
        logits = state["gating.gating_network.2.weight"] @ hidden + state["gating.gating_network.2.bias"]
        gate = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for layer in range(layers):
            y = 0.0
            for e in range(experts):
                weight, bias = (state[f"layers.{layer}.expert_{kind}.{e}"] for kind in ("weights", "biases"))
                y = y + gate[e] * (x @ weight + bias)
            x = elu(np.asarray(y)) if layer < layers - 1 else np.asarray(y)
        outputs.append(x)
        gates.append(gate)
    return np.stack(outputs), np.stack(gates)


SIZES = [
    {"motion_dim": 58, "command_dim": 3, "hidden_dim": 48, "num_experts": 4, "num_layers": 3},
    {"motion_dim": 46, "command_dim": 3, "hidden_dim": 17, "num_experts": 6, "num_layers": 4},
    {"motion_dim": 6, "command_dim": 2, "hidden_dim": 5, "num_experts": 1, "num_layers": 1},
    {"motion_dim": 8, "command_dim": 4, "hidden_dim": 9, "num_experts": 3, "num_layers": 2, "gating_hidden_dim": 13},
]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda s: "x".join(map(str, s.values())))
def test_forward_is_the_formula(seed: int, rng: np.random.Generator, sizes: dict[str, int]) -> None:
    torch.manual_seed(seed)
    model = CMG(**sizes).double()
    rows = int(rng.integers(1, 8))
    motion, command = rng.normal(size=(rows, sizes["motion_dim"])), rng.normal(size=(rows, sizes["command_dim"]))
    inputs = torch.from_numpy(motion), torch.from_numpy(command)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    expected, gate = formula(state, motion, command, sizes["num_experts"], sizes["num_layers"])
    with torch.no_grad():
        np.testing.assert_allclose(model(*inputs).numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model(*inputs, blended=True).numpy(), expected, rtol=0, atol=1e-12)
        coefficients = model.gating(torch.cat(inputs, dim=1)).numpy()
    np.testing.assert_allclose(coefficients, gate, atol=1e-14)
    np.testing.assert_allclose(coefficients.sum(axis=1), 1, atol=1e-14)
    assert (coefficients > 0).all()


def test_parameters_are_those_of_existing_checkpoints() -> None:
    expected: dict[str, tuple[int, ...]] = {
        "gating.gating_network.0.weight": (512, 61),
        "gating.gating_network.0.bias": (512,),
        "gating.gating_network.2.weight": (4, 512),
        "gating.gating_network.2.bias": (4,),
    }
    for layer, (width_in, width_out) in enumerate([(61, 512), (512, 512), (512, 58)]):
        for e in range(4):
            expected[f"layers.{layer}.expert_weights.{e}"] = (width_in, width_out)
            expected[f"layers.{layer}.expert_biases.{e}"] = (width_out,)
    model = CMG()
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert set(expected) == {name for name, _ in model.named_parameters()}  # nothing that is not trained


def test_fresh_weights_keep_the_scale_of_what_passes_through(seed: int) -> None:
    torch.manual_seed(seed)
    model = CMG(num_experts=1)
    with torch.no_grad():
        x = torch.randn(2000, 512)
        spread = (x @ model.layers[1].expert_weights[0]).std()
    assert 0.9 < spread < 1.1
