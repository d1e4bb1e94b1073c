"""Where sparsity pays: one network on one accelerator at one density, pruned at every granularity.

Weights of every layer with parameters keep the same share at every granularity:

- `unstructured`: independent zeros;
- `weight`: k of the n weights of a row (the DPP's k of n);
- `n:m`: k of as many neighbours as the accelerator selects from (8 where it does not say);
- `kernel`: k of the kernels of an output channel, where it has more than one;
- `filter`: whole channels leave, the same share of all between layers (about sqrt(density)); network inputs and outputs
  stay, channels coupled by additions are taken to leave together.

Accuracy is not considered. Break-even is the largest density at which a granularity costs less than the dense
network, by bisection; k and the channels are whole numbers, so it lies at one of their steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

from accel_models.accelerator import Accelerator
from accel_models.cost import NetworkCost
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.goal import DEFAULT_GOAL, Goal
from accel_models.layer_zeros import Densities, Structure
from accel_models.layers import Conv2d, Gemm, Layer, VectorOp
from accel_models.sparse_prices import selected_from
from accel_models.sparsity import KofN, kernels_per_row
from accel_models.workload import Workload

Granularity = Literal["dense", "unstructured", "weight", "n:m", "kernel", "filter"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
BLOCK = 8
"""m of n:m where the accelerator does not say."""
STEPS = 7
"""Of a bisection: densities are told within 1 / 128."""
CHANNEL_STEPS = 10
LEAST = 1 / 128


@dataclass(frozen=True)
class Advice:
    """What one granularity costs.

    Attributes
    ----------
    density
        Share of the weights that really stays.
    imbalance_cycles
        Cycles that lanes wait for the slowest, expected.
    break_even_energy, break_even_latency
        Largest density at which less energy (time) is spent than for the dense network; None: not even at 1 / 128.
    notice
        What the accelerator could not exploit, of the first layer that it holds for.
    """

    granularity: Granularity
    density: float
    energy_pj: float
    latency_cycles: int
    latency_ms: float
    weight_bytes: int
    metadata_bytes: int
    imbalance_cycles: int
    break_even_energy: float | None
    break_even_latency: float | None
    notice: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Question:
    """What is compared."""

    accelerator: Accelerator
    workload: Workload
    densities: Densities | None
    goal: Goal

    def cost(self, granularity: Granularity, density: float) -> NetworkCost:
        workload, structures = prune(self.workload, granularity, density, block_of(self.accelerator))
        return simulate(self.accelerator, workload, structures, self.goal, densities=self.densities)


def compare_granularities(
    accelerator: Accelerator,
    workload: Workload,
    density: float,
    densities: Densities | None = None,
    goal: Goal = DEFAULT_GOAL,
) -> list[Advice]:
    """Every granularity at one density of the weights.

    Parameters
    ----------
    density : float
        Share of the weights that stays, in (0, 1].
    densities
        Layer name -> share of its inputs that are not zero.

    Raises
    ------
    InvalidInputError
        The density is out of range.
    """
    if not 0 < density <= 1:
        raise InvalidInputError(f"density = {density}: the share of weights that stays must lie in (0, 1]")
    question = _Question(accelerator, workload, densities, goal)
    dense = question.cost("dense", 1.0)
    return [_advice(question, granularity, density, dense) for granularity in GRANULARITIES]


def _advice(question: _Question, granularity: Granularity, density: float, dense: NetworkCost) -> Advice:
    cost = dense if granularity == "dense" else question.cost(granularity, density)
    found: dict[float, NetworkCost] = {}

    def at(share: float) -> NetworkCost:
        if share not in found:
            found[share] = question.cost(granularity, share)
        return found[share]

    energy = latency = None
    if granularity != "dense":
        energy = break_even(lambda share: at(share).energy_pj, dense.energy_pj)
        latency = break_even(lambda share: at(share).latency_cycles, dense.latency_cycles)
    kept = _kept_share(question, granularity, density)
    return Advice(
        granularity=granularity,
        density=kept,
        energy_pj=cost.energy_pj,
        latency_cycles=cost.latency_cycles,
        latency_ms=cost.latency_ms,
        weight_bytes=cost.weight_bytes,
        metadata_bytes=-(-weight_metadata_bits(cost) // 8),
        imbalance_cycles=sum(layer.activity.stall_cycles.get("imbalance", 0) for layer in cost.layers),
        break_even_energy=energy,
        break_even_latency=latency,
        notice=cost.notices[0] if cost.notices else None,
    )


def break_even(cost: Callable[[float], float], dense: float) -> float | None:
    """Largest density in [1 / 128, 1) that costs less than `dense`, if the cost falls with the density; None: none."""
    if cost(LEAST) >= dense:
        return None
    low, high = LEAST, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < dense else (low, middle)
    return low


def block_of(accelerator: Accelerator) -> int:
    """m of n:m: what the weights' format, the lanes or the PEs of the accelerator select from."""
    for choice in accelerator.dram.formats.get("weight", ()):
        if choice.name == "blocked_nm":
            return int(choice.options["block"])
    if accelerator.lanes is not None and selected_from(accelerator.lanes.array) > 1:
        return accelerator.lanes.array.segment or BLOCK
    return accelerator.weight_sparsity.gather or BLOCK


