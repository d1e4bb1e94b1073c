"""Where the units of a k-of-n mask lie in a weight: rows, tiles, and the checks that a mask keeps exactly k.

Shapes: weight [K, C, R, S] (C = input channels per group) or [K, C]. A *row* of units is one output channel:
`weight` granularity has C·R·S units in the reduction order (r, s, c) with c fastest, `kernel` has C units; `filter`
(a FilterPlan) has one row for the layer, whose units are the K output channels.
Rows of `weight` granularity are split in tiles of n; a last shorter tile of t units keeps min(k, t).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.dpp_select import top_k_mask
from cosim.pruning.plan import FilterPlan, MaskPlan

Granularity = Literal["weight", "kernel", "filter"]


Plan = MaskPlan | FilterPlan
"""What a mask can keep: k of n weights or kernels of each row, or k of n filters of a layer."""


def granularity_of(plan: Plan) -> Granularity:
    """`weight`, `kernel` or `filter`."""
    return "filter" if isinstance(plan, FilterPlan) else plan.granularity


def unit_count(shape: torch.Size, plan: Plan) -> int:
    """Units of one row: fan-in for `weight`, input channels per group for `kernel`, filters for `filter`."""
    if isinstance(plan, FilterPlan):
        return shape[0]
    return shape[1] if plan.granularity == "kernel" else shape[1:].numel()


def to_rows(weight: Tensor, plan: Plan) -> Tensor:
    """Units [K, units], or [1, K] for filters, of a weight-shaped tensor.

    A weight is itself; a kernel or filter of more than one weight is its L1 norm.
    """
    if isinstance(plan, FilterPlan):
        return weight.abs().flatten(1).sum(dim=1)[None]
    if plan.granularity == "kernel":
        return weight if weight.dim() == 2 else weight.abs().sum(dim=(2, 3))
    return weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def from_rows(units: Tensor, shape: torch.Size, plan: Plan) -> Tensor:
    """Mask units as a tensor that broadcasts to the weight's shape (kernels: [K, C, 1, 1], filters: [K, 1, 1, 1])."""
    if isinstance(plan, FilterPlan):
        return units.reshape(shape[0], *(1,) * (len(shape) - 1))
    if len(shape) == 2:
        return units
    if plan.granularity == "kernel":
        return units[:, :, None, None]
    K, C, R, S = shape
    return units.reshape(K, R, S, C).permute(0, 3, 1, 2)


def split_tiles(units: Tensor, n: int, k: int) -> Iterator[tuple[Tensor, int]]:
    """(rows [K · full tiles, n], k), then (the last shorter tiles [K, t], min(k, t)) if n does not divide the units."""
    if units.shape[1] == n:
        yield units, k
        return
    tail = units.shape[1] % n
    whole = units.shape[1] - tail
    yield units[:, :whole].reshape(-1, n), k
    if tail:
        yield units[:, whole:], min(k, tail)


def join_tiles(tiles: list[Tensor], K: int) -> Tensor:
    """Back from the tiles to units [K, units]."""
    rows = [tile.reshape(K, -1) for tile in tiles]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def check_fit(module: nn.Module, plan: Plan, layer: str) -> None:
    """Refuse a mask that this layer cannot have.

    Raises
    ------
    PruningError
        Names layer, field, values and remedy: not a Conv2d or Linear; k < 1 or k > n; n larger than the fan-in;
        kernel n other than the input channels per group; filter n other than the filters.
    """
    if not isinstance(module, nn.Conv2d | nn.Linear):
        raise PruningError(f"{layer}: mask: {type(module).__name__} has no k-of-n mask; name a Conv2d or Linear layer")
    units, kind = unit_count(module.weight.shape, plan), granularity_of(plan)
    field = "filters" if kind == "filter" else "mask"
    if plan.k < 1:
        raise PruningError(f"{layer}: {field}.k = {plan.k} keeps nothing; use 1 <= k <= n")
    if plan.k > plan.n:
        raise PruningError(f"{layer}: {field}.k = {plan.k} is more than {field}.n = {plan.n}; use k <= n")
    if kind == "kernel" and plan.n != units:
        raise PruningError(f"{layer}: mask.n = {plan.n} is not the {units} input channels per group; use n = {units}")
    if kind == "filter" and plan.n != units:
        raise PruningError(f"{layer}: filters.n = {plan.n} is not the {units} filters of the layer; use n = {units}")
    if plan.n > units:
        raise PruningError(f"{layer}: mask.n = {plan.n} is more than the fan-in {units}; use n <= {units}")


