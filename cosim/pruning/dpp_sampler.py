"""Gumbel top-k sampling of k-of-n masks: exactly k ones forward, the relaxed gradient backward, O(n) memory.

Shapes: rows = constraint rows, n = units of a row, k = units that stay. x = (Φ + g) / τ are the perturbed logits.
The relaxed mask is the sum of k successive softmaxes, each over what the earlier picks left:

    Z_j = Σ_{l >= j} exp(x_π(l)) + Σ_{unpicked} exp(x_i)          what is left before pick j
    S_i = exp(x_i) · Σ_{l <= r(i)} 1 / Z_l                         r(i) = pick rank, k if unpicked
    ∂(h·S)/∂x_m = S_m · (h_m − D̄_r(m)),   D̄_r = Σ_{l <= r} D_l/Z_l / Σ_{l <= r} 1/Z_l
    D_j = (Σ_{l >= j} h_π(l) exp(x_π(l)) + Σ_{unpicked} h_i exp(x_i)) / Z_j

so a few tensors of [rows, n] replace the [rows, k, n] of the loop. On the CPU and in score order a kernel walks the
picks with ratios only (short tiles: many side by side); otherwise the sums are taken in the log domain by tensor
operations, for which h is moved into [1, 2] (a constant added to h changes nothing: the rows of S sum to k).

Source: Gonzalez-Carabarin et al. 2022, arXiv 2105.12686 (the sampler); the closed form is derived here. The relaxation
`exact_marginals` is another estimator: see `dpp_exact`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosim.errors import PruningError
from cosim.pruning import dpp_exact, dpp_kernels, dpp_tiles, dpp_vector
from cosim.pruning.dpp_learning import Learning
from cosim.pruning.dpp_select import check_k, has_kernels, is_short, keep, keep_top, top_k

Relaxation = Literal["score_order", "index_order", "exact_marginals"]
_RELAXATIONS = get_args(Relaxation)
_SPARE = 4
"""Tensors of one shape that are kept for later draws."""


@dataclass(frozen=True)
class Sampling:
    """How one mask is drawn and relaxed.

    Raises
    ------
    PruningError
        k < 1, the temperature is not positive, the noise is negative, or the relaxation is not known.
    """

    k: int
    """Units that stay in a row, >= 1."""
    temperature: float
    """τ > 0 of the relaxed backward; the forward mask does not depend on it."""
    noise: float = 1.0
    """Scale c >= 0 of the Gumbel noise; 0 gives the deterministic top-k of Φ."""
    relaxation: Relaxation = "score_order"
    """Whose gradient: k softmaxes, each without the earlier picks, in the order of their scores; in index order (the
    authors' released code); or the marginals of the exact k-subset distribution at Φ / τ, with an exact draw at Φ / c
    (SIMPLE, arXiv 2210.01941; O(n k) work)."""
    key: int = 0
    """Decides the draw, in 0..2^63 - 1."""
    straight_through: bool = True
    """Do values that are not kept get a gradient too, that of 1 in place of the mask?"""

    def __post_init__(self) -> None:
        if not self.temperature > 0.0 or not self.noise >= 0.0:
            raise PruningError(
                f"temperature = {self.temperature}, noise = {self.noise}; use temperature > 0 and noise >= 0"
            )
        if self.relaxation not in _RELAXATIONS:
            raise PruningError(f'relaxation = "{self.relaxation}" is not known; use one of {", ".join(_RELAXATIONS)}')


def perturb(logits: Tensor, noise: float, key: int) -> Tensor:
    """Φ + c·g with g ~ Gumbel(0, 1).

    Parameters
    ----------
    logits : Tensor, [rows, n], floating point
    noise : float
        c >= 0; 0 draws nothing.
    key : int, 0..2^63 - 1
        Decides the draw: on the CPU the same on every machine.
    """
    logits = logits.detach().contiguous()
    if noise == 0.0:
        return logits.clone()
    if has_kernels(logits):
        out = torch.empty_like(logits)
        dpp_vector.add_gumbel(logits.numpy().ravel(), np.uint64(key), np.float32(noise), out.numpy().ravel())
        return out
    generator = torch.Generator(logits.device).manual_seed(key)
    smallest = torch.finfo(logits.dtype).tiny  # a uniform draw of 0 would give an infinite g
    draw = torch.empty_like(logits).uniform_(smallest, 1.0, generator=generator)
    return torch.sub(logits, draw.log_().neg_().log_(), alpha=noise, out=draw)


def _relax_log(perturbed: Tensor, picks: Tensor, temperature: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """S and D̄ [rows, n] in the log domain, for picks in any order and h > 0."""
    top = perturbed.gather(1, picks)
    reference = top.amin(1, keepdim=True)
    rest = (perturbed - reference).div_(temperature).exp_().double().scatter_(1, picks, 0.0)
    x, h = (top - reference).double().div_(temperature), h.double()

    def log_left(picked: Tensor, unpicked: Tensor) -> Tensor:
        unpicked_sum = unpicked.sum(1, keepdim=True).log()
        return torch.cat((unpicked_sum, picked.flip(1)), dim=1).logcumsumexp(1)[:, 1:].flip(1)

    log_z = log_left(x, rest)
    log_inverse = (-log_z).logcumsumexp(1)
    weighted = (log_left(x + h.gather(1, picks).log(), rest * h) - 2.0 * log_z).logcumsumexp(1)
    soft, mean = (x + log_inverse).exp(), (weighted - log_inverse).exp()
    rest.mul_(log_inverse[:, -1:].exp()).scatter_(1, picks, soft)
    return rest, mean[:, -1:].expand_as(rest).scatter(1, picks, mean)


def soft_mask(perturbed: Tensor, picks: Tensor, temperature: float) -> Tensor:
    """The relaxed mask S [rows, n]; rows sum to k. Not differentiable: for inspection and tests."""
    return _relax_log(perturbed, picks.long(), temperature, torch.ones_like(perturbed))[0].to(perturbed.dtype)


def exact_marginals(logits: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """P(unit is kept) under p(z) ∝ exp(Σ z Φ / τ) of k-subsets, [rows, n]; rows sum to k. Not differentiable."""
    check_k(k, logits.shape[1])
    return _exact_vjp(logits.detach(), k, temperature, torch.zeros_like(logits))[0]


def _exact_vjp(logits: Tensor, k: int, temperature: float, grad: Tensor) -> tuple[Tensor, Tensor]:
    """(marginals, gradient of Σ grad ⊙ marginals), computed on the CPU."""
    marginals, out = torch.empty_like(logits, device="cpu"), torch.empty_like(logits, device="cpu")
    given = logits.cpu().contiguous().numpy(), k, temperature, grad.cpu().contiguous().numpy()
    dpp_exact.exact_marginals_vjp(*given, marginals.numpy(), out.numpy())
    return marginals.to(logits.device), out.to(logits.device)


def _exact_picks(logits: Tensor, sampling: Sampling) -> Tensor:
    """One k-subset of each row, drawn exactly; without noise the top-k."""
    if sampling.noise == 0.0:
        return top_k(logits, sampling.k)
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sampling.key))
    picks = torch.empty(len(logits), sampling.k, dtype=torch.int32)
    dpp_exact.draw_exactly(logits.cpu().contiguous().numpy(), sampling.noise, uniform.numpy(), picks.numpy())
    return picks.to(logits.device)


def _vjp_log(perturbed: Tensor, picks: Tensor, temperature: float, grad: Tensor) -> Tensor:
    """Gradient of Σ grad ⊙ S with respect to Φ, [rows, n]; any device, any order of the picks."""
    low, high = grad.double().aminmax(dim=1, keepdim=True)
    spread = high - low
    h = (grad - low).div_(spread.clamp_min(torch.finfo(torch.float64).tiny)).add_(1.0)
    soft, mean = _relax_log(perturbed, picks.long(), temperature, h)
    return soft.mul_(h - mean).mul_(spread / temperature).to(grad.dtype)


def _vjp_kernel(
    perturbed: Tensor, picks: Tensor, temperature: float, grad: Tensor, values: Tensor | None = None
) -> Tensor:
    """The same with grad ⊙ values for grad, on the CPU, for picks in score order."""
    out, order = torch.empty_like(perturbed), picks.int().contiguous()
    values = torch.ones_like(grad) if values is None else values
    g, v = grad.contiguous().numpy(), values.contiguous().numpy()
    dpp_kernels.soft_mask_vjp(perturbed.numpy(), order.numpy(), temperature, g, v, out.numpy())
    return out


def _vjp_tiles(perturbed: Tensor, k: int, temperature: float, grad: Tensor, values: Tensor) -> Tensor:
    """The same for short rows."""
    out = torch.empty_like(perturbed)
    g, v = grad.contiguous().numpy(), values.contiguous().numpy()
    dpp_tiles.tiles_vjp(perturbed.numpy(), k, temperature, g, v, out.numpy())
    return out


def _next_pick(perturbed: Tensor, kept: Tensor, temperature: float, grad: Tensor) -> Tensor:
    """Σ_rows Σ_i grad_i p_i, p the softmax over what k picks left: how the loss moves with the (k + 1)-th pick."""
    if bool(kept.all()):
        return torch.zeros((), dtype=grad.dtype, device=grad.device)
    p = (perturbed / temperature).masked_fill_(kept, -torch.inf).softmax(1)
    return (p * grad).sum()


class _Draw:
    """What one draw leaves for its backward. On the CPU the memory is handed to later draws once nobody holds it."""

    _spare: ClassVar[dict[tuple[object, ...], list[Tensor]]] = {}
    """Shape and type -> tensors: fresh memory costs the operating system more than the draw itself."""

    def __init__(self, scores: Tensor, picks: Tensor | None, *, lent: bool = False) -> None:
        self.scores, self.picks, self._lent = scores, picks, lent

    @classmethod
    def take(cls, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of any content."""
        spare = cls._spare.get((*shape, dtype))
        return spare.pop() if spare else torch.empty(shape, dtype=dtype)

    def __del__(self) -> None:
        for tensor in (self.scores, self.picks) if self._lent else ():
            if tensor is not None:
                spare = self._spare.setdefault((*tensor.shape, tensor.dtype), [])
                if len(spare) < _SPARE:
                    spare.append(tensor)


def _draw_by_kernel(logits: Tensor, values: Tensor, sampling: Sampling) -> tuple[_Draw, Tensor]:
    """One draw and A ⊙ values, on the CPU."""
    shape, k = tuple(logits.shape), sampling.k
    scores, out = _Draw.take(shape, logits.dtype), torch.empty_like(values)
    key, noise = np.uint64(sampling.key), np.float32(sampling.noise)
    if sampling.relaxation == "score_order" and is_short(logits, k):
        if sampling.noise > 0.0:
            dpp_vector.add_gumbel(logits.numpy().ravel(), key, noise, scores.numpy().ravel())
        else:
            scores.copy_(logits)
        dpp_tiles.keep_tiles(scores.numpy(), k, values.numpy(), out.numpy())
        return _Draw(scores, None, lent=True), out
    picks = _Draw.take((shape[0], k), torch.int32)
    arrays = [tensor.numpy() for tensor in (values, scores, picks, out)]
    dpp_kernels.draw_rows(logits.numpy(), key, noise, *arrays)
    return _Draw(scores, picks, lent=True), out


def _draw_by_tensors(logits: Tensor, values: Tensor, sampling: Sampling, fixed: Tensor | None) -> tuple[_Draw, Tensor]:
    """One draw and A ⊙ values on any device, for every relaxation, with rows that draw no noise."""
    if sampling.relaxation == "exact_marginals":
        drawn = _Draw(logits, _exact_picks(logits, sampling))
    else:
        scores = perturb(logits, sampling.noise, sampling.key)
        scores = scores if fixed is None else torch.where(fixed, logits, scores)
        drawn = _Draw(scores, top_k(scores, sampling.k))
    assert drawn.picks is not None
    return drawn, keep(drawn.picks, values)


class _Masked(torch.autograd.Function):
    """Forward A ⊙ values; backward ∂S/∂Φ for Φ (and for a fractional k), and for the values."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        values: Tensor,
        share: Tensor | None,
        sampling: Sampling,
        fixed: Tensor | None,
        learning: Learning | None,
    ) -> Tensor:
        rows, values = logits.detach().contiguous(), values.detach()
        plain = fixed is None and sampling.relaxation != "exact_marginals"
        if plain and has_kernels(rows):
            ctx.draw, out = _draw_by_kernel(rows, values, sampling)
        else:
            ctx.draw, out = _draw_by_tensors(rows, values, sampling, fixed)
        if sampling.relaxation == "index_order":
            ctx.draw.picks = ctx.draw.picks.sort(dim=1).values
        ctx.sampling, ctx.learning, ctx.logits = sampling, learning, rows if learning is not None else None
        ctx.save_for_backward(values, fixed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values, fixed = ctx.saved_tensors
        draw, sampling, grad = ctx.draw, ctx.sampling, grads[0].contiguous()
        if ctx.learning is not None:
            for_logits = None
            ctx.learning.step_by_rows(ctx.logits, (draw.scores, draw.picks), sampling.temperature, grad, values)
        else:
            for_logits = _logit_gradient(draw, sampling, grad, values)
            if fixed is not None:
                for_logits.masked_fill_(fixed, 0.0)
        share = None
        if ctx.needs_input_grad[2]:
            kept = _kept(draw, sampling.k, torch.ones_like(grad)).bool()
            share = _next_pick(draw.scores, kept, sampling.temperature, grad * values)
        for_values = grad if sampling.straight_through else _kept(draw, sampling.k, grad)
        return for_logits, for_values, share, None, None, None


def _kept(draw: _Draw, k: int, values: Tensor) -> Tensor:
    return keep_top(draw.scores, k, values) if draw.picks is None else keep(draw.picks, values)


def _logit_gradient(draw: _Draw, sampling: Sampling, grad: Tensor, values: Tensor) -> Tensor:
    """Gradient of Σ grad ⊙ values ⊙ S with respect to Φ."""
    k, heat = sampling.k, sampling.temperature
    if sampling.relaxation == "exact_marginals":
        return _exact_vjp(draw.scores, k, heat, grad * values)[1]
    if draw.picks is None:
        return _vjp_tiles(draw.scores, k, heat, grad, values)
    if sampling.relaxation == "score_order" and has_kernels(grad):
        return _vjp_kernel(draw.scores, draw.picks, heat, grad, values)
    return _vjp_log(draw.scores, draw.picks, heat, grad * values)


def learns_by_rows(logits: Tensor, sampling: Sampling) -> bool:
    """Can `mask_values` make the steps of Φ itself?"""
    return has_kernels(logits) and sampling.relaxation == "score_order" and not is_short(logits, sampling.k)


def mask_values(
    values: Tensor,
    logits: Tensor,
    sampling: Sampling,
    *,
    share: Tensor | None = None,
    fixed: Tensor | None = None,
    learning: Learning | None = None,
) -> Tensor:
    """A ⊙ values for one sampled mask A: exactly k of each row are kept, with straight-through gradients.

    Parameters
    ----------
    values : Tensor, [rows, n]
        Of the dtype of `logits`.
    logits : Tensor, [rows, n]
        Φ; float32 or float64.
    sampling : Sampling
    share : Tensor, scalar, optional
        Gets the gradient of the loss with respect to a fractional k: that of the next pick's softmax.
    fixed : Tensor, bool, [rows, 1], optional
        Rows that draw no noise and whose Φ gets no gradient.
    learning : Learning, optional
        Φ (contiguous) gets no gradient but a step in the backward pass; only where `learns_by_rows`, without `fixed`.

    Returns
    -------
    Tensor, [rows, n]

    Raises
    ------
    PruningError
        k is more than n.

    Notes
    -----
    Once differentiable. Kept for the backward: Φ + g [rows, n], the picks [rows, k], the values. arXiv 2105.12686.
    """
    check_k(sampling.k, logits.shape[1])
    return _Masked.apply(logits, values.contiguous(), share, sampling, fixed, learning)


def sample_mask(
    logits: Tensor,
    k: int,
    *,
    temperature: float,
    noise: float = 1.0,
    key: int = 0,
    relaxation: Relaxation = "score_order",
) -> Tensor:
    """One sampled mask [rows, n] of zeros and ones: exactly k ones in each row, the gradient of the relaxed mask.

    Raises
    ------
    PruningError
        k is not in 1..n, or see `Sampling`.
    """
    sampling = Sampling(k, temperature, noise, relaxation, key)
    return mask_values(torch.ones_like(logits, requires_grad=False), logits, sampling)
