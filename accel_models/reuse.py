"""Keep the output of a layer on chip for the layers that read it, when it fits beside what they work on.

A tensor stays in the memory that holds inputs (the outermost on chip) from its producer to its last reader, if at each
layer in between the tensors kept so far, what the layer itself has there, and this tensor fit together. It is then
written there instead of to DRAM, once, and its readers fetch nothing of it; all other traffic stays as it was.

Earlier tensors are kept first; none is moved out for a later one. Not kept: outputs of the network, and tensors that
attention multiplies with each other (their second operand passes as weights). The first loads of a reader count as
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from accel_models.accelerator import Accelerator
from accel_models.activity import Access, Accesses, Activity
from accel_models.layers import Layer
from accel_models.liveness import Tensor, input_elements, reads_weights_from_a_layer, tensors
from accel_models.workload import Workload


def keep_outputs(
    accelerator: Accelerator, workload: Workload, layers: Sequence[Layer], activities: Sequence[Activity]
) -> list[Activity]:
    """The activities with the traffic that remains; `layers` in execution order."""
    kept = kept_tensors(accelerator, workload, layers, activities)
    written = {tensor.producer for tensor in kept}
    read: dict[str, list[Tensor]] = {}
    for tensor in kept:
        for consumer in tensor.consumers:
            read.setdefault(consumer, []).append(tensor)
    changed = []
    for layer, activity in zip(layers, activities, strict=True):
        if layer.name in read:
            activity = _without_input(activity, _share(layer, read[layer.name]), accelerator)
        if layer.name in written:
            activity = _without_output(activity, accelerator)
        changed.append(activity)
    return changed


def kept_tensors(
    accelerator: Accelerator, workload: Workload, layers: Sequence[Layer], activities: Sequence[Activity]
) -> list[Tensor]:
    """The tensors that stay on chip."""
    by_name = {layer.name: layer for layer in layers}
    capacity = accelerator.buffer("input").capacity_bytes or 0
    room = [capacity - activity.resident_bytes for activity in activities]
    kept = []
    for tensor in tensors(workload):
        readers = [by_name[name] for name in tensor.consumers]
        if not readers or any(reads_weights_from_a_layer(reader) for reader in readers):
            continue
        needs = {
            i: tensor.size_bytes - _replaced(tensor, layers[i], activities[i])
            for i in range(tensor.first, tensor.last + 1)
        }
        if all(room[i] >= need for i, need in needs.items()):
            kept.append(tensor)
            for i, need in needs.items():
                room[i] -= need
    return kept


def _replaced(tensor: Tensor, layer: Layer, activity: Activity) -> int:
    """Bytes of a reader's own input tile that are part of the tensor when all of its input is."""
    whole = layer.name in tensor.consumers and tensor.elements >= input_elements(layer)
    return min(tensor.size_bytes, activity.resident_input_bytes) if whole else 0


def _share(layer: Layer, held: Sequence[Tensor]) -> float:
    """Share of a layer's input that lies on chip."""
    return min(1.0, sum(tensor.elements for tensor in held) / input_elements(layer))


def _without_input(activity: Activity, share: float, accelerator: Accelerator) -> Activity:
    """Fewer reads of DRAM, and fewer writes of what they brought."""
    dram, buffer = accelerator.dram.name, accelerator.buffer("input").name
    before = activity.accesses[dram]["input"]
    accesses = dict(activity.accesses)
    accesses[dram] = {**accesses[dram], "input": _scaled(before, reads=1.0 - share)}
    if buffer in accesses and "input" in accesses[buffer]:
        accesses[buffer] = {**accesses[buffer], "input": _scaled(accesses[buffer]["input"], writes=1.0 - share)}
    saved = before.read_bits - accesses[dram]["input"].read_bits
    return _faster(replace(activity, accesses=accesses), saved, "dram_fill", accelerator)


def _without_output(activity: Activity, accelerator: Accelerator) -> Activity:
    """The final outputs are written to the memory that keeps them instead of to DRAM."""
    dram, buffer = accelerator.dram.name, accelerator.buffer("input").name
    output = activity.accesses[dram]["output"]
    final, bits = activity.final_writes, activity.final_write_bits
    accesses = dict(activity.accesses)
    left = replace(output, writes=output.writes - final, write_bits=output.write_bits - bits)
    accesses[dram] = {**accesses[dram], "output": left}
    held: Accesses = accesses.get(buffer, {})
    before = held.get("input", Access())
    put = replace(before, writes=before.writes + final, write_bits=before.write_bits + bits)
    accesses[buffer] = {**held, "input": put}
    faster = _faster(replace(activity, accesses=accesses), bits, "dram_drain", accelerator)
    return replace(faster, stall_cycles={**faster.stall_cycles, "dram_drain": 0})


def _scaled(access: Access, reads: float = 1.0, writes: float = 1.0) -> Access:
    return replace(
        access,
        reads=round(access.reads * reads),
        read_bits=round(access.read_bits * reads),
        writes=round(access.writes * writes),
        write_bits=round(access.write_bits * writes),
    )


def _faster(activity: Activity, saved_bits: int, exposed: str, accelerator: Accelerator) -> Activity:
    """Less waiting for DRAM: what was saved beyond what had been exposed at the `exposed` end."""
    stalls: Mapping[str, int] = activity.stall_cycles
    saved = int(saved_bits / (8.0 * (accelerator.dram.bandwidth_bytes_per_cycle or 0.0)))
    late = max(0, stalls.get("dram_bandwidth", 0) - max(0, saved - stalls.get(exposed, 0)))
    return replace(activity, stall_cycles={**stalls, "dram_bandwidth": late})
