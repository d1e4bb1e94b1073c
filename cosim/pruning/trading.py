"""Widths that lose the least score for what they save: greedy along the stairs of the costs, then exchanges.

Hardware costs are stairs: an array pays for 32 columns whether 20 or 32 are used. A step down loses channels and saves
little until the edge is reached, so a search that looks one channel ahead prefers what is smooth to what is cheap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cosim.pruning.counting import Budget, Widths


@dataclass(frozen=True)
class Trade:
    """What is lost and saved by narrower groups."""

    allowed: Mapping[str, Sequence[int]]
    """Group -> its allowed widths, ascending, its size last."""
    losses: Mapping[str, Sequence[float]]
    """Group -> score lost with its j lowest channels, at j = 0 … size."""
    budgets: Sequence[Budget]
    excess: Sequence[float]
    """How far the whole network is from each budget, > 0; what is saved is measured in shares of it."""

    def lost(self, name: str, wide: int, narrow: int) -> float:
        """Score that a group loses from one width to another."""
        losses, size = self.losses[name], self.allowed[name][-1]
        return losses[size - narrow] - losses[size - wide]

    def all_lost(self, widths: Widths) -> float:
        return sum(self.lost(name, choices[-1], widths[name]) for name, choices in self.allowed.items())

    def costs(self, widths: Widths) -> list[float]:
        return [budget.cost(widths) for budget in self.budgets]

    def met(self, widths: Widths) -> bool:
        return all(budget.cost(widths) <= budget.limit for budget in self.budgets)

    def saved(self, before: Sequence[float], widths: Widths) -> float:
        """Shares of the excesses that the widths save; a budget that was met before does not count."""
        open_budgets = zip(self.budgets, before, self.excess, strict=True)
        return sum((cost - b.cost(widths)) / excess for b, cost, excess in open_budgets if cost > b.limit)


class Stairs(NamedTuple):
    """Widths of a group, ascending, its size last."""

    useful: list[int]
    """No wider one saves as much."""
    edges: list[int]
    """Of the useful ones, those that no mixture of two others beats in score lost and cost saved: all of them on a
    smooth cost, the edges on one with stairs."""


def trade_widths(trade: Trade) -> dict[str, int]:
    """Widths that meet the budgets, from the whole network down; the least allowed ones must meet them."""
    widths = {name: choices[-1] for name, choices in trade.allowed.items()}
    stairs = {name: _stairs(trade, widths, name) for name in trade.allowed}
    widths = give_back(trade, _narrowed(trade, widths, stairs), stairs)
    while (better := _better(trade, widths, stairs)) is not None:
        widths = better
    return widths


def _better(trade: Trade, widths: dict[str, int], stairs: Mapping[str, Stairs]) -> dict[str, int] | None:
    """Widths that meet the budgets and keep more score, or None where none is found.

    First channels of two groups are exchanged; then one group takes a step, and all others follow.
    """
    for changed in _exchanges(trade, widths, stairs):
        return give_back(trade, changed, stairs)
    now = trade.all_lost(widths)
    for changed in _followed(trade, widths, stairs):
        if trade.all_lost(changed) < now - 1e-9 * abs(now):
            return changed
    return None


def _stairs(trade: Trade, whole: Widths, name: str) -> Stairs:
    """Of one group, all others being whole.

    The edges are the lower convex hull of score lost over cost saved.
    """
    before, size = trade.costs(whole), trade.allowed[name][-1]
    useful, hull, most = [size], [(0.0, size)], 0.0
    for width in reversed(trade.allowed[name][:-1]):
        saved = trade.saved(before, {**whole, name: width})
        if not saved > most:
            continue
        most, lost = saved, trade.lost(name, size, width)
        useful.append(width)
        while len(hull) > 1 and _above(trade, name, hull[-2], hull[-1], (saved, lost)):
            hull.pop()
        hull.append((saved, width))
    return Stairs(sorted(useful), sorted(width for _, width in hull))


def _above(
    trade: Trade, name: str, left: tuple[float, int], middle: tuple[float, int], right: tuple[float, float]
) -> bool:
    """Whether the middle point (saved, width) lies on or above the line from the left to the right (saved, lost)."""
    size = trade.allowed[name][-1]
    first, second = trade.lost(name, size, left[1]), trade.lost(name, size, middle[1])
    return (second - first) * (right[0] - left[0]) >= (right[1] - first) * (middle[0] - left[0])


def _narrowed(trade: Trade, widths: dict[str, int], stairs: Mapping[str, Stairs], fixed: str = "") -> dict[str, int]:
    """Step by step what loses least for what it saves, until the budgets are met, or all groups but one are narrow."""
    queue = [(0.0, name) for name in sorted(widths) if name != fixed]
    # lower bounds: a step saves less the narrower the others are
    while queue and not trade.met(widths):
        _, name = heapq.heappop(queue)
        worth, width = _next_step(trade, widths, name, stairs[name].edges)
        if not queue or worth <= queue[0][0]:
            widths, worth = widths | {name: width}, 0.0
        if widths[name] > trade.allowed[name][0]:
            heapq.heappush(queue, (worth, name))
    return widths


def _next_step(trade: Trade, widths: dict[str, int], name: str, edges: Sequence[int]) -> tuple[float, int]:
    """(score lost per cost saved, width) of a group's next step down that saves anything; infinite if none does."""
    before, now = trade.costs(widths), widths[name]
    for choices in (edges, trade.allowed[name]):
        for width in reversed([choice for choice in choices if choice < now]):
            saved = trade.saved(before, widths | {name: width})
            if saved > 0:
                return trade.lost(name, now, width) / saved, width
    return float("inf"), trade.allowed[name][0]


