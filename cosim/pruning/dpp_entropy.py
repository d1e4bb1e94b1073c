"""The entropy of softmax rows and its gradient: on the CPU by kernels, elsewhere by tensor operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosim.pruning import dpp_kernels, dpp_tiles
from cosim.pruning.dpp_select import has_kernels


def entropy_of_rows(factors: Sequence[float], tiles: Sequence[Tensor]) -> Tensor:
    """Σ_t factor_t · Σ_rows H(softmax(Φ_t)) in nats: a scalar that leads gradients back to the Φ_t [rows, n]."""
    return _RowEntropy.apply(tuple(factors), *tiles)


def entropy_gradient(rows: Tensor, factor: float) -> Tensor:
    """The gradient of factor · Σ_rows H(softmax(Φ)) with respect to Φ [rows, n]."""
    return _entropy(rows, factor)[1]


class _RowEntropy(torch.autograd.Function):
    """Σ_t factor_t · Σ_rows H(softmax(Φ_t)) in nats over tiles Φ_t [rows, n]; dH/dΦ_m = -p_m (log p_m + H).

    The gradient is made together with the value, while the softmax is at hand.
    """

    @staticmethod
    def forward(ctx: Any, factors: tuple[float, ...], *tiles: Tensor) -> Tensor:
        rows = [tile.detach().contiguous() for tile in tiles]
        found = [_entropy(tile, factor) for tile, factor in zip(rows, factors, strict=True)]
        ctx.gradients = [gradient for _, gradient in found]
        total = sum(factor * value for factor, (value, _) in zip(factors, found, strict=True))
        return torch.as_tensor(total, dtype=rows[0].dtype, device=rows[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = float(grads[0])
        return None, *(gradient if scale == 1.0 else gradient * scale for gradient in ctx.gradients)


def _entropy(rows: Tensor, factor: float) -> tuple[float, Tensor]:
    """Σ_rows H(softmax(Φ)) in nats, and factor times its gradient."""
    if not has_kernels(rows):
        log_p = rows.log_softmax(1)
        entropy = (log_p.exp() * log_p).sum(1, keepdim=True).neg_()
        return float(entropy.sum()), -(log_p + entropy) * log_p.exp() * factor
    out = torch.empty_like(rows)
    kernel = dpp_tiles.tiles_entropy if _is_short(rows) else dpp_kernels.entropy
    return kernel(rows.numpy(), factor, out.numpy()), out


def _is_short(rows: Tensor) -> bool:
    return rows.shape[1] <= dpp_tiles.TILE and rows.dtype == torch.float32
