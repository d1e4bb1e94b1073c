"""Symmetric per-tensor weight quantization with a straight-through gradient, applied after masking.

b bits, 3 <= b: s = (2^(b-1) - 1/2) / max|W|, levels round(s·W) in -(2^(b-1) - 1) .. 2^(b-1) - 1. For b = 8 that is
s = 127.5 / max|A ⊙ W| of arXiv 2105.12686; the half makes the outermost of the 2^b - 1 bins as wide as the others.
2 bits, ternary: levels -1, 0, 1 by the threshold 0.7 · mean |W|, with the mean |W| of what passes it as their magnitude
(Li, Zhang, Liu 2016, arXiv 1605.04711, section 2.2); means are over the non-zero weights.
1 bit, binary: levels sign(W), one magnitude for all: the mean |W| of the non-zero weights (Rastegari et al. 2016,
arXiv 1603.05279, per tensor instead of per filter). Zeros stay zero: they are the masked weights, which are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.pruning.baking import bake
from cosim.pruning.dpp import KofNMask

MAX_BITS = 32
_TERNARY_THRESHOLD = 0.7
_IDENTITY_ABOVE_BITS = 24
"""float32 has 24 significant bits: finer levels are the float itself."""


def check_bits(bits: int, layer: str = "weight") -> None:
    """Raise PruningError unless 1 <= bits <= 32."""
    if not 1 <= bits <= MAX_BITS:
        raise PruningError(f"{layer}: weight_bits = {bits}; use 1 (binary), 2 (ternary) to {MAX_BITS} (not quantized)")


def level_count(bits: int) -> int:
    """Levels that b bits have here, zero included: 2^b - 1; for 1 bit -1, (masked) 0 and 1."""
    return 3 if bits == 1 else 2**bits - 1


def _scale(weight: Tensor, bits: int) -> Tensor:
    """s > 0 with W ≈ levels / s; 1 for a tensor of zeros."""
    magnitude = weight.abs()
    if bits == 1:
        size, numerator = magnitude.sum() / magnitude.count_nonzero().clamp_min(1), 1.0
    else:
        size, numerator = magnitude.amax(), 2.0 ** (bits - 1) - 0.5
    scale = numerator / size
    return torch.where((size > 0) & scale.isfinite(), scale, torch.ones_like(scale))


def _levels(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Levels as floats."""
    if bits == 1:
        return weight.sign()
    top = 2.0 ** (bits - 1) - 1.0
    return (weight * scale).round_().clamp_(-top, top)


def _ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(levels, scale) of the ternary scheme."""
    magnitude = weight.abs()
    threshold = _TERNARY_THRESHOLD * magnitude.sum() / magnitude.count_nonzero().clamp_min(1)
    passing = (magnitude > threshold) & (magnitude > 0)
    size = (magnitude * passing).sum() / passing.sum().clamp_min(1)
    scale = torch.where(size > 0, 1.0 / size, torch.ones_like(size))
    return weight.sign() * passing, scale


def _quantized(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(levels as floats, scale)."""
    if bits == 2:
        return _ternary(weight)
    scale = _scale(weight, bits)
    return _levels(weight, scale, bits), scale


def quantize_tensor(weight: Tensor, bits: int) -> tuple[Tensor, float]:
    """Integer levels and scale of a weight.

    Parameters
    ----------
    weight : Tensor, floating point, any shape
    bits : int, 1..32

    Returns
    -------
    levels : Tensor, int64, shape of `weight`
    scale : float
        Levels per unit of weight, > 0: weight ≈ levels / scale. 1 for a tensor of zeros.

    Raises
    ------
    PruningError
        bits is not in 1..32, or the weight is empty or not finite.
    """
    check_bits(bits)
    if weight.numel() == 0 or not bool(weight.isfinite().all()):
        raise PruningError(f"a weight of shape {tuple(weight.shape)} is empty or not finite; quantize a trained weight")
    exact = weight.detach().double()
    levels, scale = _quantized(exact, bits)
    return levels.to(torch.int64), float(scale)


class _FakeQuantize(torch.autograd.Function):
    """Forward levels / scale, backward identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        levels, scale = _quantized(weight, bits)
        return levels / scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """The weight rounded to its levels, gradient 1 everywhere; above 24 bits the weight itself."""
    check_bits(bits)
    return weight if bits > _IDENTITY_ABOVE_BITS else _FakeQuantize.apply(weight, bits)


class Quantizer(nn.Module):
    """Parametrization of a weight: W -> W on the levels of `bits` bits (training and evaluation alike)."""

    def __init__(self, bits: int, layer: str = "weight") -> None:
        super().__init__()
        check_bits(bits, layer)
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _parametrizations(module: nn.Module) -> list[nn.Module]:
    """What lies on the weight, innermost first."""
    if not parametrize.is_parametrized(module, "weight"):
        return []
    return list(module.parametrizations["weight"])  # type: ignore[index]


def attach_quantizers(model: nn.Module, bits: Mapping[str, int]) -> dict[str, Quantizer]:
    """Put a Quantizer on the weight of each named layer, in place, on top of a mask if there is one.

    Parameters
    ----------
    model : nn.Module
    bits : mapping of layer name to bits, 1..32
        Layers above 24 bits get none: their weight stays as it is.

    Returns
    -------
    dict of layer name to Quantizer

    Raises
    ------
    PruningError
        A layer is missing, no Conv2d or Linear, or already quantized; or bits is not in 1..32. Nothing has been
        attached then.
    """
    layers = dict(model.named_modules())
    for name, count in bits.items():
        check_bits(count, name)
        if not isinstance(layers.get(name), nn.Conv2d | nn.Linear):
            raise PruningError(f"{name}: weight_bits: no Conv2d or Linear layer of that name; name one of the network")
        if any(isinstance(part, Quantizer) for part in _parametrizations(layers[name])):
            raise PruningError(f"{name}: the weight is already quantized; freeze it first, then attach again")
    attached = {name: Quantizer(count, name) for name, count in bits.items() if count <= _IDENTITY_ABOVE_BITS}
    for name, quantizer in attached.items():
        parametrize.register_parametrization(layers[name], "weight", quantizer, unsafe=True)  # shape and dtype stay
    return attached


def freeze_quantizers(model: nn.Module) -> dict[str, int]:
    """Bake the quantized weights and remove the parametrizations, in place.

    Returns
    -------
    dict of layer name to bits

    Raises
    ------
    PruningError
        A quantized layer still has a mask: `freeze_masks` bakes both.
    """
    found = {}
    for name, module in model.named_modules():
        parts = _parametrizations(module)
        quantizers = [part for part in parts if isinstance(part, Quantizer)]
        if quantizers and any(isinstance(part, KofNMask) for part in parts):
            raise PruningError(f"{name}: the weight is masked too; call freeze_masks first, it bakes both")
        if quantizers:
            found[name] = quantizers[0].bits
    layers = dict(model.named_modules())
    for name in found:
        bake(layers[name], "weight")
    return found
