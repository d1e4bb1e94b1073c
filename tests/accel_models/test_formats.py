"""Bits of every storage format: against encoding real tensors, every mask of small families, and information theory."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, log2, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.errors import InvalidInputError, UnknownNameError
from accel_models.format_names import FORMATS, make_format
from accel_models.formats import (
    CSC,
    CSR,
    Bitmask,
    BlockedNM,
    CoordinateList,
    Dense,
    Format,
    KofNIndex,
    RunLength,
    buffer_bits,
    index_bits,
    tile_bits,
)
from accel_models.hierarchical import Hierarchical, Rank
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask
from accel_models.occupancy import Banded, Bernoulli, Block, FixedKofN, Uniform, quantile
from accel_models.sparsity import KofN
from tests.accel_models.test_occupancy import SMALL, Z_99, every_matrix
from tests.reference import formats as reference

VALUE_BITS = 4
VALUE_ENTROPY = log2(2**VALUE_BITS - 1)
"""Bits that a non-zero value carries; the rest of its word tells that it is none."""
FLAT = (
    (Dense(), reference.encode_dense, reference.decode_dense, ()),
    (Bitmask(), reference.encode_bitmask, reference.decode_bitmask, ()),
    (CoordinateList(), reference.encode_coordinate_list, reference.decode_coordinate_list, ()),
    (CSR(), reference.encode_csr, reference.decode_csr, ()),
    (CSR(pointer_bits=14), reference.encode_csr, reference.decode_csr, (14,)),
    (CSC(), reference.encode_csc, reference.decode_csc, ()),
    *(
        (RunLength(bits, stream), reference.encode_run_length, reference.decode_run_length, (bits, stream))
        for bits in (1, 2, 5)
        for stream in (False, True)
    ),
)
UNIVERSAL: tuple[Format, ...] = tuple(fmt for fmt, *_ in FLAT)
RANKS = ("U", "B", "CP", "RLE", "UOP")
INNER = ("U", "B", "CP", "RLE")


def hierarchies(depth: int, shape: tuple[int, ...] | None = None, run_bits: int = 2) -> list[Hierarchical]:
    kinds = product(*([RANKS] * (depth - 1)), INNER)
    return [Hierarchical(tuple(Rank(k, run_bits if k == "RLE" else None) for k in row), shape) for row in kinds]


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Non-negative integers of VALUE_BITS, sparse to dense."""
    shape = shape or (draw(st.integers(1, 9)), draw(st.integers(1, 140)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from((0.0, 0.02, 0.1, 0.5, 1.0)))
    return (rng.random(shape) < density) * rng.integers(1, 2**VALUE_BITS, shape)


@settings(deadline=None, max_examples=150)
@given(tensors())
def test_flat_formats_take_the_bits_of_the_encoded_tensor_which_decodes(tensor):
    mask = Mask.from_values(tensor)
    for fmt, encode, decode, options in FLAT:
        metadata, values = encode(tensor, VALUE_BITS, *options)
        bits = fmt.bits(mask, VALUE_BITS)
        assert (bits.metadata, bits.values) == (len(metadata), len(values)), fmt
        assert np.array_equal(decode(metadata, values, tensor.shape, VALUE_BITS, *options), tensor), fmt


@settings(deadline=None, max_examples=200)
@given(st.data(), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4))
def test_ranks_take_the_bits_of_the_encoded_tensor_which_decodes(data, sizes, run_bits):
    shape = tuple(sizes)
    kinds = [data.draw(st.sampled_from(RANKS)) for _ in shape[1:]] + [data.draw(st.sampled_from(INNER))]
    ranks = [
        (kind, run_bits if kind == "RLE" else 9 if kind == "UOP" and data.draw(st.booleans()) else None)
        for kind in kinds
    ]
    if prod(shape) >= 2**9:
        ranks = [(kind, bits if kind == "RLE" else None) for kind, bits in ranks]
    tensor = data.draw(tensors(shape))
    metadata, values = reference.encode_ranks(tensor, VALUE_BITS, ranks)
    bits = Hierarchical(tuple(Rank(*rank) for rank in ranks)).bits(Mask.from_values(tensor), VALUE_BITS)
    assert (bits.metadata, bits.values) == (sum(map(len, metadata)), len(values))
    assert np.array_equal(reference.decode_ranks(metadata, values, shape, VALUE_BITS, ranks), tensor)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 5), st.integers(1, 6), st.integers(2, 50))
