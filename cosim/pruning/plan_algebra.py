"""Plans on networks: does a plan fit, which original channels remain, and two plans one after the other as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.apply import group_filters, kept_channels, plan_of_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.dpp_layout import check_fit
from cosim.pruning.plan import FilterPlan, LayerPlan, PruningPlan

Positions = dict[tuple[str, int], tuple[int, ...]]


def check_plan(plan: PruningPlan, model: nn.Module, example: Tensor | tuple[Any, ...]) -> None:
    """Refuse a plan that a network cannot have: its layers, groups and sizes, and the masks on what would remain.

    Raises
    ------
    PruningError
        The message names the entry of the plan and what would fit.
    """
    groups = trace_channel_groups(model, example)
    smaller = remove_filters(model, example, plan, groups, verify=False)
    layers = dict(smaller.named_modules())
    for name, layer in plan.layers.items():
        if layer.mask is not None:
            check_fit(layers[name], layer.mask, f"layers.{name}")


def remaining_positions(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> Positions:
    """(parameter or buffer, dimension) -> the original positions along it that a plan leaves, in their new order.

    Only tensors that lose positions are named: `smaller.weight[i] == original.weight[remaining[i]]`.

    Raises
    ------
    PruningError
        The plan does not fit the groups.
    """
    gone: dict[tuple[str, int], set[int]] = {}
    lengths: dict[tuple[str, int], int] = {}
    for group, filters in group_filters(plan, groups).items():
        keep = set(kept_channels(filters))
        for part in group.slices:
            place = (part.name, part.dim)
            lengths[place] = part.length
            leaving = gone.setdefault(place, set())
            for channel, positions in enumerate(part.indices):
                if channel not in keep:
                    leaving.update(positions)
    return {place: tuple(i for i in range(lengths[place]) if i not in gone[place]) for place in gone}


def remaining_filters(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> dict[str, tuple[int, ...]]:
    """Layer -> the original filters that a plan leaves of it, ascending; for all layers of the groups.

    Raises
    ------
    PruningError
        The plan does not fit the groups.
    """
    left = remaining_positions(plan, groups)
    found: dict[str, tuple[int, ...]] = {}
    for group in groups:
        for part in group.slices:
            layer = part.name.rpartition(".")[0]
            if part.role == "out" and layer in group.producers and part.name == f"{layer}.weight":
                found[layer] = left.get((part.name, part.dim), tuple(range(part.length)))
    return found


def compose_plans(
    first: PruningPlan, groups: Sequence[ChannelGroup], second: PruningPlan, smaller_groups: Sequence[ChannelGroup]
) -> PruningPlan:
    """One plan for the original network that does what `first` and then `second` do.

    Parameters
    ----------
    first, groups
        The plan for the original network, and its groups.
    second, smaller_groups
        The plan for the network that `first` leaves, and that network's groups. Where it names a layer, its mask and
        bits count, else those of `first`.

    Raises
    ------
    PruningError
        A plan does not fit its groups, or a channel of the smaller network is only a part of an original one.
    """
    left = remaining_positions(first, groups)
    keep = {group.name: set(kept_channels(filters)) for group, filters in group_filters(first, groups).items()}
    owners = _owners(groups)
    for group, filters in group_filters(second, smaller_groups).items():
        staying = set(kept_channels(filters))
        for channel in range(group.size):
            if channel in staying:
                continue
            for name, original in _originals(group, channel, left, owners):
                keep.setdefault(name, set(range(_size(groups, name)))).discard(original)
    return _with_layers(first, groups, second, keep)


def _originals(
    group: ChannelGroup, channel: int, left: Positions, owners: Mapping[tuple[str, int, int], tuple[str, int]]
) -> set[tuple[str, int]]:
    """(name of the original group, original channel) of a channel of the smaller network."""
    found = set()
    for part in group.slices:
        for position in part.indices[channel]:
            kept = left.get((part.name, part.dim))
            owner = owners.get((part.name, part.dim, kept[position] if kept else position))
            if owner is None:
                raise PruningError(
                    f"group {group.name}: {part.name} is no parameter of the original network's groups; give the "
                    "groups of the network that the first plan was made for"
                )
            found.add(owner)
    return found


def _owners(groups: Sequence[ChannelGroup]) -> dict[tuple[str, int, int], tuple[str, int]]:
    return {
        (part.name, part.dim, position): (group.name, channel)
        for group in groups
        for part in group.slices
        for channel, positions in enumerate(part.indices)
        for position in positions
    }


def _size(groups: Sequence[ChannelGroup], name: str) -> int:
    return next(group.size for group in groups if group.name == name)


def _with_layers(
    first: PruningPlan, groups: Sequence[ChannelGroup], second: PruningPlan, keep: Mapping[str, set[int]]
) -> PruningPlan:
    empty = [name for name, staying in keep.items() if not staying]
    if empty:
        raise PruningError(f"group {empty[0]}: the two plans together would remove all its channels; keep at least one")
    plan = plan_of_groups(first.network, groups, {name: len(staying) for name, staying in keep.items()})
    chosen = {
        name: FilterPlan(k=len(staying), n=_size(groups, name), keep=tuple(sorted(staying)))
        for name, staying in keep.items()
    }
    of_layer = {layer: group.name for group in groups for layer in group.producers if group.name in keep}
    layers: dict[str, LayerPlan] = {}
    for name in dict.fromkeys((*first.layers, *second.layers, *plan.layers)):
        own = second.layers.get(name, first[name])
        filters = chosen[of_layer[name]] if name in plan.layers else None
        layers[name] = own.model_copy(update={"filters": filters})
    return plan.model_copy(update={"layers": layers, "groups": {name: chosen[name] for name in plan.groups}})
