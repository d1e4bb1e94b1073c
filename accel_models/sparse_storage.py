"""Bits of a layer's operands in the memories of an accelerator: values and metadata, and the space that tiles need.

A format that cannot store a layer's weights (blocks with more non-zeros than slots, no k of n) leaves the choice to the
next one of its memory; without one they lie dense, and the lanes cannot skip them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from accel_models.accelerator import Memory
from accel_models.errors import InvalidInputError
from accel_models.format_names import make_format
from accel_models.formats import Dense, Format, KofNIndex, StoredBits
from accel_models.layer_zeros import LayerZeros, Structure
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask, tile_counts
from accel_models.occupancy import Bernoulli, Block, Distribution, FixedKofN, quantile
from accel_models.sparsity import KofN, kernels_per_row

FormatKey = tuple[str, tuple[tuple[str, Any], ...]]
K_OF_N: FormatKey = ("k_of_n", ())
"""k, n and granularity as the layer was pruned."""


@dataclass(frozen=True)
class Stored:
    """An operand in a memory: elements and bits, rounded up."""

    elements: int
    value_bits: int
    metadata_bits: int
    compressed: bool = False
    """Whether zeros are left out."""

    @property
    def bits(self) -> int:
        return self.value_bits + self.metadata_bits

    def times(self, factor: int | Fraction) -> Stored:
        """So much of it, rounded up."""
        up, down = factor.numerator, factor.denominator
        return Stored(
            -(-self.elements * up // down),
            -(-self.value_bits * up // down),
            -(-self.metadata_bits * up // down),
            self.compressed,
        )


@dataclass(frozen=True)
class StoredWeights:
    """Weights of a layer in one memory, and the most bits of a block of output rows."""

    stored: Stored
    block_bits: int


def store_matrix(layer: Conv2d | Gemm, zeros: LayerZeros, memory: Memory, rows: int, share: float) -> StoredWeights:
    """Weights of a layer in a memory; `rows` neighbouring output rows of them are a block, held for `share` of them."""
    formats = formats_of(memory, "weight")
    if zeros.weights is None and formats and formats[0] == K_OF_N:
        formats = ()  # dense rows need no indices
    store = _store_weights if zeros.mask is None else _store_weights.__wrapped__  # masks are not remembered
    return store(formats, _shape_of(layer), zeros.weights, zeros.mask, rows, share)


def formats_of(memory: Memory, operand: str) -> tuple[FormatKey, ...]:
    return tuple(choice.key for choice in memory.formats.get(operand, ()))  # type: ignore[call-overload]


@dataclass(frozen=True)
class _Weights:
    """The matrix of a layer's weights."""

    rows: int
    cols: int
    kernel: int
    bits: int


@lru_cache(maxsize=4096)
def _shape_of(layer: Conv2d | Gemm) -> _Weights:
    cols = layer.as_gemm().k
    return _Weights(layer.weight_elements // cols, cols, kernels_per_row(layer)[1], layer.bits.weight)


@lru_cache(maxsize=8192)
def _store_weights(
    formats: tuple[FormatKey, ...],
    shape: _Weights,
    structure: Structure | None,
    mask: Mask | None,
    rows: int,
    share: float,
) -> StoredWeights:
    known = weight_distribution(shape.rows, shape.cols, structure, shape.kernel)
    rows = min(rows, shape.rows)
    for key in formats:
        form = _weight_format(key, structure, shape.kernel)
        if form is None:
            continue
        try:
            bits = form.bits(mask, shape.bits) if mask is not None else form.expected_bits(known, shape.bits)
        except InvalidInputError:
            continue
        block = form.worst_bits(rows, shape.cols, shape.bits, _most(known, mask, rows, share))
        return StoredWeights(_stored(bits, shape.bits, not isinstance(form, Dense)), math.ceil(block.total))
    elements = shape.rows * shape.cols
    return StoredWeights(Stored(elements, elements * shape.bits, 0), rows * shape.cols * shape.bits)


def _weight_format(key: FormatKey, structure: Structure | None, kernel: int) -> Format | None:
    """The format, with k and n of the structure; None: the layer has none."""
    name, options = key
    if key != K_OF_N:
        return make_format(name, **dict(options))
    if not isinstance(structure, KofN):
        return None
    return KofNIndex(structure.k, structure.n, kernel if structure.granularity == "kernel" else 1)


def weight_distribution(rows: int, cols: int, structure: Structure | None, kernel: int) -> Distribution:
    """Where the weights are that stay."""
    if isinstance(structure, KofN):
        unit = kernel if structure.granularity == "kernel" else 1
        return FixedKofN(rows=rows, cols=cols, k=structure.k, n=structure.n, unit=unit)
    return Bernoulli(rows=rows, cols=cols, probability=1.0 if structure is None else float(structure))


def _most(known: Distribution, mask: Mask | None, rows: int, share: float) -> int:
    """Most non-zeros of a block of rows; of a mask, which is known in advance, those of the fullest."""
    if mask is not None:
        return int(tile_counts(mask, rows, mask.row_bits).max())
    return quantile(known, Block(rows=rows, cols=known.cols), share)


@lru_cache(maxsize=8192)
def store_activations(
    formats: tuple[FormatKey, ...], rows: int, cols: int, bits: int, density: float | None, share: float = 1.0
) -> tuple[Stored, int]:
    """A [rows, cols] tensor of activations whose zeros are independent, and the bits that hold a row of it."""
    if not formats or not rows * cols:
        return Stored(rows * cols, rows * cols * bits, 0), cols * bits
    name, options = formats[0]
    form = make_format(name, **dict(options))
    known = Bernoulli(rows=rows, cols=cols, probability=1.0 if density is None else density)
    stored = _stored(form.expected_bits(known, bits), bits, not isinstance(form, Dense))
    most = quantile(known, Block(rows=1, cols=cols), share)
    return stored, math.ceil(form.worst_bits(1, cols, bits, most).total)


def _stored(bits: StoredBits, width: int, compressed: bool) -> Stored:
    values = math.ceil(bits.values / width - 1e-9)
    return Stored(values, values * width, math.ceil(bits.metadata - 1e-9), compressed)
