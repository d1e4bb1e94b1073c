"""Where the non-zeros of a matrix are, where only a distribution is known: tile occupancy, empty tiles, slowest lanes.

=================  =============================================  =============================
distribution       a tile of t elements holds                     ranges it may be asked about
=================  =============================================  =============================
`Bernoulli`        Binomial(t, density)                           any
`Uniform`          Hypergeometric(elements, nonzeros, t)          any
`FixedKofN`        sums of hypergeometric parts of k-of-n tiles   whole units
`Banded`           Binomial(elements of t in the band, inside)    any
=================  =============================================  =============================

`Uniform` (a fixed number of non-zeros, every arrangement equally likely), fixed structure and band are also the density
models of Sparseloop (Wu et al., MICRO 2022). Flat positions run over the matrix in C order; lanes are blocks one below
the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from accel_models.chances import Floats, binomial_pmf, hypergeometric_pmf, sum_pmf, trimmed
from accel_models.errors import InvalidInputError

Integers = NDArray[np.int64]

NEGLIGIBLE = 1e-15
"""Probability below which a tail of a sum is left out."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A tile of a matrix: `rows` x `cols` elements from (row, col)."""

    rows: int
    cols: int
    row: int = 0
    col: int = 0

    @property
    def elements(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True, kw_only=True)
class Distribution(ABC):
    """Non-zeros of a [rows, cols] matrix."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name in ("rows", "cols"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} = {getattr(self, name)}: a matrix has at least one row and one column")
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Refuse parameters out of range."""

    @property
    def elements(self) -> int:
        return self.rows * self.cols

    @property
    def expected_nonzeros(self) -> float:
        return self.mean(Block(rows=self.rows, cols=self.cols))

    @property
    @abstractmethod
    def period(self) -> int:
        """Flat positions after which the pattern repeats; 1: all elements are alike (exchangeable)."""

    @property
    def column_period(self) -> int:
        """Columns after which the pattern of a row repeats, but for a shorter last part."""
        return min(self.period, self.cols)

    @abstractmethod
    def pmf(self, block: Block) -> Floats:
        """P(the block holds i non-zeros), i = 0 .. its elements."""

    @abstractmethod
    def mean(self, block: Block) -> float:
        """Expected non-zeros of the block."""

    @abstractmethod
    def most(self, block: Block) -> int:
        """Most non-zeros that the block can hold, however unlikely."""

    @abstractmethod
    def empty_ranges(self, starts: Integers, lengths: Integers) -> Floats:
        """P(flat positions start .. start + length - 1 hold no non-zero); 1 for no positions."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One random matrix, boolean [rows, cols]."""

    def empty(self, block: Block) -> float:
        """P(the block holds no non-zero)."""
        return float(self.pmf(block)[0])

    def check_block(self, block: Block) -> None:
        """Refuse a block that is empty or not inside the matrix."""
        inside = block.row + block.rows <= self.rows and block.col + block.cols <= self.cols
        if min(block.rows, block.cols) < 1 or min(block.row, block.col) < 0 or not inside:
            raise InvalidInputError(f"{block} does not lie inside a matrix of {self.rows} x {self.cols}")


