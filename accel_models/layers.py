"""Layers: the shapes that hardware executes.

Vocabulary: N batch, K output channels, C input channels, P x Q output height x width, R x S filter height x width.
A Gemm multiplies [M, K] by [K, N]. Only `Conv2d.as_gemm` crosses the two alphabets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from accel_models.errors import InvalidInputError

MAX_COUNT = 2**53
"""Largest count a layer may have: above it neither int64 sums of traffic nor float64 ratios stay exact."""


@dataclass(frozen=True, kw_only=True)
class Bits:
    """Widths of the operands of a layer, in bits."""

    weight: int = 8
    input: int = 8
    output: int = 8


@dataclass(frozen=True, kw_only=True)
class Gemm:
    """C[m, n] = sum over k of A[m, k] B[k, n], `groups` independent times; A is the input, B the weight."""

    name: str
    m: int
    n: int
    k: int
    groups: int = 1
    bits: Bits = Bits()

    def __post_init__(self) -> None:
        _check_positive(self)
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
        _check_positive(self)
        for axis in ("k", "c"):
            if getattr(self, axis) % self.groups:
                raise InvalidInputError(
                    f"layer {self.name!r}: {axis} = {getattr(self, axis)} is no multiple of groups = {self.groups}"
                )
        _check_product(self, "macs", self.n, self.k, self.c, self.p, self.q, self.r, self.s)

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
        return Gemm(
            name=self.name,
            m=self.n * self.p * self.q,
            n=self.k // self.groups,
            k=self.c // self.groups * self.r * self.s,
            groups=self.groups,
            bits=self.bits,
        )

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
        _check_positive(self)


Layer = Conv2d | Gemm | VectorOp


def touched(outputs: int, stride: int, taps: int, dilation: int, padding: int, size: int) -> int:
    """Distinct positions of one axis that any output reads, padding excluded."""
    if dilation == 1 and stride <= taps:
        first, last = -padding, (outputs - 1) * stride - padding + taps - 1
        return max(0, min(last, size - 1) - max(first, 0) + 1)
    seen = {o * stride + t * dilation - padding for o in range(outputs) for t in range(taps)}
    return sum(0 <= x < size for x in seen)


def _check_positive(layer: Layer) -> None:
    for field in fields(layer):
        value = getattr(layer, field.name)
        least = 0 if field.name == "padding" else 1
        parts = value if isinstance(value, tuple) else (value,)
        if isinstance(value, Bits):
            parts = (value.weight, value.input, value.output)
        for part in parts:
            if part is None or isinstance(part, str):
                continue
            if not isinstance(part, int) or isinstance(part, bool) or part < least:
                raise InvalidInputError(
                    f"layer {layer.name!r}: {field.name} = {value!r} must be an integer of at least {least}"
                )


def _check_product(layer: Layer, what: str, *factors: int) -> None:
    product = 1
    for factor in factors:
        product *= factor
    if product > MAX_COUNT:
        raise InvalidInputError(
            f"layer {layer.name!r}: {what} = {product} exceeds {MAX_COUNT}; split the layer to keep counts exact"
        )
