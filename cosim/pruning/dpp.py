"""Dynamic probabilistic pruning: exactly k of n units per row, learned jointly with the weights.

`attach_masks` puts a KofNMask on the weights of a network; train it as usual, with `MaskSchedule.apply` (dpp_schedules)
before each step; `freeze_masks` bakes the result. In training mode each access to a layer's weight draws one mask:
where a module runs more than once per step, wrap the step in `torch.nn.utils.parametrize.cached()`.

Source: Gonzalez-Carabarin et al., TNNLS 2022, arXiv 2105.12686. Open in the paper, and therefore options: the
evaluation mask (here: deterministic top-k of Φ), the noise scale, the start of Φ. Ours: Φ of a warm start follows the
weights' magnitudes, and weights out of the mask go on learning (`KofNMask.straight_through`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.baking import bake
from cosim.pruning.dpp_entropy import entropy_of_rows
from cosim.pruning.dpp_follow import attach_followers, detach_followers
from cosim.pruning.dpp_layout import Plan, check_mask, granularity_of, layers_to_mask, magnitude_mask
from cosim.pruning.dpp_mask import FLOOR_TEMPERATURE, START_TEMPERATURE, KofNMask, MaskInit
from cosim.pruning.dpp_sampler import Relaxation
from cosim.pruning.plan import FilterPlan

__all__ = [
    "FLOOR_TEMPERATURE",
    "START_TEMPERATURE",
    "KofNMask",
    "MaskInit",
    "attach_masks",
    "check_mask",
    "entropy_penalty",
    "find_masks",
    "freeze_masks",
    "kept_filters",
    "logit_parameters",
    "magnitude_mask",
    "set_temperature",
]

ENTROPY_WEIGHT: Mapping[str, float] = {"weight": 5e-5, "kernel": 1e-5, "filter": 5e-3}
"""μ of the entropy penalty by granularity (arXiv 2105.12686)."""
_PLACE = ".parametrizations.weight.0"
"""Where a mask lies under its layer."""


def attach_masks(
    model: nn.Module,
    plans: Mapping[str, Plan],
    *,
    seed: int = 0,
    init: MaskInit = "magnitude",
    relaxation: Relaxation = "score_order",
    shared: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, KofNMask]:
    """Put a KofNMask on the weight of each named layer, in place. Attach masks before quantizers.

    Parameters
    ----------
    model : nn.Module
    plans : mapping of layer name to MaskPlan, or to FilterPlan for whole filters
        A filter mask takes the layer's bias along.
    seed, init, relaxation
        See KofNMask.
    shared : mapping of layer name to module names, optional
        Modules (normalisations, layers coupled by a residual sum) whose output channels stay and go with the filters
        of a layer that has a filter mask; they must run after it.

    Returns
    -------
    dict of layer name to KofNMask

    Raises
    ------
    PruningError
        A layer is missing, already parametrized, or cannot have its mask; nothing has been attached then.
    """
    chosen, layers = layers_to_mask(model, plans), dict(model.named_modules())
    masks: dict[str, KofNMask] = {}
    for name, layer in chosen.items():
        masks[name] = KofNMask(layer.weight, plans[name], seed=seed, init=init, relaxation=relaxation, layer=name)
    attach_followers(layers, {name: mask for name, mask in masks.items() if _is_filter(mask)}, shared or {})
    for name, mask in masks.items():
        mask.train(layers[name].training)
        parametrize.register_parametrization(layers[name], "weight", mask, unsafe=True)  # shape and dtype stay
    return masks


def _is_filter(mask: KofNMask) -> bool:
    return isinstance(mask.plan, FilterPlan)


def find_masks(model: nn.Module) -> dict[str, KofNMask]:
    """Layer name -> the KofNMask on its weight."""
    found: dict[str, KofNMask] = {}
    _collect(model, "", found)
    return found


def _collect(module: nn.Module, name: str, found: dict[str, KofNMask]) -> None:
    """As `named_modules` would, at a tenth of its time: this runs at every step."""
    if isinstance(module, KofNMask):
        found[name.removesuffix(_PLACE)] = module
        return
    for child, inner in module._modules.items():
        if inner is not None:
            _collect(inner, f"{name}.{child}" if name else child, found)


def logit_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The Φ of all masks, for an optimizer group of their own (short trainings need about 10 × the learning rate)."""
    return [mask.logits for mask in find_masks(model).values()]


def set_temperature(model: nn.Module, value: float, noise: float | None = None) -> None:
    """Set τ (and the Gumbel scale c, if given) of all masks.

    Raises
    ------
    PruningError
        τ is not positive or c is negative.
    """
    if not value > 0.0 or (noise is not None and not noise >= 0.0):
        raise PruningError(f"temperature = {value}, noise = {noise}; use temperature > 0 and noise >= 0")
    for mask in find_masks(model).values():
        mask.temperature = float(value)
        mask.noise = mask.noise if noise is None else float(noise)


def entropy_penalty(
    masks: nn.Module | Iterable[KofNMask],
    *,
    mu: Mapping[str, float] = ENTROPY_WEIGHT,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Σ_layers μ(granularity) · Σ_rows H(softmax(Φ)), to be added to the loss: it makes the masks confident.

    Fixed masks have none, and masks whose Φ makes steps of its own (`MaskSchedule.travel`) take it into those.

    Parameters
    ----------
    masks : model or iterable of KofNMask
    mu : mapping of granularity to weight
        Default: the paper's.
    reduction : "sum" or "mean"
        Over the rows of a layer; "sum" is the paper's.

    Returns
    -------
    Tensor, scalar, nats; 0 without masks
    """
    found = find_masks(masks).values() if isinstance(masks, nn.Module) else masks
    factors, tiles = [], []
    for mask in found:
        weight = mu[granularity_of(mask.plan)]
        if mask.is_fixed or weight == 0.0 or mask.learning.length is not None:
            continue
        own = [rows for rows, _ in mask.tiles()]
        weight /= sum(len(rows) for rows in own) if reduction == "mean" else 1
        factors += [weight] * len(own)
        tiles += own
    return entropy_of_rows(factors, tiles) if tiles else torch.zeros(())


def kept_filters(model: nn.Module) -> dict[str, FilterPlan]:
    """Layer -> its FilterPlan with `keep` filled in: what `remove_filters` needs to remove the others physically."""
    found = {}
    for name, mask in find_masks(model).items():
        if isinstance(mask.plan, FilterPlan):
            kept = mask.mask().flatten(1)[:, 0].nonzero().flatten().tolist()
            found[name] = FilterPlan(k=mask.k, n=mask.plan.n, keep=tuple(kept))
    return found


def freeze_masks(model: nn.Module) -> dict[str, Tensor]:
    """Bake A ⊙ W with the deterministic mask into plain weights and remove the parametrizations, in place.

    A quantizer on the same weight is baked with it (the weight is quantized after masking).

    Returns
    -------
    dict of layer name to bool mask of the weight's shape
    """
    layers = dict(model.named_modules())
    frozen = {}
    for name, mask in find_masks(model).items():
        frozen[name] = mask.mask()
        check_mask(frozen[name], mask.plan.model_copy(update={"k": mask.k}), name)
        getattr(layers[name], "parametrizations").eval()  # noqa: B009  (not an attribute of every nn.Module)
        bake(layers[name], "weight")
    detach_followers(model)
    return frozen