def test_blocks_take_the_bits_of_the_encoded_tensor_which_decodes(seed, kept, spare, rows, cols):
    block, rng = kept + spare, np.random.default_rng(seed)
    mask = np.zeros((rows, cols), bool)
    for row, start in product(range(rows), range(0, cols, block)):
        size = min(block, cols - start)
        count = rng.integers(0, min(kept, size) + 1)
        mask[row, start + rng.permutation(size)[:count]] = True
    tensor = mask * rng.integers(1, 2**VALUE_BITS, mask.shape)
    metadata, values = reference.encode_blocked(tensor, VALUE_BITS, kept, block)
    bits = BlockedNM(kept, block).bits(Mask.from_bool(mask), VALUE_BITS)
    assert (bits.metadata, bits.values) == (len(metadata), len(values))
    assert np.array_equal(reference.decode_blocked(metadata, values, mask.shape, VALUE_BITS, kept, block), tensor)


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 30), st.sampled_from((1, 4, 9)))
def test_k_of_n_takes_the_bits_of_the_encoded_tensor_which_decodes(data, seed, rows, units, unit):
    n = data.draw(st.integers(1, units))
    k = data.draw(st.integers(1, n))
    rng = np.random.default_rng(seed)
    mask = FixedKofN(rows=rows, cols=units * unit, k=k, n=n, unit=unit).sample(rng)
    tensor = mask * rng.integers(1, 2**VALUE_BITS, mask.shape)
    metadata, values = reference.encode_k_of_n(tensor, VALUE_BITS, k, n, unit)
    bits = KofNIndex(k, n, unit).bits(Mask.from_bool(mask), VALUE_BITS)
    assert (bits.metadata, bits.values) == (len(metadata), len(values))
    assert np.array_equal(reference.decode_k_of_n(metadata, values, mask.shape, VALUE_BITS, k, n, unit), tensor)


def test_k_of_n_of_a_layer_has_the_index_bits_of_its_structure():
    conv = Conv2d(name="conv", k=6, c=12, p=5, q=5, r=3, s=3, groups=2)
    for structure in (KofN(granularity="weight", k=3, n=8), KofN(granularity="kernel", k=2, n=6)):
        bits = KofNIndex.of(structure, conv).worst_bits(6, 54, 8)
        assert bits.metadata == 6 * structure.index_bits_per_row(conv)
        assert bits.values == 6 * structure.kept_per_row(conv) * 8
    with pytest.raises(InvalidInputError, match="needs n = 6"):
        KofNIndex.of(KofN(granularity="kernel", k=2, n=5), conv)


def test_blocks_store_what_scale_sim_stores():
    """K' = floor(K / m) n + min(K mod m, n) elements of a row, ceil(log2 m) bits each."""
    gemm = Gemm(name="fc", m=1, n=10, k=27)
    bits = BlockedNM(2, 4).worst_bits(gemm.n, gemm.k, 8)
    assert bits.values == 10 * (6 * 2 + 2) * 8
    assert bits.metadata == 10 * 14 * 2


SAME = {"CSR": ("UOP CP", CSR()), "bitmask": ("U B", Bitmask()), "dense": ("U U", Dense())}


@settings(deadline=None, max_examples=30)
@given(tensors())
@pytest.mark.parametrize("name", SAME)
def test_ranks_compose_the_flat_formats(name, tensor):
    text, flat = SAME[name]
    mask = Mask.from_values(tensor)
    assert Hierarchical.of(text).bits(mask, VALUE_BITS) == flat.bits(mask, VALUE_BITS)


@pytest.mark.parametrize("distribution", SMALL, ids=str)
def test_expected_bits_are_the_mean_over_every_matrix(distribution):
    matrices = [(weight, Mask.from_bool(matrix)) for weight, matrix in every_matrix(distribution)]
    shape = distribution.rows, distribution.cols
    formats = [*UNIVERSAL, *hierarchies(2, shape)]
    for divisor in (d for d in (2, 3) if distribution.cols % d == 0):
        inner = distribution.rows, divisor, distribution.cols // divisor
        formats += hierarchies(3, inner, run_bits=1)[::7]
    for fmt in formats:
        bits = [(weight, fmt.bits(mask, VALUE_BITS)) for weight, mask in matrices]
        expected = fmt.expected_bits(distribution, VALUE_BITS)
        assert expected.values == pytest.approx(sum(weight * one.values for weight, one in bits)), fmt
        assert expected.metadata == pytest.approx(sum(weight * one.metadata for weight, one in bits)), fmt


