"""When temperature, noise and k of the masks change, how far Φ moves, and when the masks are final.

`MaskSchedule().apply(model, done)` before each step, with the share of the training that is done, is all that a
training needs. Its defaults are shares of the training, not epochs, so that they serve 5 epochs and 250: noise and
temperature fall over the first 80 %, then the masks stand still and the weights settle on them; Φ makes its own steps
in the backward pass, which add up to the same way in every training.

The defaults are for trained weights (a warm start), of which the masks shall keep what is worth most. What made masks
worse than magnitudes there: noise that undoes the start, and Φ that neither SGD moves (dpp_learning) nor the weights,
however they grow or shrink. From random weights and `init="random"` give the paper's noise (1, 1), and `travel=None`
with `parameter_groups`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from cosim.errors import PruningError
from cosim.pruning.dpp import (
    ENTROPY_WEIGHT,
    FLOOR_TEMPERATURE,
    START_TEMPERATURE,
    KofNMask,
    find_masks,
)
from cosim.pruning.dpp_layout import granularity_of
from cosim.pruning.dpp_mask import RARELY

LOGIT_RATE = 10.0
"""Factor on the learning rate for Φ, where an optimizer moves it. Short trainings need it: LeNet-300-100 at 5 %
density, 8 epochs of MNIST, reached 91.9 % with 1 and 97.2 % with 10 in a pilot."""


@dataclass(frozen=True)
class MaskSchedule:
    """Temperature, noise and k over a training.

    Raises
    ------
    PruningError
        A value is outside its range.
    """

    temperature: tuple[float, float] = (START_TEMPERATURE, FLOOR_TEMPERATURE)
    """τ > 0 at the start and at the end of the search for masks; linear between (arXiv 2105.12686)."""
    noise: tuple[float, float] = (0.1, 0.0)
    """Gumbel scale c >= 0 at the start and at the end; (1, 1) is the paper's. A draw at 1 changes a
    quarter (2 of 4) to a half (5 % of a row) of what a warm start keeps, which undoes a trained network; at 0.1 it is
    3 to 8 %."""
    travel: float | None = 1.0
    """Root mean square, per layer, of all steps of Φ laid end to end, whatever optimizer, loss and length of the
    training; the steps fall to 0 at the end of the search. None: Φ is left to the optimizer."""
    straight_through: bool = True
    """Weights out of the mask go on learning, as if they were in it (`KofNMask.straight_through`). Suits networks that
    still learn (LeNet-300-100 after 3 epochs, 5 % density: 97.8 against 97.1 %), not trained ones (ResNet-20, half of
    the kernels: docs/pruning.md), whose weights have had their time to compete."""
    follow: bool = True
    """Φ follows the weights' magnitudes while they learn (`KofNMask.follows`). Without gradients straight through that
    is unfair: weights in use shrink and grow, those out of use stand still."""
    entropy: float = 1.0
    """Factor on the paper's weight of the entropy penalty, where Φ makes steps of its own (`travel`)."""
    finish: float = 0.2
    """Last share of the training, in [0, 1), with the masks fixed at the top-k of Φ; 0 never fixes them."""
    k_start: float | None = None
    """k begins at this share of n and falls to the plan's, with the cube of the time left (Zhu and Gupta 2017,
    arXiv 1710.01878, section 3.1); None: k as planned from the first step."""
    settle: float | None = None
    """Rows whose k-th and (k + 1)-th Φ differ by this many noise scales c are fixed early; None: no row is. 6 noise
    scales leave a chance of 1 / (1 + e^6) = 0.25 % that a draw swaps the two."""

    def __post_init__(self) -> None:
        _check(min(self.temperature) > 0.0, "temperature", self.temperature, "above 0")
        _check(min(self.noise) >= 0.0, "noise", self.noise, "at least 0")
        _check(self.travel is None or self.travel >= 0.0, "travel", self.travel, "at least 0")
        _check(self.entropy >= 0.0, "entropy", self.entropy, "at least 0")
        _check(0.0 <= self.finish < 1.0, "finish", self.finish, "in [0, 1)")
        _check(self.k_start is None or 0.0 < self.k_start <= 1.0, "k_start", self.k_start, "in (0, 1]")
        _check(self.settle is None or self.settle > 0.0, "settle", self.settle, "above 0")

    def searching(self, done: float) -> float:
        """Share of the search for masks that is over, in [0, 1]: 1 once the finish has begun."""
        return min(max(done / (1.0 - self.finish), 0.0), 1.0)

    def k_of(self, mask: KofNMask, done: float) -> int:
        """k of a mask after this share of the training."""
        planned = mask.plan.k
        if self.k_start is None:
            return planned
        first = max(planned, round(self.k_start * mask.plan.n))
        return planned + round((first - planned) * (1.0 - self.searching(done)) ** 3)

    def apply(self, model: nn.Module, done: float) -> None:
        """Set all masks of a network for the step after this share, in [0, 1], of the training."""
        share = self.searching(done)
        heat, noise = (start + share * (end - start) for start, end in (self.temperature, self.noise))
        for mask in find_masks(model).values():
            mask.temperature, mask.noise = heat, noise
            mask.straight_through, mask.follows = self.straight_through, self.follow
            self._set_step(mask, done)
            if self.k_start is not None:
                mask.set_k(self.k_of(mask, done))
            if self.finish > 0.0 and share == 1.0:
                mask.fix()
            elif mask.is_fixed:
                mask.release()
            elif self.settle is not None:
                mask.settle(self.settle * max(noise, 1e-6))

    def _set_step(self, mask: KofNMask, done: float) -> None:
        """The next step of Φ: its part of the way by the time since the last one, and less and less."""
        if self.travel is None:
            mask.learning.length = None
            return
        share, before = self.searching(done), self.searching(mask.done)
        mask.learning.length = 2.0 * self.travel * (1.0 - share) * max(share - before, 0.0)
        weight = self.entropy * ENTROPY_WEIGHT[granularity_of(mask.plan)]
        mask.learning.entropy_weight = RARELY * weight if mask.draws % RARELY == 0 else 0.0
        mask.done = done


