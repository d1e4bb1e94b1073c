"""Masks of weights and activations, packed 64 elements to a word: which elements are kept, and counts of them.

A mask has rows (of weights: one output channel each) that start at a new word. Everything that costs hardware time
is counted on the words themselves; `to_bool` is for looking at a mask, not for counting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels import masks as kernel
from accel_models.kernels.masks import LaneWork
from accel_models.layers import Conv2d, Gemm, Layer
from accel_models.sparsity import KofN, kernels_per_row

WORD_BITS = 64


@dataclass(frozen=True, eq=False)
class Mask:
    """Kept elements of a tensor.

    Attributes
    ----------
    words
        uint64 [rows, ceil(row_bits / 64)], read-only. Element i of a row is bit i % 64, counted from the least
        significant, of word i // 64; bits past the row's end are 0.
    row_bits
        Elements of a row.
    shape
        Of the tensor; the leading axes make up the rows, the others, in C order, a row.
    """

    words: NDArray[np.uint64]
    row_bits: int
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        rows, columns = self.words.shape
        if rows * self.row_bits != prod(self.shape) or columns != -(-self.row_bits // WORD_BITS):
            raise InvalidInputError(
                f"mask: words {self.words.shape} with {self.row_bits} elements a row do not hold shape {self.shape}; "
                "use Mask.from_bool"
            )

    @classmethod
    def from_bool(cls, array: ArrayLike, name: str = "mask", row_axes: int = 1) -> Mask:
        """Pack an array of booleans, or of numbers that are 0 or 1.

        Parameters
        ----------
        array
            Any shape without an empty axis, at least `row_axes` axes.
        name
            What the messages call it.
        row_axes
            How many leading axes make up the rows.

        Raises
        ------
        InvalidInputError
            An element that is neither 0 nor 1 (named with its index), no elements, or too few axes.
        """
        values = np.asarray(array)
        if values.ndim < max(row_axes, 1) or not values.size:
            raise InvalidInputError(
                f"{name}: shape {values.shape} holds no rows of elements; give at least one element"
            )
        kept = values if values.dtype == np.bool_ else _as_bool(values, name)
        rows = prod(values.shape[:row_axes])
        return cls(_pack(kept.reshape(rows, -1)), values.size // rows, values.shape)

    @classmethod
    def from_values(cls, array: ArrayLike, name: str = "tensor", row_axes: int = 1) -> Mask:
        """The non-zeros of a tensor; a NaN is refused."""
        values = np.asarray(array)
        if values.dtype.kind == "f" and np.isnan(values).any():
            where = tuple(int(i) for i in np.argwhere(np.isnan(values))[0])
            raise InvalidInputError(f"{name}: element {where} is not a number; a mask needs zeros and non-zeros")
        return cls.from_bool(values != 0, name, row_axes)

    @property
    def rows(self) -> int:
        return int(self.words.shape[0])

    @property
    def elements(self) -> int:
        return self.rows * self.row_bits

    @property
    def nonzeros(self) -> int:
        return int(row_counts(self).sum())

    @property
    def density(self) -> float:
        return self.nonzeros / self.elements

    def to_bool(self) -> NDArray[np.bool_]:
        """The mask as booleans of its shape."""
        bits = np.unpackbits(self.words.astype("<u8", copy=False).view(np.uint8), axis=1, bitorder="little")
        return bits[:, : self.row_bits].astype(np.bool_).reshape(self.shape)

    def as_matrix(self) -> NDArray[np.bool_]:
        """Booleans [rows, row_bits]."""
        return self.to_bool().reshape(self.rows, self.row_bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same = self.shape == other.shape and self.row_bits == other.row_bits
        return same and np.array_equal(self.words, other.words)

    def __hash__(self) -> int:
        return hash((self.shape, self.row_bits, self.words.tobytes()))


WeightMasks = Mapping[str, Mask]
"""Layer name -> mask of its weights; a layer that is not named is dense."""


def weight_mask(array: ArrayLike, layer: Layer) -> Mask:
    """Pack the mask of a layer's weights: [K, C / groups, R, S], or [N, K] of a matrix product ([groups, N, K]).

    Raises
    ------
    InvalidInputError
        The layer has no weights, the shape is not theirs, or an element is neither 0 nor 1; names the layer.
    """
    shape = weight_shape(layer)
    given = np.shape(array)
    if given != shape:
        raise InvalidInputError(f"layer {layer.name!r}: mask of shape {given}; its weights have {shape}")
    return Mask.from_bool(array, f"layer {layer.name!r}: mask", row_axes=len(shape) - _row_rank(layer))


def check_mask(mask: Mask, layer: Layer) -> None:
    """Refuse a mask that is not of the layer's weights.

    Raises
    ------
    InvalidInputError
        Shape or rows differ; names the layer and both shapes.
    """
    shape = weight_shape(layer)
    rows = prod(shape[: len(shape) - _row_rank(layer)])
    if mask.shape != shape or mask.rows != rows:
        raise InvalidInputError(
            f"layer {layer.name!r}: mask of shape {mask.shape} in {mask.rows} rows; its weights have {shape} in {rows}"
        )


def check_k_of_n(mask: Mask, layer: Conv2d | Gemm, structure: KofN) -> None:
    """Refuse a mask that does not keep exactly k of n in every row or tile.

    Tiles are along the channels (see `in_lane_order`). A shorter last tile keeps min(k, its length). At kernel
    granularity a kernel is kept whole or not at all.

    Raises
    ------
    InvalidInputError
        Names layer, first row and tile (or kernel) that break the structure.
    """
    check_mask(mask, layer)
    structure.kept_per_row(layer)  # refuses an n that does not fit the layer
    if structure.granularity == "kernel":
        _check_kernels(mask, layer, structure)
        return
    mask = in_lane_order(mask, layer, structure)
    counts = tile_counts(mask, 1, structure.n)
    lengths = np.minimum(structure.n, mask.row_bits - structure.n * np.arange(counts.shape[1]))
    wrong = np.argwhere(counts != np.minimum(structure.k, lengths))
    if len(wrong):
        row, tile = (int(i) for i in wrong[0])
        raise InvalidInputError(
            f"layer {layer.name!r}: row {row} of the mask keeps {counts[row, tile]} of the {lengths[tile]} weights of "
            f"tile {tile}, not {min(structure.k, int(lengths[tile]))}; {structure.k} of {structure.n} must stay"
        )


def in_lane_order(mask: Mask, layer: Conv2d | Gemm, structure: KofN | float | None = None) -> Mask:
    """Rows as lanes walk the reduction: (r, s, c), channels fastest, of weights or of the inputs that they meet.

    Masks are packed as tensors lie in files, (c, r, s). Tiles of k of n weights, and segments and blocks of lanes, are
    neighbours in (r, s, c): channels of one filter position, as in NVIDIA's 2:4 weights and S2TA's blocks. Where whole
    kernels are the units, kernels stay together: the order of the file remains.
    """
    whole = isinstance(structure, KofN) and structure.granularity == "kernel"
    if not isinstance(layer, Conv2d) or layer.r * layer.s == 1 or layer.c == layer.groups or whole:
        return mask
    rows = mask.as_matrix().reshape(mask.rows, layer.c // layer.groups, layer.r * layer.s)
    return Mask.from_bool(rows.transpose(0, 2, 1).reshape(mask.rows, -1))


def row_counts(mask: Mask) -> NDArray[np.int64]:
    """Kept elements of every row, int64 [rows]."""
    out = np.empty(mask.rows, np.int64)
    kernel.count_rows(mask.words, out)
    return out


def column_counts(mask: Mask) -> NDArray[np.int64]:
    """Kept elements of every column, int64 [row_bits]."""
    out = np.empty(mask.words.shape[1] * WORD_BITS, np.int64)
    kernel.count_columns(mask.words, out)
    return out[: mask.row_bits]


def tile_counts(mask: Mask, tile_rows: int, tile_cols: int) -> NDArray[np.int64]:
    """Kept elements of every tile, edge tiles included, int64 [tiles down, tiles across]."""
    for name, size in (("tile_rows", tile_rows), ("tile_cols", tile_cols)):
        if size < 1:
            raise InvalidInputError(f"{name} = {size}: a tile has at least one row and one column")
    out = np.empty((-(-mask.rows // tile_rows), -(-mask.row_bits // tile_cols)), np.int64)
    kernel.count_tiles(mask.words, mask.row_bits, tile_rows, tile_cols, out)
    return out


def lane_work(mask: Mask, lanes: int, tile_cols: int | None = None) -> LaneWork:
    """Steps of `lanes` PEs that take neighbouring rows and wait for the slowest after every tile of the row.

    Parameters
    ----------
    lanes
        PEs, at least 1; the last group of rows may leave some without work.
    tile_cols
        Elements between two waits; None: a whole row.
    """
    width = mask.row_bits if tile_cols is None else tile_cols
    for name, size in (("lanes", lanes), ("tile_cols", width)):
        if size < 1:
            raise InvalidInputError(f"{name} = {size}: must be at least 1")
    return LaneWork(*kernel.count_lanes(mask.words, mask.row_bits, lanes, min(width, mask.row_bits)))


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Shape of the layer's weights as masks have it.

    Raises
    ------
    InvalidInputError
        The layer has no weights.
    """
    if isinstance(layer, Conv2d):
        return (layer.k, layer.c // layer.groups, layer.r, layer.s)
    if isinstance(layer, Gemm):
        return (layer.n, layer.k) if layer.groups == 1 else (layer.groups, layer.n, layer.k)
    raise InvalidInputError(f"layer {layer.name!r} has no weights to mask; masks belong to Conv2d and Gemm layers")


def _row_rank(layer: Layer) -> int:
    """How many of the last axes of the weights make up a row."""
    return 3 if isinstance(layer, Conv2d) else 1


def _check_kernels(mask: Mask, layer: Conv2d | Gemm, structure: KofN) -> None:
    size = kernels_per_row(layer)[1]
    counts = tile_counts(mask, 1, size)
    partial = np.argwhere((counts != 0) & (counts != size))
    if len(partial):
        row, which = (int(i) for i in partial[0])
        raise InvalidInputError(
            f"layer {layer.name!r}: row {row} of the mask keeps {counts[row, which]} of the {size} weights of kernel "
            f"{which}; at kernel granularity a kernel stays whole or leaves"
        )
    kept = np.count_nonzero(counts, axis=1)
    wrong = np.flatnonzero(kept != structure.k)
    if len(wrong):
        raise InvalidInputError(
            f"layer {layer.name!r}: row {wrong[0]} of the mask keeps {kept[wrong[0]]} of {structure.n} kernels, not "
            f"{structure.k}; {structure.k} of {structure.n} must stay"
        )


def _as_bool(values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    kept = values == 1
    strange = ~(kept | (values == 0))
    if np.any(strange):
        where = tuple(int(i) for i in np.argwhere(strange)[0])
        raise InvalidInputError(f"{name}: element {where} = {values[where]!r}; a mask holds 0 and 1 only")
    return np.asarray(kept, np.bool_)


def _pack(kept: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """uint64 [rows, ceil(columns / 64)], read-only, from booleans [rows, columns]."""
    columns = -(-kept.shape[1] // WORD_BITS)
    packed = np.zeros((kept.shape[0], columns * WORD_BITS // 8), np.uint8)
    bits = np.packbits(kept, axis=1, bitorder="little")
    packed[:, : bits.shape[1]] = bits
    words = packed.view("<u8").astype(np.uint64, copy=False)
    words.flags.writeable = False
    return words