def _exchanges(trade: Trade, widths: dict[str, int], stairs: Mapping[str, Stairs]) -> Iterator[dict[str, int]]:
    """Widths that meet the budgets with one group a step wider and another a step narrower, and more score kept.

    A step goes to the next useful width or to the next edge.
    """
    wider, narrower = [], []
    for name, now in widths.items():
        wider += [(trade.lost(name, w, now), name, w) for w in _steps_up(widths, stairs, name)]
        narrower += [(trade.lost(name, now, w), name, w) for w in _steps_down(widths, stairs, name)]
    for gain, name, more in sorted(wider, reverse=True):
        for loss, other, less in sorted(narrower):
            if loss >= gain * (1 - 1e-9):  # more than rounding, so that exchanges come to an end
                break
            changed = widths | {name: more, other: less}
            if other != name and trade.met(changed):
                yield changed


def _followed(trade: Trade, widths: dict[str, int], stairs: Mapping[str, Stairs]) -> Iterator[dict[str, int]]:
    """Widths that meet the budgets: one group a step away, the others narrowed or widened to fit."""
    for name in trade.allowed:
        for width in sorted(_steps_up(widths, stairs, name)):
            changed = _narrowed(trade, widths | {name: width}, stairs, name)
            if trade.met(changed):
                yield give_back(trade, changed, stairs)
        for width in sorted(_steps_down(widths, stairs, name)):
            changed = widths | {name: width}
            if trade.met(changed):
                yield give_back(trade, changed, stairs, name)


def give_back(trade: Trade, widths: dict[str, int], stairs: Mapping[str, Stairs], last: str = "") -> dict[str, int]:
    """Widen groups, those with the highest score waiting first and `last` in the end, as the budgets allow."""
    waiting = set(trade.allowed)
    while waiting:
        name = max(sorted(waiting), key=lambda name: (name != last, _waits(trade, widths, name)))
        wider = (widths | {name: width} for width in sorted(_steps_up(widths, stairs, name)))
        found = next((changed for changed in wider if trade.met(changed)), None)
        if found is None:
            waiting.discard(name)
        else:
            widths = found
    return widths


def _steps_up(widths: Widths, stairs: Mapping[str, Stairs], name: str) -> set[int]:
    """The next useful width, and the next edge."""
    now = widths[name]
    return {next(width for width in choices if width > now) for choices in stairs[name] if choices[-1] > now}


def _steps_down(widths: Widths, stairs: Mapping[str, Stairs], name: str) -> set[int]:
    now = widths[name]
    return {max(width for width in choices if width < now) for choices in stairs[name] if choices[0] < now}


def _waits(trade: Trade, widths: Widths, name: str) -> float:
    """Score of the best channel that a group has lost."""
    size = trade.allowed[name][-1]
    return trade.lost(name, widths[name] + 1, widths[name]) if widths[name] < size else 0.0


__all__ = ["Trade", "give_back", "trade_widths"]
