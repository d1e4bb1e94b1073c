"""Masks and densities as `cosim simulate` takes them from files and options, and captured activations as a file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel_models.accelerator import Accelerator
from accel_models.activation_masks import ActivationMasks, activation_mask
from accel_models.cost import NetworkCost
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.goal import DEFAULT_GOAL, Goal
from accel_models.layer_zeros import Densities, Structures
from accel_models.layers import Layer, VectorOp
from accel_models.masks import WORD_BITS, Mask, WeightMasks, check_k_of_n, weight_mask, weight_shape
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.errors import ConfigError
from cosim.files import replace_file

ENDINGS = ("", ".weight", ".mask", ".weight_mask")
"""A tensor belongs to a layer by its name, or its name and one of these."""
_PACKED = "activation_masks"
"""Entry of the file's metadata: one, for the format keeps no order of several."""


@dataclass(frozen=True, kw_only=True)
class ZeroFiles:
    """Files and options of the command line that say where zeros are."""

    plan: Path | None = None
    masks: Path | None = None
    activation_masks: Path | None = None
    densities: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Zeros:
    """What is known of the zeros of a workload, and what the user should know of the files that say so."""

    structures: Structures
    masks: WeightMasks
    activation_masks: ActivationMasks
    densities: Densities
    notices: tuple[str, ...] = ()

    def estimate(self) -> Zeros:
        """The same zeros by their densities, and k of n, alone."""
        weights = {name: mask.density for name, mask in self.masks.items()}
        inputs = {name: mask.density for name, mask in self.activation_masks.items()}
        return Zeros(
            structures={**weights, **self.structures},
            masks={},
            activation_masks={},
            densities={**self.densities, **inputs},
        )


def simulate_zeros(machine: Accelerator, workload: Workload, zeros: Zeros, goal: Goal = DEFAULT_GOAL) -> NetworkCost:
    """`simulate` with all that is known of zeros."""
    return simulate(
        machine, workload, zeros.structures, goal, zeros.masks, zeros.activation_masks, densities=zeros.densities
    )


def read_zeros(files: ZeroFiles, workload: Workload, structures: Structures) -> Zeros:
    """Read all files; a mask without the structure of the plan counts as it is, and the user is told.

    Raises
    ------
    ConfigError, InvalidInputError
        As the functions that read each kind.
    """
    none = ReadMasks({}, ())
    weights = none if files.masks is None else read_masks(files.masks, workload)
    inputs = none if files.activation_masks is None else read_activation_masks(files.activation_masks, workload)
    broken = _broken(structures, weights.masks, workload)
    return Zeros(
        structures={name: structure for name, structure in structures.items() if name not in broken},
        masks=weights.masks,
        activation_masks=inputs.masks,
        densities=parse_densities(files.densities, workload),
        notices=(*weights.notices, *inputs.notices, *broken.values()),
    )


def _broken(structures: Structures, masks: WeightMasks, workload: Workload) -> dict[str, str]:
    """Layer -> notice, where a mask does not have the k of n that the plan says."""
    found = {}
    for layer in workload.layers:
        structure = structures.get(layer.name)
        if isinstance(layer, VectorOp) or layer.name not in masks or not isinstance(structure, KofN):
            continue
        try:
            check_k_of_n(masks[layer.name], layer, structure)
        except InvalidInputError as error:
            found[layer.name] = f"{error}: it counts as an unstructured mask"
    return found


def useless_zeros(machine: Accelerator, zeros: Zeros) -> tuple[str, ...]:
    """A notice for an array that makes nothing of zero inputs."""
    array = None if machine.lanes is None else machine.lanes.array
    seen = machine.gate_inputs or (array is not None and (array.skips("input") or array.gates("input")))
    stored = any(operand in memory.formats for memory in machine.memories for operand in ("input", "output"))
    if seen or stored or not (zeros.activation_masks or zeros.densities):
        return ()
    return (f"{machine.name} makes nothing of zero inputs: their masks and densities change nothing",)


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


def write_activation_masks(path: Path, masks: Mapping[str, Mask], origin: Mapping[str, Any]) -> None:
    """Write captured activations atomically: the packed words of every layer; `origin` says what was run on what."""
    from safetensors.numpy import save_file

    packed = {"origin": dict(origin), "shapes": {name: mask.shape for name, mask in masks.items()}}
    metadata = {_PACKED: json.dumps(packed, sort_keys=True)}
    words = {name: np.ascontiguousarray(mask.words) for name, mask in masks.items()}
    replace_file(path, lambda target: save_file(words, target, metadata))


def read_activation_masks(path: Path, workload: Workload) -> ReadMasks:
    """Captured inputs by layer: what `write_activation_masks` wrote, or tensors of 0 and 1, [images, C, H, W] each.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds a tensor of no layer, or none at all; its packed words do not fit its shapes.
    InvalidInputError
        A mask has another shape than the inputs of its layer, or an element that is neither 0 nor 1.
    """
    tensors, packed = _read_tensors(path), _read_packed(path)
    layers = {layer.name: layer for layer in workload.layers if not isinstance(layer, VectorOp)}
    masks: dict[str, Mask] = {}
    for name, values in tensors.items():
        layer = _layer_of(name, layers, path, workload.name)
        shape = packed.get("shapes", {}).get(name)
        masks[layer.name] = activation_mask(values, layer) if shape is None else _unpacked(path, name, values, shape)
    if not masks:
        raise ConfigError(f"{path}: holds no masks; `cosim capture` writes them")
    without = [name for name in layers if name not in masks]
    notices = [
        f"{path}: no masks of {len(without)} layers ({', '.join(without[:4])}{', …' if len(without) > 4 else ''}): "
        "their inputs have the density given, or are dense"
    ]
    return ReadMasks(masks, tuple(notices) if without else ())


def _read_packed(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return dict(json.loads((file.metadata() or {}).get(_PACKED, "{}")))


def _unpacked(path: Path, name: str, words: NDArray[Any], shape: Sequence[int]) -> Mask:
    """The mask of packed words; bits past the end of a row would be counted."""
    elements = math.prod(shape) if all(isinstance(size, int) for size in shape) else 0
    whole = elements > 0 and words.dtype == np.uint64 and words.ndim == 2 and words.size and elements % len(words) == 0
    row_bits = elements // len(words) if whole else 0
    past = WORD_BITS * words.shape[1] - row_bits if whole else -1
    if not 0 <= past < WORD_BITS or (past and np.any(words[:, -1] >> np.uint64(WORD_BITS - past))):
        raise ConfigError(f"{path}: {name}: its words do not hold a mask of shape {tuple(shape)}; capture it again")
    return Mask(words, row_bits, tuple(shape))


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
