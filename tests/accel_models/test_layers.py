"""Layers: counts and footprints against enumeration, and what is refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from accel_models.errors import InvalidInputError
from accel_models.layers import MAX_COUNT, Bits, Conv2d, Gemm, VectorOp, touched
from accel_models.sparsity import KofN, kernels_per_row

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def convolutions(draw: st.DrawFn) -> Conv2d:
    """Small, not square, with padding, dilation, groups and strides beyond the kernel; input as PyTorch counts it."""
    out, kernel, stride, dilation = draw(pairs), draw(pairs), draw(pairs), draw(st.tuples(*[st.integers(1, 3)] * 2))
    groups = draw(st.integers(1, 3))
    padding = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    size = tuple(
        (o - 1) * s + d * (r - 1) + 1 - 2 * p + draw(st.integers(0, s - 1))
        for o, s, d, r, p in zip(out, stride, dilation, kernel, padding, strict=True)
    )
    assume(min(size) >= 1)
    return Conv2d(
        name="c", n=draw(st.integers(1, 2)), k=groups * draw(st.integers(1, 3)), c=groups * draw(st.integers(1, 3)),
        p=out[0], q=out[1], r=kernel[0], s=kernel[1], stride=stride, padding=padding, dilation=dilation,
        groups=groups, input_size=size,
    )  # fmt: skip


def enumerate_loops(layer: Conv2d) -> tuple[int, set[tuple[int, ...]], set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Walk the seven loops and the groups: multiplications, and the elements of input, weight and output they touch."""
    macs, inputs, weights, outputs = 0, set(), set(), set()
    height, width = layer.height_width
    c_group, k_group = layer.c // layer.groups, layer.k // layer.groups
    axes = (layer.n, layer.k, layer.p, layer.q, c_group, layer.r, layer.s)
    for n, k, p, q, c, r, s in product(*map(range, axes)):
        row = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
        column = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
        macs += 1
        weights.add((k, c, r, s))
        outputs.add((n, k, p, q))
        if 0 <= row < height and 0 <= column < width:
            inputs.add((n, k // k_group * c_group + c, row, column))
    return macs, inputs, weights, outputs


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_counts_and_footprint_of_a_convolution_equal_the_enumerated_loops(layer: Conv2d):
    macs, inputs, weights, outputs = enumerate_loops(layer)
    assert layer.macs == macs
    assert layer.weight_elements == len(weights)
    assert layer.output_elements == len(outputs)
    assert layer.groups * layer.footprint().elements == len(inputs)
    if inputs:  # else every window hits rows or columns of padding alone
        assert layer.footprint().rows == len({(n, row) for n, _, row, _ in inputs})


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_as_gemm_keeps_macs_weights_outputs_and_widths(layer: Conv2d):
    gemm = layer.as_gemm()
    assert gemm.macs == layer.macs
    assert gemm.weight_elements == layer.weight_elements
    assert gemm.output_elements == layer.output_elements
    assert (gemm.m, gemm.groups, gemm.bits) == (layer.n * layer.p * layer.q, layer.groups, layer.bits)
    assert gemm.as_gemm() is gemm


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.integers(1, 12)
)  # fmt: skip
def test_touched_positions_equal_enumeration(
    outputs: int, stride: int, taps: int, dilation: int, padding: int, size: int
):
    seen = {
        o * stride + t * dilation - padding
        for o in range(outputs)
        for t in range(taps)
        if 0 <= o * stride + t * dilation - padding < size
    }
    assert touched(outputs, stride, taps, dilation, padding, size) == len(seen)


def test_a_stride_beyond_the_kernel_leaves_rows_and_columns_untouched():
    layer = Conv2d(name="down", k=8, c=4, p=4, q=5, r=1, s=1, stride=(2, 3), input_size=(8, 15))
    assert layer.footprint().elements == 4 * 5 * 4


def test_height_comes_before_width():
    layer = Conv2d(name="tall", k=1, c=1, p=5, q=2, r=3, s=1, stride=(2, 1), padding=(1, 0))
    assert layer.height_width == (9, 2)
    assert (layer.footprint().rows, layer.footprint().row_elements) == (9, 2)


def test_a_matrix_product_shares_no_input_between_output_rows():
    gemm = Gemm(name="g", m=5, n=7, k=3, groups=2)
    assert (gemm.macs, gemm.weight_elements, gemm.output_elements) == (210, 42, 70)
    assert gemm.footprint().elements == 15


GOOD: dict[str, Any] = {"name": "bad", "k": 8, "c": 4, "p": 4, "q": 4, "r": 3, "s": 3}


@pytest.mark.parametrize("field", ["n", "k", "c", "p", "q", "r", "s", "groups"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "4", None])
def test_a_dimension_that_is_no_positive_integer_is_refused_by_layer_field_and_value(field: str, value: object):
    with pytest.raises(InvalidInputError, match=rf"'bad': {field} = {value!r} must be an integer of at least 1"):
        Conv2d(**{**GOOD, field: value})


@pytest.mark.parametrize("field", ["stride", "padding", "dilation", "input_size"])
@pytest.mark.parametrize("value", [2, (1,), (1, 1, 1), [1, 1], "11"])
def test_a_pair_that_is_no_pair_is_refused(field: str, value: object):
    with pytest.raises(InvalidInputError, match=rf"'bad': {field} = .* must be a pair"):
        Conv2d(**{**GOOD, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("stride", (0, 1)), ("dilation", (1, 0)), ("padding", (-1, 0)), ("input_size", (8, 0)), ("stride", (1, 1.5))],
)
def test_a_pair_with_a_part_out_of_range_is_refused(field: str, value: object):
    with pytest.raises(InvalidInputError, match=rf"'bad': {field} = .* must be an integer of at least"):
        Conv2d(**{**GOOD, field: value})


@pytest.mark.parametrize("operand", ["weight", "input", "output"])
@pytest.mark.parametrize("width", [0, 65, 2**40, 8.0, True])
def test_a_width_outside_1_to_64_bits_is_refused(operand: str, width: object):
    with pytest.raises(InvalidInputError, match=rf"'g': bits.{operand} = {width!r} must be an integer from 1 to 64"):
        Gemm(name="g", m=1, n=1, k=1, bits=Bits(**{operand: width}))


@pytest.mark.parametrize("name", ["", None, 5])
def test_a_layer_without_a_text_as_name_is_refused(name: object):
    with pytest.raises(InvalidInputError, match=r"name = .* must be a text"):
        Gemm(name=name, m=1, n=1, k=1)


@pytest.mark.parametrize("axis", ["k", "c"])
def test_channels_that_groups_do_not_divide_are_refused(axis: str):
    with pytest.raises(InvalidInputError, match=f"{axis} = 9 is no multiple of groups = 4"):
        Conv2d(**{**GOOD, "groups": 4, axis: 9})


def test_outputs_that_reach_beyond_the_input_are_refused():
    with pytest.raises(InvalidInputError, match="'bad': 4 outputs of stride 1 reach beyond an input height of 2"):
        Conv2d(**GOOD, input_size=(2, 6))
    with pytest.raises(InvalidInputError, match="'bad': padding = 4 leaves an input height of -2"):
        Conv2d(**GOOD, padding=(4, 0))


def test_one_output_that_starts_beyond_the_input_is_kept_for_formats_that_round_up():
    layer = Conv2d(name="down", k=1, c=1, p=5, q=5, r=1, s=1, stride=(2, 2), input_size=(8, 8))
    assert layer.footprint().elements == 16


def test_counts_beyond_the_exact_range_are_refused():
    Gemm(name="g", m=2**20, n=2**20, k=2**13)
    with pytest.raises(InvalidInputError, match=f"layer 'g': macs = {2**54} exceeds {MAX_COUNT}; split the layer"):
        Gemm(name="g", m=2**20, n=2**20, k=2**14)
    with pytest.raises(InvalidInputError, match="layer 'c': macs"):
        Conv2d(name="c", n=2**20, k=2**20, c=2**20, p=1, q=1, r=1, s=1)
    with pytest.raises(InvalidInputError, match="layer 'v': operations"):
        VectorOp(name="v", kind="add", input_elements=1, output_elements=1, operations=2**60)


# sparsity of weights: the layers decide what n may be


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_a_tiled_row_keeps_k_of_every_n_and_of_the_rest(reduction: int, n: int, k: int):
    assume(k <= n <= reduction)
    layer, structure = Gemm(name="g", m=1, n=1, k=reduction), KofN(granularity="weight", k=k, n=n)
    tiles = [range(i, min(i + n, reduction)) for i in range(0, reduction, n)]
    kept = sum(min(k, len(tile)) for tile in tiles)
    bits = next(b for b in range(8) if 2**b >= n)
    assert structure.kept_per_row(layer) == kept
    assert structure.index_bits_per_row(layer) == kept * bits


def test_a_kernel_mask_keeps_whole_kernels_and_one_index_each():
    layer = Conv2d(name="c", k=4, c=12, p=4, q=4, r=3, s=3, groups=2)
    structure = KofN(granularity="kernel", k=2, n=6)
    assert kernels_per_row(layer) == (6, 9)
    assert structure.kept_per_row(layer) == 18
    assert structure.index_bits_per_row(layer) == 2 * 3


def test_weight_masks_pay_an_index_per_weight_where_kernel_masks_pay_one_per_kernel():
    layer = Conv2d(name="c", k=4, c=8, p=4, q=4, r=3, s=3)
    weights, kernels = KofN(granularity="weight", k=2, n=8), KofN(granularity="kernel", k=2, n=8)
    assert weights.kept_per_row(layer) == kernels.kept_per_row(layer) == 18
    assert weights.index_bits_per_row(layer) == 9 * kernels.index_bits_per_row(layer)


@pytest.mark.parametrize(("k", "n"), [(0, 4), (5, 4), (-1, 4), (1, 0)])
def test_more_or_fewer_units_than_a_row_has_are_refused(k: int, n: int):
    with pytest.raises(InvalidInputError, match=f"k = {k}, n = {n}"):
        KofN(granularity="weight", k=k, n=n)


def test_a_structure_of_no_known_form_is_refused():
    with pytest.raises(InvalidInputError, match="granularity = 'filter'"):
        KofN(granularity="filter", k=1, n=2)
    with pytest.raises(InvalidInputError, match=r"k = 1.0, n = 2: both must be integers"):
        KofN(granularity="weight", k=1.0, n=2)


def test_a_structure_that_does_not_fit_its_layer_names_what_would():
    layer = Conv2d(name="dw", k=8, c=8, p=4, q=4, r=3, s=3, groups=8)
    with pytest.raises(InvalidInputError, match="'dw': n = 16 exceeds the 9 weights of an output; use n <= 9"):
        KofN(granularity="weight", k=2, n=16).kept_per_row(layer)
    with pytest.raises(InvalidInputError, match="'dw': kernel granularity needs n = 1 "):
        KofN(granularity="kernel", k=2, n=8).kept_per_row(layer)
