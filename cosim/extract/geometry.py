"""Layers from the shapes of convolutions, linear layers, products and attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, fx, nn

from accel_models.layers import Bits, Conv2d, Gemm, VectorOp
from cosim.errors import UntraceableError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kernel:
    """A convolution as torch describes it; every entry has one number per spatial axis."""

    shape: Shape
    """[K, C / groups, (R,) S]."""
    stride: Shape
    padding: Shape | str
    dilation: Shape
    groups: int


def module_kernel(module: Any) -> Kernel:
    """Of nn.Conv1d and nn.Conv2d."""
    padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    return Kernel(tuple(module.weight.shape), tuple(module.stride), padding, tuple(module.dilation), int(module.groups))


def function_kernel(n: fx.Node, weight: Tensor) -> Kernel:
    """Of F.conv1d and F.conv2d: (input, weight, bias, stride, padding, dilation, groups)."""
    axes = weight.dim() - 2
    given = [
        n.args[3 + i] if len(n.args) > 3 + i else n.kwargs.get(name, default)
        for i, (name, default) in enumerate((("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)))
    ]
    stride, padding, dilation = (_per_axis(value, axes) for value in given[:3])
    assert not isinstance(stride, str)
    assert not isinstance(dilation, str)
    return Kernel(tuple(weight.shape), stride, padding, dilation, int(given[3]))  # type: ignore[arg-type]


def _per_axis(value: Any, axes: int) -> Shape | str:
    if isinstance(value, str):
        return value
    values = tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value),)
    return values * axes if len(values) == 1 else values


def convolution(name: str, kernel: Kernel, image: Shape, out: Shape, bits: Bits) -> Conv2d:
    """A 1-D (height 1) or 2-D convolution."""
    axes = len(kernel.shape) - 2
    if axes not in (1, 2):
        raise UntraceableError(f"layer {name!r}: a convolution over {axes} axes has no cost model; 1 or 2 have")
    if len(image) == axes + 1:  # without a batch
        image, out = (1, *image), (1, *out)
    padding = _same_padding(kernel, image, out) if isinstance(kernel.padding, str) else kernel.padding
    return Conv2d(
        name=name,
        n=out[0],
        k=kernel.shape[0],
        c=image[1],
        p=_pair(out[2:], 1)[0],
        q=out[-1],
        r=_pair(kernel.shape[2:], 1)[0],
        s=kernel.shape[-1],
        stride=_pair(kernel.stride, 1),
        padding=_pair(padding, 0),
        dilation=_pair(kernel.dilation, 1),
        groups=kernel.groups,
        input_size=_pair(image[2:], 1),
        bits=bits,
    )


def _same_padding(kernel: Kernel, image: Shape, out: Shape) -> Shape:
    """`valid`, or the larger side of `same` as far as outputs use it: seen in a mirror the same convolution."""
    if kernel.padding == "valid":
        return (0,) * (len(image) - 2)
    result = []
    for o, step, d, taps, size in zip(
        out[2:], kernel.stride, kernel.dilation, kernel.shape[2:], image[2:], strict=True
    ):
        before = d * (taps - 1) // 2
        result.append(max(before, (o - 1) * step + d * (taps - 1) + 1 - size - before))
    return tuple(result)


def _pair(values: Sequence[int], height: int) -> tuple[int, int]:
    """(height, width); the height of a 1-D convolution is given."""
    return (int(values[0]) if len(values) == 2 else height, int(values[-1]))


def product(name: str, left: Shape, right: Shape, stored: tuple[bool, bool], bits: Bits) -> Gemm:
    """left [..., M, K] x right [..., K, N]; a stored left factor changes places with the right one.

    A batch of the right factor becomes groups; all other batch dimensions become rows.
    """
    left = (1, *left) if len(left) == 1 else left
    right = (*right, 1) if len(right) == 1 else right
    if stored[0] and not stored[1]:
        left, right = _swapped(right), _swapped(left)
    rank = max(len(left), len(right))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (left, right)]
    batch = [max(pair) for pair in zip(*(shape[:-2] for shape in padded), strict=True)]
    groups = prod(right[:-2])
    rows = left[-2] * prod(batch) // groups
    source = "parameter" if any(stored) else "activation"
    return Gemm(name=name, m=rows, n=right[-1], k=left[-1], groups=groups, b_source=source, bits=bits)  # type: ignore[arg-type]


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def attention(base: str, query: Shape, key: Shape, value: Shape) -> tuple[Gemm, VectorOp, Gemm]:
    """Scores, their softmax and the product with the values; [..., heads, length, width].

    Where query heads share keys (grouped queries), they are rows of one product.
    """
    groups, shared = prod(key[:-2]), prod(query[:-2]) // max(1, prod(key[:-2]))
    rows, keys, every = query[-2] * shared, key[-2], prod(query[:-1]) * key[-2]
    scores = Gemm(name=f"{base}.scores", m=rows, n=keys, k=query[-1], groups=groups, b_source="activation")
    softmax = vector(f"{base}.softmax", "softmax", every, every)
    context = Gemm(name=f"{base}.context", m=rows, n=value[-1], k=keys, groups=groups, b_source="activation")
    return scores, softmax, context


def einsum(name: str, equation: str, shapes: Sequence[Shape], stored: Sequence[bool]) -> Gemm:
    """Two factors with letters: those of both and the result are groups, those of both alone are summed over."""
    left, _, out = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if len(letters) != 2 or "." in equation or not out:
        raise UntraceableError(f"node {name!r}: an einsum of two factors with letters has a cost model; split this one")
    if stored[0] and not stored[1]:
        letters, shapes = letters[::-1], shapes[::-1]
    size = {c: n for text, shape in zip(letters, shapes, strict=True) for c, n in zip(text, shape, strict=True)}
    both = [c for c in letters[0] if c in letters[1]]
    return Gemm(
        name=name,
        m=prod(size[c] for c in letters[0] if c not in both),
        n=prod(size[c] for c in letters[1] if c not in both),
        k=prod(size[c] for c in both if c not in out),
        groups=prod(size[c] for c in both if c in out),
        b_source="parameter" if any(stored) else "activation",
    )


def linear(name: str, weight: Tensor, out: Shape, bits: Bits) -> Gemm:
    return Gemm(name=name, m=prod(out[:-1]), n=weight.shape[0], k=weight.shape[1], bits=bits)


def vector(name: str, kind: str, read: int, written: int) -> VectorOp:
    """Vector work: an operation for each element written, in pooling for each element read."""
    operations = max(read if kind == "pool" else 0, written)
    return VectorOp(name=name, kind=kind, input_elements=read, output_elements=written, operations=operations)


def is_refused_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvTransposeNd)
