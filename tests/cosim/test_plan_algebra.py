"""Plans on networks: they are checked, inverted, and two in a row are one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from cosim.errors import PruningError
from cosim.networks import build_network
from cosim.networks.registry import network_example
from cosim.pruning.apply import apply_plan, choose_filters, plan_of_groups, prunable_groups
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan
from cosim.pruning.plan_algebra import check_plan, compose_plans, remaining_filters, remaining_positions

NETWORKS = [
    "digits_resnet", "resnet20_cifar", "gpt_small",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet40_cifar", "vit_tiny")),
]  # fmt: skip


def random_plan(network: str, model: nn.Module, groups: list[ChannelGroup], seed: int) -> PruningPlan:
    draw = random.Random(seed)
    kept = {g.name: draw.randint(max(1, g.size // 2), g.size) for g in prunable_groups(groups)}
    generator = torch.Generator().manual_seed(seed)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    scores = {n: torch.rand(model.get_submodule(n).weight.shape[0], generator=generator) for n in layers}
    return choose_filters(plan_of_groups(network, groups, kept), groups, scores)


@pytest.mark.parametrize("name", NETWORKS)
def test_two_plans_in_a_row_are_one(name: str) -> None:
    model, example = build_network(name).eval(), network_example(name)
    groups = trace_channel_groups(model, example)
    first = random_plan(name, model, groups, 0)
    smaller = apply_plan(model, example, first)
    inner = trace_channel_groups(smaller, example)
    second = random_plan(name, smaller, inner, 1)
    both = compose_plans(first, groups, second, inner)
    one, two = apply_plan(model, example, both).state_dict(), apply_plan(smaller, example, second).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert both.network == name


@pytest.mark.parametrize("name", NETWORKS)
def test_what_remains_says_where_every_weight_came_from(name: str) -> None:
    model, example = build_network(name).eval(), network_example(name)
    groups = trace_channel_groups(model, example)
    plan = random_plan(name, model, groups, 3)
    before, after = model.state_dict(), apply_plan(model, example, plan).state_dict()
    for (tensor, dim), kept in remaining_positions(plan, groups).items():
        before[tensor] = before[tensor].index_select(dim, torch.tensor(kept))
    assert all(torch.equal(before[key], after[key]) for key in before)
    filters = remaining_filters(plan, groups)
    assert all(len(kept) == len(after[f"{layer}.weight"]) for layer, kept in filters.items())
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sorted(filters) == sorted(layers)


def test_masks_and_bits_of_the_second_plan_count() -> None:
    model, example = build_network("digits_resnet").eval(), network_example("digits_resnet")
    groups = trace_channel_groups(model, example)
    mask = MaskPlan(granularity="weight", k=1, n=2)
    first = PruningPlan(network="x", layers={"conv1": LayerPlan(weight_bits=4), "linear": LayerPlan(weight_bits=3)})
    second = PruningPlan(network="x", layers={"conv1": LayerPlan(weight_bits=2, mask=mask)})
    both = compose_plans(first, groups, second, groups)
    assert (both["conv1"], both["linear"]) == (second["conv1"], first["linear"])


def _fits(**layers: LayerPlan) -> PruningPlan:
    return PruningPlan(network="digits_resnet", layers={n.replace("__", "."): entry for n, entry in layers.items()})


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_fits(stages__0__conv1=LayerPlan(filters=FilterPlan(k=1, n=9))), r"filters\.n = 9, .* has 16 filters"),
        (_fits(conv7=LayerPlan()), "layers.conv7: the network has no such"),
        (_fits(conv1=LayerPlan(mask=MaskPlan(granularity="kernel", k=1, n=2))), r"layers\.conv1.*n = 2"),
        (PruningPlan(network="x", groups={"linear": FilterPlan(k=1, n=10)}), "groups.linear: .*network output"),
    ],
)
def test_a_plan_for_another_network_is_refused_by_entry(plan: PruningPlan, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        check_plan(plan, build_network("digits_resnet"), network_example("digits_resnet"))


def test_masks_are_checked_on_what_remains() -> None:
    half = LayerPlan(filters=FilterPlan(k=8, n=16))
    reader = LayerPlan(mask=MaskPlan(granularity="kernel", k=2, n=8))
    network, example = build_network("digits_resnet"), network_example("digits_resnet")
    check_plan(_fits(stages__0__conv1=half, stages__0__conv2=reader), network, example)
    with pytest.raises(PruningError, match=r"layers\.stages\.0\.conv2"):
        check_plan(_fits(stages__0__conv2=reader), network, example)