@dataclass(frozen=True, kw_only=True)
class Bernoulli(Distribution):
    """Every element is kept with probability `probability`, independently: binomial tiles."""

    probability: float

    def _check(self) -> None:
        _check_share("probability", self.probability)

    @property
    def period(self) -> int:
        return 1

    def pmf(self, block: Block) -> Floats:
        self.check_block(block)
        return binomial_pmf(block.elements, self.probability)

    def mean(self, block: Block) -> float:
        self.check_block(block)
        return block.elements * self.probability

    def most(self, block: Block) -> int:
        self.check_block(block)
        return block.elements if self.probability > 0.0 else 0

    def empty_ranges(self, starts: Integers, lengths: Integers) -> Floats:
        return np.power(1.0 - self.probability, lengths.astype(np.float64))

    def sample(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        return rng.random((self.rows, self.cols)) < self.probability


@dataclass(frozen=True, kw_only=True)
class Uniform(Distribution):
    """Exactly `nonzeros` elements are kept, every choice equally likely: hypergeometric tiles."""

    nonzeros: int

    def _check(self) -> None:
        if not 0 <= self.nonzeros <= self.elements:
            raise InvalidInputError(f"nonzeros = {self.nonzeros}: must be 0 to {self.elements}, the elements")

    @classmethod
    def of_density(cls, rows: int, cols: int, density: float) -> Uniform:
        """With the whole number of non-zeros that is nearest to the density."""
        _check_share("density", density)
        return cls(rows=rows, cols=cols, nonzeros=round(rows * cols * density))

    @property
    def period(self) -> int:
        return 1

    def pmf(self, block: Block) -> Floats:
        self.check_block(block)
        return hypergeometric_pmf(self.elements, self.nonzeros, block.elements)

    def mean(self, block: Block) -> float:
        self.check_block(block)
        return block.elements * self.nonzeros / self.elements

    def most(self, block: Block) -> int:
        self.check_block(block)
        return min(block.elements, self.nonzeros)

    def empty_ranges(self, starts: Integers, lengths: Integers) -> Floats:
        return _empty_draws(self.elements, self.nonzeros)[lengths]

    def sample(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        kept = np.zeros(self.elements, np.bool_)
        kept[rng.permutation(self.elements)[: self.nonzeros]] = True
        return kept.reshape(self.rows, self.cols)


@dataclass(frozen=True, kw_only=True)
class FixedKofN(Distribution):
    """k of every n units of a row are kept, every choice equally likely; a unit is `unit` neighbouring elements.

    A shorter last tile of a row keeps min(k, its units), as `sparsity.KofN` has it.
    """

    k: int
    n: int
    unit: int = 1

    def _check(self) -> None:
        if self.unit < 1 or self.cols % self.unit:
            raise InvalidInputError(f"unit = {self.unit}: must divide the {self.cols} elements of a row")
        if not 1 <= self.k <= self.n or self.n > self.cols // self.unit:
            raise InvalidInputError(
                f"k = {self.k}, n = {self.n}: use 1 <= k <= n <= {self.cols // self.unit}, the units of a row"
            )

    @property
    def period(self) -> int:
        return self.cols

    @property
    def column_period(self) -> int:
        return self.n * self.unit

    def pmf(self, block: Block) -> Floats:
        """Of whole units only."""
        first, row = 0, np.ones(1)
        for size, part, times in self._parts(block):
            least, chances = trimmed(hypergeometric_pmf(size, min(self.k, size), part))
            first, row = first + times * least, np.convolve(row, sum_pmf(chances, times))
        units = sum_pmf(row, block.rows)
        out, start = np.zeros(block.elements + 1), block.rows * first * self.unit
        out[start : start + units.size * self.unit : self.unit] = units
        return out

    def mean(self, block: Block) -> float:
        return block.rows * self.unit * sum(n * min(self.k, size) * part / size for size, part, n in self._parts(block))

    def most(self, block: Block) -> int:
        return block.rows * self.unit * sum(times * min(self.k, part) for _, part, times in self._parts(block))

    def empty_ranges(self, starts: Integers, lengths: Integers) -> Floats:
        first = self._tile_position(starts)
        last = self._tile_position(starts + np.maximum(lengths, 1) - 1)
        same = first[0] == last[0]
        head = np.where(same, last[1] - first[1] + 1, first[2] - first[1])
        tail = np.where(same, 0, last[1] + 1)
        chances = self._without(first[2], head) * self._without(last[2], tail)
        chances = np.where(last[0] - first[0] > 1, 0.0, chances)
        return np.where(lengths == 0, 1.0, chances)

    def sample(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        width = self.cols // self.unit
        units = np.zeros((self.rows, width), np.bool_)
        for start in range(0, width, self.n):
            size = min(self.n, width - start)
            picks = np.argsort(rng.random((self.rows, size)), axis=1)[:, : min(self.k, size)]
            np.put_along_axis(units, picks + start, True, axis=1)
        return np.repeat(units, self.unit, axis=1)

    def _parts(self, block: Block) -> list[tuple[int, int, int]]:
        """(units of the tile, units of it in the block, tiles alike) of the k-of-n tiles that a row of it meets."""
        self.check_block(block)
        if block.col % self.unit or block.cols % self.unit:
            raise InvalidInputError(f"{block}: must start and end at units of {self.unit} elements")
        start, stop, width = block.col // self.unit, (block.col + block.cols) // self.unit, self.cols // self.unit
        first, last = start // self.n, (stop - 1) // self.n
        ends = [(tile * self.n, min((tile + 1) * self.n, width)) for tile in sorted({first, last})]
        parts = [(high - low, min(high, stop) - max(low, start), 1) for low, high in ends]
        return parts if last - first < 2 else [*parts, (self.n, self.n, last - first - 1)]

    def _tile_position(self, flat: Integers) -> tuple[Integers, Integers, Integers]:
        """Number of the k-of-n tile at flat positions, unit inside it, and its units."""
        width = self.cols // self.unit
        row, unit = flat // self.cols, flat % self.cols // self.unit
        tile = unit // self.n
        size = np.minimum(self.n, width - tile * self.n)
        return row * -(-width // self.n) + tile, unit % self.n, size

    def _without(self, size: Integers, taken: Integers) -> Floats:
        """P(`taken` units of tiles of `size` units hold nothing)."""
        out = np.ones(taken.shape)
        for units in {self.n, self.cols // self.unit % self.n or self.n}:
            which = size == units
            out[which] = _empty_draws(units, min(self.k, units))[taken[which]]
        return out


@dataclass(frozen=True, kw_only=True)
class Banded(Distribution):
    """Elements within `half_width` columns of the diagonal are kept with probability `inside`, no others.

    The diagonal of row r is at column floor(r x cols / rows).
    """

    half_width: int
    inside: float = 1.0

    def _check(self) -> None:
        _check_share("inside", self.inside)
        if self.half_width < 0:
            raise InvalidInputError(f"half_width = {self.half_width}: must be at least 0")

    @property
    def period(self) -> int:
        return self.elements

    def pmf(self, block: Block) -> Floats:
        inside = binomial_pmf(self.band_elements(block), self.inside)
        return np.pad(inside, (0, block.elements + 1 - inside.size))

    def mean(self, block: Block) -> float:
        return self.band_elements(block) * self.inside

    def most(self, block: Block) -> int:
        return self.band_elements(block) if self.inside > 0.0 else 0

    def empty_ranges(self, starts: Integers, lengths: Integers) -> Floats:
        before = _band_sums(self.rows, self.cols, self.half_width)
        return np.power(1.0 - self.inside, before[starts + lengths] - before[starts])

    def sample(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        return _band(self.rows, self.cols, self.half_width) & (rng.random((self.rows, self.cols)) < self.inside)

    def band_elements(self, block: Block) -> int:
        """Elements of the block that lie in the band."""
        self.check_block(block)
        middle = np.arange(block.row, block.row + block.rows) * self.cols // self.rows
        low = np.maximum(middle - self.half_width, block.col)
        high = np.minimum(middle + self.half_width + 1, block.col + block.cols)
        return int(np.maximum(high - low, 0).sum())


def quantile(distribution: Distribution, block: Block, share: float) -> int:
    """Fewest non-zeros that a block does not exceed with probability `share`; share 1: the most it can ever hold."""
    _check_share("share", share)
    most = distribution.most(block)
    if share == 1.0:
        return most
    return min(most, int(np.searchsorted(np.cumsum(distribution.pmf(block)), share)))


def expected_max(distribution: Distribution, block: Block, lanes: int) -> float:
    """Expected non-zeros of the fullest of `lanes` blocks, one below the other: the slowest PE.

    Raises
    ------
    InvalidInputError
        The blocks reach beyond the matrix.
    """
    if lanes < 1:
        raise InvalidInputError(f"lanes = {lanes}: must be at least 1")
    distribution.check_block(replace(block, rows=block.rows * lanes))
    if isinstance(distribution, Uniform):
        return _max_of_fixed_total(distribution, block.elements, lanes)
    blocks = [replace(block, row=block.row + lane * block.rows) for lane in range(lanes)]
    below = np.prod([np.cumsum(distribution.pmf(one)) for one in blocks], axis=0)
    return float(np.sum(1.0 - np.minimum(below[:-1], 1.0)))


def imbalance(distribution: Distribution, block: Block, lanes: int) -> float:
    """Expected work of the slowest lane over the mean lane's, at least 1; 1 where there is no work."""
    blocks = [replace(block, row=block.row + lane * block.rows) for lane in range(lanes)]
    mean = sum(distribution.mean(one) for one in blocks) / lanes
    return expected_max(distribution, block, lanes) / mean if mean > 0 else 1.0


def _max_of_fixed_total(distribution: Uniform, size: int, lanes: int) -> float:
    """Sum over x of P(max > x): lanes are independent binomials, given their total with the rest of the matrix."""
    total, chance = distribution.nonzeros, distribution.nonzeros / distribution.elements
    if chance in (0.0, 1.0):
        return float(size if chance else 0)
    whole = binomial_pmf(distribution.elements, chance)[total]
    least, lane = trimmed(binomial_pmf(size, chance), NEGLIGIBLE * whole / lanes)
    rest = binomial_pmf(distribution.elements - lanes * size, chance)
    length = 1 << int(lanes * (lane.size - 1)).bit_length()
    bounds = np.cumsum(lane) ** lanes / whole  # of P(max <= x), whatever the total
    expected = float(least)
    for x in range(lane.size - 1):
        if bounds[x] > NEGLIGIBLE:
            sums = np.fft.irfft(np.fft.rfft(lane[: x + 1], length) ** lanes, length)[: lanes * x + 1]
            others = total - lanes * least - np.arange(sums.size)
            fits = (others >= 0) & (others < rest.size)
            bounds[x] = sums[fits] @ rest[others[fits]] / whole
        expected += 1.0 - min(max(bounds[x], 0.0), 1.0)
    return expected


@lru_cache(maxsize=8)
def _empty_draws(elements: int, nonzeros: int) -> Floats:
    """P(t given elements hold no non-zero), t = 0 .. elements."""
    t = np.arange(elements, dtype=np.float64)
    return np.concatenate(([1.0], np.cumprod(np.maximum(elements - nonzeros - t, 0.0) / (elements - t))))


def _band(rows: int, cols: int, half_width: int) -> NDArray[np.bool_]:
    middle = np.arange(rows) * cols // rows
    return np.asarray(np.abs(np.arange(cols)[None, :] - middle[:, None]) <= half_width)


@lru_cache(maxsize=8)
def _band_sums(rows: int, cols: int, half_width: int) -> Integers:
    """Elements of the band before every flat position."""
    return np.concatenate(([0], np.cumsum(_band(rows, cols, half_width).ravel()))).astype(np.int64)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise InvalidInputError(f"{name} = {value}: must be from 0 to 1")
