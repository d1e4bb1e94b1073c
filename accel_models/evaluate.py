"""simulate: a network on an accelerator, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from accel_models.accelerator import Accelerator
from accel_models.activation_masks import ActivationMasks
from accel_models.activity import Activity, matrix_activity, vector_activity
from accel_models.cost import LayerCost, NetworkCost, price_activity
from accel_models.energy import EnergyTable, area_mm2, energy_table
from accel_models.goal import DEFAULT_GOAL, Goal
from accel_models.layer_zeros import NO_ZEROS, Densities, LayerZeros, Structures, zeros_by_layer
from accel_models.layers import Layer, VectorOp
from accel_models.liveness import execution_order, live_bytes, peak_activation_bytes
from accel_models.masks import WeightMasks
from accel_models.nest_activity import nest_activity
from accel_models.reuse import keep_outputs
from accel_models.row_stationary_activity import row_stationary_activity
from accel_models.workload import Workload


def simulate(
    accelerator: Accelerator,
    workload: Workload,
    structures: Structures | None = None,
    goal: Goal = DEFAULT_GOAL,
    masks: WeightMasks | None = None,
    activation_masks: ActivationMasks | None = None,
    densities: Densities | None = None,
) -> NetworkCost:
    """Cycles, accesses and energy of every layer.

    Parameters
    ----------
    structures
        Layer name -> k-of-n structure of its weights, or their density; other layers are dense.
    goal
        What mappings are chosen for, and whether latency is `detailed` or `ideal`.
    masks
        Layer name -> its weights that are not zero. A sparse array then gives exact cycles beside the expected ones.
    activation_masks
        Layer name -> its captured inputs that are not zero, in one run or several: counts are means over the runs.
        Other layers have their density.
    densities
        Layer name -> share of its inputs that are not zero; other inputs are dense.

    Raises
    ------
    InvalidInputError
        A structure, mask or density names no layer of the workload, or does not fit it.
    NoMappingError
        A layer does not fit; the message names the buffer.
    """
    zeros = zeros_by_layer(workload, structures or {}, masks or {}, activation_masks or {}, densities or {})
    table, layers = energy_table(accelerator), execution_order(workload)
    activities = _activities(layers, zeros, accelerator, table, goal)
    if accelerator.keep_outputs:
        activities = keep_outputs(accelerator, workload, layers, activities)
    costs = tuple(
        LayerCost(layer.name, activity, price_activity(activity, accelerator, table))
        for layer, activity in zip(layers, activities, strict=True)
    )
    peak = peak_activation_bytes(live_bytes(workload))
    return NetworkCost(accelerator, workload.name, costs, area_mm2(accelerator), peak)


def _activities(
    layers: Sequence[Layer], zeros: Mapping[str, LayerZeros], accelerator: Accelerator, table: EnergyTable, goal: Goal
) -> list[Activity]:
    """Counts of every layer; layers that differ in their names alone are counted once."""
    found: dict[tuple[object, ...], tuple[str, Activity]] = {}
    activities = []
    for layer in layers:
        known = zeros.get(layer.name, NO_ZEROS)
        key = type(layer), known, *(value for field, value in vars(layer).items() if field != "name")
        if key not in found:
            found[key] = layer.name, _activity(layer, known, accelerator, table, goal)
        first, activity = found[key]
        if activity.notice is not None and first != layer.name:
            activity = replace(activity, notice=activity.notice.replace(first, layer.name, 1))
        activities.append(activity)
    return activities


def _activity(layer: Layer, zeros: LayerZeros, accelerator: Accelerator, table: EnergyTable, goal: Goal) -> Activity:
    if isinstance(layer, VectorOp):
        return vector_activity(layer, accelerator)
    if accelerator.lanes is not None:
        from accel_models.sparse_activity import sparse_activity  # kernels that dense arrays need not load

        return sparse_activity(layer, zeros, accelerator, table, goal)
    if accelerator.systolic:
        return matrix_activity(layer, zeros.of_dense_array(layer), accelerator, table, goal)
    if accelerator.pe_array.dataflow == "row_stationary":
        return row_stationary_activity(layer, zeros, accelerator, table, goal)
    return nest_activity(layer, zeros.of_dense_array(layer), accelerator, table, goal)
