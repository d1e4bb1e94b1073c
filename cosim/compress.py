"""From a trained network and a plan to a pruned, recovered network: remove, recalibrate, mask, fine-tune, freeze."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cosim.data.dataset import Dataset
from cosim.errors import PruningError
from cosim.pruning.apply import attach_plan, choose_filters, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.criteria import score_layers
from cosim.pruning.dpp import (
    anneal_noise,
    anneal_temperature,
    entropy_penalty,
    find_masks,
    freeze_masks,
    set_temperature,
)
from cosim.pruning.plan import PruningPlan
from cosim.pruning.quantize import freeze_quantizers
from cosim.training import Recipe, evaluate, fit, recalibrate_batchnorm

SCORE_BATCH = 128
SCORE_IMAGES = 640
"""Images that rank filters: 5 batches of 128, the published amount."""


@dataclass(frozen=True)
class Trained:
    """A dense network with what pruning asks of it, computed once."""

    model: nn.Module
    example: Tensor
    groups: Sequence[ChannelGroup]
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class Recovery:
    """How a pruned network is recovered."""

    recipe: Recipe
    entropy_scale: float = 1.0
    """Scales the entropy penalty of the masks."""


@dataclass(frozen=True)
class Compressed:
    """A pruned network with plain weights (masked and quantized values baked in) and how it fared."""

    model: nn.Module
    plan: PruningPlan
    """The plan executed, with the filters that stayed."""
    masks: dict[str, Tensor]
    """Layer name -> bool mask of the weight's shape."""
    accuracy: dict[str, float] = field(default_factory=dict)
    """Validation accuracy: finetuned (everything done) and, if asked for, pruned (removal alone) and recalibrated."""


def prepare(model: nn.Module, dataset: Dataset, criterion: str, *, seed: int = 0) -> Trained:
    """Trace the channel groups of a trained network and score its filters on training images."""
    _plain_layout(model)
    example = torch.zeros(1, *dataset.input_shape)
    groups = trace_channel_groups(model, example)
    layers = [layer for group in groups if group.locked is None for layer in group.producers]
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))[:SCORE_IMAGES]
    batches = [(dataset.train.batch(part), dataset.train.labels[part]) for part in order.split(SCORE_BATCH)]
    scores = score_layers(model, batches, layers, criterion, seed=seed)
    return Trained(model, example, groups, scores)


def compress(
    trained: Trained, dataset: Dataset, plan: PruningPlan, recovery: Recovery, *, seed: int, stages: bool = False
) -> Compressed:
    """Execute a plan on a trained network and recover it.

    Masks are learned during fine-tuning (DPP): temperature falls 5 -> 0.5 and noise 1 -> 0 over it; without fine-tuning
    the masks keep the largest weights of each row. Batch normalisation is recalibrated at the end, where everything is
    final.

    Parameters
    ----------
    stages
        Also measure the accuracy after the removal alone, and after recalibrating what it left.

    Raises
    ------
    PruningError
        The plan does not fit the network.
    """
    plan = choose_filters(plan, trained.groups, trained.scores)
    model = remove_filters(trained.model, trained.example, plan, trained.groups)
    accuracy = _stages(model, dataset) if stages else {}
    attach_plan(model, plan, seed=seed)
    fit(
        model,
        dataset.train,
        recovery.recipe,
        seed=seed,
        penalty=_penalty(model, recovery.entropy_scale),
        on_step=lambda done: _anneal(model, done),
    )
    masks = freeze_masks(model)
    freeze_quantizers(model)
    _plain_layout(model)
    recalibrate_batchnorm(model, dataset.train)
    accuracy["finetuned"] = evaluate(model, dataset.validation)
    return Compressed(model.eval(), plan, masks, accuracy)


def _stages(model: nn.Module, dataset: Dataset) -> dict[str, float]:
    accuracy = {"pruned": evaluate(model, dataset.validation)}
    recalibrate_batchnorm(model, dataset.train)
    return accuracy | {"recalibrated": evaluate(model, dataset.validation)}


def _plain_layout(model: nn.Module) -> None:
    """Weights lie in memory as a file gives them back: torch sums in another order for another layout, and the last
    digits of a network that was trained would differ from those of the same network read."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)


def _anneal(model: nn.Module, done: float) -> None:
    steps = 1000
    step = int(done * steps)
    set_temperature(model, anneal_temperature(step, steps), anneal_noise(step, steps))


def _penalty(model: nn.Module, scale: float) -> Callable[[nn.Module], Tensor] | None:
    if not find_masks(model) or scale == 0.0:
        return None
    return lambda network: scale * entropy_penalty(network)


def load_compressed(trained_like: nn.Module, example: Tensor, plan: PruningPlan, state: dict[str, Tensor]) -> nn.Module:
    """Rebuild a pruned network from its plan and its saved weights.

    Parameters
    ----------
    trained_like
        A network of the plan's kind; only its shapes matter.

    Raises
    ------
    PruningError
        Weights and plan do not belong together; the message names the first tensor that differs.
    """
    groups = trace_channel_groups(trained_like, example)
    model = remove_filters(trained_like, example, plan, groups, verify=False)
    own = model.state_dict()
    _check_state(own, state)
    model.load_state_dict(state)
    _plain_layout(model)
    return model.eval()


def _check_state(own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    names: Sequence[str] = [*own, *(name for name in given if name not in own)]
    for name in names:
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (own, given)]
        if shapes[0] != shapes[1]:
            raise PruningError(f"{name}: the plan makes {shapes[0]}, the file holds {shapes[1]}")
