"""Packed masks: what is stored is what was given, and every count is the plain one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.errors import InvalidInputError
from accel_models.kernels import masks as kernel
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.masks import (
    Mask,
    check_k_of_n,
    check_mask,
    column_counts,
    in_lane_order,
    lane_work,
    row_counts,
    tile_counts,
    weight_mask,
    weight_shape,
)
from accel_models.occupancy import FixedKofN
from accel_models.sparsity import KofN

CONV = Conv2d(name="conv", k=6, c=8, p=5, q=5, r=3, s=3, groups=2)


@st.composite
def matrices(draw: st.DrawFn, most_rows: int = 12, most_cols: int = 200) -> np.ndarray:
    shape = draw(st.integers(1, most_rows)), draw(st.integers(1, most_cols))
    density = draw(st.sampled_from((0.0, 0.05, 0.5, 0.95, 1.0)))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < density


@settings(deadline=None)
@given(matrices())
def test_unpacking_returns_the_mask_and_bits_past_a_row_are_zero(matrix):
    mask = Mask.from_bool(matrix)
    assert np.array_equal(mask.to_bool(), matrix)
    assert mask.nonzeros == matrix.sum()
    assert mask.density == matrix.mean()
    used = mask.row_bits - 64 * (mask.words.shape[1] - 1)
    assert 1 <= used <= 64
    assert all(int(word) >> used == 0 for word in mask.words[:, -1])


def test_element_i_of_a_row_is_bit_i_from_the_least_significant():
    matrix = np.zeros((2, 70), bool)
    matrix[0, 3] = matrix[1, 64] = matrix[1, 69] = True
    assert Mask.from_bool(matrix).words.tolist() == [[8, 0], [0, 1 | 1 << 5]]
    assert [kernel.bit(Mask.from_bool(matrix).words, 1, i) for i in (63, 64, 69)] == [0, 1, 1]


def test_words_are_read_only_and_equal_masks_hash_alike():
    one, two = (Mask.from_bool(np.eye(5, dtype=bool)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != Mask.from_bool(np.ones((5, 5), bool))
    with pytest.raises(ValueError, match="read-only"):
        one.words[0, 0] = 1


@settings(deadline=None)
@given(matrices())
def test_row_and_column_counts_are_sums(matrix):
    mask = Mask.from_bool(matrix)
    assert np.array_equal(row_counts(mask), matrix.sum(axis=1))
    assert np.array_equal(column_counts(mask), matrix.sum(axis=0))


@settings(deadline=None)
@given(matrices(), st.integers(1, 5), st.one_of(st.sampled_from((1, 2, 4, 8, 16, 32, 64, 128)), st.integers(1, 210)))
def test_tile_counts_are_sums_of_every_tile(matrix, tile_rows, tile_cols):
    counts = tile_counts(Mask.from_bool(matrix), tile_rows, tile_cols)
    for (down, across), count in np.ndenumerate(counts):
        rows, cols = (
            slice(down * tile_rows, (down + 1) * tile_rows),
            slice(across * tile_cols, (across + 1) * tile_cols),
        )
        assert count == matrix[rows, cols].sum()
    assert counts.sum() == matrix.sum()


@settings(deadline=None)
@given(matrices(most_rows=3), st.integers(0, 200), st.integers(0, 200))
def test_range_counts_have_any_alignment(matrix, start, stop):
    start, stop = min(start, matrix.shape[1]), min(stop, matrix.shape[1])
    words = Mask.from_bool(matrix).words
    assert kernel.count_range(words, len(matrix) - 1, start, stop) == matrix[-1, start:stop].sum()


@settings(deadline=None)
@given(matrices(), st.integers(1, 9), st.one_of(st.none(), st.sampled_from((64, 128)), st.integers(1, 210)))
def test_lanes_wait_for_the_slowest_after_every_tile(matrix, lanes, tile_cols):
    steps = 0
    for first in range(0, len(matrix), lanes):
        for start in range(0, matrix.shape[1], tile_cols or matrix.shape[1]):
            tile = matrix[first : first + lanes, start : start + (tile_cols or matrix.shape[1])]
            steps += max(int(row.sum()) for row in tile)
    assert lane_work(Mask.from_bool(matrix), lanes, tile_cols) == (steps, matrix.sum())


@settings(deadline=None)
@given(matrices(), st.integers(1, 9), st.integers(1, 210))
def test_skipping_never_beats_perfect_balance(matrix, lanes, tile_cols):
    work = lane_work(Mask.from_bool(matrix), lanes, tile_cols)
    assert work.steps * lanes >= work.total
    assert work.steps <= -(-len(matrix) // lanes) * matrix.shape[1]


def test_equal_rows_are_in_balance():
    matrix = FixedKofN(rows=12, cols=40, k=3, n=10).sample(np.random.default_rng(0))
    work = lane_work(Mask.from_bool(matrix), 4)
    assert work.steps * 4 == work.total


def test_a_smaller_nested_mask_never_takes_more_steps():
    rng = np.random.default_rng(1)
    matrix = rng.random((20, 150)) < 0.5
    before = lane_work(Mask.from_bool(matrix), 8, 32).steps
    for _ in range(20):
        matrix &= rng.random(matrix.shape) < 0.9
        after = lane_work(Mask.from_bool(matrix), 8, 32).steps
        assert after <= before
        before = after


def test_masks_of_layers_have_a_row_for_every_output_channel():
    assert weight_shape(CONV) == (6, 4, 3, 3)
    mask = weight_mask(np.ones((6, 4, 3, 3)), CONV)
    assert (mask.rows, mask.row_bits) == (6, 36)
    grouped = Gemm(name="scores", m=4, n=5, k=7, groups=3)
    assert weight_mask(np.ones((3, 5, 7), int), grouped).rows == 15
    assert weight_mask(np.ones((5, 7), bool), Gemm(name="fc", m=4, n=5, k=7)).rows == 5
    check_mask(mask, CONV)


def test_a_mask_of_another_shape_is_refused_with_both_shapes():
    with pytest.raises(InvalidInputError, match=r"'conv'.*\(6, 8, 3, 3\).*\(6, 4, 3, 3\)"):
        weight_mask(np.ones((6, 8, 3, 3)), CONV)
    with pytest.raises(InvalidInputError, match=r"'conv'.*\(6, 36\) in 6 rows.*\(6, 4, 3, 3\)"):
        check_mask(Mask.from_bool(np.ones((6, 36))), CONV)
    pool = VectorOp(name="pool", kind="max_pool", input_elements=4, output_elements=1, operations=3)
    with pytest.raises(InvalidInputError, match="'pool' has no weights"):
        weight_mask(np.ones((1, 4)), pool)


@pytest.mark.parametrize("value", [2, -1, 0.5, float("nan")])
def test_a_mask_that_is_not_binary_is_refused_naming_the_element(value):
    array = np.ones((6, 4, 3, 3))
    array[2, 1, 0, 2] = value
    with pytest.raises(InvalidInputError, match=r"'conv'.*\(2, 1, 0, 2\)"):
        weight_mask(array, CONV)


def test_tensors_give_their_non_zeros_and_no_nan():
    assert Mask.from_values(np.array([[0.0, -2.0], [1e-30, 0.0]])).to_bool().tolist() == [[False, True], [True, False]]
    with pytest.raises(InvalidInputError, match=r"weights: element \(0, 1\) is not a number"):
        Mask.from_values(np.array([[0.0, np.nan]]), "weights")


@pytest.mark.parametrize("array", [np.ones((0, 3)), np.ones((3, 0)), np.float64(1.0)])
def test_a_mask_without_elements_is_refused(array):
    with pytest.raises(InvalidInputError, match="holds no rows"):
        Mask.from_bool(array)


def test_sizes_below_one_are_refused():
    mask = Mask.from_bool(np.ones((2, 2)))
    with pytest.raises(InvalidInputError, match="tile_cols = 0"):
        tile_counts(mask, 1, 0)
    with pytest.raises(InvalidInputError, match="lanes = 0"):
        lane_work(mask, 0)


def test_k_of_n_weights_are_recognised_and_the_row_that_breaks_is_named():
    structure = KofN(granularity="weight", k=2, n=8)
    matrix = FixedKofN(rows=6, cols=36, k=2, n=8).sample(np.random.default_rng(0))  # (r, s, c), channels fastest

    def packed():
        return weight_mask(matrix.reshape(6, 3, 3, 4).transpose(0, 3, 1, 2), CONV)

    check_k_of_n(packed(), CONV, structure)
    assert np.array_equal(in_lane_order(packed(), CONV).as_matrix(), matrix)
    assert matrix.sum(axis=1).tolist() == [structure.kept_per_row(CONV)] * 6
    matrix[4, 8:16] = True
    with pytest.raises(InvalidInputError, match=r"'conv': row 4 .* keeps 8 of the 8 weights of tile 1, not 2"):
        check_k_of_n(packed(), CONV, structure)


def test_k_of_n_kernels_are_whole_and_the_row_that_breaks_is_named():
    structure = KofN(granularity="kernel", k=3, n=4)
    kernels = np.repeat(FixedKofN(rows=6, cols=4, k=3, n=4).sample(np.random.default_rng(0)), 9, axis=1)
    kernels = kernels.reshape(weight_shape(CONV))
    check_k_of_n(weight_mask(kernels, CONV), CONV, structure)
    assert in_lane_order(weight_mask(kernels, CONV), CONV, structure) == weight_mask(kernels, CONV)
    fewer, partial = kernels.copy(), kernels.copy()
    fewer[5] = 0
    with pytest.raises(InvalidInputError, match="row 5 of the mask keeps 0 of 4 kernels, not 3"):
        check_k_of_n(weight_mask(fewer, CONV), CONV, structure)
    kept = int(np.flatnonzero(kernels[3].any(axis=(1, 2)))[0])
    partial[3, kept, 0, 0] = False
    with pytest.raises(InvalidInputError, match=f"row 3 of the mask keeps 8 of the 9 weights of kernel {kept}"):
        check_k_of_n(weight_mask(partial, CONV), CONV, structure)
