"""Plans on networks: which filters stay, that coupled layers agree, and that what is dropped is really gone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.networks import build_network, network_input_shape
from cosim.pruning.apply import (
    attach_plan,
    choose_filters,
    filter_plans,
    plan_of_groups,
    removable_groups,
    remove_filters,
)
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.dpp import find_masks
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan
from cosim.pruning.quantize import Quantizer

Groups = tuple[ChannelGroup, ...]
SHARED = ("conv1", "stages.0.conv2")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("digits_resnet").eval()


@pytest.fixture(scope="module")
def example() -> Tensor:
    return torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def groups(network: nn.Module, example: Tensor) -> Groups:
    return tuple(trace_channel_groups(network, example))


def plan_of(**layers: LayerPlan) -> PruningPlan:
    return PruningPlan(network="digits_resnet", layers={n.replace("__", "."): layer for n, layer in layers.items()})


def scores_of(groups: Groups, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(g.size, generator=generator).double() for g in groups for name in g.producers}


def test_the_filters_of_highest_score_stay(groups: Groups) -> None:
    scores = scores_of(groups)
    chosen = choose_filters(plan_of(stages__0__conv1=LayerPlan(filters=FilterPlan(k=5, n=16))), groups, scores)
    filters = chosen["stages.0.conv1"].filters
    assert filters is not None
    assert filters.keep == tuple(sorted(scores["stages.0.conv1"].topk(5).indices.tolist()))


def test_coupled_layers_keep_the_same_filters_by_their_combined_score(groups: Groups) -> None:
    group = next(group for group in groups if group.producers == SHARED)
    scores = scores_of(groups) | {"conv1": torch.arange(16.0).double(), "stages.0.conv2": torch.ones(16).double()}
    chosen = choose_filters(PruningPlan(network="x", layers=filter_plans(group, 4)), groups, scores)
    kept = {chosen[name].filters for name in SHARED}
    assert len(kept) == 1
    (filters,) = kept
    assert filters is not None
    assert filters.keep == (12, 13, 14, 15)


def test_choosing_keeps_masks_bits_and_filters_that_are_chosen_already(groups: Groups) -> None:
    mask = MaskPlan(granularity="weight", k=2, n=4)
    own = LayerPlan(filters=FilterPlan(k=2, n=32, keep=(3, 7)), mask=mask, weight_bits=4)
    free = LayerPlan(filters=FilterPlan(k=8, n=16), mask=mask, weight_bits=3)
    chosen = choose_filters(plan_of(stages__1__conv1=own, stages__0__conv1=free), groups, scores_of(groups))
    assert chosen["stages.1.conv1"] == own
    assert (chosen["stages.0.conv1"].mask, chosen["stages.0.conv1"].weight_bits) == (mask, 3)


def test_removed_filters_are_physically_gone_and_the_rest_is_untouched(
    network: nn.Module, example: Tensor, groups: Groups
) -> None:
    filters = FilterPlan(k=3, n=16, keep=(1, 4, 15))
    plan = PruningPlan(network="x", layers={name: LayerPlan(filters=filters) for name in SHARED})
    before = network.state_dict()
    pruned = remove_filters(network, example, plan, groups).state_dict()
    assert pruned["conv1.weight"].shape == (3, 1, 3, 3)
    assert torch.equal(pruned["conv1.weight"], before["conv1.weight"][[1, 4, 15]])
    assert pruned["stages.0.conv1.weight"].shape == (16, 3, 3, 3)
    assert pruned["stages.0.conv2.weight"].shape == (3, 16, 3, 3)
    assert torch.equal(pruned["stages.1.conv1.weight"], before["stages.1.conv1.weight"][:, [1, 4, 15]])
    assert torch.equal(pruned["stages.1.shortcut.conv.weight"], before["stages.1.shortcut.conv.weight"][:, [1, 4, 15]])
    assert torch.equal(pruned["linear.weight"], before["linear.weight"])
    assert network.state_dict()["conv1.weight"].shape == (16, 1, 3, 3)


def test_without_chosen_filters_the_last_ones_leave(network: nn.Module, example: Tensor, groups: Groups) -> None:
    plan = plan_of(stages__2__conv1=LayerPlan(filters=FilterPlan(k=1, n=64)))
    pruned = remove_filters(network, example, plan, groups)
    kept = pruned.state_dict()["stages.2.conv1.weight"]
    assert torch.equal(kept, network.state_dict()["stages.2.conv1.weight"][:1])


HALF = LayerPlan(filters=FilterPlan(k=8, n=16))
REFUSED = {
    "locked": (plan_of(linear=LayerPlan(filters=FilterPlan(k=5, n=10))), r"layers\.linear\.filters.*network output"),
    "unknown layer": (plan_of(conv9=HALF), r"layers\.conv9.*nearest: 'conv1'"),
    "unknown layer, bits alone": (plan_of(conv9=LayerPlan(weight_bits=4)), r"layers\.conv9: the network has no such"),
    "wrong n": (plan_of(stages__1__conv1=HALF), r"filters\.n = 16.*has 32 filters; use n = 32"),
    "half of a coupled pair": (plan_of(conv1=HALF), r"layers\.stages\.0\.conv2\.filters is missing"),
    "coupled layers disagree": (
        plan_of(conv1=HALF, stages__0__conv2=LayerPlan(filters=FilterPlan(k=7, n=16))),
        "the same k, n and keep",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_that_the_network_cannot_have_is_refused(
    case: str, network: nn.Module, example: Tensor, groups: Groups
) -> None:
    plan, message = REFUSED[case]
    with pytest.raises(PruningError, match=message):
        remove_filters(network, example, plan, groups)
    with pytest.raises(PruningError, match=message):
        choose_filters(plan, groups, scores_of(groups))


def test_filters_that_belong_to_several_groups_cannot_be_named() -> None:
    """Padded shortcuts: a part of a stage's channels goes on with those of the stage before."""
    model, example = build_network("resnet20_cifar"), torch.zeros(1, *network_input_shape("resnet20_cifar"))
    groups = trace_channel_groups(model, example)
    names = [group.name for group in removable_groups(groups)]
    assert "layer2.0.conv1" in names
    assert "conv1" not in names
    plan = PruningPlan(network="resnet20_cifar", layers={"conv1": HALF})
    with pytest.raises(PruningError, match=r"several channel groups; name these under groups instead: conv1, layer2"):
        remove_filters(model, example, plan, groups)


