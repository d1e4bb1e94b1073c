"""Distributions of non-zeros: against every matrix of small ones, and against the mean of random ones."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.errors import InvalidInputError
from accel_models.masks import Mask, lane_work
from accel_models.occupancy import (
    Banded,
    Bernoulli,
    Block,
    Distribution,
    FixedKofN,
    Uniform,
    expected_max,
    imbalance,
    quantile,
)

Z_99 = 2.576
"""Half width of the 99 % confidence interval, in standard errors."""

SMALL = (
    Uniform(rows=3, cols=4, nonzeros=3),
    Uniform(rows=2, cols=5, nonzeros=0),
    Uniform(rows=2, cols=3, nonzeros=6),
    Bernoulli(rows=2, cols=4, probability=0.3),
    FixedKofN(rows=2, cols=7, k=2, n=3),
    FixedKofN(rows=2, cols=6, k=1, n=3, unit=2),
    Banded(rows=2, cols=6, half_width=1, inside=0.4),
    Banded(rows=3, cols=5, half_width=0),
)
LARGE = (
    Uniform(rows=64, cols=96, nonzeros=900),
    Bernoulli(rows=64, cols=96, probability=0.12),
    FixedKofN(rows=64, cols=96, k=3, n=20),
    FixedKofN(rows=64, cols=96, k=4, n=16, unit=6),
    Banded(rows=64, cols=96, half_width=9, inside=0.6),
)


def every_matrix(distribution: Distribution) -> list[tuple[float, np.ndarray]]:
    """All matrices of a small distribution with their probabilities, from its description alone."""
    shape = distribution.rows, distribution.cols
    if isinstance(distribution, Uniform):
        places = list(combinations(range(distribution.elements), distribution.nonzeros))
        return [(1 / len(places), np.isin(np.arange(distribution.elements), kept).reshape(shape)) for kept in places]
    if isinstance(distribution, FixedKofN):
        return _every_k_of_n(distribution)
    inside = np.ones(shape, bool)
    chance = distribution.probability if isinstance(distribution, Bernoulli) else distribution.inside
    if isinstance(distribution, Banded):
        for r, c in product(*map(range, shape)):
            inside[r, c] = abs(c - r * shape[1] // shape[0]) <= distribution.half_width
    matrices = []
    for kept in product((False, True), repeat=int(inside.sum())):
        matrix = np.zeros(shape, bool)
        matrix[inside] = kept
        weight = chance ** sum(kept) * (1 - chance) ** (len(kept) - sum(kept))
        if weight:
            matrices.append((weight, matrix))
    return matrices


def _every_k_of_n(distribution: FixedKofN) -> list[tuple[float, np.ndarray]]:
    width = distribution.cols // distribution.unit
    choices = []
    for start in list(range(0, width, distribution.n)) * distribution.rows:
        size = min(distribution.n, width - start)
        choices.append([np.isin(np.arange(size), c) for c in combinations(range(size), min(distribution.k, size))])
    rows = [np.concatenate(parts) for parts in product(*choices)]
    shape = distribution.rows, distribution.cols
    return [(1 / len(rows), np.repeat(row, distribution.unit).reshape(shape)) for row in rows]


@pytest.mark.parametrize("distribution", SMALL, ids=str)
def test_tiles_are_distributed_as_over_every_matrix(distribution):
    matrices = every_matrix(distribution)
    assert sum(weight for weight, _ in matrices) == pytest.approx(1)
    unit = getattr(distribution, "unit", 1)
    for row, col in product(range(distribution.rows), range(0, distribution.cols, unit)):
        for rows, cols in product(
            range(1, distribution.rows - row + 1), range(unit, distribution.cols - col + 1, unit)
        ):
            block = Block(rows=rows, cols=cols, row=row, col=col)
            counted = np.zeros(block.elements + 1)
            for weight, matrix in matrices:
                counted[matrix[row : row + rows, col : col + cols].sum()] += weight
            assert distribution.pmf(block) == pytest.approx(counted, abs=1e-12)
            assert distribution.mean(block) == pytest.approx(counted @ np.arange(counted.size))
            assert distribution.empty(block) == pytest.approx(counted[0])
            assert quantile(distribution, block, 1.0) == np.flatnonzero(counted)[-1]


@pytest.mark.parametrize("distribution", SMALL, ids=str)
def test_flat_ranges_are_empty_as_often_as_over_every_matrix(distribution):
    matrices = every_matrix(distribution)
    for start, length in product(range(distribution.elements + 1), repeat=2):
        if start + length <= distribution.elements:
            chance = sum(weight for weight, matrix in matrices if not matrix.ravel()[start : start + length].any())
            found = distribution.empty_ranges(np.array([start]), np.array([length]))
            assert found[0] == pytest.approx(chance, abs=1e-12), (start, length)


@pytest.mark.parametrize("distribution", SMALL, ids=str)
@pytest.mark.parametrize("lanes", [1, 2])
def test_the_fullest_lane_is_expected_as_over_every_matrix(distribution, lanes):
    block = Block(rows=1, cols=distribution.cols)
    over_all = sum(weight * matrix[:lanes].sum(axis=1).max() for weight, matrix in every_matrix(distribution))
    assert expected_max(distribution, block, lanes) == pytest.approx(over_all)


@pytest.mark.parametrize("distribution", LARGE, ids=str)
def test_random_matrices_agree_inside_the_99_percent_interval(distribution):
    """Tile occupancy, empty tiles and the slowest of 16 lanes, over 2,000 draws."""
    rng, draws = np.random.default_rng(7), 2000
    tile, small = Block(rows=2, cols=12, row=8, col=12), Block(rows=1, cols=6, row=8, col=12)
    lane = Block(rows=2, cols=24)
    matrices = [distribution.sample(rng) for _ in range(draws)]
    tiles = np.array([matrix[8:10, 12:24].sum() for matrix in matrices])
    empty = np.array([not matrix[8, 12:18].any() for matrix in matrices])
    slowest = np.array([matrix[:32, :24].reshape(16, -1).sum(axis=1).max() for matrix in matrices])
    for found, expected in (
        (tiles, distribution.mean(tile)),
        (empty, distribution.empty(small)),
        (slowest, expected_max(distribution, lane, 16)),
    ):
        assert abs(found.mean() - expected) <= Z_99 * found.std(ddof=1) / np.sqrt(draws) + 1e-9


def test_expected_steps_of_lanes_are_the_mean_over_masks():
    """The closed form against the packed mask's own count, tile by tile."""
    distribution = Uniform(rows=32, cols=128, nonzeros=800)
    rng = np.random.default_rng(3)
    found = [lane_work(Mask.from_bool(distribution.sample(rng)), 16, 32).steps for _ in range(400)]
    expected = 2 * 4 * expected_max(distribution, Block(rows=1, cols=32), 16)
    assert abs(np.mean(found) - expected) <= Z_99 * np.std(found, ddof=1) / 20


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(0, 1), st.integers(1, 4))
def test_no_lane_is_faster_than_the_mean_nor_slower_than_a_full_tile(rows, cols, density, per_lane):
    distribution = Uniform.of_density(rows * per_lane, cols, density)
    block = Block(rows=per_lane, cols=cols)
    slowest = expected_max(distribution, block, rows)
    mean = distribution.nonzeros / rows
    assert mean - 1e-9 <= slowest <= min(block.elements, distribution.nonzeros) + 1e-9
    assert imbalance(distribution, block, rows) >= 1 - 1e-12