def weight_metadata_bits(cost: NetworkCost) -> int:
    """Of all weights as stored: the metadata's share of what DRAM delivers of them."""
    bits = 0
    for layer in cost.layers:
        access = layer.activity.accesses[cost.accelerator.dram.name].get("weight")
        if access is not None and access.moved_bits:
            bits += layer.activity.weight_bits * access.metadata_read_bits // access.moved_bits
    return bits


def prune(
    workload: Workload, granularity: Granularity, density: float, block: int = BLOCK
) -> tuple[Workload, Mapping[str, Structure]]:
    """The network as it is left, and the structures of its weights."""
    if granularity == "dense":
        return workload, {}
    if granularity == "filter":
        return thin(workload, channel_share(workload, density)), {}
    structures = {layer.name: _structure(layer, granularity, density, block) for layer in _prunable(workload)}
    return workload, {name: structure for name, structure in structures.items() if structure is not None}


def _prunable(workload: Workload) -> list[Conv2d | Gemm]:
    layers = [layer for layer in workload.layers if not isinstance(layer, VectorOp)]
    return [layer for layer in layers if isinstance(layer, Conv2d) or layer.b_source == "parameter"]


def _structure(layer: Conv2d | Gemm, granularity: Granularity, density: float, block: int) -> Structure | None:
    """None: the layer has nothing to prune at this granularity."""
    if granularity == "unstructured":
        return float(density)
    if granularity == "kernel":
        kernels, _ = kernels_per_row(layer)
        return KofN(granularity="kernel", k=_share(density, kernels), n=kernels) if kernels > 1 else None
    reduction = layer.as_gemm().k
    n = reduction if granularity == "weight" else min(block, reduction)
    return KofN(granularity="weight", k=_share(density, n), n=n)


def _share(density: float, count: int) -> int:
    return max(1, round(density * count))


def _kept_share(question: _Question, granularity: Granularity, density: float) -> float:
    workload = question.workload
    pruned, structures = prune(workload, granularity, density, block_of(question.accelerator))
    kept = sum(_kept(layer, structures.get(layer.name)) for layer in _prunable(pruned))
    return kept / sum(layer.weight_elements for layer in _prunable(workload))


def _kept(layer: Conv2d | Gemm, structure: Structure | None) -> float:
    if isinstance(structure, KofN):
        return layer.weight_elements // layer.as_gemm().k * structure.kept_per_row(layer)
    return layer.weight_elements * (1.0 if structure is None else structure)


def channel_share(workload: Workload, density: float) -> float:
    """Share of the channels that leaves this share of the weights, within 1 / 1024."""
    weights = sum(layer.weight_elements for layer in _prunable(workload))
    low, high = 0.0, 1.0
    for _ in range(CHANNEL_STEPS):
        middle = (low + high) / 2
        left = sum(layer.weight_elements for layer in _prunable(thin(workload, middle)))
        low, high = (middle, high) if left <= density * weights else (low, middle)
    return high if density == 1.0 else low


def thin(workload: Workload, share: float) -> Workload:
    """The network with `share` of its channels between layers; its inputs and outputs stay."""
    first, last = _ends(workload)
    layers = tuple(_thinned(layer, share, layer.name in first, layer.name in last) for layer in workload.layers)
    return replace(workload, layers=layers)


def _ends(workload: Workload) -> tuple[set[str], set[str]]:
    """Layers without a layer with weights before them, and without one after them."""
    names = [layer.name for layer in workload.layers]
    weighted = {layer.name for layer in workload.layers if not isinstance(layer, VectorOp)}
    edges = workload.edges or tuple(pairwise(names))
    fed, feeding = set[str](), set[str]()
    changed = True
    while changed:
        before = len(fed), len(feeding)
        fed |= {b for a, b in edges if a in weighted or a in fed}
        feeding |= {a for a, b in edges if b in weighted or b in feeding}
        changed = (len(fed), len(feeding)) != before
    return set(names) - fed, set(names) - feeding


def _thinned(layer: Layer, share: float, first: bool, last: bool) -> Layer:
    def kept(count: int, fixed: bool) -> int:
        return count if fixed else _share(share, count)

    if isinstance(layer, VectorOp):
        inner = 1.0 if first or last else share
        return replace(
            layer,
            input_elements=_share(inner, layer.input_elements),
            output_elements=_share(inner, layer.output_elements),
            operations=_share(inner, layer.operations),
        )
    if isinstance(layer, Gemm):
        if layer.b_source == "activation":
            return layer
        return replace(layer, n=kept(layer.n, last), k=kept(layer.k, first))
    if layer.groups > 1:
        groups = kept(layer.groups, first or last)
        return replace(layer, k=layer.k // layer.groups * groups, c=layer.c // layer.groups * groups, groups=groups)
    return replace(layer, k=kept(layer.k, last), c=kept(layer.c, first))
