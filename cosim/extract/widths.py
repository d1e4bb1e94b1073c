"""Bits of the activations between the layers of a workload, as a plan has them.

A layer reads its inputs at the plan's bits. A tensor is written at the widest that one of its readers takes, 8 bits at
the end of the network. Vector work (pooling, additions) reads and writes the width that its own readers take.
"""

from __future__ import annotations

from dataclasses import replace

from accel_models.layers import Bits, Layer, VectorOp
from accel_models.workload import Workload
from cosim.pruning.plan import PruningPlan


def with_activation_bits(workload: Workload, plan: PruningPlan) -> Workload:
    """The workload with the input and output bits that the plan gives; 8 where it gives none."""
    if all(layer.activation_bits is None for layer in plan.layers.values()):
        return workload
    readers: dict[str, list[str]] = {layer.name: [] for layer in workload.layers}
    for producer, consumer in workload.edges:
        readers[producer].append(consumer)
    found: dict[str, Layer] = {}
    for layer in reversed(workload.layers):  # they stand in order of execution: readers come first
        written = max((found[name].bits.input for name in readers[layer.name]), default=Bits().output)
        read = written if isinstance(layer, VectorOp) else _input_bits(layer.name, plan)
        found[layer.name] = replace(layer, bits=replace(layer.bits, input=read, output=written))
    return replace(workload, layers=tuple(found[layer.name] for layer in workload.layers))


def _input_bits(name: str, plan: PruningPlan) -> int:
    """A module that runs again (NAME#1) has the bits of NAME."""
    return plan[name.partition("#")[0]].activation_bits or Bits().input