def test_fixed_rows_have_no_imbalance_and_random_ones_do():
    fixed = FixedKofN(rows=64, cols=64, k=8, n=64)
    assert imbalance(fixed, Block(rows=1, cols=64), 64) == 1.0
    random = Uniform(rows=64, cols=64, nonzeros=512)
    assert imbalance(random, Block(rows=1, cols=64), 64) > 1.5


def test_independent_elements_are_fixed_totals_weighted_by_their_chance():
    """The law of total expectation joins two different computations of the slowest lane."""
    rows, cols, block = 4, 16, Block(rows=1, cols=16)
    bernoulli = Bernoulli(rows=rows, cols=cols, probability=0.25)
    totals = bernoulli.pmf(Block(rows=rows, cols=cols))
    fixed = [expected_max(Uniform(rows=rows, cols=cols, nonzeros=z), block, 3) for z in range(rows * cols + 1)]
    assert expected_max(bernoulli, block, 3) == pytest.approx(totals @ np.array(fixed))


def test_the_slowest_of_large_lanes_lies_between_mean_and_independent_bound():
    """Also fast: a lane of 37,000 elements, of which few counts are likely."""
    distribution, block = Uniform.of_density(128, 4608, 0.1), Block(rows=8, cols=4608)
    mean, deviation = distribution.mean(block), np.sqrt(8 * 4608 * 0.1 * 0.9)
    assert mean + deviation < expected_max(distribution, block, 16) < mean + 3 * deviation


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 0.9999), st.integers(1, 64))
def test_a_quantile_holds_its_share(share, size):
    distribution = Uniform(rows=8, cols=64, nonzeros=100)
    block = Block(rows=1, cols=size)
    pmf, count = distribution.pmf(block), quantile(distribution, block, share)
    assert pmf[: count + 1].sum() >= share - 1e-12
    assert count == 0 or pmf[:count].sum() < share + 1e-12


def test_the_most_of_a_tile_counts_however_unlikely():
    distribution = Uniform(rows=512, cols=4608, nonzeros=200_000)
    block = Block(rows=1, cols=4608)
    assert distribution.pmf(block)[-1] == 0.0  # underflows
    assert quantile(distribution, block, 1.0) == 4608
    assert 400 < quantile(distribution, block, 0.999) < 500


def test_large_matrices_keep_their_mass():
    pmf = Uniform(rows=512, cols=4608, nonzeros=500_000).pmf(Block(rows=16, cols=4608))
    assert pmf.sum() == pytest.approx(1)
    assert pmf @ np.arange(pmf.size) == pytest.approx(16 * 4608 * 500_000 / (512 * 4608))
    fixed = FixedKofN(rows=512, cols=4608, k=4, n=16).pmf(Block(rows=16, cols=4608))
    assert fixed[16 * 288 * 4] == fixed.sum() == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(rows=2, cols=2, nonzeros=5), "nonzeros = 5: must be 0 to 4"),
        (lambda: Bernoulli(rows=2, cols=2, probability=1.5), "probability = 1.5"),
        (lambda: FixedKofN(rows=2, cols=6, k=3, n=2), "k = 3, n = 2"),
        (lambda: FixedKofN(rows=2, cols=6, k=1, n=2, unit=4), "unit = 4"),
        (lambda: Banded(rows=2, cols=2, half_width=-1), "half_width = -1"),
        (lambda: Bernoulli(rows=0, cols=2, probability=0.5), "rows = 0"),
        (lambda: SMALL[0].pmf(Block(rows=4, cols=1)), "does not lie inside a matrix of 3 x 4"),
        (lambda: SMALL[5].pmf(Block(rows=1, cols=3)), "must start and end at units of 2"),
        (lambda: expected_max(SMALL[0], Block(rows=2, cols=1), 2), "does not lie inside"),
        (lambda: quantile(SMALL[0], Block(rows=1, cols=1), 1.1), "share = 1.1"),
    ],
)
def test_bad_parameters_are_refused_with_their_value(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()
