"""What is known of the zeros of every layer: structures, masks, densities of weights; captured and expected inputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from accel_models.activation_masks import ActivationMasks, check_activation_mask, input_shape
from accel_models.errors import InvalidInputError
from accel_models.layers import Conv2d, Gemm, Layer, VectorOp
from accel_models.masks import Mask, WeightMasks, check_k_of_n, check_mask
from accel_models.sparsity import KofN
from accel_models.workload import Workload

Structure = KofN | float
"""k of n, or the density of weights that are zero independently of each other."""
Structures = Mapping[str, Structure]
Densities = Mapping[str, float]
"""Layer name -> share of its inputs that are not zero, in [0, 1]."""


@dataclass(frozen=True)
class Unstructured:
    """Weights of a layer that are not zero, wherever they are: what a dense array knows of a mask."""

    nonzeros: int


@dataclass(frozen=True)
class LayerZeros:
    """Zeros of one layer; None: none are known."""

    structure: Structure | None = None
    mask: Mask | None = None
    """Actual weights that stay; of k of n if there is a structure."""
    inputs: float | None = None
    """Share of the inputs that are not zero."""
    outputs: float | None = None
    """Share of the outputs that are not zero: the input density of the layer that reads them."""
    input_mask: Mask | None = None
    """Captured inputs that are not zero; `inputs` is their share."""
    read_by: tuple[Conv2d | Gemm, Mask] | None = None
    """The layer whose captured inputs the outputs are, and these; `outputs` is their share."""

    @property
    def weights(self) -> Structure | None:
        """Structure or density of the weights."""
        if self.structure is None and self.mask is not None:
            return self.mask.density
        return self.structure

    def of_dense_array(self, layer: Conv2d | Gemm) -> KofN | Unstructured | None:
        """What a dense array makes of the weights: k of n, or a number of non-zeros."""
        if self.structure is None and self.mask is None:
            return None
        if isinstance(self.structure, KofN):
            return self.structure
        if self.mask is not None:
            return Unstructured(self.mask.nonzeros)
        return Unstructured(round(layer.weight_elements * float(self.structure or 0.0)))


NO_ZEROS = LayerZeros()


def zeros_by_layer(
    workload: Workload,
    structures: Structures,
    masks: WeightMasks,
    activation_masks: ActivationMasks,
    densities: Densities,
) -> dict[str, LayerZeros]:
    """Layer name -> its zeros, for every layer with weights; captured inputs go before a density of them.

    Raises
    ------
    InvalidInputError
        A name that is no layer with weights, a mask of another shape, a row that breaks its k of n, a density outside
        [0, 1]; names layer and remedy.
    """
    layers = {layer.name: layer for layer in workload.layers if not isinstance(layer, VectorOp)}
    given = {"structure": structures, "mask": masks, "input mask": activation_masks, "input density": densities}
    for what, names in given.items():
        _check_names(what, names, layers, workload.name)
    _check_values(layers, structures, masks, activation_masks, densities)
    densities = {**densities, **{name: mask.density for name, mask in activation_masks.items()}}
    after = _output_readers(workload, densities)
    return {
        name: LayerZeros(
            structure=structures.get(name),
            mask=masks.get(name),
            inputs=densities.get(name),
            outputs=None if name not in after else densities[after[name]],
            input_mask=activation_masks.get(name),
            read_by=_captured_outputs(layer, layers.get(after.get(name, "")), activation_masks),
        )
        for name, layer in layers.items()
    }


def _check_values(
    layers: Mapping[str, Conv2d | Gemm],
    structures: Structures,
    masks: WeightMasks,
    activation_masks: ActivationMasks,
    densities: Densities,
) -> None:
    for name, density in (*densities.items(), *structures.items()):
        if not isinstance(density, KofN) and not 0 <= density <= 1:
            raise InvalidInputError(f"layer {name!r}: density = {density}: must lie in [0, 1]")
    for name, mask in masks.items():
        structure, layer = structures.get(name), layers[name]
        if isinstance(structure, KofN):
            check_k_of_n(mask, layer, structure)
        else:
            check_mask(mask, layer)
    for name, mask in activation_masks.items():
        check_activation_mask(mask, layers[name])


def _check_names(what: str, names: Iterable[str], layers: Mapping[str, Layer], workload: str) -> None:
    for name in names:
        if name not in layers:
            near = difflib.get_close_matches(name, list(layers), n=1, cutoff=0.0)
            hint = f"; nearest: {near[0]!r}" if near else ""
            raise InvalidInputError(f"{what} for {name!r}: workload {workload!r} has no such layer with weights{hint}")


def _output_readers(workload: Workload, densities: Densities) -> dict[str, str]:
    """Layer -> of the layers that read its output the one with the densest inputs, if all are known (not through
    additions or pooling)."""
    readers: dict[str, list[str]] = {}
    for producer, consumer in workload.edges:
        readers.setdefault(producer, []).append(consumer)
    return {
        producer: max(names, key=lambda name: densities[name])
        for producer, names in readers.items()
        if all(name in densities for name in names)
    }


def _captured_outputs(
    layer: Conv2d | Gemm, reader: Conv2d | Gemm | None, masks: ActivationMasks
) -> tuple[Conv2d | Gemm, Mask] | None:
    """The reader and its captured inputs, if they are all of the outputs and nothing else."""
    if reader is None or reader.name not in masks or prod(input_shape(reader)) != layer.output_elements:
        return None
    return reader, masks[reader.name]
