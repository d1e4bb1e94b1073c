"""Layers as sparse arrays see them: rows of a matrix product, or planar tiles of the input that PEs own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseShape

LEAST_OUTPUTS = 8
"""Planar tiles are cut until the accumulators of a PE hold so many output channels of one."""


@dataclass(frozen=True)
class PlanarTiling:
    """How a convolution runs on PEs that own planar tiles: `cuts` times, each with this array and shape."""

    array: SparseArray
    shape: SparseShape
    cuts: int
    tile: tuple[int, int]
    """Height and width of the tile of one cut."""
    tiles: tuple[int, int]
    """Tiles of one cut down and across."""
    fill: float
    """Share of the tiles' elements that are inputs; the others lie outside the image."""


def matrix_shape(layer: Conv2d | Gemm) -> SparseShape:
    """The layer as a matrix product: outputs x pixels x reduction, with R x S kernels."""
    gemm = layer.as_gemm()
    size = (layer.r, layer.s) if isinstance(layer, Conv2d) else (1, 1)
    return SparseShape(outputs=gemm.n, pixels=gemm.m, reduction=gemm.k, groups=gemm.groups, filter=size)


def matrix_inputs(layer: Conv2d | Gemm, inputs: ArrayLike) -> Mask:
    """Mask of the input rows of the matrix product.

    Parameters
    ----------
    inputs : array of bool
        [N, C, H, W] of a convolution (padding leaves zeros), [groups x M, K] of a product.

    Raises
    ------
    InvalidInputError
        The array has another shape than the layer's input; names the layer.
    """
    gemm, kept = layer.as_gemm(), np.asarray(inputs, np.bool_)
    if isinstance(layer, Gemm):
        _check(layer, kept, (gemm.groups * gemm.m, gemm.k))
        return Mask.from_bool(kept)
    _check(layer, kept, (layer.n, layer.c, *layer.height_width))
    rows = _taps(layer.p, layer.r, layer.stride[0], layer.dilation[0])
    columns = _taps(layer.q, layer.s, layer.stride[1], layer.dilation[1])
    padded = _pad(kept, layer, int(rows.max()) + 1, int(columns.max()) + 1)
    patches = padded[:, :, rows[:, :, np.newaxis, np.newaxis], columns]  # [N, C, P, R, Q, S]
    grouped = patches.reshape(layer.n, layer.groups, -1, layer.p, layer.r, layer.q, layer.s)
    matrix = grouped.transpose(1, 0, 3, 5, 2, 4, 6).reshape(gemm.groups * gemm.m, gemm.k)
    return Mask.from_bool(matrix)


