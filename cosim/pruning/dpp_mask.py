"""KofNMask: the parametrization that keeps exactly k of n units of a weight, and learns which."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.pruning.dpp_entropy import entropy_gradient
from cosim.pruning.dpp_layout import Plan, from_rows, granularity_of, join_tiles, split_tiles, to_rows
from cosim.pruning.dpp_learning import Learning, follow_spread, follow_weights, masked, taught
from cosim.pruning.dpp_sampler import Relaxation, Sampling, learns_by_rows, mask_values
from cosim.pruning.dpp_select import top_k_mask

MaskInit = Literal["magnitude", "random"]
_RANDOM_STD = {"weight": 0.5, "kernel": 1.0, "filter": 1.0}
"""Φ of a cold start (arXiv 2105.12686; for filters not stated: as for kernels)."""
START_TEMPERATURE, FLOOR_TEMPERATURE = 5.0, 0.5
MAGNITUDE_GAIN = 2.0
"""Φ of a weight of mean size in its row, in a warm start (pilot: LeNet-300-100, 4 dense epochs, then 97.9 % at 5 %)."""
RARELY = 8
"""Every so manieth draw Φ follows the weights, and takes in the entropy penalty (so many times): neither changes much
from step to step, and each would cost a tenth of a step of LeNet-300-100."""
_STATE = ("temperature", "noise", "noise_scale", "k", "seed", "draws", "done", "straight_through", "follows")
"""Attributes that the next draws and steps hang on."""
_GOLDEN = 0x9E3779B97F4A7C15


def _seed_of(seed: int, layer: str, use: str) -> int:
    """A seed per layer and use, so that one layer's draws do not depend on which others are masked."""
    return zlib.crc32(f"{seed}/{layer}/{use}".encode())


