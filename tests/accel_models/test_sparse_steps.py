"""Mask-exact cycles and accesses against lanes stepped cycle by cycle, on random small cases of every machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel_models.masks import Mask
from accel_models.sparse_array import SparseArray, SparseCounts, SparseShape
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
from tests.reference.sparse_steps import step_array

MACHINES: dict[str, SparseArray] = {
    "eyeriss_v2_pe": replace(EYERISS_V2_PE, tile_outputs=5, segment=3),
    "eyeriss_v2": replace(EYERISS_V2, lane_outputs=3, lane_pixels=2, tile_outputs=4, segment=3),
    "scnn": replace(
        SCNN, lane_pixels=3, tile_outputs=2, vector_outputs=2, vector_pixels=3, accumulator_banks=5, accumulator_queue=2
    ),
    "stc_2_4": replace(STC_2_4, lane_outputs=3, lane_pixels=2),
    "dstc": replace(DSTC, tile_outputs=7, tile_pixels=6, vector_outputs=3, vector_pixels=2),
    "nm_systolic": nm_systolic(5, 2, 3, 2),
    "sparten": replace(sparten(), lane_outputs=3, segment=6, segment_cycles=1),
    "sparten_greedy": replace(sparten(greedy=True), lane_outputs=2, segment=6),
    "row_gather": row_gather(lanes=4, banks=4, window=4, width=2),
    "dense_systolic": dense_systolic(2, 3),
}
FEW, MANY = 150, 1000


def random_array(base: SparseArray, rng: np.random.Generator) -> SparseArray:
    """The machine with other numbers in its places."""
    changes: dict[str, int] = {}
    for field, most in (("lane_outputs", 4), ("lane_pixels", 3), ("tile_outputs", 5), ("tile_pixels", 4)):
        if getattr(base, field) > 1:
            changes[field] = int(rng.integers(1, most + 1))
    if base.look_ahead:
        changes["look_ahead"] = int(rng.integers(0, 4))
    if base.segment > 1:
        changes["segment"] = int(rng.integers(1, 8))
    if not base.accumulator_banks:
        changes["segment_cycles"] = int(rng.integers(0, 2))
        changes["latch_cycles"] = int(rng.integers(0, 2)) if base.held != "none" else 0
    return replace(base, **changes)


def random_shape(array: SparseArray, rng: np.random.Generator) -> SparseShape:
    groups, reduction = int(rng.integers(1, 3)), int(rng.integers(1, 20))
    outputs, pixels = int(rng.integers(1, 9)), int(rng.integers(1, 7))
    if not array.accumulator_banks:
        return SparseShape(outputs=outputs, pixels=pixels, reduction=reduction, groups=groups)
    (r, s), (h, w) = rng.integers(1, 4, (2, 2)).tolist()
    return SparseShape(
        outputs=outputs,
        pixels=pixels,
        reduction=min(reduction, 5),
        groups=groups,
        weight_unit=r * s,
        input_unit=h * w,
        filter=(r, s),
        tile=(h, w),
    )


def check(name: str, seed: int) -> SparseCounts:
    rng = np.random.default_rng([seed, *name.encode()])
    array = random_array(MACHINES[name], rng)
    shape = random_shape(array, rng)
    w = rng.random((shape.groups * shape.outputs, shape.reduction * shape.weight_unit)) < rng.choice([0.1, 0.5, 0.9, 1])
    a = rng.random((shape.groups * shape.pixels, shape.reduction * shape.input_unit)) < rng.choice([0.1, 0.5, 0.9, 1])
    weights, inputs = (w if rng.random() < 0.9 else None), (a if rng.random() < 0.8 else None)
    counts = run_masks(
        array,
        shape,
        None if weights is None else Mask.from_bool(weights),
        None if inputs is None else Mask.from_bool(inputs),
    )
    stepped = step_array(array, shape, weights, inputs)
    context = (array, shape, seed)
    balanced = counts.ideal_cycles + counts.fragmentation_cycles
    assert balanced == stepped.balanced, context
    assert counts.imbalance_cycles == stepped.waited - stepped.balanced, context
    assert counts.metadata_cycles == stepped.total - stepped.waited, context
    assert counts.bank_conflict_cycles == stepped.conflicts, context
    assert counts.cycles == stepped.total + stepped.conflicts + array.pass_cycles * stepped.passes, context
    assert counts.macs_done + counts.macs_gated == stepped.products, context
    assert counts.macs_done + counts.macs_gated + counts.macs_skipped == shape.macs, context
    assert (counts.weight_reads, counts.input_reads) == (stepped.reads["weight"], stepped.reads["input"]), context
    assert counts.compute_cycles >= counts.ideal_cycles, context
    assert counts.fragmentation_cycles >= 0, context
    assert counts.bank_conflict_cycles >= 0, context
    return counts


@pytest.mark.parametrize("name", MACHINES)
def test_masks_give_the_cycles_and_accesses_of_stepped_lanes(name):
    counts = [check(name, seed) for seed in range(FEW)]
    parts = {
        part: sum(getattr(each, f"{part}_cycles") > 0 for each in counts) for part in ("imbalance", "bank_conflict")
    }
    assert (parts["imbalance"] > 0) == (name not in ("eyeriss_v2_pe", "dstc", "dense_systolic"))  # one lane, no zeros
    assert (parts["bank_conflict"] > 0) == (name in ("scnn", "row_gather"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_masks_give_the_cycles_and_accesses_of_stepped_lanes_in_many_cases(name):
    for seed in range(FEW, MANY + FEW):
        check(name, seed)
