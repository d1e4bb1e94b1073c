"""Execute a PruningPlan: choose filters by score, remove them, put masks and quantizers on what remains."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.criteria import combine_scores
from cosim.pruning.dpp import MaskInit, attach_masks
from cosim.pruning.plan import FilterPlan, LayerPlan, PruningPlan
from cosim.pruning.quantize import attach_quantizers
from cosim.pruning.removal import remove_channels


def choose_filters(plan: PruningPlan, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]) -> PruningPlan:
    """Fill in `filters.keep`: the k channels of highest score of every group stay.

    Parameters
    ----------
    scores
        Layer name -> Tensor [output channels], higher is more important; those of coupled layers are combined.

    Raises
    ------
    PruningError
        The plan does not fit the groups; the message names layer and remedy.
    """
    layers = dict(plan.layers)
    for group, filters in _group_filters(plan, groups).items():
        if filters.keep is not None:
            continue
        score = combine_scores([scores[layer] for layer in group.producers])
        best = score.argsort(descending=True, stable=True)[: filters.k]
        chosen = filters.model_copy(update={"keep": tuple(sorted(best.tolist()))})
        for layer in group.producers:
            layers[layer] = plan[layer].model_copy(update={"filters": chosen})
    return plan.model_copy(update={"layers": layers})


def remove_filters(
    model: nn.Module, example: Tensor, plan: PruningPlan, groups: Sequence[ChannelGroup], *, verify: bool = True
) -> nn.Module:
    """A new network without the filters that the plan drops; a plan without `keep` drops the last ones.

    Raises
    ------
    PruningError
        The plan does not fit the network, or the removal changed its outputs.
    """
    removals = {}
    for group, filters in _group_filters(plan, groups).items():
        keep = set(filters.keep if filters.keep is not None else range(filters.k))
        removals[group] = [channel for channel in range(group.size) if channel not in keep]
    return remove_channels(model, example, removals, verify=verify)


def attach_plan(model: nn.Module, plan: PruningPlan, *, seed: int, init: MaskInit = "magnitude") -> None:
    """Put the plan's masks and quantizers on the layers of a network whose filters are removed, in place.

    Every convolution and linear layer is quantized to the plan's width (8 bits where it names none).
    """
    masks = {name: layer.mask for name, layer in plan.layers.items() if layer.mask is not None}
    attach_masks(model, masks, seed=seed, init=init)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    attach_quantizers(model, {name: plan[name].weight_bits for name in layers})


def _group_filters(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> dict[ChannelGroup, FilterPlan]:
    """The filter plan of every group that loses channels; coupled layers must agree."""
    found: dict[ChannelGroup, FilterPlan] = {}
    removable = set(removable_groups(groups))
    group_of = {layer: group for group in groups for layer in group.producers}
    for name, layer in plan.layers.items():
        if name not in group_of:
            near = difflib.get_close_matches(name, group_of, n=1, cutoff=0.0)
            raise PruningError(
                f"layers.{name}: the network has no such convolution or linear layer; nearest: {near[0]!r}"
            )
        if layer.filters is None:
            continue
        group = group_of[name]
        if group.locked is not None:
            raise PruningError(f"layers.{name}.filters: no filter of it can leave ({group.locked}); remove the entry")
        if group not in removable:
            raise PruningError(
                f"layers.{name}.filters: its filters, or those of {', '.join(group.producers)}, belong to several "
                "channel groups, which a plan cannot tell apart; remove the entry"
            )
        if layer.filters.n != group.size:
            raise PruningError(
                f"layers.{name}.filters.n = {layer.filters.n}, but the layer has {group.size} filters; "
                f"use n = {group.size}"
            )
        if found.setdefault(group, layer.filters) != layer.filters:
            raise PruningError(
                f"layers.{name}.filters: its channels are shared with {', '.join(group.producers)}; "
                "give them the same k, n and keep"
            )
    for group in found:
        missing = [layer for layer in group.producers if plan[layer].filters is None]
        if missing:
            raise PruningError(
                f"layers.{missing[0]}.filters is missing: its channels are shared with "
                f"{', '.join(group.producers)}, which lose filters"
            )
    return {group: filters for group, filters in found.items() if filters.k < filters.n}


def removable_groups(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The groups whose filters a plan can remove: not locked, and every producer has all its filters in the group."""
    times = Counter(layer for group in groups for layer in group.producers)
    return tuple(g for g in groups if g.locked is None and all(times[layer] == 1 for layer in g.producers))


def filter_plans(group: ChannelGroup, k: int) -> dict[str, LayerPlan]:
    """Plans that keep k channels of a group, for each of its producers."""
    return {layer: LayerPlan(filters=FilterPlan(k=k, n=group.size)) for layer in group.producers}
