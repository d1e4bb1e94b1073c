"""A layer on its captured inputs: products that meet no zero, bits of activations as memories hold them.

Zeros of the padding are zeros like others where products are counted; no memory stores them. Figures of several runs
are means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from accel_models.activation_masks import Bools, runs_of
from accel_models.format_names import make_format
from accel_models.formats import Dense
from accel_models.layers import Conv2d, Gemm
from accel_models.masks import Mask, column_counts
from accel_models.sparse_layers import matrix_inputs
from accel_models.sparse_storage import FormatKey, Stored


def mean_products(layer: Conv2d | Gemm, weights: Mask | None, inputs: Mask) -> Fraction:
    """Products of a run without a zero, the mean over runs; `weights` None: dense."""
    gemm = layer.as_gemm()
    kept = np.full((gemm.groups, gemm.k), gemm.n, np.int64) if weights is None else _columns(weights, gemm.groups)
    runs = [int((kept * _columns(matrix_inputs(layer, run), gemm.groups)).sum()) for run in runs_of(inputs, layer)]
    return Fraction(sum(runs), len(runs))


def stored_inputs(layer: Conv2d | Gemm, inputs: Mask) -> list[Mask]:
    """The inputs of every run as memories hold them: a row is a row of the image, channel by channel.

    Inputs that no output reads (between strides, at the edge) are left out, as in `InputFootprint`.
    """
    return [Mask.from_bool(_touched(layer, run)) for run in runs_of(inputs, layer) if layer.footprint().elements]


def stored_outputs(layer: Conv2d | Gemm, reader: Conv2d | Gemm, inputs: Mask) -> list[Mask]:
    """The outputs of a layer, of which `inputs` are what `reader` reads: a row is an output channel."""
    gemm = layer.as_gemm()
    if isinstance(layer, Conv2d):
        shape, order = (layer.n, layer.k, layer.p * layer.q), (1, 0, 2)
    else:
        shape, order = (layer.groups, layer.m, layer.n), (0, 2, 1)
    rows = gemm.groups * gemm.n
    return [Mask.from_bool(run.reshape(shape).transpose(order).reshape(rows, -1)) for run in runs_of(inputs, reader)]


def stored_mean(formats: Sequence[FormatKey], runs: Sequence[Mask], width: int, dense: Stored) -> Stored:
    """Bits of a tensor in the first of its formats, the mean over runs, rounded up; `dense` where there is none."""
    form = make_format(formats[0][0], **dict(formats[0][1])) if formats else Dense()
    if isinstance(form, Dense) or not runs:
        return dense
    bits = [form.bits(run, width) for run in runs]
    values = math.ceil(Fraction(round(sum(each.values for each in bits)), len(runs)))
    metadata = math.ceil(Fraction(round(sum(each.metadata for each in bits)), len(runs)))
    elements = -(-values // width)
    return Stored(elements, elements * width, metadata, compressed=True)


def _columns(mask: Mask, groups: int) -> NDArray[np.int64]:
    """Kept elements of every column of every group, [groups, columns]."""
    rows = mask.rows // groups
    parts = (mask.words[g * rows : (g + 1) * rows] for g in range(groups))
    return np.stack([column_counts(Mask(words, mask.row_bits, (rows, mask.row_bits))) for words in parts])


def _touched(layer: Conv2d | Gemm, run: Bools) -> Bools:
    if isinstance(layer, Gemm):
        return run
    height, width = layer.height_width
    rows = _positions(layer.p, layer.stride[0], layer.r, layer.dilation[0], layer.padding[0], height)
    columns = _positions(layer.q, layer.stride[1], layer.s, layer.dilation[1], layer.padding[1], width)
    taken = run[:, :, rows][:, :, :, columns].reshape(layer.n, layer.groups, -1, rows.size, columns.size)
    return taken.transpose(1, 0, 3, 2, 4).reshape(layer.groups * layer.n * rows.size, -1)


def _positions(outputs: int, stride: int, taps: int, dilation: int, padding: int, size: int) -> NDArray[np.int64]:
    """Positions of one axis that any output reads, padding excluded."""
    read = np.add.outer(np.arange(outputs) * stride, np.arange(taps) * dilation) - padding
    return np.unique(read[(read >= 0) & (read < size)])
