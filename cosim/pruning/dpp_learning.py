"""How masks learn: straight-through gradients for weights, and steps of Φ whose length no optimizer decides.

Φ is compared with Gumbel noise of scale about 1, so its steps have a natural unit, which the gradient of a loss lacks:
in a trained ResNet-20 the gradient of Φ is 1e-4 to 1e-2 (root mean square, from layer to layer), and SGD at a rate that
suits the weights would move Φ by less than 0.1 in 5 epochs (an estimate). So each step is the gradient over its root
mean square in the layer, over the last steps (normalised gradient descent: Hazan et al. 2015, arXiv 1507.02030; per
layer: ours), times a length that `MaskSchedule` gives as a share of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosim.pruning import dpp_kernels
from cosim.pruning.dpp_select import has_kernels

_MEMORY = 0.9
"""Share of the old mean square that stays after a step. Assumption: about ten steps."""
_HALF_NORMAL_SPREAD = (math.pi / 2 - 1) ** 0.5
"""Standard deviation over mean of |w| for normal w."""
_EQUAL = 1e-5
"""Standard deviation over mean below which norms are equal: rounding of float32."""


class _Taught(torch.autograd.Function):
    """Φ as it is; its gradient goes to `learn` and to no optimizer."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, learn: Callable[[Tensor], None]) -> Tensor:
        ctx.learn = learn
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        ctx.learn(grads[0])
        return None, None


def follow_weights(values: Tensor, gain: float, seen: Tensor, logits: Tensor) -> None:
    """Φ += gain · |values| / row mean - what was seen of it before, in place; [rows, n] each."""
    if has_kernels(values):
        dpp_kernels.follow_rows(values.contiguous().numpy(), gain, seen.numpy(), logits.detach().numpy())
        return
    size = values.abs()
    _move(size.mul_(gain / size.mean(1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)), seen, logits)


def follow_spread(units: Tensor, gain: float, seen: Tensor, logits: Tensor) -> None:
    """The same for norms of many weights each: Φ spreads in its row as far as `follow_weights` spreads normal weights.

    Norms differ less than weights do: over their mean, noise and steps of Φ would exchange more of them. A row of equal
    norms gives 0.
    """
    norms = units.abs()
    spread, mean = norms.std(1, correction=0, keepdim=True), norms.mean(1, keepdim=True)
    scale = torch.where(spread > _EQUAL * mean, gain * _HALF_NORMAL_SPREAD / spread, 0.0)
    _move((norms - mean) * scale, seen, logits)


def _move(now: Tensor, seen: Tensor, logits: Tensor) -> None:
    logits.detach().add_(now - seen)
    seen.copy_(now)


def taught(logits: Tensor, learn: Callable[[Tensor], None]) -> Tensor:
    """Φ whose gradient is handed to a function during the backward pass."""
    return _Taught.apply(logits, learn)


@dataclass
class Learning:
    """The steps that Φ of one layer makes during the backward pass."""

    length: float | None = None
    """Root mean square of the next step; None: Φ gets a gradient, for an optimizer."""
    entropy_weight: float = 0.0
    """Of the entropy penalty, whose gradient is part of the step."""
    square: float = 0.0
    """Running mean of the squared gradient; 0 before the first one, which only measures."""

    def step(self, logits: Tensor, gradient: Tensor) -> None:
        """Φ -= length · gradient / its root mean square, in place."""
        logits.detach().sub_(gradient, alpha=self._rate())
        self._measure(float(gradient.square().mean()))

    def step_by_rows(
        self, logits: Tensor, draw: tuple[Tensor, Tensor], temperature: float, grad: Tensor, values: Tensor
    ) -> None:
        """The same by a kernel, from (scores, picks) of a draw and the gradient of the masked values [rows, n]."""
        arrays = [tensor.numpy() for tensor in (*draw, grad, values)]
        scores, picks, g, v = arrays
        weight, rate = self.entropy_weight, self._rate()
        total = dpp_kernels.learn_rows(scores, picks, temperature, g, v, weight, rate, logits.numpy())
        self._measure(total / logits.numel())

    def _rate(self) -> float:
        return (self.length or 0.0) / self.square**0.5 if self.square > 0.0 else 0.0

    def _measure(self, square: float) -> None:
        self.square = square if self.square == 0.0 else _MEMORY * self.square + (1.0 - _MEMORY) * square


class _StraightThrough(torch.autograd.Function):
    """weight ⊙ kept; the weight gets the whole gradient, kept or not, and the mask what its product would give it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = kept.shape
        return weight * kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (weight,) = ctx.saved_tensors
        return grads[0], (grads[0] * weight).sum_to_size(ctx.shape)


def masked(weight: Tensor, kept: Tensor) -> Tensor:
    """weight ⊙ kept, mask broadcast to the weight, with straight-through gradients for the weight."""
    return _StraightThrough.apply(weight, kept)
