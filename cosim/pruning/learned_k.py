"""k of every layer learned under a budget: of energy, latency or anything else that a function prices layer by layer.

    minimise CE(κ) subject to Σ_layers cost(layer, κ_layer) <= budget

κ is a real number per layer; a step keeps floor(κ) or ceil(κ) units, drawn so that the mean is κ, and exactly as many
in every row. The loss reaches κ by the straight-through derivative of the relaxed mask, the softmax of the next pick;
the price between two integers is a straight line. Ours: the paper (arXiv 2105.12686) fixes k. The multiplier rises
while the budget is exceeded (method of multipliers: Bertsekas 1982, "Constrained Optimization and Lagrange Multiplier
Methods", section 2.2).

`cost` is injected (`cosim.pruning` knows no hardware): it must be cheap or remember its answers, and grow with k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.dpp import KofNMask, find_masks
from cosim.pruning.dpp_layout import Plan
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.mask_methods import DynamicProbabilistic

CHOOSING = 0.5
"""Share of the training in which k moves. Assumption: the rest is as long as that of masks of a given k needs."""
REACH = 4.0
"""Largest way of log κ in that time, a factor of 55 in k. Assumption: from anywhere to nearly anywhere."""
LayerCost = Callable[[str, int], float]
"""(layer, k) -> its price, >= 0, in the unit of the budget."""


class _Price(torch.autograd.Function):
    """Price of a layer between integers, by a straight line."""

    @staticmethod
    def forward(ctx, k: Tensor, cost: Callable[[int], float], n: int) -> Tensor:  # type: ignore[no-untyped-def]
        low = min(max(math.floor(float(k.detach())), 1), n)
        high = min(low + 1, n)
        first, second = cost(low), cost(high)
        ctx.slope = second - first if high > low else cost(n) - cost(max(n - 1, 1))
        return k.new_tensor(first + (second - first) * (float(k.detach()) - low))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        return grads[0] * ctx.slope, None, None


class LearnedK(nn.Module):
    """κ of every mask of a network, with the price and the multiplier.

    Optimize `parameters()` (log κ, about 0.01 with Adam) together with the weights, add `penalty()` to the loss, call
    `on_step` before each step and `finish` at the end.

    Parameters
    ----------
    model : nn.Module
        With masks attached; their k of now is the start.
    cost : LayerCost
    budget : float
        > 0, in the unit of the cost.
    rate : float
        > 0; how fast the multiplier moves: per step by rate x (cost / budget - 1).

    Raises
    ------
    PruningError
        No masks, a budget that k = 1 everywhere exceeds, or a cost that is no number >= 0.
    """

    def __init__(self, model: nn.Module, cost: LayerCost, budget: float, *, rate: float = 0.05) -> None:
        super().__init__()
        self._masks = dict(find_masks(model))
        if not self._masks:
            raise PruningError("learned k: the network has no masks; attach them first")
        self._cost, self.budget, self.rate, self.multiplier = lru_cache(maxsize=None)(cost), budget, rate, 0.0
        least, names = self.cost_of(dict.fromkeys(self._masks, 1)), list(self._masks)
        if not (budget > 0.0 and least <= budget):
            raise PruningError(
                f"learned k: budget = {budget}; k = 1 everywhere costs {least}, so give more or mask fewer layers"
            )
        start = [math.log(self._masks[name].k) for name in names]
        self.log_k = nn.ParameterList([nn.Parameter(torch.tensor(value)) for value in start])

    def cost_of(self, k: Mapping[str, int]) -> float:
        """Price of integer k, layer -> k.

        Raises
        ------
        PruningError
            A layer's cost is no number >= 0.
        """
        prices = {name: float(self._cost(name, count)) for name, count in k.items()}
        for name, price in prices.items():
            if not (price >= 0.0 and math.isfinite(price)):
                raise PruningError(f"{name}: cost at k = {k[name]} is {price}; the cost must be a finite number >= 0")
        return sum(prices.values())

    def kappa(self) -> dict[str, Tensor]:
        """Layer -> κ in [1, n], differentiable."""
        return {
            name: log_k.exp().clamp(1.0, float(mask.plan.n))
            for (name, mask), log_k in zip(self._masks.items(), self.log_k, strict=True)
        }

    def price(self) -> Tensor:
        """Σ cost(layer, κ), differentiable."""
        terms = [
            _Price.apply(kappa, lambda k, name=name: self._cost(name, k), self._masks[name].plan.n)
            for name, kappa in self.kappa().items()
        ]
        return torch.stack(terms).sum()

    def penalty(self) -> Tensor:
        """multiplier · excess + excess² / 2 if positive, with excess = price / budget - 1; moves the multiplier."""
        excess = self.price() / self.budget - 1.0
        self.multiplier = max(0.0, self.multiplier + self.rate * float(excess.detach()))
        return self.multiplier * excess + 0.5 * excess.clamp_min(0.0).square()

    def on_step(self, generator: torch.Generator | None = None) -> None:
        """Draw floor(κ) or ceil(κ) for every mask; keeps log κ within its range."""
        with torch.no_grad():
            for (_, mask), log_k in zip(self._masks.items(), self.log_k, strict=True):
                log_k.clamp_(0.0, math.log(mask.plan.n))
        for name, kappa in self.kappa().items():
            value = float(kappa.detach())
            up = float(torch.rand((), generator=generator)) < value - math.floor(value)
            _use(self._masks[name], min(math.floor(value) + int(up), self._masks[name].plan.n), kappa)

    def finish(self) -> dict[str, int]:
        """Round κ within the budget, set the masks to it, and return layer -> k.

        The nearest integers; while they cost too much, the layer gives one that loses the smallest share of its k per
        price saved. What is left of the budget goes, one by one, to the layer that is furthest below its κ.
        """
        wanted = {name: float(kappa.detach()) for name, kappa in self.kappa().items()}
        k = {name: round(value) for name, value in wanted.items()}
        while self.cost_of(k) > self.budget:
            k[self._cheapest_loss(k)] -= 1
        while room := [name for name in k if self._fits(k, name)]:
            k[max(room, key=lambda name: wanted[name] / k[name])] += 1
        for name, count in k.items():
            _use(self._masks[name], count, None)
        return k

    def _fits(self, k: Mapping[str, int], name: str) -> bool:
        """Is there room for one more unit of a layer?"""
        more = k[name] + 1
        return more <= self._masks[name].plan.n and self.cost_of({**k, name: more}) <= self.budget

    def _cheapest_loss(self, k: Mapping[str, int]) -> str:
        def loss(name: str) -> float:
            saved = self._cost(name, k[name]) - self._cost(name, k[name] - 1)
            return 1.0 / (k[name] * saved) if saved > 0.0 else math.inf

        candidates = [name for name, count in k.items() if count > 1]
        best = min(candidates, key=loss)
        if loss(best) < math.inf:
            return best
        return max(candidates, key=lambda name: k[name])  # a flat step of the cost: walk on


def _use(mask: KofNMask, k: int, kappa: Tensor | None) -> None:
    mask.set_k(k)
    mask.share = kappa


class BudgetedMasks(DynamicProbabilistic):
    """DPP that begins with the k of the plans and moves it under a budget, with the protocol of `mask_methods`.

    k is final after `CHOOSING` of the training; `k` then says layer -> k. The steps of log κ are Adam's, of a length
    that is a share of the training as those of Φ are.

    Parameters
    ----------
    cost, budget
        See LearnedK.
    schedule : MaskSchedule, optional
    """

    exact_rows: ClassVar[bool] = True

    def __init__(self, cost: LayerCost, budget: float, schedule: MaskSchedule | None = None) -> None:
        super().__init__(schedule)
        self._cost, self._budget, self._done = cost, budget, 0.0
        self.k: dict[str, int] | None = None

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        super().attach(model, plans, seed=seed)
        self._learned = LearnedK(model, self._cost, self._budget)
        self._optimizer = torch.optim.Adam(self._learned.parameters())
        self._generator = torch.Generator().manual_seed(seed)

    def on_step(self, model: nn.Module, done: float) -> None:
        super().on_step(model, done)
        if self.k is not None:
            return
        self._optimizer.param_groups[0]["lr"] = REACH * (done - self._done) / CHOOSING
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._done = done
        if done < CHOOSING:
            self._learned.on_step(self._generator)
        else:
            self.k = self._learned.finish()

    def penalty(self, model: nn.Module) -> Tensor:
        own = super().penalty(model)
        return own if self.k is not None else own + self._learned.penalty()

    def finish(self, model: nn.Module) -> dict[str, Tensor]:
        if self.k is None:
            self.k = self._learned.finish()
        return super().finish(model)
