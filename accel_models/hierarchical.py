"""Formats per rank: a tensor as a tree of fibres, each rank of it stored in its own way.

A rank's fibre lists the children of one coordinate of the rank above; its children are fibres of the rank below, or
values. What a fibre of size S with n stored children takes:

=========  =================  ===========================================================================
rank       stored children    metadata bits of a fibre
=========  =================  ===========================================================================
`U`        all S              0
`B`        the non-empty      S, a bit per coordinate
`CP`       the non-empty      ceil(log2 S) each; and the count, unless offsets above tell it
`RLE`      the non-empty      `bits` for each run; a run of 2^bits - 1 zeros has no child, so longer runs are chains
`UOP`      the non-empty      S + 1 offsets into the rank below
=========  =================  ===========================================================================

CSR is (UOP, CP), a bitmask (B,) over the flattened tensor. The rank formats and names are those of Sparseloop (Wu et
al., MICRO 2022, section 3.1.1), which leaves out the counts of CP and the chains of RLE; here both are kept, so that a
tensor can be decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from accel_models.errors import InvalidInputError
from accel_models.formats import (
    Format,
    StoredBits,
    at_most,
    distinct_fibres,
    expected_run_entries,
    index_bits,
    worst_run_entries,
)
from accel_models.kernels.formats import run_entries
from accel_models.masks import Mask
from accel_models.occupancy import Distribution

RankKind = Literal["U", "B", "CP", "RLE", "UOP"]
KINDS = ("U", "B", "CP", "RLE", "UOP")


@dataclass(frozen=True)
class Rank:
    """The format of one rank."""

    kind: RankKind
    bits: int | None = None
    """Width of a run (RLE, 5 where None) or an offset (UOP, what counts up to all children where None)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInputError(f"rank format {self.kind!r} is none of {', '.join(KINDS)}")
        if self.bits is not None and (self.kind not in ("RLE", "UOP") or not 1 <= self.bits <= 64):
            raise InvalidInputError(f"rank format {self.kind}: bits = {self.bits}; only RLE and UOP have bits, 1 to 64")

    @property
    def span(self) -> int:
        """Coordinates that one run covers at most."""
        return int(2 ** (self.bits or 5) - 1)


@dataclass(frozen=True)
class _Level:
    """One rank of a tensor: its format, the rank above, and sizes."""

    rank: Rank
    above: Rank | None
    size: int
    """Coordinates of a fibre."""
    fibres: int
    """Fibres of the uncompressed tensor."""
    below: int
    """Elements under a coordinate."""
    capacity: int
    """Coordinates of the rank below, over the whole uncompressed tensor."""

    def metadata(self, fibres: float, children: float, entries: float) -> float:
        """Bits of the stored fibres, with their stored children in all and run-length entries in all."""
        kind = self.rank.kind
        if kind == "B":
            return fibres * self.size
        if kind == "UOP":
            width = self.rank.bits if self.rank.bits is not None else index_bits(self.capacity + 1)
            return fibres * (self.size + 1) * width
        if kind == "CP":
            counted = 0 if self.above is not None and self.above.kind == "UOP" else index_bits(self.size + 1)
            return children * index_bits(self.size) + fibres * counted
        return entries * (self.rank.bits or 5) if kind == "RLE" else 0


