"""The reference network against the formula in plain numpy, and its parameters against what checkpoints hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from CMG_Ref.module import CMG

KINDS = ("weights", "biases")


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def formula(model: CMG, x: np.ndarray, experts: int, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """``y = sum_e c_e (x W_e + b_e)`` of rows [N, motion_dim + command_dim]; the output and the gate's coefficients."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    (w0, b0), (w2, b2) = ([state[f"gating.gating_network.{i}.{kind}"] for kind in ("weight", "bias")] for i in (0, 2))
    gate = np.exp(elu(x @ w0.T + b0) @ w2.T + b2)
    gate /= gate.sum(axis=1, keepdims=True)
    for layer in range(layers):
        weights, biases = ([state[f"layers.{layer}.expert_{k}.{e}"] for e in range(experts)] for k in KINDS)
        x = np.sum([gate[:, [e]] * (x @ weights[e] + biases[e]) for e in range(experts)], axis=0)
        x = elu(x) if layer < layers - 1 else x
    return x, gate


@pytest.mark.parametrize(
    ("motion_dim", "command_dim", "hidden_dim", "experts", "layers", "gating_dim"),
    [(58, 3, 48, 4, 3, None), (46, 3, 17, 6, 4, None), (6, 2, 5, 1, 1, None), (8, 4, 9, 3, 2, 13)],
)
def test_forward_is_the_formula(
    seed: int, motion_dim: int, command_dim: int, hidden_dim: int, experts: int, layers: int, gating_dim: int | None
) -> None:
    torch.manual_seed(seed)
    model = CMG(motion_dim, command_dim, hidden_dim, experts, layers, gating_dim).double()
    motion, command = torch.randn(5, motion_dim).double(), torch.randn(5, command_dim).double()
    rows = torch.cat([motion, command], dim=1)
    expected, gate = formula(model, rows.numpy(), experts, layers)
    with torch.no_grad():
        for blended in (False, True):
            np.testing.assert_allclose(model(motion, command, blended=blended).numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model.gating(rows).numpy(), gate, atol=1e-14)


def test_parameters_are_those_of_existing_checkpoints_at_a_scale_that_passes_through(seed: int) -> None:
    torch.manual_seed(seed)
    model, gate = CMG(), "gating.gating_network"
    expected = {f"{gate}.0.weight": (512, 61), f"{gate}.0.bias": (512,), f"{gate}.2.weight": (4, 512)}
    expected[f"{gate}.2.bias"] = (4,)
    for layer, (width_in, width_out) in enumerate([(61, 512), (512, 512), (512, 58)]):
        expected |= {f"layers.{layer}.expert_weights.{e}": (width_in, width_out) for e in range(4)}
        expected |= {f"layers.{layer}.expert_biases.{e}": (width_out,) for e in range(4)}
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert set(expected) == {name for name, _ in model.named_parameters()}  # nothing that is not trained
    assert 0.9 < (torch.randn(2000, 512) @ model.layers[1].expert_weights[0].detach()).std() < 1.1
