"""Where the zeros of a layer's weights are, and how many bits the kept ones take.

A k-of-n structure keeps exactly k of every n units of a row (a row is one output channel): units are weights in tiles
of n along the reduction, or whole R x S kernels of the n input channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm


@dataclass(frozen=True, kw_only=True)
class KofN:
    """k of n units stay in every row or tile."""

    granularity: Literal["weight", "kernel"]
    k: int
    n: int

    def __post_init__(self) -> None:
        if self.granularity not in ("weight", "kernel"):
            raise InvalidInputError(f"granularity = {self.granularity!r}: must be 'weight' or 'kernel'")
        if type(self.k) is not int or type(self.n) is not int:
            raise InvalidInputError(f"k = {self.k!r}, n = {self.n!r}: both must be integers")
        if not 1 <= self.k <= self.n:
            raise InvalidInputError(f"k = {self.k}, n = {self.n}: k of n units stay, so use 1 <= k <= n")

    def kept_per_row(self, layer: Conv2d | Gemm) -> int:
        """Weights that one output channel keeps.

        Raises
        ------
        InvalidInputError
            n does not fit the layer.
        """
        reduction = layer.as_gemm().k
        if self.granularity == "kernel":
            kernels, size = kernels_per_row(layer)
            if self.n != kernels:
                raise InvalidInputError(
                    f"layer {layer.name!r}: kernel granularity needs n = {kernels} (inputs per group), not {self.n}"
                )
            return self.k * size
        if self.n > reduction:
            raise InvalidInputError(
                f"layer {layer.name!r}: n = {self.n} exceeds the {reduction} weights of an output; use n <= {reduction}"
            )
        return reduction // self.n * self.k + min(reduction % self.n, self.k)

    def index_bits_per_row(self, layer: Conv2d | Gemm) -> int:
        """Bits of the indices of one output channel: ceil(log2 n) for every kept weight, or kept kernel."""
        kept = self.kept_per_row(layer)
        if self.granularity == "kernel":
            kept = self.k
        return kept * (self.n - 1).bit_length()


def kernels_per_row(layer: Conv2d | Gemm) -> tuple[int, int]:
    """(kernels of one output channel, weights of a kernel); a Gemm has 1 x 1 kernels."""
    if isinstance(layer, Conv2d):
        return layer.c // layer.groups, layer.r * layer.s
    return layer.k, 1


WeightStructure = Mapping[str, KofN]
"""Layer name -> structure of its weights; a layer that is not named is dense."""
