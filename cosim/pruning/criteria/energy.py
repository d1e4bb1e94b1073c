"""Nuclear norms of feature maps: on the CPU many small ones at once, otherwise by eigenvalues of Gram matrices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosim.pruning import nuclear_kernels

Variant = Literal["per_image", "per_batch", "centred"]
_LANE_ELEMENTS = 1 << 12
"""Elements of a matrix up to which the kernel is used: 64 lanes of them fill a megabyte, a usual second-level cache."""
_CHUNK_ELEMENTS = 1 << 22
"""Map elements converted to float64 at once: 32 MiB."""
_GRAM_TOLERANCE = 1e-9
"""Relative error of the trace above which eigenvalues of a Gram matrix are not believed."""


class RootTerms(NamedTuple):
    """√λ ≈ slope·λ + Σ weights·λ / (λ + poles) on [0, 1]."""

    poles: NDArray[np.float64]
    weights: NDArray[np.float64]
    slope: float


@lru_cache
def root_terms(count: int = 24) -> RootTerms:
    """A rational approximation of the square root, exact at 0; its largest error is 1e-8 with 24 terms.

    The poles crowd at 0 with tapered exponential density (Trefethen, Nakatsukasa, Weideman, Numer. Math. 147, 2021,
    section 4): here 8·exp(-9 (√count - √j)), of a few densities and scales the one that fits best. The weights are
    Lawson's (least squares, iteratively weighted by the error), which come near the smallest largest error.
    """
    steps = np.sqrt(np.arange(1, count + 1))
    poles = 8.0 * np.exp(-9.0 * (steps[-1] - steps))
    x = np.exp(np.linspace(-46.0, 0.0, 3000))
    terms = np.column_stack((x[:, None] / (x[:, None] + poles), x))
    emphasis, best, found = np.ones(len(x)), np.inf, np.zeros(count + 1)
    for _ in range(12):
        root = np.sqrt(emphasis)
        weights = np.linalg.lstsq(terms * root[:, None], np.sqrt(x) * root, rcond=1e-15)[0]
        error = np.abs(terms @ weights - np.sqrt(x))
        if error.max() < best:
            best, found = error.max(), weights
        emphasis = emphasis * (error + 1e-3 * error.max())
        emphasis /= emphasis.mean()
    return RootTerms(poles, found[:-1].copy(), float(found[-1]))


def nuclear_norms(matrices: Tensor) -> Tensor:
    """Sum of the singular values of each matrix.

    float32 matrices of up to 4,096 elements on the CPU: `nuclear_kernels`, in float32 up to the bidiagonal form
    (relative error below 1e-5). Others: a float64 Gram matrix on the smaller side and its eigenvalues; matrices whose
    eigenvalues do not add up to the trace, and batches that do not converge, go to `torch.linalg.svdvals`.

    Parameters
    ----------
    matrices : Tensor, [B, H, W]

    Returns
    -------
    Tensor, [B], float64
        Not finite where the matrix is not.
    """
    H, W = matrices.shape[1:]
    if min(H, W) == 1:
        return matrices.double().flatten(1).norm(dim=1)
    if matrices.device.type == "cpu" and matrices.dtype != torch.float64 and H * W <= _LANE_ELEMENTS:
        return _interleaved_norms(matrices)
    chunk = max(1, _CHUNK_ELEMENTS // (H * W))
    return torch.cat([_gram_norms(part.double()) for part in matrices.split(chunk)] or [matrices.new_zeros(0).double()])


def _interleaved_norms(matrices: Tensor) -> Tensor:
    """Nuclear norms [M] of matrices [M, H, W], one share of them on each of torch's threads."""
    if matrices.shape[1] < matrices.shape[2]:
        matrices = matrices.mT
    maps = matrices.detach().float().contiguous().numpy()
    out, terms = np.empty(len(maps)), root_terms()

    def work(first: int, last: int) -> None:
        nuclear_kernels.nuclear_norms_of_lanes(maps, first, last, terms.poles, terms.weights, terms.slope, out)

    threads, lanes = torch.get_num_threads(), nuclear_kernels.LANES
    blocks = -(-len(out) // lanes)
    share = -(-blocks // threads) * lanes
    ranges = [(first, min(first + share, len(out))) for first in range(0, len(out), max(share, 1))]
    if len(ranges) < 2:
        work(0, len(out))
    else:
        with ThreadPoolExecutor(len(ranges)) as pool:
            list(pool.map(lambda pair: work(*pair), ranges))
    return torch.from_numpy(out)


def _gram_norms(x: Tensor) -> Tensor:
    """Nuclear norms of float64 matrices [B, H, W]; NaN where a matrix is not finite."""
    gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
    finite = trace.isfinite()
    if not bool(finite.all()):
        norms = torch.full_like(trace, torch.nan)
        norms[finite] = _gram_norms(x[finite])
        return norms
    try:
        eigenvalues = torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        return torch.linalg.svdvals(x).sum(dim=1)
    positive = eigenvalues.clamp_min(0.0)
    bad = ~((positive.sum(dim=1) - trace).abs() <= _GRAM_TOLERANCE * trace)
    norms = positive.sqrt_().sum(dim=1)
    if bool(bad.any()):
        norms[bad] = torch.linalg.svdvals(x[bad]).sum(dim=1)
    return norms


def as_maps(output: Tensor) -> Tensor:
    """A layer's output as feature maps [B, K, H, W]; [B, …, K] of a linear layer: K columns of positions."""
    if output.dim() == 4:
        return output
    columns = output.movedim(-1, 1).flatten(2) if output.dim() > 2 else output[:, :, None]
    return columns[..., None]


def channel_energies(output: Tensor, variant: Variant) -> Tensor:
    """Nuclear norms of the feature maps of one batch.

    Parameters
    ----------
    output : Tensor, [B, K, H, W], or [B, …, K] of a linear layer (a column of positions; [B, K]: a 1 x 1 map)
    variant : "per_image", "per_batch" or "centred"

    Returns
    -------
    Tensor, float64
        per_image: [B, K], ‖H x W map‖* of each image, for a 1 x 1 map |activation|. per_batch: [1, K], ‖B x H·W‖*.
        centred: as per_image, of the map's difference from the batch's mean map.
    """
    maps = as_maps(output)
    B, K, H, W = maps.shape
    if variant == "centred":
        maps = maps - maps.mean(dim=0)
    if variant == "per_batch":
        return nuclear_norms(maps.transpose(0, 1).reshape(K, B, H * W))[None]
    return nuclear_norms(maps.reshape(B * K, H, W)).reshape(B, K)