@dataclass(frozen=True)
class Hierarchical(Format):
    """A format per rank, from the outermost; `shape` splits the matrix in C order, None: the mask's own shape.

    Raises
    ------
    InvalidInputError
        No ranks, an innermost UOP (it has no rank to point into), or shape and ranks of different length.
    """

    ranks: tuple[Rank, ...]
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.ranks or self.ranks[-1].kind == "UOP":
            raise InvalidInputError("ranks: at least one, and the innermost must say where values are: U, B, CP or RLE")
        if self.shape is not None and (len(self.shape) != len(self.ranks) or min(self.shape) < 1):
            raise InvalidInputError(f"shape {self.shape}: needs {len(self.ranks)} sizes of at least 1, one a rank")

    @classmethod
    def of(cls, text: str, shape: tuple[int, ...] | None = None) -> Hierarchical:
        """From names, outermost first, such as "UOP CP" or "B RLE:4"; after the colon: bits."""
        ranks = []
        for word in text.split():
            kind, _, bits = word.partition(":")
            if bits and not bits.isdigit():
                raise InvalidInputError(f"rank format {word!r}: the bits after ':' must be a whole number")
            ranks.append(Rank(kind, int(bits) if bits else None))  # type: ignore[arg-type]
        return cls(tuple(ranks), shape)

    def bits(self, mask: Mask, value_bits: int) -> StoredBits:
        shape = self._shape(mask.shape, mask.elements)
        kept = mask.to_bool().reshape(shape)
        stored: NDArray[np.bool_] = np.ones(1, np.bool_)  # of every fibre of the present rank
        metadata = 0
        for level in self._levels(shape):
            full = np.any(kept.reshape(level.fibres, level.size, level.below), axis=2)[stored]
            entries = 0
            if level.rank.kind == "RLE" and full.size:
                runs = Mask.from_bool(full)
                entries = int(run_entries(runs.words, runs.row_bits, level.rank.span, False))
            metadata += int(level.metadata(full.shape[0], int(full.sum()), entries))
            _check_offsets(level, int(full.sum()))
            children = np.zeros((level.fibres, level.size), np.bool_)
            children[stored] = True if level.rank.kind == "U" else full
            stored = children.ravel()
        return StoredBits(int(stored.sum()) * value_bits, metadata)

    def expected_bits(self, distribution: Distribution, value_bits: int) -> StoredBits:
        """Exact means: all follow from the chances that ranges of the tensor are empty."""
        shape = self._shape((distribution.rows, distribution.cols), distribution.elements)
        fibres, metadata = 1.0, 0.0
        for level in self._levels(shape):
            full = expected_occupied(distribution, level.below)
            entries = 0.0
            if level.rank.kind == "RLE":
                entries = expected_run_entries(distribution, level.size, level.below, level.rank.span)
                entries -= (level.fibres - fibres) * -(-level.size // level.rank.span)  # not stored, hence empty
            metadata += level.metadata(fibres, full, entries)
            fibres = fibres * level.size if level.rank.kind == "U" else full
        return StoredBits(fibres * value_bits, metadata)

    def worst_bits(self, rows: int, cols: int, value_bits: int, nonzeros: int | None = None) -> StoredBits:
        """An upper bound; met unless RLE ranks ask for another placement of the non-zeros than the others."""
        shape = self._shape((rows, cols), rows * cols)
        count = at_most(rows * cols, nonzeros)
        fibres, metadata = 1, 0
        for level in self._levels(shape):
            full = min(count, level.fibres * level.size)
            entries = 0
            if level.rank.kind == "RLE":
                most = min(full, fibres * level.size)
                entries = worst_run_entries(fibres, level.size, most, level.rank.span)
            metadata += int(level.metadata(fibres, full, entries))
            fibres = fibres * level.size if level.rank.kind == "U" else full
        return StoredBits(fibres * value_bits, metadata)

    def _shape(self, given: tuple[int, ...], elements: int) -> tuple[int, ...]:
        shape = given if self.shape is None else self.shape
        if len(shape) != len(self.ranks) or prod(shape) != elements:
            raise InvalidInputError(
                f"{len(self.ranks)} ranks on a tensor of shape {given}: give a shape with one size a rank and "
                f"{elements} elements, not {shape}"
            )
        return shape

    def _levels(self, shape: tuple[int, ...]) -> Iterator[_Level]:
        for depth, rank in enumerate(self.ranks):
            yield _Level(
                rank=rank,
                above=self.ranks[depth - 1] if depth else None,
                size=shape[depth],
                fibres=prod(shape[:depth]),
                below=prod(shape[depth + 1 :]),
                capacity=prod(shape[: depth + 2]),
            )


def expected_occupied(distribution: Distribution, size: int) -> float:
    """Mean number of ranges of `size` neighbouring elements that hold a non-zero."""
    ranges = distribution.elements // size
    distinct = distinct_fibres(distribution, size)
    starts = np.arange(distinct, dtype=np.int64) * size
    chances = distribution.empty_ranges(starts, np.full(distinct, size, np.int64))
    return float((1.0 - chances).sum()) * ranges / distinct


def _check_offsets(level: _Level, children: int) -> None:
    """The offsets above count the children of this rank."""
    width = level.above.bits if level.above is not None and level.above.kind == "UOP" else None
    if width is not None and children >= 2**width:
        raise InvalidInputError(
            f"rank format UOP: offsets of {width} bits cannot count the {children} coordinates below; "
            f"use {index_bits(children + 1)}"
        )