@pytest.mark.parametrize(
    "distribution",
    [
        Uniform(rows=24, cols=144, nonzeros=400),
        Bernoulli(rows=24, cols=144, probability=0.08),
        FixedKofN(rows=24, cols=144, k=3, n=32),
        FixedKofN(rows=24, cols=144, k=2, n=16, unit=9),
        Banded(rows=24, cols=144, half_width=20, inside=0.4),
    ],
    ids=str,
)
def test_expected_bits_lie_in_the_99_percent_interval_of_random_masks(distribution):
    rng, draws = np.random.default_rng(11), 400
    masks = [Mask.from_bool(distribution.sample(rng)) for _ in range(draws)]
    shape = 24, 16, 9
    for fmt in (
        RunLength(3),
        RunLength(5, stream=True),
        Hierarchical.of("UOP B CP", shape),
        Hierarchical.of("U RLE:2 B", shape),
    ):
        totals = np.array([fmt.bits(mask, 8).total for mask in masks])
        error = Z_99 * totals.std(ddof=1) / np.sqrt(draws)
        assert abs(totals.mean() - fmt.expected_bits(distribution, 8).total) <= error + 1e-6, fmt


@pytest.mark.parametrize(("rows", "cols"), [(1, 9), (2, 5), (3, 3)])
def test_no_mask_takes_more_than_the_worst_and_one_of_a_flat_format_takes_it(rows, cols):
    elements = rows * cols
    for nonzeros in range(elements + 1):
        places = combinations(range(elements), nonzeros)
        masks = [Mask.from_bool(np.isin(np.arange(elements), kept).reshape(rows, cols)) for kept in places]
        for fmt in (*UNIVERSAL, *hierarchies(2, (rows, cols))):
            most = max(fmt.bits(mask, VALUE_BITS).total for mask in masks)
            worst = fmt.worst_bits(rows, cols, VALUE_BITS, nonzeros).total
            assert most <= worst, (fmt, nonzeros)
            assert worst >= fmt.worst_bits(rows, cols, VALUE_BITS, max(0, nonzeros - 1)).total
            if not isinstance(fmt, Hierarchical):
                assert most == worst, (fmt, nonzeros)


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (3, 3)])
def test_all_masks_together_satisfy_the_kraft_inequality(shape):
    """A complete code of all tensors, 2^b - 1 values for each non-zero, cannot have a sum of 2^-bits above 1."""
    masks = [Mask.from_bool(np.array(kept).reshape(shape)) for kept in product((False, True), repeat=prod(shape))]
    entropies = [mask.nonzeros * VALUE_ENTROPY for mask in masks]
    for fmt in (*UNIVERSAL, *hierarchies(2, shape, run_bits=1), *hierarchies(2, shape)):
        bits = [fmt.bits(mask, VALUE_BITS).total for mask in masks]
        total = sum(2.0 ** (entropy - one) for entropy, one in zip(entropies, bits, strict=True))
        assert total <= 1 + 1e-12, fmt


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 40), st.floats(0, 1))
def test_the_mean_mask_never_takes_fewer_bits_than_its_family_has_entropy(rows, cols, density):
    distribution = Uniform.of_density(rows, cols, density)
    entropy = log2(comb(rows * cols, distribution.nonzeros))
    for fmt in (*UNIVERSAL, *hierarchies(2, (rows, cols))):
        bits = fmt.expected_bits(distribution, VALUE_BITS)
        assert bits.total - distribution.nonzeros * VALUE_ENTROPY >= entropy - 1e-6, fmt
        if bits.values == distribution.nonzeros * VALUE_BITS:  # no stored zeros: the metadata alone tell the mask
            assert bits.metadata >= entropy - 1e-6, fmt


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 64), st.integers(1, 64))
def test_k_of_n_indices_hold_the_entropy_of_the_family(rows, k, n):
    k, n = min(k, n), max(k, n)
    bits = KofNIndex(k, n).worst_bits(rows, n, VALUE_BITS)
    assert bits.metadata >= rows * log2(comb(n, k)) - 1e-9
    assert bits == BlockedNM(k, n).worst_bits(rows, n, VALUE_BITS)


@settings(deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 7), st.integers(1, 3), st.integers(1, 60), st.integers(1, 6), st.integers(1, 9)
)
def test_blocks_refuse_fixed_rows_exactly_where_one_of_them_may_overflow(k, n, unit, units, kept, block):
    n = min(max(k, n), units)
    known = FixedKofN(rows=2, cols=units * unit, k=min(k, n), n=n, unit=unit)
    fmt = BlockedNM(min(kept, block), block)
    if block % unit:
        return
    starts = range(0, known.cols, block)
    most = [known.most(Block(rows=1, cols=min(block, known.cols - col), col=col)) for col in starts]
    if max(most) <= fmt.kept:
        assert fmt.expected_bits(known, 8) == fmt.worst_bits(2, known.cols, 8)
    else:
        with pytest.raises(InvalidInputError, match="non-zeros into a block"):
            fmt.expected_bits(known, 8)