def layers_to_mask(model: nn.Module, plans: Mapping[str, Plan]) -> dict[str, nn.Conv2d | nn.Linear]:
    """The layers of the plans, each of which can have its mask and has none yet.

    Raises
    ------
    PruningError
        A layer is missing, parametrized already, or cannot have its mask (`check_fit`).
    """
    modules, found = dict(model.named_modules()), {}
    for name, plan in plans.items():
        if name not in modules:
            raise PruningError(f"{name}: mask: the network has no such layer; it has {', '.join(modules)[:200]}")
        module = modules[name]
        check_fit(module, plan, name)
        if parametrize.is_parametrized(module, "weight"):
            raise PruningError(f"{name}: the weight is already masked or quantized; freeze it first")
        assert isinstance(module, nn.Conv2d | nn.Linear)
        found[name] = module
    return found


def magnitude_mask(weight: Tensor, plan: Plan) -> Tensor:
    """The baseline: in each row the k units of largest magnitude stay (kernels, filters: L1 norm).

    Of equal units the lower index stays.

    Parameters
    ----------
    weight : Tensor, [K, C, R, S] or [K, C]
    plan : MaskPlan or FilterPlan

    Returns
    -------
    Tensor, bool, shape of `weight`
    """
    units = to_rows(weight.detach(), plan).abs()
    tiles = [top_k_mask(rows, k) for rows, k in split_tiles(units, plan.n, plan.k)]
    return from_rows(join_tiles(tiles, weight.shape[0]), weight.shape, plan).expand_as(weight).contiguous()


def check_mask(mask: Tensor, plan: Plan, layer: str = "mask") -> None:
    """Refuse a mask that does not keep exactly k in every row or tile.

    Parameters
    ----------
    mask : Tensor, bool, [K, C, R, S] or [K, C]
    plan : MaskPlan or FilterPlan
    layer : str
        Named in the message.

    Raises
    ------
    PruningError
        Not a bool tensor of 2 or 4 dimensions, half-kept kernels, a row of other than k units, or n does not fit.
    """
    if mask.dtype != torch.bool or mask.dim() not in (2, 4):
        raise PruningError(
            f"{layer}: a {mask.dtype} mask of shape {tuple(mask.shape)}; use bool, [K, C] or [K, C, R, S]"
        )
    units, kind = unit_count(mask.shape, plan), granularity_of(plan)
    if plan.n > units or (kind != "weight" and plan.n != units):
        raise PruningError(f"{layer}: mask.n = {plan.n} does not fit {units} units in a row; use n of that layer")
    rows = _mask_rows(mask, plan)
    if not torch.equal(from_rows(rows, mask.shape, plan).expand_as(mask), mask):
        raise PruningError(f"{layer}: some {kind}s are half kept; a {kind} mask keeps or drops all their weights")
    for tile, k in split_tiles(rows, plan.n, plan.k):
        kept = tile.sum(dim=1)
        if not bool((kept == k).all()):
            row = int((kept != k).nonzero()[0])
            raise PruningError(
                f"{layer}: row {row} of {tile.shape[1]} units keeps {int(kept[row])}; exactly {k} must stay"
            )


def _mask_rows(mask: Tensor, plan: Plan) -> Tensor:
    """Units of a mask, each judged by its first weight."""
    if isinstance(plan, FilterPlan):
        return mask.flatten(1)[:, 0][None]
    return mask[:, :, 0, 0] if plan.granularity == "kernel" and mask.dim() == 4 else to_rows(mask, plan)