def planar_tiling(layer: Conv2d, array: SparseArray, accumulators: int) -> PlanarTiling:
    """Planar tiles of one image over a square grid of `lane_pixels` PEs, a tile and its halo within the accumulators.

    A stride runs as stride x stride phases of inputs and filter (reduction indices: channel x phase).

    Raises
    ------
    InvalidInputError
        PEs are no square grid, the layer is dilated or has several images, or the accumulators hold no tile.
    """
    edge = _grid_edge(layer, array)
    inputs = [-(-size // stride) for size, stride in zip(layer.height_width, layer.stride, strict=True)]
    taps = [-(-size // stride) for size, stride in zip((layer.r, layer.s), layer.stride, strict=True)]
    whole = [-(-size // edge) for size in inputs]
    cuts, group = _cut(whole, taps, accumulators)
    if not group:
        raise InvalidInputError(f"layer {layer.name!r} on {array.name}: {accumulators} accumulators hold no tile of it")
    tile = tuple(-(-size // cuts) for size in whole)
    tiles = tuple(min(edge, -(-size // t)) for size, t in zip(inputs, whole, strict=True))
    phases = layer.stride[0] * layer.stride[1]
    shape = SparseShape(
        outputs=layer.k // layer.groups,
        pixels=tiles[0] * tiles[1],
        reduction=layer.c // layer.groups * phases,
        groups=layer.groups,
        weight_unit=taps[0] * taps[1],
        input_unit=tile[0] * tile[1],
        filter=(taps[0], taps[1]),
        tile=(tile[0], tile[1]),
    )
    held = tiles[0] * tiles[1] * tile[0] * tile[1] * cuts**2
    return PlanarTiling(
        replace(array, tile_outputs=min(shape.outputs, group)),
        shape,
        cuts**2,
        (tile[0], tile[1]),
        (tiles[0], tiles[1]),
        inputs[0] * inputs[1] / held,
    )


def planar_inputs(layer: Conv2d, tiling: PlanarTiling, inputs: ArrayLike) -> list[Mask]:
    """Masks of the planar tiles, one for every cut; inputs: bool [1, C, H, W].

    A stride parts the inputs into phases, those that meet the taps of the filter's phases. A phase that begins outside
    the image keeps its place in the tiles, one row or column off, which only the accumulator banks could tell.

    Raises
    ------
    InvalidInputError
        The array has another shape than the layer's input.
    """
    kept = np.asarray(inputs, np.bool_)
    _check(layer, kept, (1, layer.c, *layer.height_width))
    (down, across), (height, width), n = tiling.tiles, tiling.tile, math.isqrt(tiling.cuts)
    phases = _phases(kept[0], layer)
    plane = np.zeros((len(phases), down * n * height, across * n * width), np.bool_)
    plane[:, : phases.shape[1], : phases.shape[2]] = phases
    parts = plane.reshape(layer.groups, -1, down, n, height, across, n, width).transpose(3, 6, 0, 2, 5, 1, 4, 7)
    return [Mask.from_bool(parts[i, j].reshape(layer.groups * down * across, -1)) for i in range(n) for j in range(n)]


def _phases(image: NDArray[np.bool_], layer: Conv2d) -> NDArray[np.bool_]:
    """[C x phases, ceil(H / stride), ceil(W / stride)]: phase f (down, then across) is what tap f of a filter meets."""
    (down, across), (top, left) = layer.stride, layer.padding
    rows, columns = (-(-size // stride) for size, stride in zip(image.shape[1:], layer.stride, strict=True))
    padded = np.zeros((len(image), rows * down, columns * across), np.bool_)
    padded[:, : image.shape[1], : image.shape[2]] = image
    split = padded.reshape(-1, rows, down, columns, across).transpose(0, 2, 4, 1, 3)
    split = split[:, (np.arange(down) - top) % down][:, :, (np.arange(across) - left) % across]
    return split.reshape(-1, rows, columns)


def _grid_edge(layer: Conv2d, array: SparseArray) -> int:
    edge = math.isqrt(array.lane_pixels)
    if edge**2 != array.lane_pixels or layer.dilation != (1, 1) or layer.n != 1:
        raise InvalidInputError(
            f"layer {layer.name!r} on {array.name}: planar tiles need a square number of lane_pixels (not "
            f"{array.lane_pixels}), dilation 1 and one image; run images one by one"
        )
    return edge


def _cut(whole: list[int], taps: list[int], accumulators: int) -> tuple[int, int]:
    """(cuts along each side of a tile, output channels that then fit); as few cuts as hold `LEAST_OUTPUTS`."""
    group = 0
    for cuts in range(1, max(whole) + 1):
        group = accumulators // math.prod(-(-size // cuts) + t - 1 for size, t in zip(whole, taps, strict=True))
        if group >= LEAST_OUTPUTS:
            return cuts, group
    return max(whole), group


def _taps(outputs: int, taps: int, stride: int, dilation: int) -> NDArray[np.int64]:
    """Padded position of every tap of every output, [outputs, taps]."""
    return np.arange(outputs)[:, np.newaxis] * stride + np.arange(taps) * dilation


def _pad(kept: NDArray[np.bool_], layer: Conv2d, height: int, width: int) -> NDArray[np.bool_]:
    top, left = layer.padding
    size = max(height, kept.shape[2] + 2 * top), max(width, kept.shape[3] + 2 * left)
    out = np.zeros((*kept.shape[:2], *size), np.bool_)
    out[:, :, top : top + kept.shape[2], left : left + kept.shape[3]] = kept
    return out


def _check(layer: Conv2d | Gemm, kept: NDArray[np.bool_], shape: tuple[int, ...]) -> None:
    if kept.shape != shape:
        raise InvalidInputError(f"layer {layer.name!r}: inputs of shape {kept.shape}; the layer takes {shape}")
