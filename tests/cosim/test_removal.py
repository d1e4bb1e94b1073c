"""Removed channels are gone, and the network computes what it did without them."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from cosim.errors import PruningError
from cosim.networks import build_network, network_input_shape
from cosim.pruning.removal import remove_channels
from tests.cosim.coupling_modules import (
    EXAMPLE,
    MODULES,
    Grouped,
    Mobile,
    NormalisedAcross,
    Residual,
    free_groups,
    groups_of,
    made,
    random_removal,
)

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("seed", range(6))
def test_random_removals_compute_what_the_original_does_without_the_channels(kind, seed):
    module = made(kind)
    removal = random_removal(free_groups(module), seed)
    smaller = remove_channels(module, EXAMPLE, removal)
    removed = sum(len(channels) for channels in removal.values())
    assert (sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in module.parameters())) == (removed > 0)


def test_removed_channels_read_as_zeros_whatever_makes_them():
    """An oracle apart from the weights: hooks put zeros in front of the layers that read the channels."""
    module, gone = made(Residual), [1, 4, 6]
    smaller = remove_channels(module, EXAMPLE, {groups_of(module)["stem"]: gone})

    def blank(layer, args):
        kept = torch.ones(8)
        kept[gone] = 0
        return (args[0] * kept.view(1, 8, *[1] * (args[0].dim() - 2)),)

    for layer in (module.a, module.head):
        layer.register_forward_pre_hook(blank)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(smaller(images), module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["digits_resnet", "resnet20_cifar"])
@pytest.mark.parametrize("seed", range(3))
def test_networks_that_ship_lose_random_channels(name, seed):
    network, example = build_network(name, seed), torch.zeros(1, *network_input_shape(name))
    smaller = remove_channels(network, example, random_removal(free_groups(network, example), seed))
    again = remove_channels(smaller, example, random_removal(free_groups(smaller, example), seed + 9))
    assert again(example).shape == (1, 10)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is absent: published CIFAR-10 weights")
def test_a_trained_network_with_padded_shortcuts_loses_random_channels():
    network, example = build_network("resnet56_cifar", 0), torch.zeros(1, 3, 32, 32)
    network.load_state_dict(torch.load(WEIGHTS / "resnet56_cifar10.pt"), strict=True)
    remove_channels(network, example, random_removal(free_groups(network, example), 0))


def test_modules_say_what_their_smaller_weights_are():
    module = made(Mobile)
    groups = groups_of(module)
    smaller = remove_channels(module, EXAMPLE, {groups["expand"]: [0, 3, 5], groups["point"]: [1]})
    assert (smaller.expand.out_channels, smaller.bn.num_features, smaller.prelu.num_parameters) == (5, 10, 10)
    assert (smaller.depth.in_channels, smaller.depth.out_channels, smaller.depth.groups) == (5, 10, 5)
    assert (smaller.point.in_channels, smaller.point.out_channels, smaller.head.in_features) == (10, 5, 5)
    grouped = made(Grouped)
    smaller = remove_channels(grouped, EXAMPLE, {groups_of(grouped)["b"]: [2]})
    assert (smaller.b.in_channels, smaller.b.out_channels, smaller.b.groups) == (8, 8, 4)


def test_the_right_filters_stay():
    network, example = build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8)
    smaller = remove_channels(network, example, {groups_of(network, example)["stages.0.conv1"]: range(3, 16)})
    assert torch.equal(smaller.stages[0].conv1.weight, network.stages[0].conv1.weight[:3])
    assert torch.equal(smaller.stages[0].conv2.weight, network.stages[0].conv2.weight[:, :3])


def test_removal_leaves_the_original_as_it_is_and_shares_nothing():
    network, example = build_network("digits_resnet", 0).train(), torch.zeros(1, 1, 8, 8)
    before = copy.deepcopy(network.state_dict())
    smaller = remove_channels(network, example, {groups_of(network, example)["conv1"]: [0, 1]})
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.add_(1.0)
    smaller.bn1.running_mean.add_(1.0)
    assert network.training
    assert smaller.training
    assert network.conv1.out_channels == 16
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_smaller_networks_train_their_own_parameters():
    network, example = build_network("digits_resnet", 0), torch.zeros(2, 1, 8, 8)
    network.conv1.weight.requires_grad_(False)
    smaller = remove_channels(network, example, {groups_of(network, example)["conv1"]: [0]})
    smaller(torch.randn(2, 1, 8, 8)).sum().backward()
    assert not smaller.conv1.weight.requires_grad
    assert smaller.stages[0].conv1.weight.grad.shape == (16, 15, 3, 3)
    assert all(p.grad is None for p in network.parameters())


def test_empty_removal_gives_a_copy():
    module = made(Residual)
    copied = remove_channels(module, EXAMPLE, {})
    images = torch.randn(2, 3, 8, 8)
    assert copied is not module
    assert torch.equal(copied(images), module(images))


def _shifted(group, role):
    """The group with wrong positions in every slice of one role."""
    parts = tuple(
        dataclasses.replace(part, indices=part.indices[1:] + part.indices[:1]) if part.role == role else part
        for part in group.slices
    )
    return dataclasses.replace(group, slices=parts)


@pytest.mark.parametrize("role", ["in", "out"])
def test_a_removal_of_wrong_positions_is_caught(role):
    module = made(Residual)
    wrong = _shifted(groups_of(module)["stem"], role)
    with pytest.raises(PruningError, match="1 of 8 channels of stem changes the outputs by"):
        remove_channels(module, EXAMPLE, {wrong: [2]})
    remove_channels(module, EXAMPLE, {wrong: [2]}, verify=False)


def test_a_removal_that_forgets_a_consumer_is_caught():
    module = made(Residual)
    group = groups_of(module)["stem"]
    forgetful = dataclasses.replace(group, slices=tuple(p for p in group.slices if p.name != "head.weight"))
    with pytest.raises(PruningError, match="does not run after the removal of 1 of 8 channels of stem"):
        remove_channels(module, EXAMPLE, {forgetful: [0]})


def test_removing_from_a_group_that_should_be_locked_is_caught():
    module = made(NormalisedAcross)
    unlocked = dataclasses.replace(groups_of(module)["a"], locked=None)
    slices = [part for part in unlocked.slices if not part.name.startswith("norm")]
    module.norm = nn.GroupNorm(1, 8, affine=False)
    module.norm.num_channels = 6
    with pytest.raises(PruningError, match="changes the outputs"):
        remove_channels(module, EXAMPLE, {dataclasses.replace(unlocked, slices=tuple(slices)): [0, 4]})


def test_a_network_whose_signal_fades_is_verified_all_the_same():
    """Its outputs are its last bias but for a billionth: the difference is looked at in double precision."""
    module = made(Residual)
    with torch.no_grad():
        module.head.weight.mul_(1e-9)
    group = groups_of(module)["stem"]
    remove_channels(module, EXAMPLE, {group: [2]})
    with pytest.raises(PruningError, match="1 of 8 channels of stem changes the outputs by"):
        remove_channels(module, EXAMPLE, {_shifted(group, "in"): [2]})


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        ("conv1", range(16), "all 16 channels would be removed; keep at least one"),
        ("conv1", [3, 16, -1], r"has no channels \[-1, 16\]; it has 0\.\.15"),
        ("linear", [0], "network output, so no channel can be removed"),
    ],
)
def test_impossible_removals_are_refused(name, channels, message):
    network, example = build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8)
    with pytest.raises(PruningError, match=message):
        remove_channels(network, example, {groups_of(network, example)[name]: channels})


def test_groups_of_another_network_are_refused():
    network, example = build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8)
    group = groups_of(network, example)["conv1"]
    smaller = remove_channels(network, example, {group: [0]})
    with pytest.raises(PruningError, match=r"not of this network: conv1\.weight should have 16 .* found shape"):
        remove_channels(smaller, example, {group: [0]})
    with pytest.raises(PruningError, match=r"not of this network: conv1\.weight .* found nothing"):
        remove_channels(made(Residual), EXAMPLE, {group: [0]})