def _random_logits(units: Tensor, plan: Plan, seed: int) -> Tensor:
    """Φ [K, units] of a cold start."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(units.shape, generator=generator, dtype=units.dtype)
    return draw.mul_(_RANDOM_STD[granularity_of(plan)]).to(units.device)


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
        Φ = 2·|W| / row mean (norms of kernels and filters: of mean 0 and as wide as that is for normal weights), which
        goes on following the weights while they learn; or the paper's normal draws.
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
    straight_through : bool
        Do weights that are not kept learn too, as if they were? They come and go with what they have learned then
        (as in SR-STE, arXiv 2102.04010); the paper's do not.
    follows : bool
        Does Φ of a warm start go on following the weights while they learn?
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
        self.share, self.learning, self.done = None, Learning(), 0.0
        self.straight_through, self.follows = True, True
        self.seed, self.draws = _seed_of(seed, layer, "noise"), 0
        units = to_rows(weight.detach(), plan)
        cold = init == "random"
        self.logits = nn.Parameter(
            _random_logits(units, plan, _seed_of(seed, layer, "init")) if cold else units.new_zeros(units.shape)
        )
        self.register_buffer("seen", None if cold else units.new_zeros(units.shape))
        self._settled: Tensor | None = None
        self._fixed: Tensor | None = None
        self.last: Tensor | None = None  # of a filter mask, for its followers
        self._sampling(plan.k)  # refuses an unknown relaxation now
        self._follow(weight)

    seen: Tensor | None
    """What the weights' magnitudes gave Φ so far, for Φ that follows them, [K, units]."""
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
        return Sampling(k, self.temperature, self.noise * self.noise_scale, self.relaxation, key, self.straight_through)

    @torch.no_grad()
    def _follow(self, weight: Tensor) -> None:
        """Move Φ by how far 2·|W| / tile mean (norms: standardized) has moved; settled rows stay."""
        if self.seen is None:
            return
        units = to_rows(weight.detach(), self.plan)
        follow = follow_weights if granularity_of(self.plan) == "weight" else follow_spread
        if units.shape[1] == self.plan.n and self._settled is None:
            follow(units, MAGNITUDE_GAIN, self.seen, self.logits)
            return
        before = None if self._settled is None else self.logits.clone()
        parts = [split_tiles(tensor, self.plan.n, self.k) for tensor in (units, self.seen, self.logits)]
        tiles = [tuple(tile for tile, _ in of_all) for of_all in zip(*parts, strict=True)]
        for rows, seen, logits in tiles:
            follow(rows, MAGNITUDE_GAIN, seen, logits)
        if len(tiles) > 1:  # a shorter last tile: those were copies
            self.seen.copy_(join_tiles([seen for _, seen, _ in tiles], len(units)))
            self.logits.copy_(join_tiles([logits for _, _, logits in tiles], len(units)))
        if self._settled is not None and before is not None:
            self.logits.copy_(torch.where(self._settled, before, self.logits))

    @torch.no_grad()
    def _learn(self, gradient: Tensor) -> None:
        """One step of Φ of its own, where the sampler cannot make it."""
        if self.learning.entropy_weight > 0.0:
            tiles = [entropy_gradient(rows.contiguous(), self.learning.entropy_weight) for rows, _ in self.tiles()]
            gradient = join_tiles(tiles, len(self.logits)).add_(gradient)
        self.learning.step(self.logits, gradient)

    def _draw(self, values: Tensor) -> Tensor:
        """A ⊙ values [K, units] for one sampled mask A."""
        if values.shape[1] == self.plan.n and self._settled is None:
            return self._draw_rows(values)
        logits = self.logits if self.learning.length is None else taught(self.logits, self._learn)
        tiles = zip(split_tiles(logits, self.plan.n, self.k), split_tiles(values, self.plan.n, self.k), strict=True)
        fixed = None if self._settled is None else [t[:, :1] for t, _ in split_tiles(self._settled, self.plan.n, 1)]
        drawn = [
            mask_values(tile, rows, self._sampling(k), share=self.share, fixed=None if fixed is None else fixed[number])
            for number, ((rows, k), (tile, _)) in enumerate(tiles)
        ]
        return join_tiles(drawn, len(self.logits))

    def _draw_rows(self, values: Tensor) -> Tensor:
        """The same where each channel is one tile and none is settled."""
        sampling = self._sampling(self.k)
        if self.learning.length is None:
            return mask_values(values, self.logits, sampling, share=self.share)
        if learns_by_rows(self.logits, sampling):
            return mask_values(values, self.logits, sampling, share=self.share, learning=self.learning)
        return mask_values(values, taught(self.logits, self._learn), sampling, share=self.share)

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
        searching, is_filter = self.training and self._fixed is None, granularity_of(self.plan) == "filter"
        if searching:
            if self.follows and self.draws % RARELY == 1:
                self._follow(weight)
            if granularity_of(self.plan) == "weight":
                return from_rows(self._draw(to_rows(weight, self.plan)), self.shape, self.plan)
        kept = self.sample() if searching else self._final(weight.dtype)
        self.last = kept if is_filter else None
        return masked(weight, kept) if searching and self.straight_through else weight * kept

    def _final(self, dtype: torch.dtype) -> Tensor:
        return self.mask().to(dtype) if self._fixed is None or not self.training else self._fixed

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
        own = {name: getattr(self, name) for name in _STATE}
        return {
            "identity": self._identity(),
            **own,
            "learning": asdict(self.learning),
            "settled": self._settled,
            "fixed": self._fixed,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, value in self._identity().items():
            found = state["identity"].get(name)
            if found != value:
                raise PruningError(
                    f"{self.layer}: the saved mask has {name} = {found}, this one {value}; go on with the plan that "
                    "the training was begun with, or start anew"
                )
        for name in _STATE:
            setattr(self, name, state[name])
        self.learning = Learning(**state["learning"])
        self._settled, self._fixed = state["settled"], state["fixed"]

    def extra_repr(self) -> str:
        kind = granularity_of(self.plan)
        return f"{kind}, k={self.k}, n={self.plan.n}, temperature={self.temperature:g}"
