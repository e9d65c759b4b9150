"""A training that goes on from its checkpoint, or begins with the networks of another policy."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch

from cmg_gym.learning.export import describe
from cmg_gym.learning.policies import alike, find_policy
from cmg_gym.learning.resume import read_checkpoint
from cmg_gym.learning.runner import ResidualRunner
from cmg_gym.policy_card import PolicyCard, read_card
from cmg_gym.rl_cfg import STEPS_PER_ITERATION
from cmg_runtime import EngineError
from cmg_runtime.errors import first_line

SEEN = 100_000_000
"""Observations behind the statistics of an exported policy, which does not say: so many that a training's first ones do
not push them about, and with them what every action is."""


def resume_from(runner: ResidualRunner, checkpoint: Path) -> None:
    """Take everything of a checkpoint of the same task.

    Raises:
        EngineError: it is of the task as it was before: its networks have other sizes.
    """
    try:
        runner.load(str(checkpoint))
    except (RuntimeError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise EngineError(f"{checkpoint} does not fit this task ({reason}); --start-from takes its actor") from None


def start_from(runner: ResidualRunner, path: Path, iteration: int) -> None:
    """Take the actor, and the critic where there is one of the same shape, of another policy.

    Args:
        path: a checkpoint ``model_N.pt``, a run's folder, or an exported policy's folder.
        iteration: from which the training counts: the curriculum is in the stage of it.

    Raises:
        EngineError: there is no policy, or its observations, joints or scales are others.
    """
    file = find_policy(path)
    try:
        if file.name == "policy.onnx":
            _require_same_task(read_card(file.parent), describe(runner.env.unwrapped, iterations=0))
            actor, critic = _exported(file), None
        else:
            saved = read_checkpoint(file)
            actor, critic = saved["actor_state_dict"], saved.get("critic_state_dict")
        # In place, for graphs and the optimiser have these tensors.
        runner.alg.actor.load_state_dict({**runner.alg.actor.state_dict(), **actor})
    except (RuntimeError, KeyError, StopIteration) as error:
        raise EngineError(f"{file} is no policy of this task ({first_line(error)})") from None
    mine, taken = runner.alg.critic.state_dict(), "actor"
    if critic is not None and {k: v.shape for k, v in critic.items()} == {k: v.shape for k, v in mine.items()}:
        runner.alg.critic.load_state_dict(critic)
        taken = "networks"
    print(f"Beginning with the {taken} of {file}, in iteration {iteration}", flush=True)
    runner.current_learning_iteration = iteration
    runner.env.unwrapped.common_step_counter = iteration * STEPS_PER_ITERATION


def _exported(file: Path) -> dict[str, torch.Tensor]:
    """The actor's state in ``policy.onnx``, but for its noise."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    found = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    divided = next(node.input[1] for node in graph.node if node.op_type == "Div")
    std = found.pop(divided) - 0.01  # the normaliser adds that
    return {
        **found,
        "obs_normalizer._std": std,
        "obs_normalizer._var": std.square(),
        "obs_normalizer.count": torch.tensor(SEEN),
    }


def _require_same_task(card: PolicyCard, here: PolicyCard) -> None:
    """Refuse a policy that sees or moves something else; its generator may be another."""
    others = ("iterations", "engine", "engine_sha256")
    names = [field.name for field in fields(PolicyCard) if field.name not in others]
    differ = [name for name in names if not alike(getattr(card, name), getattr(here, name))]
    if differ:
        raise EngineError(f"the policy has another {', '.join(differ)} than there is here; begin without it")
