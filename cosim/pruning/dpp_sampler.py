"""Gumbel top-k sampling of k-of-n masks: exactly k ones forward, the relaxed gradient backward, O(n) memory.

Shapes: rows = constraint rows, n = units of a row, k = units that stay. x = (Φ + g) / τ are the perturbed logits.
The relaxed mask is the sum of k successive softmaxes, each over what the earlier picks left:

    Z_j = Σ_{l >= j} exp(x_π(l)) + Σ_{unpicked} exp(x_i)          what is left before pick j
    S_i = exp(x_i) · Σ_{l <= r(i)} 1 / Z_l                         r(i) = pick rank, k if unpicked
    ∂(h·S)/∂x_m = S_m · (h_m − D̄_r(m)),   D̄_r = Σ_{l <= r} D_l/Z_l / Σ_{l <= r} 1/Z_l
    D_j = (Σ_{l >= j} h_π(l) exp(x_π(l)) + Σ_{unpicked} h_i exp(x_i)) / Z_j

so a few tensors of [rows, n] replace the [rows, k, n] of the loop. On the CPU and in score order a kernel walks the
picks with ratios only; otherwise the sums are taken in the log domain by tensor operations, for which h is moved into
[1, 2] (a constant added to h changes nothing: the rows of S sum to k).

Source: Gonzalez-Carabarin et al. 2022, arXiv 2105.12686 (the sampler); the closed form is derived here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosim.errors import PruningError
from cosim.pruning import dpp_kernels

PickOrder = Literal["score", "index"]


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest scores of each row, largest first; of equal scores the lower index comes first.

    float32 on the CPU goes through one unique integer key per unit, so that a fast unstable sort gives the stable
    answer on every machine.

    Parameters
    ----------
    scores : Tensor, [rows, n], no NaN
    k : int, 1 <= k <= n

    Returns
    -------
    Tensor, [rows, k], int64

    Raises
    ------
    PruningError
        k is not in 1..n.
    """
    rows, n = scores.shape
    if not 1 <= k <= n:
        raise PruningError(f"k = {k} of n = {n} units cannot be picked; use 1 <= k <= n")
    scores = scores.detach().contiguous()
    if scores.dtype != torch.float32 or scores.device.type != "cpu":
        return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k].contiguous()
    keys, picks = torch.empty(rows, n, dtype=torch.int64), torch.empty(rows, k, dtype=torch.int64)
    dpp_kernels.sort_keys(scores.view(torch.int32).numpy(), keys.numpy())
    keys.numpy().sort(axis=1)
    dpp_kernels.picks_of_keys(keys.numpy(), picks.numpy())
    return picks


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Bool mask [rows, n] of the k largest scores of each row; ties go to the lower index."""
    return _mask_of(top_k(scores, k), torch.empty_like(scores, dtype=torch.bool))


def _mask_of(picks: Tensor, mask: Tensor) -> Tensor:
    """`mask` [rows, n] filled: 1 at the picks, 0 elsewhere."""
    if mask.device.type != "cpu":
        return mask.zero_().scatter_(1, picks, 1)
    dpp_kernels.mask_of_picks(picks.numpy(), mask.numpy())
    return mask


def perturb(logits: Tensor, noise: float, generator: torch.Generator | None = None) -> Tensor:
    """Φ + c·g with g ~ Gumbel(0, 1).

    Parameters
    ----------
    logits : Tensor, [rows, n], floating point
    noise : float
        c >= 0; 0 draws nothing.
    generator : torch.Generator, optional
        On the device of `logits`; default: the global one.
    """
    logits = logits.detach()
    if noise == 0.0:
        return logits.clone()
    smallest = torch.finfo(logits.dtype).tiny  # a uniform draw of 0 would give an infinite g
    draw = torch.empty_like(logits).uniform_(smallest, 1.0, generator=generator)
    return torch.sub(logits, draw.log_().neg_().log_(), alpha=noise, out=draw)


def _exp_rest(perturbed: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """exp(x - x_ref) [rows, n]; meaningful for units that are not picked, which are not above the reference."""
    return (perturbed - reference).div_(temperature).exp_()


def _relax_log(perturbed: Tensor, picks: Tensor, temperature: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """S and D̄ [rows, n] in the log domain, for picks in any order and h > 0."""
    top = perturbed.gather(1, picks)
    reference = top.amin(1, keepdim=True)
    rest = _exp_rest(perturbed, reference, temperature).double().scatter_(1, picks, 0.0)
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
    return _relax_log(perturbed, picks, temperature, torch.ones_like(perturbed))[0].to(perturbed.dtype)


def _vjp_log(perturbed: Tensor, picks: Tensor, temperature: float, grad: Tensor) -> Tensor:
    """Gradient of Σ grad ⊙ S with respect to Φ, [rows, n]; any device, any order of the picks."""
    low, high = grad.double().aminmax(dim=1, keepdim=True)
    spread = high - low
    h = (grad - low).div_(spread.clamp_min(torch.finfo(torch.float64).tiny)).add_(1.0)
    soft, mean = _relax_log(perturbed, picks, temperature, h)
    return soft.mul_(h - mean).mul_(spread / temperature).to(grad.dtype)


def _vjp_kernel(perturbed: Tensor, picks: Tensor, temperature: float, grad: Tensor) -> Tensor:
    """The same on the CPU, for picks in score order."""
    out = _exp_rest(perturbed, perturbed.gather(1, picks[:, -1:]), temperature)
    dpp_kernels.soft_mask_vjp(perturbed.numpy(), picks.numpy(), temperature, grad.contiguous().numpy(), out.numpy())
    return out


class _StraightThrough(torch.autograd.Function):
    """Forward A, backward ∂S/∂Φ."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, perturbed: Tensor, picks: Tensor, temperature: float, order: str) -> Tensor:
        ctx.save_for_backward(perturbed, picks)
        ctx.temperature, ctx.kernel = temperature, order == "score" and perturbed.device.type == "cpu"
        return _mask_of(picks, torch.empty_like(perturbed))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        perturbed, picks = ctx.saved_tensors
        vjp = _vjp_kernel if ctx.kernel else _vjp_log
        return vjp(perturbed, picks, ctx.temperature, grads[0]), None, None, None, None


