"""Layers as matrix products and as planar tiles: the products that survive are those of the convolution."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import weight_mask
from accel_models.sparse_engine import run_masks
from accel_models.sparse_fields import Lanes
from accel_models.sparse_lanes import lay_out, phases_of
from accel_models.sparse_layers import matrix_inputs, matrix_shape, planar_inputs, planar_tiling
from accel_models.sparse_machines import EYERISS_V2_PE, SCNN

LAYERS = {
    "plain": Conv2d(name="plain", k=4, c=3, p=5, q=7, r=3, s=3, padding=(1, 1)),
    "strided": Conv2d(name="strided", n=2, k=4, c=2, p=3, q=4, r=3, s=2, stride=(2, 3), input_size=(8, 12)),
    "grouped": Conv2d(name="grouped", k=6, c=4, p=4, q=4, r=2, s=3, groups=2, dilation=(2, 1)),
    "product": Gemm(name="product", m=5, n=4, k=9, groups=2),
}


def random_operands(layer: Conv2d | Gemm) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(9)
    if isinstance(layer, Gemm):
        return rng.random((layer.groups, layer.n, layer.k)) < 0.5, rng.random((layer.groups * layer.m, layer.k)) < 0.5
    weights = rng.random((layer.k, layer.c // layer.groups, layer.r, layer.s)) < 0.5
    return weights, rng.random((layer.n, layer.c, *layer.height_width)) < 0.5


def surviving_products(layer: Conv2d | Gemm, weights: np.ndarray, inputs: np.ndarray) -> int:
    """Walk every multiplication of the layer."""
    if isinstance(layer, Gemm):
        rows = inputs.reshape(layer.groups, layer.m, layer.k)
        return int(np.einsum("gnk,gmk->", weights.astype(int), rows.astype(int)))
    total, height, width = 0, *layer.height_width
    per_group = layer.c // layer.groups
    for n, k, p, q, c, r, s in product(*map(range, (layer.n, layer.k, layer.p, layer.q, per_group, layer.r, layer.s))):
        y = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
        x = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
        channel = k // (layer.k // layer.groups) * per_group + c
        if 0 <= y < height and 0 <= x < width:
            total += bool(weights[k, c, r, s] and inputs[n, channel, y, x])
    return total


@pytest.mark.parametrize("name", LAYERS)
def test_the_matrix_product_keeps_the_products_of_the_layer(name):
    layer = LAYERS[name]
    weights, inputs = random_operands(layer)
    counts = run_masks(EYERISS_V2_PE, matrix_shape(layer), weight_mask(weights, layer), matrix_inputs(layer, inputs))
    assert counts.macs_done == surviving_products(layer, weights, inputs)
    assert counts.macs_done + counts.macs_skipped == layer.macs


@pytest.mark.parametrize("accumulators", [1024, 200, 90])
def test_planar_tiles_keep_every_pair_of_a_channel(accumulators):
    layer = Conv2d(name="planar", k=6, c=4, p=11, q=9, r=3, s=3, padding=(1, 1), groups=2)
    rng = np.random.default_rng(1)
    weights, inputs = rng.random((6, 2, 3, 3)) < 0.5, rng.random((1, 4, 11, 9)) < 0.5
    tiling = planar_tiling(layer, replace(SCNN, lane_pixels=4), accumulators)
    cuts = planar_inputs(layer, tiling, inputs)
    assert len(cuts) == tiling.cuts
    runs = [run_masks(tiling.array, tiling.shape, weight_mask(weights, layer), cut) for cut in cuts]
    per_channel = weights.reshape(2, 3, 2, 9).sum((1, 3)).ravel() * inputs.sum((0, 2, 3))
    assert sum(run.macs_done for run in runs) == per_channel.sum()
    assert sum(cut.nonzeros for cut in cuts) == inputs.sum()


@pytest.mark.parametrize(("stride", "padding"), [((2, 2), (1, 1)), ((3, 2), (0, 1)), ((2, 1), (2, 0))])
def test_strided_planar_tiles_multiply_the_taps_and_inputs_of_a_phase_alone(stride, padding):
    layer = Conv2d(
        name="strided", k=6, c=4, p=4, q=5, r=3, s=3, stride=stride, padding=padding, groups=2, input_size=(11, 13)
    )
    rng = np.random.default_rng(3)
    weights, inputs = rng.random((6, 2, 3, 3)) < 0.5, rng.random((1, 4, 11, 13)) < 0.5
    lanes = Lanes(skip="both", lane_pixels=4, segment=1, look_ahead=0, accumulator_banks=32, accumulators=200)
    laid = lay_out(layer, lanes)
    taps = phases_of(weight_mask(weights, layer), laid, layer)
    met = 0
    for k, c, r, s, y, x in product(range(6), range(2), range(3), range(3), range(11), range(13)):
        alike = (y + padding[0] - r) % stride[0] == 0 == (x + padding[1] - s) % stride[1]
        met += bool(alike and weights[k, c, r, s] and inputs[0, k // 3 * 2 + c, y, x])
    cuts = planar_inputs(layer, laid.tiling, inputs)
    assert sum(run_masks(laid.array, laid.shape, taps, cut).macs_done for cut in cuts) == met > 0


def test_small_accumulators_cut_tiles():
    layer = Conv2d(name="planar", k=64, c=4, p=224, q=224, r=3, s=3, padding=(1, 1))
    tiling = planar_tiling(layer, SCNN, 1024)
    assert (tiling.cuts, tiling.tile, tiling.array.tile_outputs) == (16, (7, 7), 12)
    assert tiling.fill == 1.0


def test_layers_that_planar_tiles_cannot_hold_are_refused():
    layer = LAYERS["plain"]
    with pytest.raises(InvalidInputError, match=r"not 3\)"):
        planar_tiling(layer, replace(SCNN, lane_pixels=3), 1024)
    with pytest.raises(InvalidInputError, match="4 accumulators hold no tile"):
        planar_tiling(layer, SCNN, 4)


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(
        InvalidInputError, match=r"'plain': inputs of shape \(1, 3, 5, 5\); the layer takes \(1, 3, 5, 7"
    ):
        matrix_inputs(LAYERS["plain"], np.ones((1, 3, 5, 5), bool))
