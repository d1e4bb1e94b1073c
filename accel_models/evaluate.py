"""simulate: a network on an accelerator, layer by layer."""

from __future__ import annotations

from accel_models.accelerator import Accelerator
from accel_models.activity import Activity, matrix_activity, vector_activity
from accel_models.cost import LayerCost, NetworkCost, price_activity
from accel_models.energy import EnergyTable, area_mm2, energy_table
from accel_models.errors import InvalidInputError
from accel_models.layers import Layer, VectorOp
from accel_models.sparsity import KofN, WeightStructure
from accel_models.workload import Workload


def simulate(accelerator: Accelerator, workload: Workload, structures: WeightStructure | None = None) -> NetworkCost:
    """Cycles, accesses and energy of every layer.

    Parameters
    ----------
    structures
        Layer name -> k-of-n structure of its weights; other layers are dense.

    Raises
    ------
    InvalidInputError
        A structure names no layer of the workload or does not fit it.
    NoMappingError
        A layer does not fit; the message names the buffer.
    """
    structures = structures or {}
    known = {layer.name for layer in workload.layers if not isinstance(layer, VectorOp)}
    for name in structures:
        if name not in known:
            raise InvalidInputError(
                f"structure for {name!r}: workload {workload.name!r} has no such layer with weights"
            )
    table = energy_table(accelerator)
    layers = []
    for layer in workload.layers:
        activity = _activity(layer, structures.get(layer.name), accelerator, table)
        layers.append(LayerCost(layer.name, activity, price_activity(activity, accelerator, table)))
    return NetworkCost(accelerator, workload.name, tuple(layers), area_mm2(accelerator))


def _activity(layer: Layer, structure: KofN | None, accelerator: Accelerator, table: EnergyTable) -> Activity:
    if isinstance(layer, VectorOp):
        return vector_activity(layer, accelerator)
    return matrix_activity(layer, structure, accelerator, table)
