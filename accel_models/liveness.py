"""Which tensors of a network live when, and how much memory they take together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accel_models.layers import Gemm, Layer, VectorOp
from accel_models.workload import Workload


@dataclass(frozen=True)
class Tensor:
    """The output of a layer, from its first element to its last reader.

    Attributes
    ----------
    first, last
        Positions, in execution order, of the producer and of the last consumer (the producer's own where nothing reads
        it: an output of the network leaves at once).
    """

    producer: str
    consumers: tuple[str, ...]
    first: int
    last: int
    elements: int
    bits: int

    @property
    def size_bytes(self) -> int:
        return -(-self.elements * self.bits // 8)


def execution_order(workload: Workload) -> tuple[Layer, ...]:
    """The layers in a topological order of the graph, as near to the order of the file as it allows."""
    position = {layer.name: i for i, layer in enumerate(workload.layers)}
    if all(position[producer] < position[consumer] for producer, consumer in workload.edges):
        return workload.layers
    import networkx as nx  # a tenth of a second that few workloads need

    order = nx.lexicographical_topological_sort(workload.graph, key=position.__getitem__)
    return tuple(workload.layers[position[name]] for name in order)


def tensors(workload: Workload) -> tuple[Tensor, ...]:
    """The output of every layer, in execution order."""
    layers = execution_order(workload)
    position = {layer.name: i for i, layer in enumerate(layers)}
    readers: dict[str, list[str]] = {layer.name: [] for layer in layers}
    for producer, consumer in workload.edges:
        readers[producer].append(consumer)
    return tuple(
        Tensor(
            producer=layer.name,
            consumers=tuple(sorted(readers[layer.name], key=position.__getitem__)),
            first=i,
            last=max([i, *(position[name] for name in readers[layer.name])]),
            elements=layer.output_elements,
            bits=layer.bits.output,
        )
        for i, layer in enumerate(layers)
    )


def live_bytes(workload: Workload) -> dict[str, int]:
    """Layer -> bytes of all activations that exist while it runs: what it reads, what it writes, what waits.

    What a layer without producer reads is the network's input.
    """
    layers, outputs = execution_order(workload), tensors(workload)
    fed = {consumer for _, consumer in workload.edges}
    live = {}
    for i, layer in enumerate(layers):
        size = sum(tensor.size_bytes for tensor in outputs if tensor.first <= i <= tensor.last)
        live[layer.name] = size + (0 if layer.name in fed else -(-input_elements(layer) * layer.bits.input // 8))
    return live


def input_elements(layer: Layer) -> int:
    """Distinct elements that a layer reads of its input."""
    if isinstance(layer, VectorOp):
        return layer.input_elements
    return layer.groups * layer.footprint().elements


def peak_activation_bytes(live: Mapping[str, int]) -> int:
    """The most that is alive at once: a chip with so much memory never spills an activation."""
    return max(live.values())


def reads_weights_from_a_layer(layer: Layer) -> bool:
    """Whether B of a product is an activation."""
    return isinstance(layer, Gemm) and layer.b_source == "activation"
