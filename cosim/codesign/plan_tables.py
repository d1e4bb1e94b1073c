"""Tables of what each layer costs and is worth for every choice of the decisions that it hangs on.

A decision is the width of a channel group, or the treatment (mask, weight bits) of a layer. A layer is a factor over
its decisions. Resources are rows: latency in cycles, energy in pJ, and memory in bytes, one row for every moment at
which the activations may be at their peak. A layer of too many decisions for a table is priced when it is asked for,
and has bounds for pairs of its decisions instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.layers import Layer, VectorOp
from accel_models.sparsity import KofN
from cosim.codesign.plan_prices import Price, PriceList
from cosim.codesign.plan_shapes import LayerShape
from cosim.pruning.plan import MaskPlan

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
MOST_ENTRIES = 200_000
"""Entries of the largest table."""
WORTHLESS = -1e9
"""Value of a choice that the accelerator cannot run."""
LATENCY, ENERGY, MEMORY = 0, 1, 2
"""Rows of resources; memory from the third on."""


@dataclass(frozen=True)
class Treatment:
    """What happens to the weights of one layer beside the removal of filters."""

    mask: MaskPlan | None
    bits: int
    quality: float
    """Share of the layer's importance that stays, in [0, 1]."""


@dataclass(frozen=True)
class Decision:
    """One thing to choose; `counts` ascend, treatments come best first."""

    name: str
    counts: tuple[int, ...] = ()
    """Widths of a channel group."""
    treatments: tuple[Treatment, ...] = ()
    """Of a layer."""

    @property
    def choices(self) -> int:
        return len(self.counts) or len(self.treatments)


@dataclass(frozen=True)
class Factor:
    """Value and cost for every combination of the choices of some decisions."""

    scope: tuple[int, ...]
    """Numbers of the decisions, ascending."""
    value: Array
    """[choices of each decision of the scope]."""
    cost: Array
    """[R, choices …]: what is used of each resource; where nothing fits 0, and the value is WORTHLESS."""
    least: Array
    """[R, choices …]: what is used at the very least."""


@dataclass(frozen=True)
class LayerModel:
    """A layer, the decisions that it hangs on, and its prices."""

    shape: LayerShape
    group_decisions: tuple[int, ...]
    treatment: int | None
    """Number of the decision of its treatment."""

    @property
    def scope(self) -> tuple[int, ...]:
        return tuple(sorted({*self.group_decisions, *(() if self.treatment is None else (self.treatment,))}))

    def alike(self, decisions: Sequence[Decision], rows: Integers) -> tuple[Integers, Integers]:
        """Rows of choices make the same layer: (the first row of each kind, the kind of each row)."""
        kind = np.zeros(len(rows), np.int64)
        if self.treatment is not None:
            kind += rows[:, self.scope.index(self.treatment)]
        for slope in self.shape.slopes.values():
            size = np.zeros(len(rows), np.int64)
            for group, step in slope.items():
                size += step * np.array(decisions[group].counts)[rows[:, self.scope.index(group)]]
            kind = np.unique(kind, return_inverse=True)[1] * (int(size.max(initial=0)) + 1) + size
        _, first, which = np.unique(kind, return_index=True, return_inverse=True)
        return first, which

    def requests(self, decisions: Sequence[Decision], rows: Integers) -> list[tuple[Layer, KofN | None]]:
        """What to price for rows of choices, in the order of the scope."""
        found: list[tuple[Layer, KofN | None]] = []
        for row in rows.tolist():
            chosen = dict(zip(self.scope, row, strict=True))
            lost = {g: decisions[g].counts[-1] - decisions[g].counts[chosen[g]] for g in self.group_decisions}
            layer = self.shape.at(lost)
            if self.treatment is None:
                found.append((layer, None))
            else:
                found.append(treated(layer, decisions[self.treatment].treatments[chosen[self.treatment]]))
        return found


def treated(layer: Layer, treatment: Treatment) -> tuple[Layer, KofN | None]:
    """A layer with other weight bits, and the structure of its weights."""
    layer = replace(layer, bits=replace(layer.bits, weight=treatment.bits))
    mask = treatment.mask
    return layer, None if mask is None else KofN(granularity=mask.granularity, k=mask.k, n=mask.n)


def fits(request: tuple[Layer, KofN | None]) -> bool:
    """Whether a layer still has as many weights an output as one tile of its mask."""
    layer, structure = request
    if structure is None or isinstance(layer, VectorOp):
        return True
    return structure.granularity == "kernel" or structure.n <= layer.as_gemm().k


