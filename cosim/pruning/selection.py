"""How many channels of each group stay: fixed shares, or as many as budgets allow; which ones, by score.

A budget is a limit on any function of the widths: multiplications and parameters are in `counting`; energy and latency
on an accelerator are passed in by whoever knows one.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosim.errors import PruningError
from cosim.pruning.apply import plan_of_groups, prunable_groups
from cosim.pruning.counting import Budget, Widths
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.criteria.combining import Normalisation, group_score
from cosim.pruning.plan import FilterPlan, PruningPlan
from cosim.pruning.trading import Trade, trade_widths


@dataclass(frozen=True)
class WidthRules:
    """Which widths a group may have.

    Raises
    ------
    PruningError
        A value is outside its range.
    """

    min_width: int = 1
    """Channels that stay at least, >= 1."""
    min_share: float = 0.0
    """Share of the channels that stays at least, in [0, 1]."""
    multiple: int = 1
    """Widths are multiples of this, >= 1 (the edge of an array, or a divisor of it), or the whole group."""
    exclude: tuple[str, ...] = ()
    """Groups, or layers whose groups, keep all channels."""

    def __post_init__(self) -> None:
        if self.min_width < 1 or self.multiple < 1:
            raise PruningError(f"min_width = {self.min_width}, multiple = {self.multiple}: each must be at least 1")
        if not 0 <= self.min_share <= 1:
            raise PruningError(f"min_share = {self.min_share}: must be in [0, 1]")


_FREE = WidthRules()


def allowed_widths(groups: Sequence[ChannelGroup], rules: WidthRules = _FREE) -> dict[str, list[int]]:
    """Name of each group that can lose channels -> the widths it may have, ascending, its size last.

    Raises
    ------
    PruningError
        `rules.exclude` names neither a group nor a layer.
    """
    known = {name for group in groups for name in (group.name, *group.producers)}
    unknown = [name for name in rules.exclude if name not in known]
    if unknown:
        raise PruningError(f"exclude: {unknown[0]} is neither a group nor a layer; known: {', '.join(sorted(known))}")
    found = {}
    for group in prunable_groups(groups):
        least = max(rules.min_width, -int(-rules.min_share * group.size // 1))
        steps = [width for width in range(rules.multiple, group.size, rules.multiple) if width >= least]
        kept = not {group.name, *group.producers}.isdisjoint(rules.exclude)
        found[group.name] = [group.size] if kept else [*steps, group.size]
    return found


def uniform_widths(
    groups: Sequence[ChannelGroup], keep: float | Mapping[str, float], rules: WidthRules = _FREE
) -> dict[str, int]:
    """The nearest allowed width to a share of each group's channels.

    Parameters
    ----------
    keep : in (0, 1], or a mapping of group names to such shares (others keep all)

    Raises
    ------
    PruningError
        A share is outside (0, 1], or belongs to no group that can lose channels.
    """
    allowed = allowed_widths(groups, rules)
    shares = dict.fromkeys(allowed, keep) if isinstance(keep, int | float) else dict(keep)
    for name, share in shares.items():
        if name not in allowed:
            raise PruningError(f"keep: {name} is no group that can lose channels; known: {', '.join(allowed)}")
        if not 0 < share <= 1:
            raise PruningError(f"keep: {share} for {name}; a share that stays is in (0, 1]")
    return {
        name: min(widths, key=lambda width: (abs(width - shares.get(name, 1.0) * widths[-1]), -width))
        for name, widths in allowed.items()
    }


def local_widths(
    groups: Sequence[ChannelGroup], budgets: Sequence[Budget], rules: WidthRules = _FREE
) -> dict[str, int]:
    """The largest share, the same for all groups, that meets the budgets.

    Raises
    ------
    PruningError
        The budgets cannot be met; says what is the least reachable.
    """
    allowed = _reachable(groups, budgets, rules)
    shares = sorted({width / widths[-1] for widths in allowed.values() for width in widths}, reverse=True)
    return _first_within(shares, budgets, lambda share: {n: _at_most(w, share * w[-1]) for n, w in allowed.items()})


def global_widths(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    budgets: Sequence[Budget],
    rules: WidthRules = _FREE,
    how: Normalisation = "mean",
) -> dict[str, int]:
    """Channels that score above one threshold stay, the lowest threshold that meets the budgets.

    Of equal scores, those go first that are lower in their own group. Widths are rounded down to allowed ones; a group
    keeps its least width whatever its scores.

    Parameters
    ----------
    scores : layer name -> Tensor [output channels]
    how
        Makes scores of different layers comparable (`criteria.normalise`).

    Raises
    ------
    PruningError
        The budgets cannot be met, or a group has no scores.
    """
    allowed = _reachable(groups, budgets, rules)
    ordered = _ordered_scores(groups, scores, how)
    ladder = sorted(
        (value, place / len(ordered[name]), name) for name in allowed for place, value in enumerate(ordered[name])
    )

    def without(lowest: float) -> dict[str, int]:
        gone = Counter(name for _, _, name in ladder[: int(lowest)])
        return {name: _at_most(widths, widths[-1] - gone[name]) for name, widths in allowed.items()}

    return _first_within(range(len(ladder) + 1), budgets, without)


def worth_widths(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    budgets: Sequence[Budget],
    rules: WidthRules = _FREE,
    how: Normalisation = "mean",
) -> dict[str, int]:
    """The score lost per cost saved decides: greedily the cheapest loss first, until the budgets are met.

    Saved cost is measured in shares of what the whole network has too much of each budget. A step goes to the next
    width at which saving pays: an array may pay for 32 columns whether 20 or 32 are used (`trading`). What the last
    step saved too much is then given back, the highest scores first, and channels of two groups are exchanged as long
    as that keeps more score. The cost functions are called once for every width of every group, a few times a step, and
    up to four times for a pair of groups in the end.

    The sum of scores is only as good as their scale between layers; `sensitivity.calibrated_scores` measures it.

    Raises
    ------
    PruningError
        The budgets cannot be met, or a group has no scores.
    """
    allowed = _reachable(groups, budgets, rules)
    ordered = _ordered_scores(groups, scores, how)
    whole = {name: choices[-1] for name, choices in allowed.items()}
    losses = {name: [0.0, *itertools.accumulate(ordered[name])] for name in allowed}
    excess = [abs(budget.cost(whole) - budget.limit) or 1.0 for budget in budgets]  # one met now may be exceeded later
    return trade_widths(Trade(allowed, losses, budgets, excess))


def select_plan(
    network: str,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    widths: Widths,
    how: Normalisation = "mean",
) -> PruningPlan:
    """A plan that keeps the channels of highest score: so many of each named group.

    Raises
    ------
    PruningError
        A group has no scores.
    """
    named = {group.name: group for group in groups}
    kept = {name: width for name, width in widths.items() if width < named[name].size}
    plan = plan_of_groups(network, groups, kept)
    layers, by_group = dict(plan.layers), dict(plan.groups)
    for name, width in kept.items():
        best = group_score(named[name], scores, how).argsort(descending=True, stable=True)[:width]
        filters = FilterPlan(k=width, n=named[name].size, keep=tuple(sorted(best.tolist())))
        if name in by_group:
            by_group[name] = filters
            continue
        for layer in named[name].producers:
            layers[layer] = layers[layer].model_copy(update={"filters": filters})
    return plan.model_copy(update={"layers": layers, "groups": by_group})


def least_costs(
    groups: Sequence[ChannelGroup], budgets: Sequence[Budget], rules: WidthRules = _FREE
) -> dict[str, float]:
    """Name of each budget -> what the network costs with every group at its least allowed width."""
    least = {name: widths[0] for name, widths in allowed_widths(groups, rules).items()}
    return {budget.name: budget.cost(least) for budget in budgets}


def _reachable(groups: Sequence[ChannelGroup], budgets: Sequence[Budget], rules: WidthRules) -> dict[str, list[int]]:
    """The allowed widths, if the smallest ones meet the budgets."""
    least = least_costs(groups, budgets, rules)
    for budget in budgets:
        if least[budget.name] > budget.limit:
            raise PruningError(
                f"budget {budget.name} = {budget.limit:g} cannot be met: with every group at its least width it is "
                f"{least[budget.name]:g}; allow that, lower min_width or min_share, or exclude fewer groups"
            )
    return allowed_widths(groups, rules)


def _met(budgets: Sequence[Budget], widths: Widths) -> bool:
    return all(budget.cost(widths) <= budget.limit for budget in budgets)


def _first_within(
    ladder: Sequence[float], budgets: Sequence[Budget], widths_at: Callable[[float], dict[str, int]]
) -> dict[str, int]:
    """Widths at the first rung that meets the budgets; widths fall, and costs with them, along the ladder."""
    at = bisect.bisect_left(range(len(ladder)), True, key=lambda rung: _met(budgets, widths_at(ladder[rung])))
    return widths_at(ladder[min(at, len(ladder) - 1)])


def _at_most(widths: Sequence[int], wanted: float) -> int:
    """The largest allowed width that is not above `wanted`, or the least."""
    return widths[max(0, bisect.bisect_right(widths, wanted + 1e-9) - 1)]


def _ordered_scores(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], how: Normalisation
) -> dict[str, list[float]]:
    return {
        group.name: torch.sort(group_score(group, scores, how)).values.tolist() for group in prunable_groups(groups)
    }