def test_dense_masks_cost_dense_values_and_metadata():
    """Density 1 costs dense + metadata in every format."""
    mask = Mask.from_bool(np.ones((6, 40)))
    for fmt in (*UNIVERSAL, BlockedNM(4, 4), KofNIndex(8, 8), *hierarchies(2)):
        assert fmt.bits(mask, 8).values == 6 * 40 * 8, fmt


def test_tiles_are_stored_on_their_own():
    matrix = np.random.default_rng(0).random((10, 37)) < 0.2
    for fmt in (CSR(), RunLength(3), Hierarchical.of("UOP CP")):
        bits = tile_bits(fmt, Mask.from_bool(matrix), 4, 16, 8)
        assert bits.shape == (3, 3)
        for (down, across), found in np.ndenumerate(bits):
            tile = matrix[4 * down : 4 * down + 4, 16 * across : 16 * across + 16]
            assert found == fmt.bits(Mask.from_bool(tile), 8).total


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_buffer_holds_its_share_of_tiles(share):
    distribution, block = Uniform(rows=32, cols=64, nonzeros=200), Block(rows=8, cols=16)
    rng = np.random.default_rng(2)
    for fmt in (CSR(), RunLength(3), Bitmask()):
        size = buffer_bits(fmt, distribution, block, 8, share).total
        tiles = np.concatenate(
            [tile_bits(fmt, Mask.from_bool(distribution.sample(rng)), 8, 16, 8).ravel() for _ in range(40)]
        )
        held = np.mean(tiles <= size)
        assert held >= share - Z_99 * np.sqrt(share * (1 - share) / tiles.size)
        assert size <= buffer_bits(fmt, distribution, block, 8).total


def test_a_buffer_for_every_tile_counts_all_non_zeros_in_one():
    distribution, block = Uniform(rows=8, cols=64, nonzeros=40), Block(rows=2, cols=64)
    assert quantile(distribution, block, 1.0) == 40
    assert buffer_bits(CoordinateList(), distribution, block, 8).values == 320


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunLength(0), "run_bits = 0"),
        (lambda: BlockedNM(3, 2), "kept = 3, block = 2"),
        (lambda: KofNIndex(0, 2), "k = 0, n = 2"),
        (lambda: CSR(pointer_bits=3).bits(Mask.from_bool(np.ones((2, 4))), 8), "8 non-zeros need 4"),
        (
            lambda: BlockedNM(2, 4).bits(Mask.from_bool(np.eye(3, 8) + np.eye(3, 8, 1) + np.eye(3, 8, 2) > 0), 8),
            "row 0, block 0: 3",
        ),
        (lambda: BlockedNM(2, 4).expected_bits(SMALL[0], 8), "Uniform may put more than 2"),
        (
            lambda: KofNIndex(1, 4).bits(Mask.from_bool(np.eye(3, 8)), 8),
            "row 0 does not keep exactly 1 of every 4",
        ),
        (lambda: KofNIndex(1, 2, 9).bits(Mask.from_bool(np.ones((1, 20))), 8), "no whole number of units of 9"),
        (lambda: KofNIndex(1, 4).expected_bits(Uniform(rows=2, cols=8, nonzeros=4), 8), "use FixedKofN"),
        (lambda: Hierarchical.of("CP UOP"), "innermost"),
        (lambda: Hierarchical.of("XY B"), "'XY' is none of U, B, CP, RLE, UOP"),
        (lambda: Hierarchical.of("B:3"), "only RLE and UOP"),
        (lambda: Hierarchical.of("RLE:x"), "whole number"),
        (lambda: Hierarchical.of("U B", (3,)), "needs 2 sizes"),
        (lambda: Hierarchical.of("U B").bits(Mask.from_bool(np.ones((2, 2, 2))), 8), "give a shape"),
        (
            lambda: Hierarchical.of("UOP:2 CP").bits(Mask.from_bool(np.ones((2, 4))), 8),
            "offsets of 2 bits cannot count the 8",
        ),
        (lambda: Bitmask().worst_bits(2, 2, 8, -1), "nonzeros = -1"),
        (lambda: make_format("run_length", run_bit=3), "'run_length'.*run_bit"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_values(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_formats_are_made_by_name_and_unknown_ones_are_refused_with_the_nearest():
    assert make_format("run_length", run_bits=4) == RunLength(4)
    assert make_format("hierarchical", text="UOP CP") == Hierarchical.of("UOP CP")
    assert make_format("blocked_nm", kept=2, block=4) == BlockedNM(2, 4)
    assert set(FORMATS) >= {"dense", "bitmask", "coordinate_list", "csr", "csc", "k_of_n"}
    with pytest.raises(UnknownNameError, match="'bitmap'; nearest: 'bitmask'"):
        make_format("bitmap")


def test_index_bits_are_the_ceiling_of_the_logarithm():
    assert [index_bits(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [0, 1, 2, 2, 3, 6, 7]
