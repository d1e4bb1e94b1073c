"""How a sparse tensor is stored, and its bits: exact for a mask, expected for a distribution, worst for a tile.

A tensor is a matrix of rows (`Mask`): `values` are the bits of the stored elements, zeros that pad included, and
`metadata` the bits that say where they belong. Every format is complete: whoever knows the matrix's shape, the width of
a value and the format's own parameters decodes it from these bits alone (`tests/reference/formats.py` does).

===================  ===========================  ==================================================================
format               stored elements              metadata bits of a [R, L] matrix with z non-zeros
===================  ===========================  ==================================================================
`Dense`              all                          0
`Bitmask`            z                            R L
`RunLength(w)`       z and a zero where a run     w for every stored element
                     passes 2^w - 1, or ends
`CoordinateList`     z                            the count, and ceil(log2 R) + ceil(log2 L) each
`CSR`, `CSC`         z                            R + 1 (L + 1) pointers, and ceil(log2 L) (ceil(log2 R)) each
`BlockedNM(n, m)`    n of every m, zeros pad      ceil(log2 m) for every stored element (ELLPACK in blocks)
`KofNIndex(k, n)`    k of every n units           ceil(log2 n) for every kept unit (a weight, or a whole kernel)
===================  ===========================  ==================================================================

`hierarchical.Hierarchical` composes a format per rank. Run lengths as in Eyeriss (Chen et al., JSSC 2017, section V.B);
blocks as in SCALE-Sim v3's ELLPACK storage (K' = floor(K / m) n + min(K mod m, n) stored elements of a row).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.kernels.formats import run_entries
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask, tile_counts
from accel_models.occupancy import NEGLIGIBLE, Block, Distribution, quantile
from accel_models.sparsity import KofN, kernels_per_row


@dataclass(frozen=True)
class StoredBits:
    """Bits of a stored tensor; whole numbers where they are exact, means where they are expected."""

    values: float
    metadata: float

    @property
    def total(self) -> float:
        return self.values + self.metadata


def index_bits(choices: int) -> int:
    """Bits that tell `choices` things apart: ceil(log2 choices), 0 for one."""
    return int(choices - 1).bit_length()


@dataclass(frozen=True)
class Format(ABC):
    """One way to store a matrix.

    Methods
    -------
    bits(mask, value_bits)
        Exact, of that mask.
    expected_bits(distribution, value_bits)
        Mean over matrices of the distribution.
    worst_bits(rows, cols, value_bits, nonzeros)
        The most that any matrix with up to `nonzeros` non-zeros takes; never less for more non-zeros.
    """

    @abstractmethod
    def bits(self, mask: Mask, value_bits: int) -> StoredBits: ...

    @abstractmethod
    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits: ...

    @abstractmethod
    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits: ...


@dataclass(frozen=True)
class CountedFormat(Format):
    """A format whose bits depend on the number of non-zeros alone."""

    @abstractmethod
    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits: ...

    def bits(self, mask: Mask, value_bits: int) -> StoredBits:
        return self.counted_bits(mask.rows, mask.row_bits, mask.nonzeros, value_bits)

    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits:
        """Exact: linear in the non-zeros."""
        return self.counted_bits(distribution.rows, distribution.cols, distribution.expected_nonzeros, value_bits)

    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits:
        return self.counted_bits(rows, cols, at_most(rows * cols, nonzeros), value_bits)


@dataclass(frozen=True)
class Dense(CountedFormat):
    """Every element."""

    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits:
        return StoredBits(rows * cols * value_bits, 0)


@dataclass(frozen=True)
class Bitmask(CountedFormat):
    """A bit for every element, and the non-zeros."""

    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits:
        return StoredBits(nonzeros * value_bits, rows * cols)


@dataclass(frozen=True)
class CoordinateList(CountedFormat):
    """The number of non-zeros, then row, column and value of each."""

    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits:
        metadata = index_bits(rows * cols + 1) + nonzeros * (index_bits(rows) + index_bits(cols))
        return StoredBits(nonzeros * value_bits, metadata)


@dataclass(frozen=True)
class CSR(CountedFormat):
    """Compressed rows: where every row starts (and the last ends), then column and value of each non-zero."""

    pointer_bits: int | None = None
    """Width of a row pointer; None: what counts up to all elements."""

    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits:
        pointer = index_bits(rows * cols + 1) if self.pointer_bits is None else self.pointer_bits
        if nonzeros >= 2**pointer:
            raise InvalidInputError(
                f"pointer_bits = {pointer}: {nonzeros:g} non-zeros need {index_bits(int(nonzeros) + 1)}"
            )
        return StoredBits(nonzeros * value_bits, (rows + 1) * pointer + nonzeros * index_bits(cols))


@dataclass(frozen=True)
class CSC(CSR):
    """Compressed columns: CSR of the transposed matrix."""

    def counted_bits(self, rows: int, cols: int, nonzeros: float, value_bits: int) -> StoredBits:
        return super().counted_bits(cols, rows, nonzeros, value_bits)


@dataclass(frozen=True)
class RunLength(Format):
    """Zeros before each stored element, in `run_bits`; a longer run stores a zero after 2^run_bits - 1 zeros.

    The last zeros of a row are written too, as runs that end in a stored zero: the row ends without a count.
    """

    run_bits: int = 5
    stream: bool = False
    """Rows follow each other without an end in between: one run over the whole matrix."""

    def __post_init__(self) -> None:
        if not 1 <= self.run_bits <= 32:
            raise InvalidInputError(f"run_bits = {self.run_bits}: must be from 1 to 32")

    @property
    def span(self) -> int:
        """Elements that an entry covers at most."""
        return 2**self.run_bits

    def bits(self, mask: Mask, value_bits: int) -> StoredBits:
        entries = int(run_entries(mask.words, mask.row_bits, self.span, self.stream))
        return self._entries(entries, value_bits)

    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits:
        fibre = distribution.elements if self.stream else distribution.cols
        return self._entries(expected_run_entries(distribution, fibre, 1, self.span), value_bits)

    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits:
        count = at_most(rows * cols, nonzeros)
        fibres, length = (1, rows * cols) if self.stream else (rows, cols)
        return self._entries(worst_run_entries(fibres, length, count, self.span), value_bits)

    def _entries(self, entries: float, value_bits: int) -> StoredBits:
        return StoredBits(entries * value_bits, entries * self.run_bits)


@dataclass(frozen=True)
class BlockedNM(Format):
    """`kept` slots for every `block` neighbours of a row, each a value and its place in the block; zeros pad."""

    kept: int
    block: int

    def __post_init__(self) -> None:
        if not 1 <= self.kept <= self.block:
            raise InvalidInputError(f"kept = {self.kept}, block = {self.block}: use 1 <= kept <= block")

    def bits(self, mask: Mask, value_bits: int) -> StoredBits:
        """Raises InvalidInputError for a block with more non-zeros than slots; names row and block."""
        counts = tile_counts(mask, 1, self.block)
        if counts.max() > self.kept:
            row, block = (int(i) for i in np.argwhere(counts > self.kept)[0])
            raise InvalidInputError(
                f"row {row}, block {block}: {counts[row, block]} non-zeros, the format stores {self.kept} of every "
                f"{self.block}; prune to {self.kept}:{self.block} or store it otherwise"
            )
        return self.worst_bits(mask.rows, mask.row_bits, value_bits)

    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits:
        """Raises InvalidInputError where a block may have more non-zeros than slots."""
        for col in self._starts(distribution):
            cols = min(self.block, distribution.cols - col)
            worst = max(
                distribution.most(Block(rows=1, cols=cols, row=row, col=col)) for row in self._rows(distribution)
            )
            if worst > self.kept:
                raise InvalidInputError(
                    f"{self.kept}:{self.block} blocks: {type(distribution).__name__} may put more than {self.kept} "
                    "non-zeros into a block; use FixedKofN or another format"
                )
        return self.worst_bits(distribution.rows, distribution.cols, value_bits)

    def _starts(self, distribution: Distribution) -> list[int]:
        """First columns of blocks that differ: those of one period, and those that meet a shorter last part."""
        cols, period = distribution.cols, math.lcm(self.block, distribution.column_period)
        ragged = max(0, cols // distribution.column_period * distribution.column_period - self.block)
        return sorted(
            {*range(0, min(cols, period), self.block), *range(-(-ragged // self.block) * self.block, cols, self.block)}
        )

    @staticmethod
    def _rows(distribution: Distribution) -> range:
        """Rows that differ."""
        return range(max(1, distribution.period // distribution.cols))

    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits:
        slots = rows * (cols // self.block * self.kept + min(cols % self.block, self.kept))
        return StoredBits(slots * value_bits, slots * index_bits(self.block))


@dataclass(frozen=True)
class KofNIndex(Format):
    """Exactly k of every n units of a row, each with its index in ceil(log2 n) bits: fixed rows, no pointers."""

    k: int
    n: int
    unit: int = 1
    """Elements of a unit, which share the index: 1, or R x S for kernels."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n or self.unit < 1:
            raise InvalidInputError(f"k = {self.k}, n = {self.n}, unit = {self.unit}: use 1 <= k <= n, unit >= 1")

    @classmethod
    def of(cls, structure: KofN, layer: Conv2d | Gemm) -> KofNIndex:
        """The format of a layer's k-of-n weights or kernels."""
        structure.kept_per_row(layer)  # refuses an n that does not fit the layer
        unit = kernels_per_row(layer)[1] if structure.granularity == "kernel" else 1
        return cls(structure.k, structure.n, unit)

    def bits(self, mask: Mask, value_bits: int) -> StoredBits:
        """Raises InvalidInputError where the mask breaks the structure; names the first row."""
        self._check_width(mask.row_bits)
        units = tile_counts(mask, 1, self.unit)
        partial = (units != 0) & (units != self.unit)
        starts = np.arange(0, units.shape[1], self.n)
        kept = np.add.reduceat((units != 0).astype(np.int64), starts, axis=1)
        want = np.minimum(self.k, np.minimum(self.n, units.shape[1] - starts))
        broken = np.flatnonzero(partial.any(axis=1) | (kept != want).any(axis=1))
        if broken.size:
            raise InvalidInputError(
                f"row {broken[0]} does not keep exactly {self.k} of every {self.n} units of {self.unit} elements; "
                "prune it so, or store it otherwise"
            )
        return self.worst_bits(mask.rows, mask.row_bits, value_bits)

    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits:
        """Raises InvalidInputError for another distribution than FixedKofN of the same k, n and unit."""
        structure = tuple(getattr(distribution, name, None) for name in ("k", "n", "unit"))
        if structure != (self.k, self.n, self.unit):
            raise InvalidInputError(
                f"{self.k} of {self.n} units of {self.unit}: {distribution} is not of this structure; use FixedKofN"
            )
        return self.worst_bits(distribution.rows, distribution.cols, value_bits)

    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits:
        self._check_width(cols)
        units = cols // self.unit
        kept = rows * (units // self.n * self.k + min(units % self.n, self.k))
        return StoredBits(kept * self.unit * value_bits, kept * index_bits(self.n))

    def _check_width(self, cols: int) -> None:
        if cols % self.unit:
            raise InvalidInputError(f"a row of {cols} elements is no whole number of units of {self.unit}")


def tile_bits(fmt: Format, mask: Mask, tile_rows: int, tile_cols: int, value_bits: int) -> NDArray[np.int64]:
    """Exact bits of every tile, each stored on its own: int64 [tiles down, tiles across]; edge tiles are smaller."""
    counts = tile_counts(mask, tile_rows, tile_cols)
    matrix = None if isinstance(fmt, CountedFormat) else mask.as_matrix()
    out = np.empty(counts.shape, np.int64)
    for (down, across), count in np.ndenumerate(counts):
        row, col = down * tile_rows, across * tile_cols
        if isinstance(fmt, CountedFormat):
            rows, cols = min(tile_rows, mask.rows - row), min(tile_cols, mask.row_bits - col)
            out[down, across] = fmt.counted_bits(rows, cols, int(count), value_bits).total
        else:
            tile = Mask.from_bool(matrix[row : row + tile_rows, col : col + tile_cols])  # type: ignore[index]
            out[down, across] = fmt.bits(tile, value_bits).total
    return out


def buffer_bits(
    fmt: Format, distribution: Distribution, block: Block, value_bits: int, share: float = 1.0
) -> StoredBits:
    """Bits that hold a tile with probability `share` or more (1: always), for sizing a buffer."""
    count = quantile(distribution, block, share)
    return fmt.worst_bits(block.rows, block.cols, value_bits, count)


def at_most(elements: int, nonzeros: int | None) -> int:
    """The non-zeros of a worst case."""
    if nonzeros is None:
        return elements
    if nonzeros < 0:
        raise InvalidInputError(f"nonzeros = {nonzeros}: must be at least 0")
    return min(elements, nonzeros)


def worst_run_entries(fibres: int, length: int, nonzeros: int, span: int) -> int:
    """Most entries of a run-length code over all placements of `nonzeros` in fibres of `length`.

    A fibre with m non-zeros takes at most m + ceil((length - m) / span): all zeros in one gap at its end. Its first
    (length - 1) mod span non-zeros cost a run nothing, then one in `span` does.
    """
    free = fibres * ((length - 1) % span)
    runs = -(-length // span)
    lost = -(-max(0, nonzeros - free) // span)
    most_lost = fibres * (runs - 1)  # beyond it, every non-zero fills the last zero of a fibre
    if lost > most_lost:
        lost = most_lost + max(0, nonzeros - free - most_lost * span)
    return nonzeros + fibres * runs - lost


def expected_run_entries(distribution: Distribution, length: int, unit: int, span: int) -> float:
    """Mean entries of a run-length code over all fibres of the matrix.

    A fibre is `length` units of `unit` neighbouring elements; a unit is stored where it holds a non-zero. With Z(s, m)
    = P(units s .. s + m - 1 are empty), the entries of a fibre are its stored units, one for every j >= 1 and every
    gap of at least j span units, Z(s, j span) - Z(s - 1, j span + 1), and one where the last gap is no multiple of
    span.
    """
    fibre = length * unit
    total_fibres = distribution.elements // fibre
    distinct = distinct_fibres(distribution, fibre)
    entries = sum(_fibre_entries(distribution, i * fibre, length, unit, span) for i in range(distinct))
    return entries * total_fibres / distinct


def distinct_fibres(distribution: Distribution, size: int) -> int:
    """How many of the matrix's fibres of `size` elements differ; the others repeat these in order."""
    period = distribution.period
    if size % period and period % size:
        return distribution.elements // size
    return max(1, period // size)


def _fibre_entries(distribution: Distribution, start: int, length: int, unit: int, span: int) -> float:
    def empty(first: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.float64]:
        return distribution.empty_ranges(start + first * unit, units * unit)

    every = np.arange(length, dtype=np.int64)
    ones = np.ones_like(every)
    entries = length - float(empty(every, ones).sum())
    last = empty(length - every, every) - empty(length - every - 1, every + 1)  # P(the last gap is 0, 1, .. long)
    entries += float(last[every % span != 0].sum())
    if length % span:
        entries += float(empty(every[:1], ones[:1] * length)[0])
    for run in range(span, length + 1, span):
        first = every[: length - run + 1] if distribution.period > 1 else every[: min(2, length - run + 1)]
        gaps = empty(first, np.full(first.size, run, np.int64))
        gaps[1:] -= empty(first[1:] - 1, np.full(first.size - 1, run + 1, np.int64))
        weight = 1.0 if distribution.period > 1 else float(length - run)
        here = gaps[0] + weight * gaps[1:].sum()
        entries += float(here)
        if here < NEGLIGIBLE:
            break
    return entries
