"""Design: an accelerator and a pruning plan, made from the parameters of a search."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from typing import Any

from torch import nn

from accel_models.accelerator import Accelerator, load_accelerator, parse_accelerator
from accel_models.config_files import set_by_path
from cosim.codesign.study import StudySpec, parse_mask
from cosim.errors import ConfigError
from cosim.pruning.apply import plan_of_groups, prunable_groups
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.plan import LayerPlan, MaskPlan, PruningPlan
from search import Categorical, SearchSpace


@dataclass(frozen=True)
class LayerFacts:
    """What a design needs to know of a convolution or linear layer."""

    name: str
    inputs: int
    """Input channels of one group of the convolution."""
    kernel: int
    """Weights of one kernel (R x S)."""
    sources: tuple[tuple[str, int], ...]
    """Channel groups that the inputs belong to, and how many of the inputs one channel of the group makes."""


@dataclass(frozen=True)
class NetworkFacts:
    """What a design needs to know of a network: prunable groups and layers."""

    name: str
    groups: tuple[ChannelGroup, ...]
    layers: tuple[LayerFacts, ...]


@dataclass(frozen=True)
class Design:
    """What one trial evaluates."""

    accelerator: Accelerator
    plan: PruningPlan

    def digest(self) -> str:
        """Content hash; designs of one digest are one evaluation, whatever they are called."""
        text = self.accelerator.model_dump_json(exclude={"name"}) + self.plan.to_json()
        return hashlib.sha256(text.encode()).hexdigest()


def network_facts(name: str, model: nn.Module, groups: Sequence[ChannelGroup]) -> NetworkFacts:
    """Facts of a dense network and its channel groups."""
    sources: dict[str, list[tuple[str, int]]] = {}
    for group in groups:
        for part in group.slices:
            if part.role == "in":
                layer = part.name.rpartition(".")[0]
                sources.setdefault(layer, []).append((group.name, len(part.indices[0])))
    layers = []
    for layer, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            layers.append(LayerFacts(layer, module.in_channels // module.groups, kernel, tuple(sources.get(layer, ()))))
        elif isinstance(module, nn.Linear):
            layers.append(LayerFacts(layer, module.in_features, 1, tuple(sources.get(layer, ()))))
    return NetworkFacts(name, tuple(groups), tuple(layers))


def prunable(network: NetworkFacts) -> tuple[ChannelGroup, ...]:
    """The groups that can lose channels."""
    return prunable_groups(network.groups)


def block_layers(spec: StudySpec, network: NetworkFacts) -> dict[str, tuple[LayerFacts, ...]]:
    """Layers of every block of the study.

    Raises
    ------
    ConfigError
        A pattern matches no layer, or two blocks share one.
    """
    blocks: dict[str, tuple[LayerFacts, ...]] = {}
    taken: dict[str, str] = {}
    for block, patterns in spec.plan.blocks.items():
        found = []
        for pattern in patterns:
            matches = [layer for layer in network.layers if fnmatch(layer.name, pattern)]
            if not matches:
                names = ", ".join(layer.name for layer in network.layers)
                raise ConfigError(
                    f"plan.blocks.{block}: pattern {pattern!r} matches no layer of {network.name}: {names}"
                )
            found += [layer for layer in matches if layer not in found]
        for layer in found:
            if layer.name in taken:
                raise ConfigError(
                    f"plan.blocks.{block}: layer {layer.name!r} is in block {taken[layer.name]!r} already"
                )
            taken[layer.name] = block
        blocks[block] = tuple(found)
    return blocks


def search_space(spec: StudySpec, network: NetworkFacts) -> SearchSpace:
    """Parameters: every hardware key, a share of filters per channel group, a mask and a weight width per block."""
    parameters = [
        Categorical(key, tuple(choice_label(c) for c in choices)) for key, choices in spec.hardware.vary.items()
    ]
    parameters += [Categorical(f"keep.{group.name}", tuple(spec.plan.keep)) for group in prunable(network)]
    for block in block_layers(spec, network):
        parameters.append(Categorical(f"mask.{block}", tuple(spec.plan.masks)))
        parameters.append(Categorical(f"bits.{block}", tuple(spec.plan.weight_bits)))
    return SearchSpace(parameters)


def initial_designs(spec: StudySpec, network: NetworkFacts) -> list[dict[str, Any]]:
    """Designs to start from: on the base accelerator the same share of filters everywhere, unmasked, at each share and
    weight width; at most half of the first generation."""
    plans, hardware = [], base_hardware(spec)
    for bits in sorted(spec.plan.weight_bits, reverse=True):
        for keep in sorted(spec.plan.keep, reverse=True):
            plan = hardware | {f"keep.{group.name}": keep for group in prunable(network)}
            for block in spec.plan.blocks:
                plan |= {f"bits.{block}": bits}
                plan |= {f"mask.{block}": "dense"} if "dense" in spec.plan.masks else {}
            plans.append(plan)
    return plans[: spec.search.population // 2]


def base_hardware(spec: StudySpec) -> dict[str, Any]:
    """Parameters that leave the base accelerator as it is; a key without its value among the choices is left out."""
    base = set_hardware(spec.hardware.base, {}).model_dump(exclude={"name"})
    same = {}
    for key, choices in spec.hardware.vary.items():
        for choice in choices:
            if set_hardware(spec.hardware.base, {key: choice}).model_dump(exclude={"name"}) == base:
                same[key] = choice_label(choice)
    return same


def choice_label(choice: Any) -> str | int | float | bool:
    """Composite values (a whole `weight_sparsity`) are searched under their JSON text."""
    return choice if isinstance(choice, str | int | float | bool) else json.dumps(choice, sort_keys=True)


def build_design(spec: StudySpec, network: NetworkFacts, params: Mapping[str, Any]) -> Design:
    """The accelerator and the plan that the parameters describe."""
    return Design(build_accelerator(spec, params), build_plan(spec, network, params))


def build_accelerator(spec: StudySpec, params: Mapping[str, Any]) -> Accelerator:
    """The base accelerator with the parameters' values."""
    vary = spec.hardware.vary
    values = {key: next(c for c in choices if choice_label(c) == params[key]) for key, choices in vary.items()}
    return set_hardware(spec.hardware.base, values)


