"""Layers: the shapes that hardware executes.

Vocabulary: N batch, K output channels, C input channels, P x Q output height x width, R x S filter height x width.
A Gemm multiplies [M, K] by [K, N]. Only `Conv2d.as_gemm` crosses the two alphabets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

from accel_models.errors import InvalidInputError

MAX_COUNT = 2**53
"""Largest count a layer may have: above it neither int64 sums of traffic nor float64 ratios stay exact."""
MAX_BITS = 64
PAIRS = ("stride", "padding", "dilation", "input_size")
"""Fields of a Conv2d that are (height, width)."""
B_SOURCES = ("parameter", "activation")
_TEXTS = ("name", "kind", "b_source")


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Widths of the operands of a layer, in bits, 1 to 64."""

    weight: int = 8
    input: int = 8
    output: int = 8


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """C[m, n] = sum over k of A[m, k] B[k, n], `groups` independent times (a batch); A is the input, B the weight."""

    name: str
    m: int
    n: int
    k: int
    groups: int = 1
    b_source: Literal["parameter", "activation"] = "parameter"
    """Where B comes from: weights of the network, or an earlier layer (the products of attention)."""
    bits: Bits = Bits()

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.b_source not in B_SOURCES:
            raise InvalidInputError(f"layer {self.name!r}: b_source = {self.b_source!r} is none of {B_SOURCES}")
        _check_product(self, "macs", self.groups, self.m, self.n, self.k)

    @property
    def macs(self) -> int:
        return self.groups * self.m * self.n * self.k

    def as_gemm(self) -> Gemm:
        return self

    def footprint(self) -> InputFootprint:
        """A row of the matrix is a row of the image: nothing is shared between output rows."""
        return InputFootprint(rows=self.m, row_elements=self.k, out_width=1, stride=1, window=1, images=1)

    @property
    def weight_elements(self) -> int:
        return self.groups * self.n * self.k

    @property
    def output_elements(self) -> int:
        return self.groups * self.m * self.n


@dataclass(frozen=True, kw_only=True)
class InputFootprint:
    """How the input of one group is laid out and shared between neighbouring outputs.

    A buffer keeps whole input rows (all touched columns x channels of the group), as line buffers do.
    """

    rows: int
    """Distinct input rows that any output needs, over all images, padding excluded."""
    row_elements: int
    """Touched columns x channels of one group: elements of one row."""
    out_width: int
    """Output pixels in one output row (Q)."""
    stride: int
    """Input rows from one output row to the next."""
    window: int
    """Input rows that one output row needs: dilation x (R - 1) + 1."""
    images: int

    @property
    def elements(self) -> int:
        return self.rows * self.row_elements


