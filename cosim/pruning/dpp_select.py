"""The k largest of each row, and the values there: kernels on the CPU, tensor operations elsewhere.

Shapes: rows = constraint rows, n = units of a row, k = units that stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosim.errors import PruningError
from cosim.pruning import dpp_kernels, dpp_tiles

_SHORT = 8
"""Up to this length of a row tiles side by side are faster for every k; up to `dpp_tiles.TILE` for few picks."""
_FEW_PICKS = 4


def top_k(scores: Tensor, k: int) -> Tensor:
    """Indices of the k largest scores of each row, largest first; of equal scores the lower index comes first.

    Parameters
    ----------
    scores : Tensor, [rows, n], no NaN
    k : int, 1 <= k <= n; PruningError otherwise

    Returns
    -------
    Tensor, [rows, k], int32 on the CPU, else int64
    """
    rows, n = scores.shape
    check_k(k, n)
    scores = scores.detach().contiguous()
    if not has_kernels(scores):
        return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k].contiguous()
    picks = torch.empty(rows, k, dtype=torch.int32)
    dpp_kernels.pick_top(scores.numpy(), picks.numpy())
    return picks


def check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise PruningError(f"k = {k} of n = {n} units cannot be picked; use 1 <= k <= n")


def has_kernels(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def is_short(scores: Tensor, k: int) -> bool:
    """Do the kernels for tiles side by side serve these rows?"""
    n = scores.shape[1]
    fits = n <= _SHORT or (n <= dpp_tiles.TILE and k <= _FEW_PICKS)
    return fits and scores.device.type == "cpu" and scores.dtype == torch.float32


def top_k_mask(scores: Tensor, k: int) -> Tensor:
    """Bool mask [rows, n] of the k largest scores of each row; ties go to the lower index."""
    scores = scores.detach().contiguous()
    if is_short(scores, k):
        check_k(k, scores.shape[1])
        return keep_top(scores, k, torch.ones_like(scores)).bool()
    return keep(top_k(scores, k), torch.ones_like(scores)).bool()


def keep(picks: Tensor, values: Tensor) -> Tensor:
    """The values [rows, n] at the picks, 0 elsewhere."""
    if not has_kernels(values):
        return torch.zeros_like(values).scatter_(1, picks.long(), values.gather(1, picks.long()))
    out = torch.empty_like(values)
    dpp_kernels.keep_picks(values.numpy(), picks.numpy(), out.numpy())
    return out


def keep_top(scores: Tensor, k: int, values: Tensor) -> Tensor:
    """The values [tiles, n] at the k largest scores of short rows, 0 elsewhere."""
    out = torch.empty_like(values)
    dpp_tiles.keep_tiles(scores.numpy(), k, values.numpy(), out.numpy())
    return out
