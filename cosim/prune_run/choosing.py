"""What stays of a network: widths from shares or budgets, and the plans that follow from scores."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import permutations, product

from torch import Tensor, nn

from accel_models.accelerator import load_accelerator
from cosim.codesign.width_cost import Quantity, hardware_cost
from cosim.prune_run.recipe import PruneRecipe
from cosim.pruning.apply import group_filters, kept_channels, prunable_groups
from cosim.pruning.counting import Cost, macs_cost, parameters_cost
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.criteria import normalise
from cosim.pruning.plan import FilterPlan, PruningPlan
from cosim.pruning.plan_algebra import remaining_filters
from cosim.pruning.selection import (
    Budget,
    WidthRules,
    allowed_widths,
    global_widths,
    local_widths,
    select_plan,
    uniform_widths,
    worth_widths,
)

STREAMS = "streams"
"""Stands for every group that several layers share."""
_SCORELESS = 1e-12
"""Less than any score that matters, more than the 0 of a channel that is gone."""
_FEW = 2000
"""Combinations of widths that are all tried: seconds."""
_UNITS: tuple[tuple[str, Quantity], ...] = (("latency_ms", "latency_cycles"), ("energy_mj", "energy_pj"))

Scores = Mapping[str, Tensor]
Widths = dict[str, int]


def find_budgets(
    recipe: PruneRecipe, model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]
) -> list[Budget]:
    """The limits of a recipe on a dense network."""
    found = []
    if recipe.macs_cut is not None:
        cost = macs_cost(model, example, groups)
        found.append(Budget("macs", (1 - recipe.macs_cut) * cost({}), cost))
    if recipe.parameters_cut is not None:
        cost = parameters_cost(model, groups)
        found.append(Budget("parameters", (1 - recipe.parameters_cut) * cost({}), cost))
    for name, quantity in _UNITS:
        limit = getattr(recipe, name)
        if limit is not None and recipe.accelerator is not None:
            machine = load_accelerator(recipe.accelerator)
            unit = 1e9 if name == "energy_mj" else 1e3 * machine.clock_mhz
            cost = hardware_cost(machine, model, example, groups, recipe.network, quantity, with_bits(recipe, model))
            found.append(Budget(name, limit, _divided(cost, unit)))
    return found


def with_bits(recipe: PruneRecipe, model: nn.Module, plan: PruningPlan | None = None) -> PruningPlan:
    """A plan, or that of the dense network, with the recipe's bits in all layers."""
    plan = PruningPlan(network=recipe.network) if plan is None else plan
    asked = {"weight_bits": recipe.weight_bits, "activation_bits": recipe.activation_bits}
    bits = {name: value for name, value in asked.items() if value is not None}
    sized = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    layers = {name: plan[name].model_copy(update=bits) for name in (sized if bits else ())}
    return plan.model_copy(update={"layers": {**plan.layers, **layers}})


def _divided(cost: Cost, unit: float) -> Cost:
    return lambda widths: cost(widths) / unit


def partway(budgets: Sequence[Budget], share: float) -> list[Budget]:
    """Limits this share, in (0, 1], of the way from the dense network's costs to the budgets."""
    return [replace(b, limit=(1 - share) * b.cost({}) + share * b.limit) for b in budgets]


def matching(patterns: Sequence[str], groups: Sequence[ChannelGroup]) -> tuple[str, ...]:
    """Names of groups and layers that patterns mean; a pattern that fits none stays, to be refused by its name."""
    names = list(dict.fromkeys(name for group in groups for name in (group.name, *group.producers)))
    streams = [group.name for group in prunable_groups(groups) if len(group.producers) > 1]
    found: list[str] = []
    for pattern in patterns:
        hits = streams if pattern == STREAMS else [name for name in names if fnmatchcase(name, pattern)]
        found += hits if hits or pattern == STREAMS else [pattern]
    return tuple(dict.fromkeys(found))


def choose_widths(
    recipe: PruneRecipe, groups: Sequence[ChannelGroup], scores: Scores, budgets: Sequence[Budget]
) -> Widths:
    """Widths of all groups that can lose channels: of the share to keep, or of the budgets.

    Parameters
    ----------
    scores : of `spread_scores`, so that those of different layers compare

    Raises
    ------
    PruningError
        The budgets cannot be met (says what is the least reachable), or a name or pattern fits nothing.
    """
    rules = width_rules(recipe, groups)
    if recipe.keep is not None:
        return _kept(recipe.keep, groups, replace(rules, min_share=0.0))
    if recipe.selection == "local":
        return local_widths(groups, budgets, rules)
    if recipe.selection == "uniform":
        return stage_widths(groups, budgets, rules)
    select = {"global": global_widths, "worth": worth_widths}[recipe.selection]
    return select(groups, scores, budgets, rules, "none")


def width_rules(recipe: PruneRecipe, groups: Sequence[ChannelGroup]) -> WidthRules:
    """Which widths budgets may lead to."""
    exclude = matching(recipe.exclude, groups)
    return WidthRules(min_share=recipe.min_share, multiple=recipe.multiple, exclude=exclude)


def _kept(keep: float | Mapping[str, float], groups: Sequence[ChannelGroup], rules: WidthRules) -> Widths:
    if isinstance(keep, Mapping):
        names = [group.name for group in prunable_groups(groups)]
        hits = {pattern: [name for name in names if fnmatchcase(name, pattern)] for pattern in keep}
        keep = {name: keep[pattern] for pattern, found in hits.items() for name in found or [pattern]}
    return uniform_widths(groups, keep, rules)