@dataclass(frozen=True, kw_only=True)
class Conv2d:
    """A 2-D convolution; pairs are (height, width)."""

    name: str
    n: int = 1
    k: int
    c: int
    p: int
    q: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_size: tuple[int, int] | None = None
    """Height x width of the input; None: just what the outputs need."""
    bits: Bits = Bits()

    def __post_init__(self) -> None:
        _check_fields(self)
        for axis in ("k", "c"):
            if getattr(self, axis) % self.groups:
                raise InvalidInputError(
                    f"layer {self.name!r}: {axis} = {getattr(self, axis)} is no multiple of groups = {self.groups}"
                )
        _check_product(self, "macs", self.n, self.k, self.c, self.p, self.q, self.r, self.s)
        _check_geometry(self)

    @property
    def macs(self) -> int:
        return self.n * self.k * (self.c // self.groups) * self.p * self.q * self.r * self.s

    @property
    def weight_elements(self) -> int:
        return self.k * (self.c // self.groups) * self.r * self.s

    @property
    def output_elements(self) -> int:
        return self.n * self.k * self.p * self.q

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the input."""
        if self.input_size is not None:
            return self.input_size
        return tuple(  # type: ignore[return-value]
            (out - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
            for out, stride, dilation, kernel, padding in zip(
                (self.p, self.q), self.stride, self.dilation, (self.r, self.s), self.padding, strict=True
            )
        )

    def as_gemm(self) -> Gemm:
        """One matrix product per group: M = N P Q, N = K / groups, K = C / groups x R x S."""
        return _as_gemm(self)

    def footprint(self) -> InputFootprint:
        """Rows, columns and channels of the input that the outputs of one group touch."""
        height, width = self.height_width
        rows = touched(self.p, self.stride[0], self.r, self.dilation[0], self.padding[0], height)
        columns = touched(self.q, self.stride[1], self.s, self.dilation[1], self.padding[1], width)
        return InputFootprint(
            rows=self.n * rows,
            row_elements=columns * (self.c // self.groups),
            out_width=self.q,
            stride=self.stride[0],
            window=self.dilation[0] * (self.r - 1) + 1,
            images=self.n,
        )


@dataclass(frozen=True, kw_only=True)
class VectorOp:
    """Pooling, residual adds and other work without weights: traffic and vector operations."""

    name: str
    kind: str
    input_elements: int
    """Elements read, over all operands."""
    output_elements: int
    operations: int
    """Additions, comparisons or multiplications done by the vector unit."""
    bits: Bits = Bits()

    def __post_init__(self) -> None:
        _check_fields(self)
        for what in ("input_elements", "output_elements", "operations"):
            _check_product(self, what, getattr(self, what))


Layer = Conv2d | Gemm | VectorOp


def touched(outputs: int, stride: int, taps: int, dilation: int, padding: int, size: int) -> int:
    """Distinct positions of one axis that any output reads, padding excluded."""
    if dilation == 1 and stride <= taps:
        first, last = -padding, (outputs - 1) * stride - padding + taps - 1
        return max(0, min(last, size - 1) - max(first, 0) + 1)
    seen = {o * stride + t * dilation - padding for o in range(outputs) for t in range(taps)}
    return sum(0 <= x < size for x in seen)


def _check_fields(layer: Layer) -> None:
    """Texts are not empty, pairs are pairs, widths and counts are integers in range."""
    for field in fields(layer):
        name, value = field.name, getattr(layer, field.name)
        if name in _TEXTS:
            if not isinstance(value, str) or not value:
                raise InvalidInputError(f"layer {layer.name!r}: {name} = {value!r} must be a text, not empty")
        elif isinstance(value, Bits):
            for operand in ("weight", "input", "output"):
                _check_integer(layer, f"bits.{operand}", getattr(value, operand), 1, MAX_BITS)
        elif name in PAIRS:
            if value is None and name == "input_size":
                continue
            if not isinstance(value, tuple) or len(value) != 2:
                raise InvalidInputError(f"layer {layer.name!r}: {name} = {value!r} must be a pair, (height, width)")
            for part in value:
                _check_integer(layer, name, part, 0 if name == "padding" else 1)
        else:
            _check_integer(layer, name, value, 1)


def _check_integer(layer: Layer, what: str, value: object, least: int, most: int | None = None) -> None:
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits or value < least or (most is not None and value > most):  # type: ignore[operator]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidInputError(f"layer {layer.name!r}: {what} = {value!r} must be an integer {limits}")


def _check_geometry(layer: Conv2d) -> None:
    """There is an input, and at most one output of each axis starts beyond the padded one (SCALE-Sim rounds up)."""
    for i, (axis, out) in enumerate((("height", layer.p), ("width", layer.q))):
        size, padding = layer.height_width[i], layer.padding[i]
        if size < 1:
            raise InvalidInputError(
                f"layer {layer.name!r}: padding = {padding} leaves an input {axis} of {size}; lower it"
            )
        if (out - 2) * layer.stride[i] >= size + 2 * padding:
            raise InvalidInputError(
                f"layer {layer.name!r}: {out} outputs of stride {layer.stride[i]} reach beyond an input {axis} of "
                f"{size} with padding {padding}; correct {'pq'[i]}, stride or input_size"
            )


def _check_product(layer: Layer, what: str, *factors: int) -> None:
    product = 1
    for factor in factors:
        product *= factor
    if product > MAX_COUNT:
        raise InvalidInputError(
            f"layer {layer.name!r}: {what} = {product} exceeds {MAX_COUNT}; split the layer to keep counts exact"
        )


@lru_cache(maxsize=4096)
def _as_gemm(layer: Conv2d) -> Gemm:
    """Remembered: a layer is priced many times, on many accelerators."""
    return Gemm(
        name=layer.name,
        m=layer.n * layer.p * layer.q,
        n=layer.k // layer.groups,
        k=layer.c // layer.groups * layer.r * layer.s,
        groups=layer.groups,
        bits=layer.bits,
    )
