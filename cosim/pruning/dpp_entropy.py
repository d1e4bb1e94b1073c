"""The entropy of softmax rows and its gradient: on the CPU by kernels, elsewhere by tensor operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cosim.pruning import dpp_kernels, dpp_tiles


def entropy_of_rows(factors: Sequence[float], tiles: Sequence[Tensor]) -> Tensor:
    """Σ_t factor_t · Σ_rows H(softmax(Φ_t)) in nats: a scalar that leads gradients back to the Φ_t [rows, n]."""
    return _RowEntropy.apply(tuple(factors), *tiles)


class _RowEntropy(torch.autograd.Function):
    """Σ_t factor_t · Σ_rows H(softmax(Φ_t)) in nats over tiles Φ_t [rows, n]; dH/dΦ_m = -p_m (log p_m + H)."""

    @staticmethod
    def forward(ctx: Any, factors: tuple[float, ...], *tiles: Tensor) -> Tensor:
        rows = [tile.detach().contiguous() for tile in tiles]
        ctx.save_for_backward(*rows)
        ctx.factors = factors
        total = sum(factor * _entropy(tile) for factor, tile in zip(factors, rows, strict=True))
        return torch.as_tensor(total, dtype=rows[0].dtype, device=rows[0].device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = float(grads[0])
        pairs = zip(ctx.factors, ctx.saved_tensors, strict=True)
        return None, *(_entropy_gradient(tile, scale * factor) for factor, tile in pairs)


def _entropy(rows: Tensor) -> float:
    """Σ_rows H(softmax(Φ)) in nats."""
    if not _has_kernels(rows):
        return -float((rows.softmax(1) * rows.log_softmax(1)).sum())
    array = rows.numpy()
    return dpp_tiles.tiles_entropy(array, 0.0, array) if _is_short(rows) else dpp_kernels.entropy(array)


def _entropy_gradient(rows: Tensor, factor: float) -> Tensor:
    """factor times its gradient."""
    if not _has_kernels(rows):
        log_p = rows.log_softmax(1)
        entropy = (log_p.exp() * log_p).sum(1, keepdim=True).neg_()
        return -(log_p + entropy) * log_p.exp() * factor
    out = torch.empty_like(rows)
    kernel = dpp_tiles.tiles_entropy if _is_short(rows) else dpp_kernels.entropy_gradient
    kernel(rows.numpy(), factor, out.numpy())
    return out


def _has_kernels(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.float64)


def _is_short(rows: Tensor) -> bool:
    return rows.shape[1] <= dpp_tiles.TILE and rows.dtype == torch.float32