def set_hardware(base: str, values: Mapping[str, Any]) -> Accelerator:
    """An accelerator with other values under some key paths, and a name that tells them."""
    data = json.loads(_base_json(base))
    for key, value in values.items():
        set_by_path(data, key, value, f"hardware.vary.{key}")
    if values:
        text = json.dumps(dict(values), sort_keys=True)
        data["name"] = f"{data['name']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return parse_accelerator(data, f"design on {base}")


@lru_cache(maxsize=16)
def _base_json(base: str) -> str:
    """Read once a process: a YAML file takes longer than the rest of a design."""
    return load_accelerator(base).model_dump_json(exclude_none=True)


def build_plan(spec: StudySpec, network: NetworkFacts, params: Mapping[str, Any]) -> PruningPlan:
    """The plan that the parameters describe; which filters stay is left to a criterion."""
    kept = {group.name: _share(params[f"keep.{group.name}"], group.size) for group in prunable(network)}
    removed = {group.name: group.size - kept[group.name] for group in prunable(network)}
    layers: dict[str, LayerPlan] = {
        layer.name: LayerPlan(weight_bits=spec.plan.weight_bits[-1]) for layer in network.layers
    }
    fewer = {name: k for name, k in kept.items() if removed[name]}
    pruned = plan_of_groups(network.name, network.groups, fewer)
    for name, layer in pruned.layers.items():
        layers[name] = layer.model_copy(update={"weight_bits": layers[name].weight_bits})
    for block, members in block_layers(spec, network).items():
        for member in members:
            mask = _mask_plan(params[f"mask.{block}"], member, removed)
            layers[member.name] = layers[member.name].model_copy(
                update={"mask": mask, "weight_bits": params[f"bits.{block}"]}
            )
    return pruned.model_copy(update={"layers": layers})


def _share(ratio: float, size: int) -> int:
    return max(1, round(ratio * size))


def _mask_plan(choice: str, layer: LayerFacts, removed: Mapping[str, int]) -> MaskPlan | None:
    """The mask of one layer; a layer with fewer weights per output than one tile stays dense."""
    parsed = parse_mask(choice)
    inputs = layer.inputs - sum(removed.get(group, 0) * width for group, width in layer.sources)
    if parsed is None:
        return None
    if parsed[0] == "kernel":
        k = _share(parsed[1], inputs)
        return MaskPlan(granularity="kernel", k=k, n=inputs) if k < inputs else None
    k, n = int(parsed[1]), int(parsed[2])
    return MaskPlan(granularity="weight", k=k, n=n) if n <= inputs * layer.kernel else None


def plan_summary(plan: PruningPlan) -> str:
    """One line for people: share of filters that stay, and how many layers have which mask and width."""
    filters = [layer.filters for layer in plan.layers.values() if layer.filters is not None]
    masks = Counter(
        f"{layer.mask.k}:{layer.mask.n} {layer.mask.granularity}s"
        for layer in plan.layers.values()
        if layer.mask is not None
    )
    bits = Counter(f"{layer.weight_bits} bits" for layer in plan.layers.values() if layer.weight_bits != 8)
    parts = [f"{name} in {count} layer{'s' * (count > 1)}" for name, count in [*masks.items(), *bits.items()]]
    if filters:
        kept = sum(f.k for f in filters) / sum(f.n for f in filters)
        parts.insert(0, f"{100 * kept:.0f} % of the filters of {len(filters)} layer{'s' * (len(filters) > 1)}")
    return "; ".join(parts) or "dense, 8 bits"
