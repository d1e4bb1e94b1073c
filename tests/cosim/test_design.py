"""Designs from parameters: every one legal, equal ones known as equal, blocks that mean what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from accel_models.energy import area_mm2
from cosim.codesign.check import check_study, least_area_mm2
from cosim.codesign.design import (
    NetworkFacts,
    block_layers,
    build_accelerator,
    build_design,
    build_plan,
    network_facts,
    plan_summary,
    prunable,
    search_space,
    set_hardware,
)
from cosim.codesign.evaluator import price_plan
from cosim.codesign.study import StudySpec
from cosim.errors import ConfigError
from cosim.networks import build_network
from cosim.pruning.apply import attach_plan, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.plan import MaskPlan, PruningPlan
from tests.cosim.conftest import tiny

EXAMPLE = torch.zeros(1, 1, 8, 8)


def spec_of(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(tiny(**changes))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_network("digits_resnet").eval()


@pytest.fixture(scope="module")
def groups(model: nn.Module) -> Sequence[ChannelGroup]:
    return trace_channel_groups(model, EXAMPLE)


@pytest.fixture(scope="module")
def network(model: nn.Module, groups: Sequence[ChannelGroup]) -> NetworkFacts:
    return network_facts("digits_resnet", model, groups)


def first(spec: StudySpec, network: NetworkFacts, **changes: Any) -> dict[str, Any]:
    """The first choice of every parameter, changed; `__` stands for a dot."""
    params = {p.name: p.choices[0] for p in search_space(spec, network).parameters}  # type: ignore[union-attr]
    return params | {name.replace("__", "."): value for name, value in changes.items()}


def test_every_sampled_parameter_set_builds_a_plan_that_the_network_can_have(
    model: nn.Module, groups: tuple[ChannelGroup, ...], network: NetworkFacts
) -> None:
    spec = spec_of(plan__masks=["dense", "weight 4:8", "weight 3:7", "weight 1:64", "kernel 0.5", "kernel 0.01"])
    space, rng = search_space(spec, network), np.random.default_rng(0)
    for _ in range(200):
        plan = build_plan(spec, network, space.sample(rng))
        assert PruningPlan.model_validate_json(plan.to_json()) == plan
        pruned = remove_filters(model, EXAMPLE, plan, groups, verify=False)
        attach_plan(pruned, plan, seed=0)


def test_every_sampled_design_can_be_priced(
    model: nn.Module, groups: tuple[ChannelGroup, ...], network: NetworkFacts
) -> None:
    spec, rng = spec_of(), np.random.default_rng(1)
    space = search_space(spec, network)
    for _ in range(30):
        design = build_design(spec, network, space.sample(rng))
        cost = price_plan(design, model, EXAMPLE, groups)
        assert cost.energy_pj > 0
        assert cost.latency_cycles > 0


def test_parameters_mean_what_they_say(network: NetworkFacts) -> None:
    spec = spec_of()
    params = first(
        spec,
        network,
        pe_array__rows=32,
        memories__dram__bandwidth_bytes_per_cycle=16,
        weight_sparsity='{"action": "skip", "format": "k_of_n", "gather": 8}',
        keep__conv1=0.5,
        mask__stage0="kernel 0.25",
        bits__stage1=8,
    )
    design = build_design(spec, network, params)
    assert design.accelerator.pe_array.rows == 32
    assert design.accelerator.dram.bandwidth_bytes_per_cycle == 16
    assert design.accelerator.weight_sparsity.gather == 8
    filters = design.plan["conv1"].filters
    assert filters is not None
    assert (filters.k, filters.n) == (8, 16)
    assert design.plan["stages.0.conv2"].filters == filters
    assert design.plan["stages.0.conv1"].mask == MaskPlan(granularity="kernel", k=2, n=8)
    assert design.plan["stages.0.conv1"].weight_bits == 4
    assert design.plan["stages.1.conv1"].weight_bits == 8
    assert design.plan["linear"].weight_bits == 8


def test_equal_designs_have_one_digest_and_others_another(network: NetworkFacts) -> None:
    spec = spec_of(
        hardware__vary={"weight_sparsity": [{"action": "none"}, {"action": "none", "format": "dense"}]},
        plan__masks=["dense", "kernel 1.0", "weight 1:4096", "weight 2:8"],
        plan__keep=[1.0, 0.999, 0.5],
    )
    same = [
        build_design(spec, network, first(spec, network, **changes)).digest()
        for changes in (
            {},
            {"mask__stage0": "kernel 1.0"},
            {"mask__stage1": "weight 1:4096"},
            {"keep__conv1": 0.999},
            {"weight_sparsity": '{"action": "none", "format": "dense"}'},
        )
    ]
    assert len(set(same)) == 1
    other = [
        build_design(spec, network, first(spec, network, **changes)).digest()
        for changes in ({"mask__stage0": "weight 2:8"}, {"keep__conv1": 0.5}, {"bits__stage0": 8})
    ]
    assert len({*other, same[0]}) == 4


def test_every_hardware_value_changes_the_digest(network: NetworkFacts) -> None:
    spec = spec_of()
    base = first(spec, network)
    digests = {build_design(spec, network, base).digest()}
    count = 1
    for parameter in search_space(spec, network).parameters:
        if parameter.name in spec.hardware.vary:
            for choice in parameter.choices[1:]:  # type: ignore[union-attr]
                digests.add(build_design(spec, network, base | {parameter.name: choice}).digest())
                count += 1
    assert len(digests) == count


def test_designs_have_names_of_their_own_and_files_that_read_back(network: NetworkFacts) -> None:
    spec = spec_of()
    one = build_accelerator(spec, first(spec, network))
    two = build_accelerator(spec, first(spec, network, pe_array__rows=32))
    assert one.name != two.name
    assert one.name.startswith("edge_os_16x16-")


def test_a_pattern_that_matches_nothing_is_refused_with_the_layers_there_are(network: NetworkFacts) -> None:
    with pytest.raises(
        ConfigError, match=r"plan\.blocks\.b: pattern 'stages\.9\.\*' matches no layer.*stages\.0\.conv1"
    ):
        block_layers(spec_of(plan__blocks={"b": ["conv1", "stages.9.*"]}), network)


def test_two_blocks_must_not_share_a_layer(network: NetworkFacts) -> None:
    with pytest.raises(ConfigError, match=r"plan\.blocks\.b: layer 'stages\.0\.conv1' is in block 'a' already"):
        block_layers(spec_of(plan__blocks={"a": ["stages.0.*"], "b": ["stages.*.conv1"]}), network)


def test_patterns_of_one_block_may_overlap(network: NetworkFacts) -> None:
    blocks = block_layers(spec_of(plan__blocks={"a": ["stages.0.*", "stages.*.conv1"]}), network)
    names = [layer.name for layer in blocks["a"]]
    assert names == ["stages.0.conv1", "stages.0.conv2", "stages.1.conv1", "stages.2.conv1"]


def test_locked_groups_are_not_searched(network: NetworkFacts) -> None:
    names = [group.name for group in prunable(network)]
    assert "linear" not in names
    assert "input" not in names
    assert {f"keep.{name}" for name in names} < set(search_space(spec_of(), network).names)


class Flat(nn.Module):
    """A classifier that reads 4 x 4 pixels of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.flat, self.linear = nn.Conv2d(1, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flat(self.conv(x)))


