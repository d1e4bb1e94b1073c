"""Closed forms of the systolic array against oracles that step the array and walk the schedules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel_models.activity import DATAFLOW_CODES, StoredWeights, product_of
from accel_models.kernels import schedules, systolic
from accel_models.layers import Conv2d, Gemm
from tests.reference.systolic import Shape, step_array, walk_held_input, walk_schedule

DATAFLOWS = sorted(DATAFLOW_CODES)
BIG = 2**40


def machine(rows: int, cols: int, dataflow: str, **changes: float) -> systolic.Machine:
    base = systolic.Machine(rows, cols, DATAFLOW_CODES[dataflow], BIG, BIG, BIG, BIG, BIG, BIG, 64.0)
    return base._replace(**changes)


def dense(layer: Conv2d | Gemm) -> systolic.Product:
    k = layer.as_gemm().k
    return product_of(layer, StoredWeights(k, 8 * k, 0, k, None), 32)


PRICES = systolic.Prices(1.0, 0.01, 1.0, 0.1, 0.1, 0.1)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_cycles_and_buffer_accesses_equal_the_stepped_array(
    dataflow: str, m: int, n: int, k: int, rows: int, cols: int
):
    rng = np.random.default_rng(m * 1000 + n * 100 + k)
    a, b = rng.integers(-5, 6, (m, k)), rng.integers(-5, 6, (k, n))
    stepped = step_array(a, b, rows, cols, dataflow)
    traffic = schedules.cheapest_schedule(dense(Gemm(name="g", m=m, n=n, k=k)), machine(rows, cols, dataflow), PRICES)
    assert np.array_equal(stepped.product, a @ b)
    assert traffic.compute_cycles == stepped.cycles
    assert traffic.input_reads == stepped.input_reads
    assert traffic.weight_reads == stepped.weight_reads
    assert traffic.output_writes == stepped.output_writes


@st.composite
def convolutions(draw: st.DrawFn) -> Conv2d:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    out = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    size = tuple(
        max(1, (o - 1) * s + d * (r - 1) + 1 - 2 * p + draw(st.integers(0, s - 1)))
        for o, s, d, r, p in zip(out, stride, dilation, kernel, padding, strict=True)
    )
    return Conv2d(
        name="c",
        n=draw(st.integers(1, 3)),
        k=draw(st.integers(1, 5)),
        c=draw(st.integers(1, 3)),
        p=out[0],
        q=out[1],
        r=kernel[0],
        s=kernel[1],
        stride=stride,
        padding=padding,
        dilation=dilation,
        input_size=size,
    )


def shape_of(layer: Conv2d) -> Shape:
    return Shape(
        layer.n, layer.c, layer.k, (layer.p, layer.q), (layer.r, layer.s), layer.stride, layer.padding, layer.dilation,
        layer.height_width,
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(convolutions(), st.integers(1, 6), st.integers(1, 8))
def test_a_held_input_is_fetched_once_and_fits_its_line_buffer(layer: Conv2d, step: int, folds: int):
    product = dense(layer)
    fetched, most = walk_held_input(shape_of(layer), step, folds)
    assert fetched == product.input_rows * product.row_elements
    held = min(step * folds, product.m)
    assert 8 * most <= systolic.input_hold_bits(held, product)


@settings(max_examples=200, deadline=None)
@given(convolutions(), st.integers(1, 4), st.integers(8, 4000))
def test_the_largest_held_group_fits_and_one_more_fold_does_not(layer: Conv2d, step: int, capacity: int):
    product = dense(layer)
    folds = systolic.largest_held_input(step, capacity, product)
    if folds:
        assert systolic.input_hold_bits(min(folds * step, product.m), product) <= capacity
    if folds < -(-product.m // step):
        assert systolic.input_hold_bits(min((folds + 1) * step, product.m), product) > capacity


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@settings(max_examples=150, deadline=None)
@given(convolutions(), st.integers(1, 5), st.integers(1, 5), st.data())
def test_latency_bounds_hold_and_parts_sum_to_it(
    dataflow: str, layer: Conv2d, rows: int, cols: int, data: st.DataObject
):
    small = machine(
        rows, cols, dataflow,
        input_capacity=data.draw(st.integers(16 * 8, 4000)),
        weight_capacity=data.draw(st.integers(16 * 8, 4000)),
        output_capacity=data.draw(st.integers(64 * 8, 8000)),
        dram_bits_per_cycle=data.draw(st.sampled_from([4.0, 12.5, 64.0])),
    )  # fmt: skip
    product = dense(layer)
    traffic = schedules.cheapest_schedule(product, small, PRICES)
    assert traffic.status == systolic.FITS
    touched = product.groups * product.input_rows * product.row_elements
    assert traffic.dram_input_reads >= touched or traffic.dram_input_reads >= product.m * product.k_dense
    assert traffic.weight_passes >= 1
    dram_bits = 8 * (traffic.dram_input_reads + traffic.weight_passes * layer.weight_elements + layer.output_elements)
    assert traffic.latency_cycles >= layer.macs / (rows * cols)
    assert traffic.latency_cycles >= dram_bits / small.dram_bits_per_cycle
    parts = (
        traffic.fill_cycles + traffic.compute_cycles + traffic.buffer_stall_cycles
        + traffic.dram_stall_cycles + traffic.single_buffer_cycles + traffic.drain_cycles
    )  # fmt: skip
    assert traffic.latency_cycles == parts


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@settings(max_examples=150, deadline=None)
@given(convolutions(), st.integers(128, 4000), st.integers(1, 4))
def test_larger_buffers_never_make_the_best_schedule_worse(dataflow: str, layer: Conv2d, capacity: int, factor: int):
    product = dense(layer)
    small = machine(2, 3, dataflow, input_capacity=capacity, weight_capacity=capacity, output_capacity=2 * capacity)
    large = small._replace(
        input_capacity=factor * capacity, weight_capacity=factor * capacity, output_capacity=2 * factor * capacity
    )
    a, b = (schedules.cheapest_schedule(product, m, PRICES) for m in (small, large))
    assert b.energy_pj * b.latency_cycles <= a.energy_pj * a.latency_cycles * (1 + 1e-12)


def test_everything_on_chip_moves_every_operand_once():
    layer = Conv2d(name="c", k=32, c=16, p=8, q=8, r=3, s=3, padding=(1, 1))
    for dataflow in DATAFLOWS:
        traffic = schedules.cheapest_schedule(dense(layer), machine(8, 8, dataflow), PRICES)
        assert (traffic.dram_input_reads, traffic.weight_passes) == (16 * 8 * 8, 1)


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("input_capacity", systolic.INPUT_TOO_SMALL),
        ("weight_capacity", systolic.WEIGHT_TOO_SMALL),
        ("output_capacity", systolic.OUTPUT_TOO_SMALL),
    ],
)
@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_a_buffer_below_two_array_edges_has_no_schedule(field: str, status: int, dataflow: str):
    product = dense(Gemm(name="g", m=64, n=64, k=64))
    assert schedules.cheapest_schedule(product, machine(8, 8, dataflow, **{field: 60}), PRICES).status == status


ORDERS = {
    systolic.HOLD_INPUT: "input",
    systolic.HOLD_WEIGHT: "weight",
    systolic.HOLD_NONE: "none",
    systolic.COLUMNS_OUTER: "columns",
    systolic.REDUCTION_OUTER: "reduction",
}


def capacities_allow(product: systolic.Product, array: systolic.Machine, t_block: int) -> dict[str, bool]:
    """What each buffer can keep, from the plain definitions: a held strip is doubled unless it is everything."""
    all_input = product.input_rows * product.row_elements * product.input_bits
    strip = min(array.cols, product.n)
    strip_bits = strip * product.column_bits * (1 if strip == product.n else 2)
    step = array.cols if array.dataflow == systolic.INPUT_STATIONARY else array.rows
    weight_bits = -(-product.column_bits // product.k)
    return {
        "input": all_input <= array.input_capacity,
        "input_rows": systolic.input_hold_bits(min(step, product.m), product) <= array.input_capacity,
        "input_slice": 2 * t_block * min(array.rows, product.k) * product.input_bits <= array.input_capacity,
        "weight": product.n * product.column_bits <= array.weight_capacity,
        "weight_strip": strip_bits <= array.weight_capacity,
        "weight_slice": 2 * t_block * min(array.rows, product.k) * weight_bits <= array.weight_capacity,
    }


@pytest.mark.parametrize("dataflow", DATAFLOWS)
@settings(max_examples=2000, deadline=None)
@given(
    convolutions(), st.integers(1, 4), st.integers(1, 4),
    st.integers(128, 3000), st.integers(128, 3000), st.integers(256, 4000),
)  # fmt: skip
def test_dram_traffic_equals_the_walked_schedule(
    dataflow: str, layer: Conv2d, rows: int, cols: int, input_bits: int, weight_bits: int, output_bits: int
):
    product = dense(layer)
    array = machine(
        rows, cols, dataflow, input_capacity=input_bits, weight_capacity=weight_bits, output_capacity=output_bits
    )
    shape = shape_of(layer)
    traffic = schedules.cheapest_schedule(product, array, PRICES)
    stays = capacities_allow(product, array, traffic.t_block)
    if traffic.single_buffer_cycles > 0:
        assert min(cols, product.n) * product.column_bits <= weight_bits
        stays["weight_strip"] = True
    walked = walk_schedule(
        shape, (rows, cols), dataflow, ORDERS[traffic.schedule], traffic.held_folds, traffic.t_block, stays
    )
    assert walked.weight == traffic.weight_passes * layer.weight_elements
    assert walked.input == traffic.dram_input_reads