def test_streams_that_span_stages_are_named_by_group() -> None:
    model, example = build_network("resnet20_cifar"), torch.zeros(1, *network_input_shape("resnet20_cifar"))
    groups = trace_channel_groups(model, example)
    plan = plan_of_groups("resnet20_cifar", groups, {"conv1": 4, "layer2.0.conv2": 8, "layer3.0.conv2": 16})
    assert plan.layers == {}
    chosen = choose_filters(plan, groups, scores_of(groups) | _scores_of_layers(model))
    pruned = remove_filters(model, example, chosen, groups)
    widths = [pruned.get_submodule(name).weight.shape[0] for name in ("conv1", "layer2.1.conv2", "layer3.1.conv2")]
    assert widths == [4, 4 + 8, 4 + 8 + 16]
    assert pruned(torch.randn(3, 3, 32, 32)).shape == (3, 10)


def _scores_of_layers(model: nn.Module) -> dict[str, Tensor]:
    return {n: m.weight.detach().flatten(1).norm(dim=1) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def test_heads_are_ranked_by_the_mean_of_their_rows() -> None:
    model, example = build_network("gpt_small").eval(), torch.zeros(1, 16, dtype=torch.int64)
    groups = trace_channel_groups(model, example)
    scores = {name: torch.rand(m.weight.shape[0]) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    rows = scores["h.0.attn.c_attn"].view(3, 4, 32)
    rows[:, 2] += 1.0
    rows[:, 0] += 2.0
    chosen = choose_filters(plan_of_groups("gpt_small", groups, {"h.0.attn.c_attn": 2}), groups, scores)
    filters = chosen["h.0.attn.c_attn"].filters
    assert filters is not None
    assert filters.keep == (0, 2)
    pruned = remove_filters(model, example, chosen, groups)
    assert pruned.get_submodule("h.0.attn.c_attn").weight.shape == (3 * 2 * 32, 128)


def test_an_unknown_group_is_named_with_the_nearest(network: nn.Module, example: Tensor, groups: Groups) -> None:
    plan = PruningPlan(network="x", groups={"conv": FilterPlan(k=1, n=16)})
    with pytest.raises(PruningError, match=r"groups\.conv: the network has no such channel group; nearest: 'conv1'"):
        remove_filters(network, example, plan, groups)


def test_every_removable_group_of_the_cifar_networks_can_lose_filters() -> None:
    model, example = build_network("resnet20_cifar"), torch.zeros(1, *network_input_shape("resnet20_cifar"))
    groups = trace_channel_groups(model, example)
    layers: dict[str, LayerPlan] = {}
    for group in removable_groups(groups):
        layers |= filter_plans(group, group.size // 2)
    pruned = remove_filters(model, example, PruningPlan(network="resnet20_cifar", layers=layers), groups)
    weights = pruned.state_dict()
    assert all(len(weights[f"{name}.weight"]) == layer.filters.k for name, layer in layers.items() if layer.filters)


def test_masks_lie_where_the_plan_says_and_every_layer_is_quantized(network: nn.Module, example: Tensor) -> None:
    model = build_network("digits_resnet")
    mask = MaskPlan(granularity="kernel", k=4, n=16)
    attach_plan(model, plan_of(stages__0__conv1=LayerPlan(mask=mask, weight_bits=3)), seed=0)
    assert {name: found.plan for name, found in find_masks(model).items()} == {"stages.0.conv1": mask}
    bits = {name: module.bits for name, module in model.named_modules() if isinstance(module, Quantizer)}
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert len(bits) == layers
    assert {name.partition(".parametrizations")[0] for name, count in bits.items() if count == 3} == {"stages.0.conv1"}
    assert sorted(set(bits.values())) == [3, 8]
