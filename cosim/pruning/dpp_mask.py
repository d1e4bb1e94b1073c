"""KofNMask: the parametrization that keeps exactly k of n units of a weight, and learns which."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.dpp_layout import Plan, from_rows, granularity_of, join_tiles, split_tiles, to_rows
from cosim.pruning.dpp_sampler import Relaxation, Sampling, mask_values, top_k_mask

MaskInit = Literal["magnitude", "random"]
_RANDOM_STD = {"weight": 0.5, "kernel": 1.0, "filter": 1.0}
"""Φ of a cold start (arXiv 2105.12686; for filters not stated: as for kernels)."""
START_TEMPERATURE, FLOOR_TEMPERATURE = 5.0, 0.5
_GOLDEN = 0x9E3779B97F4A7C15


def _seed_of(seed: int, layer: str, use: str) -> int:
    """A seed per layer and use, so that one layer's draws do not depend on which others are masked."""
    return zlib.crc32(f"{seed}/{layer}/{use}".encode())


def _start_logits(weight: Tensor, plan: Plan, init: MaskInit, seed: int) -> Tensor:
    """Φ [K, units]: 2·|W| / mean of its tile, or normal draws."""
    weight = weight.detach()
    units = to_rows(weight, plan)
    if init == "random":
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(units.shape, generator=generator, dtype=weight.dtype)
        return draw.mul_(_RANDOM_STD[granularity_of(plan)]).to(weight.device)
    tiles = [tile for tile, _ in split_tiles(units.abs(), plan.n, plan.k)]
    smallest = torch.finfo(weight.dtype).tiny
    return join_tiles([2.0 * tile / tile.mean(1, keepdim=True).clamp_min(smallest) for tile in tiles], len(units))


