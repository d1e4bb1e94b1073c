"""The decisions of a pruning plan for one network on one accelerator, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from accel_models.accelerator import Accelerator
from accel_models.layers import Conv2d, Gemm
from cosim.codesign.plan_floors import layer_floors
from cosim.codesign.plan_importance import ChannelImportance, Scores, channel_importance, weight_quality
from cosim.codesign.plan_memory import memory_factors, memory_rows
from cosim.codesign.plan_prices import PriceList
from cosim.codesign.plan_shapes import LayerShape, NetworkShapes
from cosim.codesign.plan_tables import (
    MEMORY,
    Array,
    Decision,
    Factor,
    LayerModel,
    Tables,
    Treatment,
    is_wide,
    layer_factor,
)
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.plan import MaskPlan

DENSE_BITS = 8
"""Of the weights of a plan that says nothing else."""
LEAST_SHARE = 1e-9
"""A share below this counts as this: a weight of which nothing stays has no logarithm."""
STEPS = {"row_stationary": 12, "flexible": 6}
"""Even steps of a group's width; 16 on systolic arrays, which are priced fastest, and 8 where masks multiply them."""
MOST_PRICES = {"row_stationary": 4_000, "flexible": 500}
"""Prices in the table of one layer; 10,000 on systolic arrays."""


@dataclass(frozen=True)
class PlanProblem:
    """What can be decided, and what it costs and is worth."""

    shapes: NetworkShapes
    importance: ChannelImportance
    tables: Tables
    treated: Mapping[str, int]
    """Layer -> number of the decision of its treatment."""


def plan_problem(
    model: nn.Module,
    shapes: NetworkShapes,
    accelerator: Accelerator,
    *,
    scores: Scores | None = None,
    mixed_bits: bool = False,
    memory: bool = False,
) -> PlanProblem:
    """Tables of every layer.

    Parameters
    ----------
    scores
        In place of squared weights: layer -> score of each filter.
    mixed_bits
        Weights may have any width that the array multiplies at, not only 8 bits.
    memory
        Whether there is a memory budget.
    """
    importance = channel_importance(model, shapes.groups, scores)
    decisions = [Decision(group.name, counts=widths(group, accelerator)) for group in shapes.groups]
    treated: dict[str, int] = {}
    for name, choices in _treatments(model, shapes, accelerator, mixed_bits).items():
        if len(choices) > 1:
            treated[name] = len(decisions)
            decisions.append(Decision(name, treatments=choices))
    rows = memory_rows(shapes) if memory else ()
    models = [LayerModel(shape, shape.groups, treated.get(shape.layer.name)) for shape in shapes.layers]
    most = MOST_PRICES.get(accelerator.pe_array.dataflow, 10_000)
    wide = tuple(m for m in models if is_wide(m, decisions, most))
    prices, resources = PriceList(accelerator), MEMORY + len(rows)
    floors = [floor for m in wide for floor in layer_floors(m, decisions, accelerator, resources)]
    factors = [layer_factor(m, decisions, prices, resources) for m in models if m not in wide]
    factors += worth_factors(model, importance, decisions, treated, resources)
    factors += memory_factors(rows, decisions, resources)
    tables = Tables(tuple(decisions), tuple(factors), wide, tuple(floors), prices, resources)
    return PlanProblem(shapes, importance, tables, treated)


def widths(group: ChannelGroup, accelerator: Accelerator) -> tuple[int, ...]:
    """Counts of channels to choose from: one, even steps, and the multiples of the array's edges nearest to them."""
    array = accelerator.pe_array
    steps = STEPS.get(array.dataflow, 16 if accelerator.weight_sparsity.gather is None else 8)
    even = {max(1, round(group.size * i / steps)) for i in range(1, steps + 1)}
    full = {edge * round(count / edge) for edge in (array.rows, array.cols) for count in even}
    return tuple(sorted(count for count in {1, *even, *full} if 1 <= count <= group.size))


def _treatments(
    model: nn.Module, shapes: NetworkShapes, accelerator: Accelerator, mixed_bits: bool
) -> dict[str, tuple[Treatment, ...]]:
    """Masks that the array skips and widths that it multiplies at, of each layer; best first."""
    names = {shape.layer.name: shape for shape in shapes.layers if isinstance(shape.layer, Conv2d | Gemm)}
    bits = [w for w in accelerator.pe_array.weight_bits if w < DENSE_BITS] if mixed_bits else []
    found = {}
    for name, module in model.named_modules():
        if name not in names or f"{name}#1" in names or not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        masks = [None, *_masks(module, names[name], accelerator)]
        choices = [
            Treatment(mask, width or DENSE_BITS, weight_quality(module.weight, mask, width))
            for mask in masks
            for width in (None, *bits)
        ]
        found[name] = tuple(sorted(choices, key=lambda choice: (-choice.quality, choice.mask is not None)))
    return found


def _masks(module: nn.Conv2d | nn.Linear, shape: LayerShape, accelerator: Accelerator) -> list[MaskPlan]:
    """k of the n weights that a PE selects from; and of the kernels of inputs that are few and always there."""
    gather, layer = accelerator.weight_sparsity.gather, shape.layer
    if accelerator.weight_sparsity.action != "skip" or gather is None:
        return []
    found = []
    if isinstance(layer, Conv2d | Gemm) and gather <= layer.as_gemm().k:
        ks = sorted({max(1, round(gather * i / 8)) for i in range(1, 8)} - {gather})
        found += [MaskPlan(granularity="weight", k=k, n=gather) for k in ks]
    inputs = int(module.weight.shape[1])
    if isinstance(layer, Conv2d) and layer.groups == 1 and 2 <= inputs <= gather and "c" not in shape.slopes:
        found += [MaskPlan(granularity="kernel", k=k, n=inputs) for k in range(1, inputs)]
    return found


def worth_factors(
    model: nn.Module,
    importance: ChannelImportance,
    decisions: Sequence[Decision],
    treated: Mapping[str, int],
    resources: int,
) -> list[Factor]:
    """What the choices are worth: the mean over all weights of the logarithm of what stays of each."""
    names = [
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
    ]
    names = list(dict.fromkeys([*names, *importance.shares]))
    found = []
    for name in names:
        for group, kept in importance.shares.get(name, {}).items():
            stays = kept[list(decisions[group].counts)] / max(float(kept[-1]), LEAST_SHARE)
            found.append(_worth((group,), float(kept[-1]) * _log(stays) / len(names), resources))
        treatment = treated.get(name.removesuffix(".weight"))
        if treatment is not None:
            quality = np.array([choice.quality for choice in decisions[treatment].treatments])
            found.append(_worth((treatment,), _log(quality) / len(names), resources))
    return found


def _log(share: Array) -> Array:
    return np.log(np.maximum(share, LEAST_SHARE))


def _worth(scope: tuple[int, ...], value: Array, resources: int) -> Factor:
    nothing = np.zeros((resources, *value.shape))
    return Factor(scope, value, nothing, nothing)


__all__ = ["PlanProblem", "plan_problem", "widths"]
