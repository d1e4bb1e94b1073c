"""Removal on every network that ships: random plans are exact, none is skipped, and pruned networks prune again."""

from __future__ import annotations

import random
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cosim.errors import PruningError
from cosim.networks import build_network, network_names
from cosim.networks.registry import network_example
from cosim.pruning.apply import prunable_groups
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.dpp import attach_masks, find_masks
from cosim.pruning.plan import MaskPlan
from cosim.pruning.quantize import attach_quantizers
from cosim.pruning.removal import remove_channels

SMALL = {"mobilenet_v2": 64, "resnet18": 64, "resnet50": 64, "shufflenet_v2": 64}
"""Size of the images of the quick tests; the groups do not hang on it."""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LONG = {
    "googlenet_cifar", "resnet110_cifar", "resnet18_cifar", "resnet32_cifar", "resnet44_cifar", "resnet50",
    "vgg16_cifar", "vit_tiny",
}  # fmt: skip
"""The others have their kinds of layers, too."""


@lru_cache(maxsize=1)
def traced(name: str, small: bool) -> tuple[nn.Module, Tensor, list[ChannelGroup]]:
    """With the normalisation statistics of random images, so that the signal neither fades nor grows."""
    model, example = build_network(name, 0).eval(), network_example(name)
    if small and name in SMALL:
        example = example[..., : SMALL[name], : SMALL[name]]
    if example.is_floating_point():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = None  # the statistics of the one batch that follows
        images = torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            model.train()(images)
    return model.eval(), example, trace_channel_groups(model, example)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in network_names()],
)
def small(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Tensor, list[ChannelGroup]]:
    """A network that ships, on small images: traced once for all tests."""
    return (request.param, *traced(request.param, True))


def removal(groups: list[ChannelGroup], seed: int) -> dict[ChannelGroup, list[int]]:
    draw = random.Random(seed)
    return {g: draw.sample(range(g.size), draw.randrange(g.size)) for g in prunable_groups(groups)}


def test_a_random_plan_is_exact_and_what_remains_can_be_pruned_again(
    small: tuple[str, nn.Module, Tensor, list[ChannelGroup]],
) -> None:
    _, model, example, groups = small
    smaller = remove_channels(model, example, removal(groups, 0))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    remove_channels(smaller, example, removal(trace_channel_groups(smaller, example), 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", network_names())
def test_twenty_random_plans_are_exact(name: str) -> None:
    model, example, groups = traced(name, False)
    for seed in range(20):
        remove_channels(model, example, removal(groups, seed))


LOCKED = {
    "vit_tiny": {"network input", "network output", "normalised across channels in blocks_0_norm1"},
    "gpt_small": {"network output", "meets a tensor of fixed width in add"},
}


def test_only_inputs_outputs_and_normalised_streams_are_locked(
    small: tuple[str, nn.Module, Tensor, list[ChannelGroup]],
) -> None:
    name, *_, groups = small
    assert {g.locked for g in groups} - {None} <= LOCKED.get(name, {"network input", "network output"})


def test_every_stage_of_a_network_with_padded_shortcuts_can_lose_channels() -> None:
    model, example, groups = traced("resnet20_cifar", True)
    streams = {g.name: g.size for g in groups if g.locked is None and len(g.producers) > 1}
    assert streams == {"conv1": 16, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    chosen = {g: range(g.size - 1) for g in groups if g.name in streams}
    smaller = remove_channels(model, example, chosen)
    assert smaller.get_submodule("linear").in_features == 3


def test_all_channels_of_a_layer_cannot_leave_whatever_the_groups() -> None:
    model, example, groups = traced("resnet20_cifar", True)
    with pytest.raises(PruningError, match="group conv1: all 16 channels would be removed"):
        remove_channels(model, example, {next(g for g in groups if g.name == "conv1"): range(16)})


def masked() -> tuple[nn.Module, Tensor]:
    model = build_network("digits_resnet", 0).eval()
    attach_masks(model, {"stages.1.conv1": MaskPlan(granularity="weight", k=2, n=4)})
    return model, network_example("digits_resnet")


def test_masked_filters_leave_with_their_masks() -> None:
    model, example = masked()
    groups = {g.name: g for g in trace_channel_groups(model, example)}
    smaller = remove_channels(model, example, {groups["stages.1.conv1"]: [0, 5]})
    before, after = find_masks(model)["stages.1.conv1"].mask(), find_masks(smaller)["stages.1.conv1"].mask()
    kept = [i for i in range(32) if i not in (0, 5)]
    assert torch.equal(after, before[kept])
    assert smaller.get_submodule("stages.1.conv1").weight.shape == (30, 16, 3, 3)
    smaller.train()(torch.randn(2, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize("attach", [lambda model: None, lambda model: attach_quantizers(model, {"stages.1.conv1": 4})])
def test_inputs_under_a_mask_and_quantized_filters_are_refused_with_the_remedy(attach: object) -> None:
    model, example = masked()
    attach(model)  # type: ignore[operator]
    groups = {g.name: g for g in trace_channel_groups(model, example)}
    assert parametrize.is_parametrized(model.get_submodule("stages.1.conv1"))
    with pytest.raises(PruningError, match=r"stages\.1\.conv1: .* call freeze_masks or freeze_quantizers"):
        remove_channels(model, example, {groups["conv1"]: [0], groups["stages.1.conv1"]: [1]})
