"""Activations of a layer walked element by element: operands of every product, planar tiles, rows as stored."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from accel_models.layers import Conv2d, Gemm

Bits = NDArray[np.bool_]


def pairs_of(layer: Conv2d | Gemm):
    """(output pixel, output channel, reduction index, place of the weight, place of the input or None) of every MAC."""
    if isinstance(layer, Gemm):
        for g, m, n, k in product(*map(range, (layer.groups, layer.m, layer.n, layer.k))):
            weight = (g, n, k) if layer.groups > 1 else (n, k)
            yield g * layer.m + m, g * layer.n + n, k, weight, (g * layer.m + m, k)
        return
    (height, width), per_group = layer.height_width, layer.c // layer.groups
    for n, o, p, q, c, r, s in product(*map(range, (layer.n, layer.k, layer.p, layer.q, per_group, layer.r, layer.s))):
        y = p * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
        x = q * layer.stride[1] + s * layer.dilation[1] - layer.padding[1]
        group = o // (layer.k // layer.groups)
        inside = 0 <= y < height and 0 <= x < width
        pixel = ((group * layer.n + n) * layer.p + p) * layer.q + q
        index = (r * layer.s + s) * per_group + c  # channels fastest
        yield pixel, o, index, (o, c, r, s), (n, group * per_group + c, y, x) if inside else None


def operands(layer: Conv2d | Gemm, weights: Bits, inputs: Bits) -> tuple[Bits, Bits]:
    """Rows of weights and of inputs of the matrix product: [groups x outputs, K], [groups x pixels, K]."""
    gemm = layer.as_gemm()
    left = np.zeros((gemm.groups * gemm.n, gemm.k), np.bool_)
    right = np.zeros((gemm.groups * gemm.m, gemm.k), np.bool_)
    for pixel, output, index, weight, place in pairs_of(layer):
        left[output, index] = weights[weight]
        right[pixel, index] = place is not None and inputs[place]
    return left, right


def products(layer: Conv2d | Gemm, weights: Bits, inputs: Bits) -> int:
    """MACs that meet neither a zero weight nor a zero input."""
    return sum(bool(place is not None and weights[weight] and inputs[place]) for *_, weight, place in pairs_of(layer))


def stored_rows(layer: Conv2d, inputs: Bits) -> Bits:
    """The inputs that any output reads, as rows of the image: group, image and row down; channel and column across."""
    read = {place for *_, place in pairs_of(layer) if place is not None}
    per_group = layer.c // layer.groups
    rows = sorted({(c // per_group, n, y) for n, c, y, _ in read})
    columns = sorted({x for *_, x in read})
    return np.array(
        [[inputs[n, g * per_group + c, y, x] for c in range(per_group) for x in columns] for g, n, y in rows]
    )


def planar_cuts(
    layer: Conv2d, image: Bits, cuts: int, tile: tuple[int, int], lanes: tuple[int, int]
) -> list[list[Bits]]:
    """For every cut, the tile of every lane, [channels x phases, height, width] of an image [C, H, W].

    A lane owns cuts x cuts tiles of neighbouring places of every phase of the stride, and works on one in a cut.
    """
    phases = list(product(range(layer.c), range(layer.stride[0]), range(layer.stride[1])))

    def taken(phase: tuple[int, int, int], place: tuple[int, int]) -> bool:
        """The input at a place of a phase: of those that the filter's taps of this phase meet."""
        position = [
            at * stride + (f - padding) % stride
            for at, stride, f, padding in zip(place, layer.stride, phase[1:], layer.padding, strict=True)
        ]
        return bool(all(map(int.__lt__, position, image.shape[1:])) and image[phase[0], position[0], position[1]])

    def owned(lane: tuple[int, ...], cut: tuple[int, ...]) -> Bits:
        first = [(at * cuts + c) * size for at, c, size in zip(lane, cut, tile, strict=True)]
        places = list(product(range(first[0], first[0] + tile[0]), range(first[1], first[1] + tile[1])))
        return np.array([[taken(phase, place) for place in places] for phase in phases])

    every = list(product(*map(range, lanes)))
    return [[owned(lane, cut) for lane in every] for cut in product(range(cuts), repeat=2)]