@dataclass(frozen=True)
class Tables:
    """The planning problem: maximise the value within the budgets of the resources."""

    decisions: tuple[Decision, ...]
    factors: tuple[Factor, ...]
    wide: tuple[LayerModel, ...]
    """Layers without a table; `floors` hold for them."""
    floors: tuple[Factor, ...]
    prices: PriceList
    resources: int
    seen: dict[tuple[int, ...], tuple[Array, bool]] = field(default_factory=dict)
    """(position in `wide`, choices of its scope) -> resources, and whether nothing fits."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(decision.choices for decision in self.decisions)

    def evaluate(self, plans: Integers) -> tuple[Array, Array]:
        """Values [P] and costs [P, R] of plans [P, decisions]."""
        value, cost = np.zeros(len(plans)), np.zeros((len(plans), self.resources))
        for factor in self.factors:
            at: tuple[Any, ...] = tuple(plans[:, decision] for decision in factor.scope)
            value += factor.value[at]
            cost += factor.cost[(slice(None), *at)].T.reshape(-1, self.resources)
        for number, layer in enumerate(self.wide):
            own, bad = self._wide(number, layer, plans[:, list(layer.scope)])
            cost += own
            value += np.where(bad, WORTHLESS, 0.0)
        return value, cost

    def _wide(self, number: int, layer: LayerModel, rows: Integers) -> tuple[Array, NDArray[np.bool_]]:
        """Costs [P, R] of a layer without a table, and where nothing fits."""
        keys = [(number, *row) for row in rows.tolist()]
        missing = [key for key in dict.fromkeys(keys) if key not in self.seen]
        if missing:
            asked = np.array([key[1:] for key in missing], np.int64)
            cost, bad = price_rows(layer, self.decisions, asked, self.prices, self.resources)
            self.seen.update(zip(missing, zip(cost.T, bad.tolist(), strict=True), strict=True))
        found = [self.seen[key] for key in keys]
        return np.array([cost for cost, _ in found]), np.array([bad for _, bad in found], bool)


def price_rows(
    layer: LayerModel, decisions: Sequence[Decision], rows: Integers, prices: PriceList, resources: int
) -> tuple[Array, NDArray[np.bool_]]:
    """Resources [R, rows] of a layer, and where nothing fits."""
    found, bad = _prices(layer, decisions, rows, prices)
    return _as_resources(found[:, 0], found[:, 1], found[:, 2], resources), bad


def _prices(
    layer: LayerModel, decisions: Sequence[Decision], rows: Integers, prices: PriceList
) -> tuple[Array, NDArray[np.bool_]]:
    first, which = layer.alike(decisions, rows)
    requests = layer.requests(decisions, rows[first])
    legal = np.array([fits(request) for request in requests], bool)
    found = np.zeros((len(requests), len(Price._fields)))
    found[legal] = prices.prices([request for request, ok in zip(requests, legal, strict=True) if ok])
    bad = ~legal | ~np.isfinite(found[:, 0])
    found[bad] = 0.0
    return found[which], bad[which]


def _as_resources(latency: Array, energy: Array, memory: Array, resources: int) -> Array:
    return np.stack([latency, energy, *[memory] * (resources - MEMORY)])


def all_choices(layer: LayerModel, decisions: Sequence[Decision]) -> Integers:
    """[entries, scope]: every combination of the choices that a layer hangs on, the last one changing fastest."""
    sizes = [decisions[i].choices for i in layer.scope]
    return np.indices(sizes).reshape(len(sizes), prod(sizes)).T


def layer_factor(layer: LayerModel, decisions: Sequence[Decision], prices: PriceList, resources: int) -> Factor:
    """The table of one layer's costs; its value is 0."""
    sizes = [decisions[i].choices for i in layer.scope]
    found, bad = _prices(layer, decisions, all_choices(layer, decisions), prices)
    cost = _as_resources(found[:, 0], found[:, 1], found[:, 2], resources).reshape(resources, *sizes)
    least = cost
    if prices.accelerator.keep_outputs:
        least = _as_resources(found[:, 3], found[:, 4], found[:, 2], resources).reshape(resources, *sizes)
    return Factor(layer.scope, np.where(bad, WORTHLESS, 0.0).reshape(sizes), cost, least)


def is_wide(layer: LayerModel, decisions: Sequence[Decision], most: int) -> bool:
    """Whether a table would have too many entries, or more than `most` prices."""
    if prod(decisions[i].choices for i in layer.scope) > MOST_ENTRIES:
        return True
    return len(layer.alike(decisions, all_choices(layer, decisions))[0]) > most


__all__ = [
    "ENERGY",
    "LATENCY",
    "MEMORY",
    "WORTHLESS",
    "Decision",
    "Factor",
    "LayerModel",
    "Tables",
    "Treatment",
    "is_wide",
    "layer_factor",
    "price_rows",
    "treated",
]