def test_a_mask_on_a_layer_that_reads_flattened_channels_counts_pixels() -> None:
    model = Flat().eval()
    groups = trace_channel_groups(model, EXAMPLE)
    spec = spec_of(plan__blocks={"all": ["*"]}, plan__masks=["kernel 0.5"], plan__keep=[0.5])
    network = network_facts("flat", model, groups)
    plan = build_plan(spec, network, first(spec, network))
    assert plan["linear"].mask == MaskPlan(granularity="kernel", k=32, n=64)
    attach_plan(remove_filters(model, EXAMPLE, plan, groups), plan, seed=0)


def test_the_least_area_is_that_of_the_smallest_of_all_designs() -> None:
    vary: dict[str, list[Any]] = {
        "pe_array.rows": [32, 8],
        "pe_array.dataflow": ["weight_stationary", "input_stationary"],
        "memories.input_buffer.capacity_bytes": [8192, 2048],
        "memories.input_buffer.width_bits": [64, 128],
        "memories.output_buffer.capacity_bytes": [4096, 16384],
        "memories.dram.bandwidth_bytes_per_cycle": [2, 8],
        "weight_sparsity": [{"action": "skip", "format": "k_of_n", "gather": 64}, {"action": "none"}],
    }
    hardware = spec_of(hardware__vary=vary).hardware
    designs = [set_hardware(hardware.base, dict(zip(vary, values, strict=True))) for values in product(*vary.values())]
    areas = [area_mm2(design) for design in designs]
    assert least_area_mm2(hardware, 0.0) == pytest.approx(min(areas), rel=1e-12)
    some = sorted(areas)[len(areas) // 2]
    found = least_area_mm2(hardware, some)
    assert found is not None
    assert found <= some


def test_an_area_that_no_design_keeps_is_refused_with_the_least_one() -> None:
    spec = spec_of(limits__area_mm2=1e-3)
    least = least_area_mm2(spec.hardware, 0.0)
    with pytest.raises(ConfigError, match=rf"x\.yaml: limits\.area_mm2: 0\.001 mm2 is less than the {least:.4g} mm2"):
        check_study(spec, "x.yaml")


def test_too_many_designs_are_not_refused_for_their_area() -> None:
    vary = {f"energy.{name}": [{"value": v, "source": "x"} for v in range(1, 200)] for name in ("add", "multiply_8")}
    assert least_area_mm2(spec_of(hardware__vary=vary).hardware, 0.0) is None


def test_a_summary_says_what_differs_from_dense(network: NetworkFacts) -> None:
    spec = spec_of()
    dense = {name: 1.0 for name in search_space(spec, network).names if name.startswith("keep.")}
    params = first(spec, network) | dense | {f"bits.stage{i}": 8 for i in range(3)}
    assert plan_summary(build_plan(spec, network, params)) == "dense, 8 bits"
    assert "2:8" in plan_summary(build_plan(spec, network, params | {"mask.stage1": "weight 2:8"}))
    assert json.loads(build_plan(spec, network, params).to_json())["network"] == "digits_resnet"
