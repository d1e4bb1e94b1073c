"""Captured activations: which inputs of a layer are not zero, bit-packed, run by run.

A run is one pass of the network over a batch as large as the layer's. What a run costs: `captured_layers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm, Layer, VectorOp
from accel_models.masks import Mask

Bools = NDArray[np.bool_]
ActivationMasks = Mapping[str, Mask]
"""Layer name -> its inputs that are not zero: [images, C, H, W] of a convolution, [runs, rows, K] of a product."""


def activation_mask(array: ArrayLike, layer: Layer) -> Mask:
    """Pack the mask of a layer's inputs, in one run or several.

    Parameters
    ----------
    array
        [images, C, H, W] of a convolution; [runs, groups x M, K], or [runs, K] of single rows, of a product.

    Raises
    ------
    InvalidInputError
        The layer has no weights, the shape is not that of its inputs, or an element is neither 0 nor 1.
    """
    shape = np.shape(array)
    _check_shape(layer, shape)
    return Mask.from_bool(array, f"layer {layer.name!r}: mask of inputs", row_axes=_row_axes(layer, shape))


def check_activation_mask(mask: Mask, layer: Conv2d | Gemm) -> None:
    """Refuse a mask that is not of the layer's inputs.

    Raises
    ------
    InvalidInputError
        Shape or rows differ; names the layer and both shapes.
    """
    _check_shape(layer, mask.shape)
    if mask.rows != math.prod(mask.shape[: _row_axes(layer, mask.shape)]):
        raise InvalidInputError(
            f"layer {layer.name!r}: mask of inputs {mask.shape} in {mask.rows} rows; pack it with activation_mask"
        )


def input_shape(layer: Conv2d | Gemm) -> tuple[int, ...]:
    """What a layer reads in one run: [N, C, H, W], or [groups x M, K]."""
    return (layer.n, layer.c, *layer.height_width) if isinstance(layer, Conv2d) else (layer.groups * layer.m, layer.k)


def runs_of(mask: Mask, layer: Conv2d | Gemm) -> Iterator[Bools]:
    """The inputs of every run, as booleans of `input_shape`."""
    shape = input_shape(layer)
    rows = math.prod(shape) // mask.row_bits
    for first in range(0, mask.rows, rows):
        part = Mask(mask.words[first : first + rows], mask.row_bits, (rows, mask.row_bits))
        yield part.to_bool().reshape(shape)


def _row_axes(layer: Layer, shape: tuple[int, ...]) -> int:
    return 2 if isinstance(layer, Conv2d) else len(shape) - 1


def _check_shape(layer: Layer, shape: tuple[int, ...]) -> None:
    if isinstance(layer, VectorOp):
        raise InvalidInputError(
            f"layer {layer.name!r} has no weights; activation masks belong to Conv2d and Gemm layers"
        )
    one = input_shape(layer)
    if isinstance(layer, Conv2d):
        fits, wanted = len(shape) == 4 and shape[1:] == one[1:], f"[images, {', '.join(map(str, one[1:]))}]"
        runs = shape[0] / layer.n if fits else 0
    else:
        fits = (len(shape) == 3 and shape[1:] == one) or (len(shape) == 2 and one[0] == 1 and shape[1:] == one[1:])
        wanted, runs = f"[runs, {one[0]}, {one[1]}]", shape[0] if fits else 0
    if not fits or runs < 1 or runs != int(runs):
        per = f", a multiple of {layer.n} images" if isinstance(layer, Conv2d) and layer.n > 1 else ""
        raise InvalidInputError(f"layer {layer.name!r}: mask of inputs {shape}; the layer reads {wanted}{per}")
