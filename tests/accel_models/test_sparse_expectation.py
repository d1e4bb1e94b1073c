"""Expected cycles and accesses against the mean of mask-exact runs over random masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.sparse_array import SparseShape
from accel_models.sparse_engine import run_masks
from accel_models.sparse_expectation import expected_counts
from accel_models.sparse_machines import (
    DSTC,
    EYERISS_V2,
    EYERISS_V2_PE,
    SCNN,
    STC_2_4,
    nm_systolic,
    row_gather,
    sparten,
)
from accel_models.sparse_planar import planar_counts
from accel_models.sparse_sampling import draw_mask, run_weights
from accel_models.sparse_statistics import Rows
from accel_models.sparsity import KofN

FIELDS = ("cycles", "metadata_cycles", "macs_done", "macs_skipped", "weight_reads", "input_reads", "output_updates")
SHAPE = SparseShape(outputs=40, pixels=30, reduction=96)
PLANAR = SparseShape(outputs=20, pixels=10, reduction=6, weight_unit=9, input_unit=12, filter=(3, 3), tile=(3, 4))
NM = KofN(granularity="weight", k=3, n=8)
CASES = {
    "eyeriss_v2_pe": (EYERISS_V2_PE, SHAPE, 0.4, 0.6),
    "eyeriss_v2": (replace(EYERISS_V2, lane_outputs=2, lane_pixels=3), SHAPE, 0.4, 0.6),
    "scnn": (replace(SCNN, lane_pixels=4), PLANAR, 0.4, 0.5),
    "stc_2_4": (STC_2_4, SHAPE, 0.4, None),
    "dstc": (replace(DSTC, tile_outputs=16, tile_pixels=16, vector_outputs=4, vector_pixels=4), SHAPE, 0.3, 0.7),
    "nm_systolic": (nm_systolic(8, 4, 8), SHAPE, 0.4, None),
    "nm_systolic_fixed": (nm_systolic(8, 4, 8), SHAPE, NM, None),
    "nm_systolic_wide": (nm_systolic(4, 4, 8), SHAPE, NM, None),
    "sparten_lockstep": (replace(sparten(), lane_outputs=8, segment=32, look_ahead=1), SHAPE, 0.4, 0.5),
    "sparten_free": (replace(sparten(), lane_outputs=8, segment=32, look_ahead=0), SHAPE, 0.4, 0.5),
    "sparten": (replace(sparten(), lane_outputs=8, segment=32), SHAPE, 0.4, 0.5),
    "sparten_greedy": (replace(sparten(True), lane_outputs=8, segment=32), SHAPE, 0.4, 0.5),
    "sparten_fixed": (replace(sparten(), lane_outputs=8, segment=32), SHAPE, NM, None),
    "dstc_fixed": (
        replace(DSTC, tile_outputs=16, tile_pixels=16, vector_outputs=4, vector_pixels=4),
        SparseShape(outputs=40, pixels=30, reduction=99),
        NM,
        0.4,
    ),
    "row_gather": (row_gather(lanes=8, banks=8, window=8), SHAPE, 0.4, None),
    "row_gather_fixed": (row_gather(lanes=8, banks=8, window=8), SHAPE, NM, None),
    "dstc_inputs_only": (
        replace(DSTC, tile_outputs=16, tile_pixels=16, vector_outputs=4, vector_pixels=4),
        SHAPE,
        None,
        0.4,
    ),
    "inputs_only": (replace(EYERISS_V2_PE, skip="input", lane_pixels=4), SHAPE, 0.4, 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_expected_counts_lie_in_the_confidence_interval_of_random_masks(name):
    array, shape, weights, inputs = CASES[name]
    expected = expected_counts(array, shape, weights, inputs, samples=60, seed=1)
    w = Rows(weights, shape.reduction, shape.weight_unit, shape.kernel_size)
    a = Rows(inputs, shape.reduction, shape.input_unit, shape.kernel_size)
    rng = np.random.default_rng(7)
    runs = [
        run_masks(array, shape, draw_mask(w, shape.outputs, rng), draw_mask(a, shape.pixels, rng)) for _ in range(60)
    ]
    for field in FIELDS:
        seen = np.array([getattr(run, field) for run in runs], float)
        error = np.hypot(seen.std(ddof=1) / np.sqrt(seen.size), expected.standard_error if "cycles" in field else 0)
        mean = getattr(expected.counts, field)
        assert abs(mean - seen.mean()) <= 2.66 * error + 1e-9 * seen.mean(), (field, mean, seen.mean(), error)


@pytest.mark.parametrize("array", [row_gather(8), nm_systolic(8, 4, 8), nm_systolic(8, 4, 8, 2), STC_2_4])
def test_fixed_rows_never_wait_and_unstructured_ones_do(array):
    structure = KofN(granularity="weight", k=2 if array is STC_2_4 else 3, n=4 if array is STC_2_4 else 8)
    rng = np.random.default_rng(3)
    fixed = draw_mask(Rows(structure, 99, 1, 1), 40, rng)
    loose = draw_mask(Rows(structure.k / structure.n, 99, 1, 1), 40, rng)
    shape = SparseShape(outputs=40, pixels=30, reduction=99)
    assert run_masks(array, shape, fixed).imbalance_cycles == 0
    assert expected_counts(array, shape, structure, None).counts.imbalance_cycles == 0
    assert run_masks(array, shape, loose).imbalance_cycles > 0
    assert expected_counts(array, shape, structure.k / structure.n, None).counts.imbalance_cycles > 0


@pytest.mark.parametrize("array", [replace(sparten(), lane_outputs=8, segment=32), replace(EYERISS_V2, lane_pixels=4)])
def test_actual_weights_with_an_input_density_meet_the_mean_over_inputs(array):
    rng = np.random.default_rng(3)
    weights = draw_mask(Rows(0.4, 96, 1, 1), 40, rng)
    inputs = Rows(0.5, 96, 1, 1)
    seen = np.array(
        [run_masks(array, SHAPE, weights, draw_mask(inputs, 30, rng)).cycles for _ in range(40)], np.float64
    )
    drawn = [run_weights(array, SHAPE, weights, 0.5, samples=4, seed=seed) for seed in range(40)]
    cycles = np.array([counts.cycles for counts in drawn])
    error = np.hypot(seen.std(ddof=1), cycles.std(ddof=1)) / np.sqrt(40)
    assert abs(cycles.mean() - seen.mean()) <= 2.7 * error
    assert np.mean([counts.macs_done for counts in drawn]) == pytest.approx(weights.nonzeros * 15, rel=0.02)
    with pytest.raises(InvalidInputError, match="samples = 0"):
        run_weights(array, SHAPE, weights, 0.5, samples=0)


@pytest.mark.parametrize(
    ("lanes", "tile", "outputs", "reduction"), [(64, (6, 6), 32, 32), (64, (2, 2), 64, 64), (16, (7, 7), 16, 32)]
)
def test_planar_lanes_take_the_cycles_of_mask_exact_runs_within_a_percent(lanes, tile, outputs, reduction):
    """Their slowest lane is taken from a normal distribution, an approximation; products and reads are not."""
    array = replace(SCNN, lane_pixels=lanes)
    shape = SparseShape(
        outputs=outputs,
        pixels=lanes,
        reduction=reduction,
        weight_unit=9,
        input_unit=tile[0] * tile[1],
        filter=(3, 3),
        tile=tile,
    )
    rng = np.random.default_rng(0)
    weights = draw_mask(Rows(0.4, reduction, 9, 9), outputs, rng)
    inputs = Rows(0.5, reduction, shape.input_unit, 9)
    runs = [run_masks(array, shape, weights, draw_mask(inputs, lanes, rng)) for _ in range(16)]
    counts = planar_counts(array, shape, weights, 0.5, 1.0)
    for field, near in (("cycles", 0.01), ("macs_done", 0.0), ("weight_reads", 0.0), ("input_reads", 0.0)):
        seen = np.array([getattr(run, field) for run in runs], float)
        error = seen.std(ddof=1) / np.sqrt(seen.size)
        assert abs(getattr(counts, field) - seen.mean()) <= 2.95 * error + near * seen.mean(), field  # 99 %, 15 degrees


def test_a_density_outside_0_and_1_is_refused():
    with pytest.raises(InvalidInputError, match=r"density of inputs = 1.5"):
        expected_counts(STC_2_4, SHAPE, 0.5, 1.5)
    with pytest.raises(InvalidInputError, match="samples = 1"):
        expected_counts(STC_2_4, SHAPE, 0.5, None, samples=1)