def stage_widths(groups: Sequence[ChannelGroup], budgets: Sequence[Budget], rules: WidthRules) -> Widths:
    """One width for all groups of a size: the largest product of the sizes' widths that meets the budgets.

    Exact where few sizes leave few products. Otherwise it climbs from one share for all groups: one size gets wider and
    another as much narrower as it must, as long as the product grows.

    Raises
    ------
    PruningError
        The budgets cannot be met.
    """
    allowed = allowed_widths(groups, rules)
    widths = local_widths(groups, budgets, rules)
    members: dict[tuple[int, ...], list[str]] = {}
    for name, choices in allowed.items():
        if len(choices) > 1:
            members.setdefault(tuple(choices), []).append(name)

    def meets(changed: Widths) -> bool:
        return all(budget.cost(changed) <= budget.limit for budget in budgets)

    if members and math.prod(len(size) for size in sorted(members, key=len)[:-1]) <= _FEW:
        return _best_product(widths, members, meets)
    while (better := _climb(widths, members, meets)) is not None:
        widths = better
    return widths


def _best_product(
    widths: Widths, members: Mapping[tuple[int, ...], Sequence[str]], meets: Callable[[Widths], bool]
) -> Widths:
    """All widths of all sizes but the one with most choices, which gets the widest that is left for it."""
    *sizes, last = sorted(members, key=len)
    best, found = math.prod(widths[names[0]] for names in members.values()), widths
    for chosen in product(*sizes):
        fixed = widths | {name: w for size, w in zip(sizes, chosen, strict=True) for name in members[size]}
        least = bisect.bisect_right(last, best / math.prod(chosen))
        for width in reversed(last[least:]):
            changed = fixed | dict.fromkeys(members[last], width)
            if meets(changed):
                best, found = math.prod(chosen) * width, changed
                break
    return found


def _climb(
    widths: Widths, members: Mapping[tuple[int, ...], Sequence[str]], meets: Callable[[Widths], bool]
) -> Widths | None:
    """The best of all single changes, if one is better."""
    sizes, best, found = list(members), 1e-9, None
    for size in sizes:  # a width that rounding left unused
        at = widths[members[size][0]]
        wider = [width for width in size if width > at]
        if wider and meets(changed := widths | dict.fromkeys(members[size], wider[0])):
            return changed
    for wide, narrow in permutations(sizes, 2):
        now, other = widths[members[wide][0]], widths[members[narrow][0]]
        for more in [width for width in wide if width > now]:
            for less in [width for width in reversed(narrow) if width < other]:
                gain = math.log(more / now) + math.log(less / other)
                if gain <= best:
                    break
                changed = widths | dict.fromkeys(members[wide], more) | dict.fromkeys(members[narrow], less)
                if meets(changed):
                    best, found = gain, changed
                    break
    return found


def spread_scores(scores: Scores, plan: PruningPlan, groups: Sequence[ChannelGroup], how: str) -> dict[str, Tensor]:
    """Scores of a network that a plan left, at the places of the dense network's filters; 0 for those that are gone.

    Parameters
    ----------
    how
        Normalisation of each layer, after which `select_plan(…, how="none")` is right.
    """
    left = remaining_filters(plan, groups)
    found = {}
    for layer, score in scores.items():
        own = normalise(score, how).clamp_min(_SCORELESS)  # type: ignore[arg-type]
        size = next(
            part.length for g in groups for part in g.slices if part.name == f"{layer}.weight" and part.dim == 0
        )
        found[layer] = own.new_zeros(size).index_copy_(0, own.new_tensor(left[layer]).long(), own)
    return found


def no_wider(widths: Widths, plan: PruningPlan, groups: Sequence[ChannelGroup]) -> Widths:
    """Widths of all groups that lose channels, at most those that a plan left: what is gone stays gone."""
    there = {group.name: filters.k for group, filters in group_filters(plan, groups).items()}
    return {name: min(width, there.get(name, width)) for name, width in (there | widths).items()}


def plan_of_widths(base: PruningPlan, groups: Sequence[ChannelGroup], scores: Scores, widths: Widths) -> PruningPlan:
    """A plan that keeps the best channels of each group, with the masks and bits of another plan."""
    chosen = select_plan(base.network, groups, scores, widths, "none")
    layers = {name: layer.model_copy(update={"filters": None}) for name, layer in base.layers.items()}
    for name, layer in chosen.layers.items():
        layers[name] = layers.get(name, layer).model_copy(update={"filters": layer.filters})
    return chosen.model_copy(update={"layers": layers})


def plan_between(
    before: PruningPlan, after: PruningPlan, groups: Sequence[ChannelGroup], smaller_groups: Sequence[ChannelGroup]
) -> PruningPlan:
    """What is to be removed from the network that `before` left, to get what `after` leaves of the dense one."""
    old = {group.name: kept_channels(filters) for group, filters in group_filters(before, groups).items()}
    new = {group.name: kept_channels(filters) for group, filters in group_filters(after, groups).items()}
    kept: dict[str, FilterPlan] = {}
    for group in groups:
        if group.name in new:
            there = old.get(group.name, tuple(range(group.size)))
            places = tuple(there.index(channel) for channel in new[group.name])
            kept[group.name] = FilterPlan(k=len(places), n=len(there), keep=places)
    return _by_groups(before.network, kept, smaller_groups)


def _by_groups(network: str, kept: Mapping[str, FilterPlan], groups: Sequence[ChannelGroup]) -> PruningPlan:
    names = {group.name for group in prunable_groups(groups)}
    fitting = {name: filters for name, filters in kept.items() if name in names}
    return PruningPlan(network=network, groups=fitting)
