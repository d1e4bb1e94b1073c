"""Laws of sparse arrays on masks, the fast passes against the general one, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models import sparse_engine
from accel_models.errors import InvalidInputError
from accel_models.kernels import sparse_banks, sparse_pass
from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseShape
from accel_models.sparse_engine import run_masks
from accel_models.sparse_machines import (
    DSTC,
    EYERISS_V2,
    EYERISS_V2_PE,
    SCNN,
    STC_2_4,
    dense_systolic,
    nm_systolic,
    row_gather,
    sparten,
)
from accel_models.sparse_network import network_cycles, pack_network
from tests.accel_models.test_sparse_steps import MACHINES

SHAPE = SparseShape(outputs=12, pixels=9, reduction=40)
SMALL = tuple(array for name, array in MACHINES.items() if name != "scnn")


def masks(seed: int, density: float) -> tuple[Mask, Mask]:
    rng = np.random.default_rng(seed)
    return tuple(Mask.from_bool(rng.random((rows, 40)) < density) for rows in (SHAPE.outputs, SHAPE.pixels))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(SMALL))
def test_parts_are_not_negative_and_never_beat_perfect_balance(seed, density, array):
    weights, inputs = masks(seed, density)
    counts = run_masks(array, SHAPE, weights, inputs)
    effectual = int((weights.to_bool().sum(0) * inputs.to_bool().sum(0)).sum())
    assert counts.ideal_cycles == -(-effectual // array.multipliers)
    parts = (
        counts.fragmentation_cycles,
        counts.imbalance_cycles,
        counts.bank_conflict_cycles,
        counts.metadata_cycles,
        counts.macs_gated,
        counts.macs_skipped,
    )
    assert min(parts) >= 0
    assert counts.cycles >= counts.ideal_cycles


@pytest.mark.parametrize("array", SMALL, ids=lambda array: array.name)
def test_full_masks_cost_the_dense_cycles(array):
    weights, inputs = masks(0, 2.0)
    full, dense = run_masks(array, SHAPE, weights, inputs), run_masks(array, SHAPE, None, None)
    assert full.cycles - full.bank_conflict_cycles == dense.cycles
    assert full.metadata_cycles == dense.metadata_cycles
    assert full.macs_done == dense.macs_done == SHAPE.macs
    assert (full.weight_reads, full.input_reads) == (dense.weight_reads, dense.input_reads)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from(SMALL))
def test_a_sparser_nested_mask_never_costs_more_where_tiles_keep_their_lane(seed, density, array):
    """Greedy pairs and gathering windows move when weights leave, so they promise nothing."""
    weights, inputs = masks(seed, 0.8)
    keep = np.random.default_rng(seed).random(weights.shape) < density
    fewer = Mask.from_bool(weights.to_bool() & keep)
    array = replace(array, balance="none", gather_banks=0)
    assert run_masks(array, SHAPE, fewer, inputs).cycles <= run_masks(array, SHAPE, weights, inputs).cycles


ROW = {"skip": "weight", "lane_outputs": 5}
FAST = {
    "rows": {"segment": 0, "look_ahead": 1, "vector_reduction": 3},
    "rows_free": {"segment": 8, "look_ahead": 0, "segment_cycles": 1},
    **{f"fields_{size}": {"segment": size} for size in (4, 8, 16, 32, 64)},
    "fields_idle": {"segment": 8, "least_cycles": 1, "vector_reduction": 2, "segment_cycles": 1},
    "fields_most": {"segment": 4, "least_cycles": 4, "vector_reduction": 4},
    "fields_many": {"segment": 8, "lane_outputs": 40, "least_cycles": 8},
    "ahead": {"segment": 128, "look_ahead": 2, "segment_cycles": 2},
    "ahead_word": {"segment": 64, "look_ahead": 3, "vector_reduction": 3, "least_cycles": 2},
    "ahead_long": {"segment": 192, "look_ahead": 0, "least_cycles": 5},
    "lockstep": {"segment": 128, "look_ahead": 1},
    "tiles": {"tile_outputs": 9, "vector_outputs": 4, "look_ahead": 0, "tile_pixels": 3, "lane_pixels": 2},
    "tiles_latched": {
        "tile_outputs": 16,
        "vector_outputs": 2,
        "segment": 8,
        "look_ahead": 0,
        "latch_cycles": 1,
        "held": "weight",
        "segment_cycles": 1,
    },
    "tiles_held_inputs": {
        "tile_outputs": 127,
        "vector_outputs": 16,
        "vector_pixels": 2,
        "tile_pixels": 5,
        "latch_cycles": 2,
        "held": "input",
        "lane_outputs": 2,
    },
}


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("skip", ["weight", "input"])
def test_fast_passes_equal_the_general_ones(name, skip, monkeypatch):
    array = SparseArray(name=name, **{**ROW, **FAST[name]})
    if skip == "input":
        mirrored = {"outputs": "pixels", "pixels": "outputs"}
        sizes = {
            f"{what}_{b}": getattr(array, f"{what}_{a}")
            for what in ("lane", "tile", "vector")
            for a, b in mirrored.items()
        }
        held = {"weight": "input", "input": "weight", "none": "none"}[array.held]
        array = replace(array, skip="input", held=held, **sizes)
    rng = np.random.default_rng(4)
    for rows, row_bits in ((21, 3), (130, 64), (47, 147), (300, 200), (33, 1300)):
        mask = Mask.from_bool(rng.random((rows, row_bits)) < rng.choice([0.02, 0.5, 1.0]))
        weights, inputs = (mask, None) if skip == "weight" else (None, mask)
        outputs, pixels = (rows, 7) if skip == "weight" else (7, rows)
        shape = SparseShape(outputs=outputs, pixels=pixels, reduction=row_bits)
        with monkeypatch.context() as patch:
            patch.setattr(sparse_pass, "run_passes", None)  # not needed
            fast = run_masks(array, shape, weights, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(sparse_engine, "_fast_passes", lambda *arguments: None)
            assert run_masks(array, shape, weights, inputs) == fast


def test_a_network_in_one_pass_equals_its_layers():
    rng = np.random.default_rng(5)
    layers = [Mask.from_bool(rng.random(shape) < 0.4) for shape in ((7, 3, 3, 3), (20, 130), (1, 64), (70, 2, 5, 5))]
    arrays = (row_gather(4, 8, 8), nm_systolic(8, 2, 3, 2), STC_2_4, sparten(), replace(sparten(), look_ahead=1))
    for array in (*arrays, EYERISS_V2, EYERISS_V2_PE, DSTC):
        pixels = array.lane_pixels * array.tile_pixels
        array = replace(array, pass_cycles=0)
        passes = network_cycles(array, pack_network(layers))
        for i, mask in enumerate(layers):
            shape = SparseShape(outputs=mask.rows, pixels=pixels, reduction=mask.row_bits)
            counts = run_masks(array, shape, mask)
            assert passes.cycles[i] == counts.cycles
            assert passes.imbalance_cycles[i] == counts.imbalance_cycles
            assert passes.metadata_cycles[i] == counts.metadata_cycles
            assert passes.bank_conflict_cycles[i] == counts.bank_conflict_cycles
            assert passes.kept_weights[i] == mask.nonzeros


def test_a_network_in_one_pass_refuses_arrays_that_do_more():
    for array in (SCNN, sparten(greedy=True), replace(DSTC, vector_outputs=3), replace(STC_2_4, segment=5)):
        with pytest.raises(InvalidInputError, match="run_masks layer by layer"):
            network_cycles(array, pack_network([masks(0, 0.5)[0]]))
    with pytest.raises(InvalidInputError, match="none given"):
        pack_network([])


def test_gather_conflicts_vanish_when_picks_spread_over_the_banks():
    """8 lanes that pick 4 of 8 neighbours from 8 banks: some windows collide, rotated picks never do."""
    shape = SparseShape(outputs=8, pixels=1, reduction=64)
    array = row_gather(lanes=8, banks=8, window=8)
    same = Mask.from_bool(np.tile(np.arange(64) % 8 < 2, (8, 1)))
    spread = Mask.from_bool(np.array([np.roll(np.arange(64) % 8 < 2, 2 * (i % 4)) for i in range(8)]))
    # two banks serve 8 lanes x 8 picks of a window: 32 cycles instead of 8, in both windows
    assert run_masks(array, shape, same).bank_conflict_cycles == 2 * (32 - 8)
    assert run_masks(array, shape, spread).bank_conflict_cycles == 0
    assert sparse_banks.gather_conflicts(same.words, np.full((1, 2, 1), -1), 8, 8, 1) == 0


def test_dense_rows_never_collide_with_twice_as_many_banks_as_lanes():
    mask = Mask.from_bool(np.ones((64, 300)))
    counts = run_masks(row_gather(), SparseShape(outputs=64, pixels=3, reduction=300), mask)
    assert counts.bank_conflict_cycles == 0
    assert counts.cycles == 2 * 300 * 3


def test_scnn_products_of_one_bank_queue_up():
    """One output, one pixel a tile: every product lands in the same accumulator."""
    shape = SparseShape(outputs=1, pixels=1, reduction=6)
    array = replace(SCNN, lane_pixels=1, tile_outputs=1)
    assert run_masks(array, shape, None, None).cycles == 6
    assert run_masks(replace(array, tile_outputs=4), replace(shape, outputs=4), None, None).cycles == 6
    tight = replace(array, tile_outputs=4, accumulator_banks=1, accumulator_queue=4)
    counts = run_masks(tight, replace(shape, outputs=4), None, None)
    # 4 updates a cycle into one bank that retires one; the last 4 take 3 cycles after their issue
    assert counts.bank_conflict_cycles == 24 - 6


def test_published_settings_have_their_multipliers():
    assert SCNN.multipliers == 1024
    assert DSTC.multipliers == 128
    assert EYERISS_V2.multipliers == 384
    assert EYERISS_V2_PE.multipliers == 1


def test_two_of_four_halves_the_cycles_of_a_sparse_tensor_core():
    rng = np.random.default_rng(2)
    rows = np.array([[rng.permutation([1, 1, 0, 0]) for _ in range(16)] for _ in range(32)]).reshape(32, 64)
    shape = SparseShape(outputs=32, pixels=16, reduction=64)
    assert 2 * run_masks(STC_2_4, shape, Mask.from_bool(rows)).cycles == run_masks(STC_2_4, shape, None).cycles


def test_greedy_pairs_wait_less():
    rng = np.random.default_rng(4)
    share = np.linspace(0.05, 0.95, 64)[:, np.newaxis]
    mask = Mask.from_bool(rng.random((64, 256)) < share)
    shape = SparseShape(outputs=64, pixels=1, reduction=256)
    plain, greedy = run_masks(sparten(), shape, mask), run_masks(sparten(greedy=True), shape, mask)
    assert greedy.imbalance_cycles < plain.imbalance_cycles / 3
    assert greedy.cycles < plain.cycles


def test_dense_edges_are_idle_lanes_not_waiting_ones():
    """A filter-pruned layer: 17 outputs on 16 columns take two folds."""
    counts = run_masks(dense_systolic(16, 16), SparseShape(outputs=17, pixels=16, reduction=10), None)
    assert counts.imbalance_cycles == 0
    assert counts.compute_cycles == 20
    assert counts.fill_cycles == 60


def test_zeros_that_are_gated_take_their_cycle():
    weights, inputs = masks(1, 0.5)
    counts = run_masks(dense_systolic(4, 4), SHAPE, weights, inputs)
    effectual = int((weights.to_bool().sum(0) * inputs.to_bool().sum(0)).sum())
    assert (counts.macs_done, counts.macs_gated, counts.macs_skipped) == (effectual, SHAPE.macs - effectual, 0)
    assert counts.cycles == run_masks(dense_systolic(4, 4), SHAPE, None).cycles


def test_masks_of_another_shape_are_refused():
    weights, inputs = masks(0, 0.5)
    with pytest.raises(InvalidInputError, match="mask of weights: 9 rows of 40 elements; the layer has 12 rows of 40"):
        run_masks(STC_2_4, SHAPE, inputs)
    with pytest.raises(InvalidInputError, match="mask of inputs"):
        run_masks(STC_2_4, SHAPE, weights, weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lane_outputs": 0}, "lane_outputs = 0: must be an integer of at least 1"),
        ({"segment": -1}, "segment = -1"),
        ({"skip": "all"}, "use one of none, weight, input, both"),
        ({"gather_banks": 4, "skip": "both"}, "gather_banks: lanes gather one row at a time"),
        ({"gather_banks": 4, "vector_reduction": 2, "gather_window": 3}, "must be a multiple of vector_reduction"),
        ({"accumulator_banks": 4}, "accumulator_banks: a lane that scatters products needs skip: both"),
        ({"balance": "greedy", "skip": "input"}, "balance: greedy sorts rows of weights"),
        ({"balance": "best"}, "use one of none, greedy"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        SparseArray(name="odd", **changes)


def test_a_shape_without_elements_is_refused():
    with pytest.raises(InvalidInputError, match="reduction = 0"):
        SparseShape(outputs=1, pixels=1, reduction=0)
