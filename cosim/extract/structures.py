"""What a plan and a pruned network say about the weights of a workload: k-of-n structures, actual masks, repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from accel_models.errors import InvalidInputError
from accel_models.layers import Layer, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.errors import PruningError
from cosim.pruning.dpp import find_masks
from cosim.pruning.plan import PruningPlan


def weight_structures(plan: PruningPlan) -> dict[str, KofN]:
    """The k-of-n structure of every masked layer of a plan."""
    return {
        name: KofN(granularity=layer.mask.granularity, k=layer.mask.k, n=layer.mask.n)
        for name, layer in plan.layers.items()
        if layer.mask is not None
    }


def weight_masks(model: nn.Module) -> dict[str, NDArray[np.bool_]]:
    """The actual masks of a network, of the weight's shape, true where a weight stays.

    Layers with a KofNMask have the mask that it would keep now; a frozen mask shows as zeros among the weights. Layers
    without zeros are left out.
    """
    live = {name: mask.mask().cpu().numpy() for name, mask in find_masks(model).items()}
    found: dict[str, NDArray[np.bool_]] = {}
    for name, module in model.named_modules():
        if name in live:
            found[name] = live[name]
        elif isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            mask = module.weight.detach().cpu().numpy() != 0.0
            if not mask.all():
                found[name] = mask
    return found


def repeated_layers(workload: Workload) -> dict[str, tuple[str, ...]]:
    """First layer of each shape -> the names of all layers that are equal but for the name, in order of execution.

    What holds for one holds for all: cost models need to see each shape once.
    """
    groups: dict[Layer, list[str]] = {}
    for layer in workload.layers:
        groups.setdefault(replace(layer, name="any"), []).append(layer.name)
    return {names[0]: tuple(names) for names in groups.values()}


def check_structures(workload: Workload, structures: Mapping[str, KofN]) -> None:
    """Refuse a plan whose masks do not fit the layers.

    Raises
    ------
    PruningError
        The message names layer, n and what would fit.
    """
    layers = {layer.name: layer for layer in workload.layers}
    for name, structure in structures.items():
        layer = layers.get(name)
        if layer is None or isinstance(layer, VectorOp):
            raise PruningError(f"layers.{name}: the network has no such convolution or linear layer")
        try:
            structure.kept_per_row(layer)
        except InvalidInputError as error:
            raise PruningError(f"layers.{name}.mask: {error}") from error