def _check(valid: bool, field: str, value: object, allowed: str) -> None:
    if not valid:
        raise PruningError(f"mask schedule: {field} is {value!r}; it must be {allowed}")


def parameter_groups(
    model: nn.Module, lr: float, *, logit_rate: float = LOGIT_RATE, weight_decay: float = 0.0
) -> list[dict[str, object]]:
    """Parameters for an optimizer: Φ at `logit_rate` x lr and without weight decay, all others at lr.

    Raises
    ------
    PruningError
        A rate is not positive.
    """
    _check(lr > 0.0, "lr", lr, "above 0")
    _check(logit_rate > 0.0, "logit_rate", logit_rate, "above 0")
    logits = {id(mask.logits) for mask in find_masks(model).values()}
    groups: list[dict[str, object]] = []
    for own, rate, decay in ((False, lr, weight_decay), (True, lr * logit_rate, 0.0)):
        chosen = [p for p in model.parameters() if p.requires_grad and (id(p) in logits) == own]
        if chosen:
            groups.append({"params": chosen, "lr": rate, "weight_decay": decay})
    return groups


def scale_noise(model: nn.Module, scales: Mapping[str, float]) -> None:
    """Factors on the Gumbel scale of single layers (the authors' released code: 1, 0.1, 0.01 from layer to layer).

    Raises
    ------
    PruningError
        A layer has no mask, or a factor is negative.
    """
    masks = find_masks(model)
    for layer, scale in scales.items():
        if layer not in masks or not scale >= 0.0:
            raise PruningError(f"{layer}: noise x {scale}; name a masked layer ({', '.join(masks)}) and a factor >= 0")
    for layer, scale in scales.items():
        masks[layer].noise_scale = float(scale)