def sample_mask(
    logits: Tensor,
    k: int,
    *,
    temperature: float,
    noise: float = 1.0,
    generator: torch.Generator | None = None,
    order: PickOrder = "score",
) -> Tensor:
    """One sampled mask: exactly k ones in each row, the gradient of the relaxed mask (straight-through).

    Parameters
    ----------
    logits : Tensor, [rows, n]
        Φ; float32 or float64.
    k : int, 1 <= k <= n
    temperature : float
        τ > 0 of the relaxed backward; the forward mask does not depend on it.
    noise : float
        Scale c >= 0 of the Gumbel noise.
    generator : torch.Generator, optional
        On the device of `logits`.
    order : "score" or "index"
        In which order the picks are taken out of the softmax. "index" reproduces the authors' released code.

    Returns
    -------
    Tensor, [rows, n], dtype of `logits`, values 0 and 1

    Raises
    ------
    PruningError
        k is not in 1..n, the temperature is not positive, the noise is negative, or the order is not known.

    Notes
    -----
    Once differentiable. Saved for the backward: Φ + g [rows, n] and the picks [rows, k]. Source: arXiv 2105.12686.
    """
    if not temperature > 0.0 or not noise >= 0.0:
        raise PruningError(f"temperature = {temperature}, noise = {noise}; use temperature > 0 and noise >= 0")
    if order not in ("score", "index"):
        raise PruningError(f'order = "{order}" is not known; use "score" or "index"')
    perturbed = perturb(logits, noise, generator)
    picks = top_k(perturbed, k)
    if order == "index":
        picks = picks.sort(dim=1).values
    return _StraightThrough.apply(logits, perturbed, picks, temperature, order)