class KofNMask(nn.Module):
    """Parametrization of a weight: W -> A ⊙ W with exactly k of n units kept in each row.

    Training mode samples a straight-through mask, evaluation mode takes the deterministic top-k of Φ. The state_dict
    holds Φ and, as extra state, what the next draws hang on: a training that goes on from it draws the same masks.

    Parameters
    ----------
    weight : Tensor, [K, C, R, S] or [K, C]
        The weight to be masked: gives the shape, and the start of Φ with `init="magnitude"`.
    plan : MaskPlan or FilterPlan
        Must fit (see `attach_masks`).
    seed : int
        Of Φ (`init="random"`) and of the Gumbel noise, together with `layer`.
    init : "magnitude" or "random"
        Φ = 2·|W| / row mean (warm start, for short trainings), or the paper's normal draws.
    relaxation : "score_order", "index_order" or "exact_marginals"
        See `Sampling`.
    layer : str
        Name in messages, and part of the seed.

    Attributes
    ----------
    logits : nn.Parameter, [K, units], for filters [1, K]
        Φ. With one tile per channel a row of it is a constraint row, else `tiles()` gives the rows.
    temperature : float
        τ > 0. noise : float, Gumbel scale c >= 0; 0 with fixed logits is a fixed mask. noise_scale: a factor on it.
    k : int
        What is kept now; the plan's until `set_k`.
    """

    def __init__(
        self,
        weight: Tensor,
        plan: Plan,
        *,
        seed: int = 0,
        init: MaskInit = "magnitude",
        relaxation: Relaxation = "score_order",
        layer: str = "layer",
    ) -> None:
        super().__init__()
        if init not in ("magnitude", "random"):
            raise PruningError(f'{layer}: init = "{init}" is not known; use "magnitude" or "random"')
        self.plan, self.layer, self.relaxation, self.shape = plan, layer, relaxation, weight.shape
        self.temperature, self.noise, self.noise_scale = START_TEMPERATURE, 1.0, 1.0
        self.k = plan.k
        self.share = None
        self.seed, self.draws = _seed_of(seed, layer, "noise"), 0
        self.logits = nn.Parameter(_start_logits(weight, plan, init, _seed_of(seed, layer, "init")))
        self._settled: Tensor | None = None
        self._fixed: Tensor | None = None
        self.last: Tensor | None = None  # of a filter mask, for its followers
        self._sampling(plan.k)  # refuses an unknown relaxation now

    share: Tensor | None
    """A scalar that gets the gradient with respect to a fractional k, if k is learned (learned_k)."""

    def tiles(self) -> Iterator[tuple[Tensor, int]]:
        """(Φ [rows, n], k) of the full tiles, then of the shorter last ones if there are any."""
        return split_tiles(self.logits, self.plan.n, self.k)

    def set_k(self, k: int) -> None:
        """Keep another k of n from now on.

        Raises
        ------
        PruningError
            k is not in 1..n.
        """
        if not 1 <= k <= self.plan.n:
            raise PruningError(f"{self.layer}: k = {k} of n = {self.plan.n} units; use 1 <= k <= n")
        if k != self.k:
            self.k, self._fixed = k, None

    def _sampling(self, k: int) -> Sampling:
        """The next draw."""
        self.draws += 1
        key = (self.seed * 0x5851F42D4C957F2D + self.draws * _GOLDEN) % 2**63
        return Sampling(k, self.temperature, self.noise * self.noise_scale, self.relaxation, key)

    def _draw(self, values: Tensor) -> Tensor:
        """A ⊙ values [K, units] for one sampled mask A."""
        tiles = zip(self.tiles(), split_tiles(values, self.plan.n, self.k), strict=True)
        fixed = None if self._settled is None else [t[:, :1] for t, _ in split_tiles(self._settled, self.plan.n, 1)]
        drawn = [
            mask_values(tile, rows, self._sampling(k), share=self.share, fixed=None if fixed is None else fixed[number])
            for number, ((rows, k), (tile, _)) in enumerate(tiles)
        ]
        return drawn[0] if values.shape[1] == self.plan.n else join_tiles(drawn, len(self.logits))

    def sample(self) -> Tensor:
        """One straight-through mask of zeros and ones that broadcasts to the weight's shape."""
        return from_rows(self._draw(torch.ones_like(self.logits, requires_grad=False)), self.shape, self.plan)

    @torch.no_grad()
    def mask(self, k: int | None = None) -> Tensor:
        """The deterministic mask, top-k of Φ (the k of now, or another): bool, shape of the weight."""
        tiles = [top_k_mask(rows, own) for rows, own in split_tiles(self.logits, self.plan.n, k or self.k)]
        units = join_tiles(tiles, len(self.logits))
        return from_rows(units, self.shape, self.plan).expand(self.shape).contiguous()

    def forward(self, weight: Tensor) -> Tensor:
        if self.training and self._fixed is None:
            if granularity_of(self.plan) == "weight":
                return from_rows(self._draw(to_rows(weight, self.plan)), self.shape, self.plan)
            kept = self.sample()
        elif self._fixed is not None and self.training:
            kept = self._fixed
        else:
            kept = self.mask().to(weight.dtype)
        self.last = kept if granularity_of(self.plan) == "filter" else None
        return weight * kept

    def __getstate__(self) -> dict[str, Any]:
        """Without the last draw and the fractional k: their graphs cannot be copied."""
        return {**self.__dict__, "last": None, "share": None}

    # Final and early final masks

    def fix(self) -> None:
        """From now on training uses the top-k of Φ as it is, without noise, and Φ learns nothing."""
        if self._fixed is None:
            self._fixed = self.mask().to(self.logits.dtype)

    def release(self) -> None:
        """Undo `fix`, and let settled rows draw again."""
        self._fixed = self._settled = None

    @property
    def is_fixed(self) -> bool:
        """Is the whole mask final?"""
        return self._fixed is not None

    @torch.no_grad()
    def settle(self, margin: float) -> None:
        """Fix the rows whose k-th and (k + 1)-th largest Φ are at least so far apart (and those with k = n)."""
        found = []
        for rows, k in self.tiles():
            if k == rows.shape[1]:
                sure = torch.ones_like(rows, dtype=torch.bool)
            else:
                edge = rows.topk(k + 1, dim=1).values
                sure = (edge[:, k - 1 : k] - edge[:, k : k + 1] >= margin).expand_as(rows)
            found.append(sure)
        now = join_tiles([tile.contiguous() for tile in found], len(self.logits))
        self._settled = now if self._settled is None else now | self._settled

    def settled_share(self) -> float:
        """Share of the units in rows that are fixed."""
        if self._fixed is not None:
            return 1.0
        return 0.0 if self._settled is None else float(self._settled.float().mean())

    # State

    def _identity(self) -> dict[str, Any]:
        return {
            "granularity": granularity_of(self.plan),
            "k": self.plan.k,
            "n": self.plan.n,
            "relaxation": self.relaxation,
        }

    def get_extra_state(self) -> dict[str, Any]:
        names = ("temperature", "noise", "noise_scale", "k", "seed", "draws")
        own = {name: getattr(self, name) for name in names}
        return {"identity": self._identity(), **own, "settled": self._settled, "fixed": self._fixed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in self._identity().items():
            found = state["identity"].get(name)
            if found != value:
                raise PruningError(
                    f"{self.layer}: the saved mask has {name} = {found}, this one {value}; go on with the plan that "
                    "the training was begun with, or start anew"
                )
        for name in ("temperature", "noise", "noise_scale", "k", "seed", "draws"):
            setattr(self, name, state[name])
        self._settled, self._fixed = state["settled"], state["fixed"]

    def extra_repr(self) -> str:
        kind = granularity_of(self.plan)
        return f"{kind}, k={self.k}, n={self.plan.n}, temperature={self.temperature:g}"
