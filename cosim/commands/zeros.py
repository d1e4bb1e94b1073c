"""Masks and densities as `cosim simulate` takes them from files and options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.layers import Layer, VectorOp
from accel_models.masks import Mask, weight_mask, weight_shape
from accel_models.workload import Workload
from cosim.errors import ConfigError

ENDINGS = ("", ".weight", ".mask", ".weight_mask")
"""A tensor belongs to a layer by its name, or its name and one of these."""


@dataclass(frozen=True)
class ReadMasks:
    """Masks by layer, and what the user should know of the file."""

    masks: Mapping[str, Mask]
    notices: tuple[str, ...]


def read_masks(path: Path, workload: Workload) -> ReadMasks:
    """Masks of a safetensors file: tensors of 0 and 1 (or booleans), or weights, whose non-zeros count.

    Tensors with fewer than two axes (biases, normalisation) are passed over.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds a tensor of no layer, or none at all.
    InvalidInputError
        A tensor has another shape than the weights of its layer.
    """
    tensors = _read_tensors(path)
    layers = {layer.name: layer for layer in workload.layers if not isinstance(layer, VectorOp)}
    masks: dict[str, Mask] = {}
    weights = 0
    for name, values in tensors.items():
        if values.ndim < 2:
            continue
        layer = _layer_of(name, layers, path, workload.name)
        binary = values.dtype == np.bool_ or bool(np.isin(values, (0, 1)).all())
        weights += not binary
        masks[layer.name] = weight_mask(_shaped(values if binary else values != 0, layer), layer)
    if not masks:
        raise ConfigError(f"{path}: holds no tensor with two axes or more; give masks or weights by layer name")
    notices = [f"{path}: {weights} tensors hold weights, no masks; what is not zero counts as kept"] if weights else []
    return ReadMasks(masks, tuple(notices))


def _read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: is no safetensors file that can be read ({error})") from error


def _layer_of(name: str, layers: Mapping[str, Any], path: Path, workload: str) -> Any:
    for ending in ENDINGS:
        if name.endswith(ending) and name.removesuffix(ending) in layers:
            return layers[name.removesuffix(ending)]
    known = ", ".join(list(layers)[:4])
    raise ConfigError(f"{path}: tensor {name!r} is of no layer of {workload!r}; its layers with weights: {known}, …")


def _shaped(values: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """1 x 1 convolutions may come as matrices and the other way round."""
    shape = weight_shape(layer)
    squeezed = tuple(size for size in values.shape if size > 1) == tuple(size for size in shape if size > 1)
    return values.reshape(shape) if squeezed and values.size == int(np.prod(shape)) else values


def parse_densities(texts: Sequence[str], workload: Workload) -> dict[str, float]:
    """["conv2=0.4"], ["0.4"] for all layers, or a JSON file {layer: density}; later ones replace earlier ones.

    Raises
    ------
    ConfigError
        A text is none of these; names it and says how it should read. Ranges and names are checked by `simulate`.
    """
    found: dict[str, float] = {}
    for text in texts:
        if text.endswith(".json"):
            found |= _from_json(Path(text))
            continue
        name, separator, value = text.rpartition("=")
        try:
            density = float(value)
        except ValueError as error:
            raise ConfigError(
                f"--density {text!r}: use layer=0.4, 0.4 for all layers, or a JSON file {{layer: density}}"
            ) from error
        names = [name] if separator else [layer.name for layer in workload.layers if not isinstance(layer, VectorOp)]
        found |= dict.fromkeys(names, density)
    return found


def _from_json(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no JSON: {error}") from error
    numbers = isinstance(data, dict) and all(type(value) in (int, float) for value in data.values())
    if not numbers:
        raise ConfigError(f"{path}: must hold {{layer: density}}, a number for every layer")
    return {name: float(value) for name, value in data.items()}
