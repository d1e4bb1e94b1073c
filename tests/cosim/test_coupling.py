"""Which channels leave together: groups, their slices, and what cannot be followed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cosim.errors import UntraceableError
from cosim.networks import build_network
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.removal import remove_channels
from tests.cosim.coupling_modules import (
    EXAMPLE,
    MODULES,
    Chunk,
    ComputedSplit,
    Concat,
    FixedSizes,
    Flattened,
    Grouped,
    GroupedShuffle,
    Mobile,
    ModuleShuffle,
    NormalisedAcross,
    NormalisedInGroups,
    PaddedShortcut,
    Shuffle,
    SpatialGate,
    SqueezeExcite,
    WrittenSizes,
    conv,
    groups_of,
    made,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_groups_of_the_digits_resnet_are_streams_and_inner_widths():
    groups = groups_of(build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8))
    assert {name: (group.size, group.producers, group.consumers) for name, group in groups.items()} == {
        "input": (1, (), ("conv1",)),
        "conv1": (
            16, ("conv1", "stages.0.conv2"), ("stages.0.conv1", "stages.1.conv1", "stages.1.shortcut.conv"),
        ),
        "stages.0.conv1": (16, ("stages.0.conv1",), ("stages.0.conv2",)),
        "stages.1.conv1": (32, ("stages.1.conv1",), ("stages.1.conv2",)),
        "stages.1.conv2": (
            32, ("stages.1.conv2", "stages.1.shortcut.conv"), ("stages.2.conv1", "stages.2.shortcut.conv"),
        ),
        "stages.2.conv1": (64, ("stages.2.conv1",), ("stages.2.conv2",)),
        "stages.2.conv2": (64, ("stages.2.conv2", "stages.2.shortcut.conv"), ("linear",)),
        "linear": (10, ("linear",), ()),
    }  # fmt: skip
    locked = {name: group.locked for name, group in groups.items() if group.locked}
    assert locked == {"input": "network input", "linear": "network output"}


def test_slices_name_every_tensor_of_an_inner_width():
    group = groups_of(build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8))["stages.1.conv1"]
    assert [(part.name, part.dim, part.role, part.length) for part in group.slices] == [
        ("stages.1.conv1.weight", 0, "out", 32),
        ("stages.1.bn1.weight", 0, "out", 32),
        ("stages.1.bn1.bias", 0, "out", 32),
        ("stages.1.bn1.running_mean", 0, "out", 32),
        ("stages.1.bn1.running_var", 0, "out", 32),
        ("stages.1.conv2.weight", 1, "in", 32),
    ]
    assert group.slices[0].indices == tuple((c,) for c in range(32))


@pytest.mark.parametrize("kind", MODULES)
def test_every_output_channel_is_in_exactly_one_group(kind):
    module = made(kind)
    groups = trace_channel_groups(module, EXAMPLE)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parts = [part for g in groups for part in g.slices if part.name == f"{name}.weight" and part.role == "out"]
            assert sorted(i for part in parts for c in part.indices for i in c) == list(range(layer.weight.shape[0]))


def test_concatenated_channels_know_their_place_in_the_consumer():
    groups = groups_of(made(Concat))
    after = {part.name: part.indices for part in groups["b"].slices if part.role == "in"}
    assert after["c.weight"] == tuple((4 + c,) for c in range(6))
    assert after["head.weight"] == after["c.weight"]


@pytest.mark.parametrize("kind", [Chunk, ComputedSplit])
def test_chunked_channels_leave_every_chunk_at_once(kind):
    group = groups_of(made(kind))["a"]
    assert group.size == 6
    assert group.slices[0].indices == tuple((c, c + 6) for c in range(6))
    assert group.producers == ("a", "b")  # the product of both halves couples b too


@pytest.mark.parametrize("kind", [Shuffle, ModuleShuffle])
def test_shuffled_channels_leave_every_row_of_the_shuffle_at_once(kind):
    """Three rows of four; the shuffle puts place i of row j at 3i + j."""
    group = groups_of(made(kind))["a"]
    owned = {part.name: part.indices for part in group.slices}
    assert owned["a.weight"] == tuple((i, i + 4, i + 8) for i in range(4))
    assert owned["b.weight"] == tuple((3 * i, 3 * i + 1, 3 * i + 2) for i in range(4))


def test_shuffle_into_a_grouped_convolution_leaves_both_even():
    """Three rows of six, shuffled to 3i + j, read in groups of six: i and i + 2 are at the same place of a group."""
    owned = {part.name: part.indices for part in groups_of(made(GroupedShuffle))["a"].slices}
    assert owned["a.weight"] == tuple(tuple(range(i, 18, 2)) for i in range(2))
    assert owned["b.weight"] == ((0, 1, 2), (3, 4, 5))


def test_depthwise_filters_belong_to_the_channel_that_they_read():
    groups = groups_of(made(Mobile))
    assert groups["expand"].producers == ("expand", "depth")
    owned = {part.name: part.indices for part in groups["expand"].slices}
    assert owned["depth.weight"] == tuple((2 * c, 2 * c + 1) for c in range(8))
    assert owned["point.weight"] == owned["depth.weight"] == owned["prelu.weight"]


def test_grouped_convolution_loses_the_same_place_in_every_group():
    groups = groups_of(made(Grouped))
    assert groups["b"].slices[0].indices == tuple((c, c + 3, c + 6, c + 9) for c in range(3))
    assert groups["a"].size == 2
    assert groups["a"].producers == ("a", "c")


def test_flattened_channels_own_a_run_of_the_next_layers_inputs():
    group = groups_of(made(Flattened))["a"]
    assert group.slices[-1].name == "b.weight"
    assert group.slices[-1].indices == tuple(tuple(range(16 * c, 16 * c + 16)) for c in range(6))


def test_gate_and_gated_are_one_group():
    group = groups_of(made(SqueezeExcite))["a"]
    assert group.producers == ("a", "up")
    assert {part.name for part in group.slices} >= {"scale", "a.bias", "up.bias"}


def test_channels_added_to_padding_are_a_group_of_their_own_and_the_padding_shrinks_with_them():
    module = made(PaddedShortcut)
    groups = groups_of(module)
    assert groups["stem"].producers == ("stem", "b")
    assert (groups["stem"].size, groups["stem"].locked, groups["stem"].resizes) == (4, None, ())
    assert (groups["b"].size, groups["b"].locked) == (4, None)
    assert groups["b"].slices[0].indices == ((0,), (1,), (6,), (7,))
    smaller = remove_channels(module, EXAMPLE, {groups["b"]: [0, 2, 3]})
    (padded,) = (node for node in smaller.graph.nodes if node.name == "pad")
    assert list(padded.args[1]) == [0, 0, 0, 0, 1, 0]
    assert smaller.b.weight.shape[0] == 5


def test_widths_that_removal_would_change_in_other_places_are_locked():
    groups = groups_of(FixedSizes().eval())
    assert "sliced across channels" in groups["a"].locked
    assert "reduced across channels" in groups["b"].locked
    assert "their number enters the arithmetic" in groups["c"].locked
    assert "reduced across channels" in groups["d"].locked


def test_sizes_written_in_the_code_are_rewritten_for_any_batch():
    module = made(WrittenSizes)
    groups = trace_channel_groups(module, EXAMPLE)
    assert {g.name: g.size for g in groups if g.resizes} == {"a": 8, "b": 8, "c": 8, "d": 4}
    smaller = remove_channels(module, EXAMPLE, {g: [1] for g in groups if g.name in ("a", "b")})
    assert smaller.head.in_features == module.head.in_features - 64 - 1
    assert smaller.a.out_channels == 7
    assert set(smaller.state_dict()) == set(module.state_dict())


def test_only_whole_normalisation_groups_leave():
    groups = groups_of(made(NormalisedInGroups))
    assert (groups["a"].size, groups["a"].slices[0].indices) == (4, ((0, 1), (2, 3), (4, 5), (6, 7)))
    smaller = remove_channels(made(NormalisedInGroups), EXAMPLE, {groups["a"]: [0, 3]})
    assert (smaller.norm.num_groups, smaller.norm.num_channels) == (2, 4)


def test_channels_normalised_together_are_locked():
    assert "normalised across channels" in groups_of(made(NormalisedAcross))["a"].locked


def test_one_gate_for_all_channels_cannot_leave_and_couples_nothing():
    groups = groups_of(made(SpatialGate))
    assert "spread over all channels" in groups["gate"].locked
    assert groups["a"].locked is None


def test_tracing_is_repeatable_and_leaves_the_network_as_it_is():
    network = build_network("digits_resnet", 0).train()
    before = copy.deepcopy(network.state_dict())
    first = trace_channel_groups(network, torch.zeros(1, 1, 8, 8))
    assert first == trace_channel_groups(network, torch.ones(2, 1, 8, 8))
    assert [hash(group) for group in first] == [hash(group) for group in copy.deepcopy(first)]
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Sorting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv(3, 4)

    def forward(self, x):
        return torch.cumsum(self.a(x), 1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(8, 4)

    def forward(self, x):
        return self.cells(x[:, 0])[0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Branching, r"cannot be traced by torch.fx .* at .*test_coupling.py:\d+: 'return x if x.sum\(\) > 0 else -x'"),
        (Sorting, "node cumsum: operator .*cumsum.* is not known"),
        (Recurrent, "node cells: module LSTM is not known"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(kind, message):
    with pytest.raises(UntraceableError, match=message):
        trace_channel_groups(kind(), EXAMPLE)


def test_an_example_of_the_wrong_shape_is_refused():
    with pytest.raises(UntraceableError, match="node conv1 does not run on the example"):
        trace_channel_groups(build_network("digits_resnet", 0), torch.zeros(1, 3, 8, 8))
