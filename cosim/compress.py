"""From a trained network and a plan to a pruned, recovered network: remove, mask, fine-tune, freeze, recalibrate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosim.data.dataset import Dataset, Split
from cosim.errors import ConfigError, PruningError
from cosim.files import read_tensors
from cosim.pruning.apply import attach_input_bits, attach_plan, choose_filters, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.criteria import ScoreOptions, score_layers, weigh_by_readers
from cosim.pruning.dpp_layout import Plan
from cosim.pruning.mask_methods import DynamicProbabilistic, MaskMethod
from cosim.pruning.plan import PruningPlan, load_plan
from cosim.pruning.quantize import freeze_quantizers
from cosim.training import FitOptions, Recipe, evaluate, fit, recalibrate_batchnorm

SCORE_BATCH = 128
SCORE_IMAGES = 640
"""Images that rank filters: 5 batches of 128, the published amount."""
_PLAIN = FitOptions()


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
    """Validation accuracy: finetuned (everything done)."""


def prepare(
    model: nn.Module,
    dataset: Dataset,
    criterion: str,
    *,
    seed: int = 0,
    options: ScoreOptions | None = None,
    by_readers: bool = False,
) -> Trained:
    """Trace the channel groups of a trained network, where it is, and score its filters on training images.

    `options` are those of the criterion; by default only the seed. `by_readers`: scores times the norm of the weights
    that read the channel (`weigh_by_readers`).
    """
    plain_layout(model)
    device = next(model.parameters()).device
    example = torch.zeros(1, *dataset.input_shape, device=device)
    groups = trace_channel_groups(model, example)
    layers = [layer for group in groups if group.locked is None for layer in group.producers]
    train = dataset.train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:SCORE_IMAGES]
    batches = [(train.batch(part).to(device), train.labels[part].to(device)) for part in order.split(SCORE_BATCH)]
    scores = score_layers(model, batches, layers, criterion, options=options or ScoreOptions(seed=seed))
    scores = weigh_by_readers(model, groups, scores) if by_readers else scores
    return Trained(model, example, groups, scores)


def compress(trained: Trained, dataset: Dataset, plan: PruningPlan, recovery: Recovery, *, seed: int) -> Compressed:
    """Execute a plan on a trained network and recover it.

    Masks are learned during fine-tuning (DPP); without fine-tuning they keep the largest weights of each row. Batch
    normalisation is recalibrated at the end, where everything is final.

    Raises
    ------
    PruningError
        The plan does not fit the network.
    """
    plan = choose_filters(plan, trained.groups, trained.scores)
    model = remove_filters(trained.model, trained.example, plan, trained.groups)
    method = DynamicProbabilistic(entropy_scale=recovery.entropy_scale)
    attach(model, plan, method, mask_plans(plan), seed=seed)
    masks = recover(model, dataset.train, method, recovery.recipe, seed=seed)
    return Compressed(model, plan, masks, {"finetuned": evaluate(model, dataset.validation)})


def mask_plans(plan: PruningPlan) -> dict[str, Plan]:
    """Layer -> its mask, of the layers that have one."""
    return {name: layer.mask for name, layer in plan.layers.items() if layer.mask is not None}


def attach(model: nn.Module, plan: PruningPlan, method: MaskMethod, masks: Mapping[str, Plan], *, seed: int) -> None:
    """Put masks and the plan's quantizers on a network whose filters are removed, in place.

    Raises
    ------
    PruningError
        A layer cannot have its mask or its bits.
    """
    method.attach(model, masks, seed=seed)
    bare = {name: layer.model_copy(update={"mask": None}) for name, layer in plan.layers.items()}
    attach_plan(model, plan.model_copy(update={"layers": bare}), seed=seed)
    model.to(next(model.parameters()).device)  # buffers of what was attached


def recover(
    model: nn.Module, train: Split, method: MaskMethod, recipe: Recipe, *, seed: int, options: FitOptions = _PLAIN
) -> dict[str, Tensor]:
    """Fine-tune a network with masks and quantizers on it, bake them, and recalibrate it; in place.

    Returns
    -------
    dict of layer name to bool mask of the weight's shape
    """
    masked = bool(method.masks(model))  # without masks nothing changes between steps, so that a GPU can compile
    with _remembered(model, method, wanted=masked and options.checkpoint is not None):
        fit(
            model,
            train,
            recipe,
            seed=seed,
            penalty=method.penalty if masked else None,
            on_step=(lambda done: method.on_step(model, done)) if masked else None,
            options=options,
        )
    masks = method.finish(model)
    freeze_quantizers(model)
    plain_layout(model)
    recalibrate_batchnorm(model, train, augmentation=recipe.augmentation)
    model.eval()
    return masks


class _Memory(nn.Module):
    """What a method keeps beside the network's own state, so that a checkpoint of the network holds it too."""

    def __init__(self, method: MaskMethod, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self._method, self._parts = (method,), tuple(parts)  # tuples: no submodules of this one

    def get_extra_state(self) -> dict[str, Any]:
        counters = {name: value for name, value in vars(self._method[0]).items() if isinstance(value, int)}
        gradients = [getattr(part, "dense_gradient", None) for part in self._parts]
        return {"counters": counters, "gradients": gradients}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        vars(self._method[0]).update(state["counters"])
        for part, gradient in zip(self._parts, state["gradients"], strict=True):
            if gradient is not None:
                part.dense_gradient = gradient.to(next(part.buffers()).device)


@contextmanager
def _remembered(model: nn.Module, method: MaskMethod, *, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    parts = [module for module in model.modules() if hasattr(module, "dense_gradient")]
    model.add_module("mask_memory", _Memory(method, parts))
    try:
        yield
    finally:
        del model.mask_memory


def plain_layout(model: nn.Module) -> None:
    """Weights lie in memory as a file gives them back: torch sums in another order for another layout, and the last
    digits of a network that was trained would differ from those of the same network read."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)


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
    attach_input_bits(model, plan)
    own = model.state_dict()
    _check_state(own, state)
    model.load_state_dict(state)
    plain_layout(model)
    return model.eval()


def load_own_plan(path: Path, network: str) -> PruningPlan:
    """A plan file, which must be for this network."""
    plan = load_plan(path)
    if plan.network != network:
        raise ConfigError(f"{path}: network: the plan is for {plan.network!r}, not for {network!r}")
    return plan


def read_compressed(
    trained_like: nn.Module, example: Tensor, plan: PruningPlan, plan_file: Path, weights_file: Path
) -> nn.Module:
    """`load_compressed` from files.

    Raises
    ------
    ConfigError
        The files do not belong together.
    """
    try:
        return load_compressed(trained_like, example, plan, read_tensors(weights_file))
    except PruningError as error:
        raise ConfigError(f"{weights_file}: {error}; give the weights that belong to {plan_file}") from error


def _check_state(own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    names: Sequence[str] = [*own, *(name for name in given if name not in own)]
    for name in names:
        shapes = [tuple(state[name].shape) if name in state else "missing" for state in (own, given)]
        if shapes[0] != shapes[1]:
            raise PruningError(f"{name}: the plan makes {shapes[0]}, the file holds {shapes[1]}")
