"""How the weights of a layer lie in a dense array's memories and pass through it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from accel_models.accelerator import Accelerator
from accel_models.layer_zeros import Unstructured
from accel_models.layers import Conv2d, Gemm
from accel_models.sparsity import KofN


@dataclass(frozen=True)
class StoredWeights:
    """How the weights of one layer lie in memory and pass through the array."""

    kept: int
    """Weights of one output that are stored and multiplied (or gated)."""
    value_bits: int
    """Bits of one output's values."""
    metadata_bits: int
    """Bits of one output's indices."""
    nonzero: int | Fraction
    """Weights of one output that the structure keeps; of an unstructured mask the mean."""
    notice: str | None


def store_weights(
    layer: Conv2d | Gemm, structure: KofN | Unstructured | None, accelerator: Accelerator
) -> StoredWeights:
    """What the accelerator makes of a structure: skipped, stored compressed, or dense with a notice.

    A structure that the array cannot skip runs at dense cycles. It is stored compressed if the format says so
    (values + indices), and expanded at the edge of the array. Unstructured zeros are stored and run dense.
    """
    dense, bits = layer.as_gemm().k, layer.bits.weight
    if structure is None:
        return StoredWeights(dense, dense * bits, 0, dense, None)
    features = accelerator.weight_sparsity
    if isinstance(structure, Unstructured):
        kept_share = Fraction(structure.nonzeros, layer.weight_elements // dense)
        return StoredWeights(dense, dense * bits, 0, kept_share, _unstructured_notice(layer, accelerator))
    kept, indices = structure.kept_per_row(layer), structure.index_bits_per_row(layer)
    stored = (kept * bits, indices) if features.format == "k_of_n" else (dense * bits, 0)
    if features.action == "skip" and features.gather is not None and structure.n <= features.gather:
        return StoredWeights(kept, *stored, kept, None)
    notice = None
    if features.action != "gate":
        reason = (
            "its weights are not skipped" if features.gather is None else f"it gathers from {features.gather} at most"
        )
        notice = (
            f"{layer.name}: {structure.k} of {structure.n} per {structure.granularity} row runs at dense cycles "
            f"on {accelerator.name} ({reason})"
        )
    return StoredWeights(dense, *stored, kept, notice)


def _unstructured_notice(layer: Conv2d | Gemm, accelerator: Accelerator) -> str | None:
    if accelerator.weight_sparsity.action == "gate":
        return None
    return (
        f"{layer.name}: zero weights without a k-of-n structure are stored and run dense on {accelerator.name}; give "
        "it a plan with k and n, or take a sparse array"
    )
