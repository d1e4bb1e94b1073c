"""Execute a PruningPlan: choose filters by score, remove them, put masks and quantizers on what remains."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.activation_bits import attach_activation_quantizers
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.criteria import group_score
from cosim.pruning.dpp import MaskInit, attach_masks
from cosim.pruning.plan import FilterPlan, LayerPlan, PruningPlan
from cosim.pruning.quantize import attach_quantizers
from cosim.pruning.removal import remove_channels


def choose_filters(plan: PruningPlan, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]) -> PruningPlan:
    """Fill in `filters.keep`: the k channels of highest score of every group stay.

    Parameters
    ----------
    scores
        Layer name -> Tensor [output channels], higher is more important; those of coupled layers are combined, and
        those of one layer that leave together (a head, the places of a shuffle) averaged.

    Raises
    ------
    PruningError
        The plan does not fit the groups; the message names layer and remedy.
    """
    layers, named = dict(plan.layers), dict(plan.groups)
    for group, filters in group_filters(plan, groups).items():
        if filters.keep is not None:
            continue
        best = group_score(group, scores).argsort(descending=True, stable=True)[: filters.k]
        chosen = filters.model_copy(update={"keep": tuple(sorted(best.tolist()))})
        if group.name in named:
            named[group.name] = chosen
            continue
        for layer in group.producers:
            layers[layer] = plan[layer].model_copy(update={"filters": chosen})
    return plan.model_copy(update={"layers": layers, "groups": named})


def remove_filters(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    plan: PruningPlan,
    groups: Sequence[ChannelGroup],
    *,
    verify: bool = True,
) -> nn.Module:
    """A new network without the filters that the plan drops; a plan without `keep` drops the last ones.

    Raises
    ------
    PruningError
        The plan does not fit the network, or the removal changed its outputs.
    """
    removals = {}
    for group, filters in group_filters(plan, groups).items():
        keep = set(kept_channels(filters))
        removals[group] = [channel for channel in range(group.size) if channel not in keep]
    return remove_channels(model, example, removals, verify=verify)


def apply_plan(
    model: nn.Module, example: Tensor | tuple[Any, ...], plan: PruningPlan, *, verify: bool = True
) -> nn.Module:
    """Trace a network and remove what the plan drops (see `remove_filters`); masks and bits are left to `attach_plan`.

    Raises
    ------
    PruningError
        The plan does not fit the network, or the removal changed its outputs.
    """
    return remove_filters(model, example, plan, trace_channel_groups(model, example), verify=verify)


def kept_channels(filters: FilterPlan) -> tuple[int, ...]:
    """The original channels that stay, ascending: `keep`, or the first k."""
    return filters.keep if filters.keep is not None else tuple(range(filters.k))


def attach_plan(model: nn.Module, plan: PruningPlan, *, seed: int, init: MaskInit = "magnitude") -> None:
    """Put the plan's masks and quantizers on the layers of a network whose filters are removed, in place.

    The weights of every convolution and linear layer are quantized to the plan's width (8 bits where it names none),
    inputs where the plan gives them bits.
    """
    masks = {name: layer.mask for name, layer in plan.layers.items() if layer.mask is not None}
    attach_masks(model, masks, seed=seed, init=init)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    attach_quantizers(model, {name: plan[name].weight_bits for name in layers})
    attach_input_bits(model, plan)


def attach_input_bits(model: nn.Module, plan: PruningPlan) -> None:
    """Put the plan's activation quantizers on a network, in place: their ranges are part of its weights.

    Raises
    ------
    PruningError
        A layer is missing, no Conv2d or Linear, or has one already.
    """
    bits = {name: layer.activation_bits for name, layer in plan.layers.items() if layer.activation_bits is not None}
    attach_activation_quantizers(model, bits)


def group_filters(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> dict[ChannelGroup, FilterPlan]:
    """The filter plan of every group that loses channels; coupled layers must agree.

    Raises
    ------
    PruningError
        The plan does not fit the groups; the message names the entry and the remedy.
    """
    found: dict[ChannelGroup, FilterPlan] = {}
    for where, group, filters in (*_by_layer(plan, groups), *_by_group(plan, groups)):
        if group.locked is not None:
            raise PruningError(f"{where}: no filter of it can leave ({group.locked}); remove the entry")
        if filters.n != group.size:
            raise PruningError(f"{where}.n = {filters.n}, but the layer has {group.size} filters; use n = {group.size}")
        if found.setdefault(group, filters) != filters:
            raise PruningError(
                f"{where}: its channels are shared with {', '.join(group.producers)}; give them the same k, n and keep"
            )
    for group in found:
        missing = [layer for layer in group.producers if plan[layer].filters is None]
        if missing and group.name not in plan.groups:
            raise PruningError(
                f"layers.{missing[0]}.filters is missing: its channels are shared with "
                f"{', '.join(group.producers)}, which lose filters"
            )
    return {group: filters for group, filters in found.items() if filters.k < filters.n}


def _by_layer(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> Iterator[tuple[str, ChannelGroup, FilterPlan]]:
    """(field, group, filters) of every layer of the plan that names a whole group."""
    of_layer: dict[str, list[ChannelGroup]] = {}
    for group in groups:
        for layer in group.producers:
            of_layer.setdefault(layer, []).append(group)
    whole = set(removable_groups(groups))
    for name, entry in plan.layers.items():
        if name not in of_layer:
            raise PruningError(
                f"layers.{name}: the network has no such convolution or linear layer; {_nearest(name, of_layer)}"
            )
        if entry.filters is None:
            continue
        group = of_layer[name][0]
        if group.locked is None and group not in whole:
            names = dict.fromkeys(g.name for member in group.producers for g in of_layer[member] if g.locked is None)
            raise PruningError(
                f"layers.{name}.filters: its filters, or those of {', '.join(group.producers)}, belong to several "
                f"channel groups; name these under groups instead: {', '.join(names)}"
            )
        yield f"layers.{name}.filters", group, entry.filters


def _by_group(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> Iterator[tuple[str, ChannelGroup, FilterPlan]]:
    of_name = {group.name: group for group in groups}
    for name, filters in plan.groups.items():
        if name not in of_name:
            raise PruningError(f"groups.{name}: the network has no such channel group; {_nearest(name, of_name)}")
        yield f"groups.{name}", of_name[name], filters


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"nearest: {near[0]!r}" if near else "it has none"


def removable_groups(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The groups that a plan can name by layers: not locked, and every producer has all its filters in the group."""
    times = Counter(layer for group in groups for layer in group.producers)
    return tuple(
        g for g in groups if g.locked is None and g.producers and all(times[layer] == 1 for layer in g.producers)
    )


def prunable_groups(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The groups that can lose a channel, whether a plan names them by layers or by group."""
    return tuple(group for group in groups if group.locked is None and group.size > 1)


def filter_plans(group: ChannelGroup, k: int) -> dict[str, LayerPlan]:
    """Plans that keep k channels of a group, for each of its producers."""
    return {layer: LayerPlan(filters=FilterPlan(k=k, n=group.size)) for layer in group.producers}


def plan_of_groups(network: str, groups: Sequence[ChannelGroup], kept: Mapping[str, int]) -> PruningPlan:
    """A plan that keeps so many channels of the groups of these names: by layers where these name the group."""
    whole = {group.name for group in removable_groups(groups)}
    layers: dict[str, LayerPlan] = {}
    named: dict[str, FilterPlan] = {}
    for group in groups:
        if group.name in kept and group.name in whole:
            layers |= filter_plans(group, kept[group.name])
        elif group.name in kept:
            named[group.name] = FilterPlan(k=kept[group.name], n=group.size)
    return PruningPlan(network=network, layers=layers, groups=named)
