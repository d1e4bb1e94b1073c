import copy
import dataclasses
import random
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import nn

from cosim.errors import PruningError, UntraceableError
from cosim.networks import build_network, network_input_shape
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.removal import remove_channels

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = _conv(3, 8), _conv(8, 6), _conv(6, 8), nn.Linear(8, 5)
        self.bn, self.act = nn.BatchNorm2d(8), nn.Sigmoid()  # sigmoid(0) is not 0: removal must still be exact

    def forward(self, x):
        x = self.stem(x)
        x = x + self.bn(self.b(torch.relu(self.a(x))))
        return self.head(self.act(x).mean((2, 3)))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.bn, self.c, self.head = (
            _conv(3, 4), _conv(4, 6), nn.BatchNorm2d(10), _conv(10, 4), nn.Linear(14, 5),
        )  # fmt: skip

    def forward(self, x):
        a = self.a(x)
        both = F.relu(self.bn(torch.cat([a, self.b(a)], dim=1)))
        return self.head(F.adaptive_avg_pool2d(torch.cat([both, self.c(both)], 1), 1).flatten(1))


class Chunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = _conv(3, 12), _conv(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        left, right = self.a(x).chunk(2, dim=1)
        return self.c((self.b(left) * torch.sigmoid(right)).mean((2, 3)))


class ComputedSplit(Chunk):
    def forward(self, x):
        x = self.a(x)
        left, right = torch.split(x, x.shape[1] // 2, dim=1)
        return self.c((self.b(left) * torch.sigmoid(right)).mean((2, 3)))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = _conv(3, 12), _conv(12, 9), _conv(9, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.b(self.shuffle(torch.relu(self.a(x)))))
        return self.head(self.c(x).mean((2, 3)))

    def shuffle(self, x):
        b, c, h, w = x.shape
        return x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)


class ModuleShuffle(Shuffle):
    def __init__(self):
        super().__init__()
        self.shuffle = nn.ChannelShuffle(3)


class GroupedShuffle(Shuffle):
    def __init__(self):
        super().__init__()
        self.a, self.b = _conv(3, 18), _conv(18, 9, groups=3)


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.depth = _conv(3, 8), _conv(8, 16, groups=8)
        self.bn, self.prelu, self.point, self.head = nn.BatchNorm2d(16), nn.PReLU(16), _conv(16, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu6(self.expand(x))
        return self.head(self.point(self.prelu(self.bn(self.depth(x)))).mean([2, 3]))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = _conv(3, 8), _conv(8, 12, groups=4), _conv(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        return self.head((x + self.c(torch.relu(self.b(x)))).mean((2, 3)))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.pool, self.flat = _conv(3, 6), nn.MaxPool2d(2), nn.Flatten()
        self.b, self.bn, self.c = nn.Linear(6 * 16, 7), nn.BatchNorm1d(7), nn.Linear(7, 5)

    def forward(self, x):
        x = self.pool(self.a(x))
        return self.c(torch.tanh(self.bn(self.b(x.view(x.size(0), -1)))) + self.bn(self.b(self.flat(x))))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.b = _conv(3, 8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), _conv(8, 6)
        self.scale, self.head = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.Linear(6, 5)

    def forward(self, x):
        x = F.silu(self.a(x)) * self.scale
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(F.gelu(self.b(x * gate)).mean((2, 3)))


class PaddedShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = _conv(3, 4), _conv(4, 6, stride=2), _conv(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head((shortcut + self.b(torch.relu(self.a(x)))).mean((2, 3)))


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b, self.head = _conv(3, 8), _conv(8, 1), _conv(8, 4, bias=False), nn.Linear(4, 5)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.b(x * torch.sigmoid(self.gate(x))).mean((2, 3)))


class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.b, self.head = (
            _conv(3, 8, stride=2), nn.ConvTranspose2d(8, 6, 2, stride=2), _conv(6, 4), nn.Linear(4, 5),
        )  # fmt: skip

    def forward(self, x):
        x = F.interpolate(self.up(self.a(x)), scale_factor=2.0)
        return self.head(self.b(F.pad(x, (1, 1, 1, 1))).mean((2, 3)))


class DepthwiseUpsampling(Upsampling):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 16, 2, stride=2, groups=8)
        self.b = nn.ConvTranspose2d(16, 4, 3, padding=1, groups=2)


class NormalisedAcross(nn.Module):
    groups = 1

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = _conv(3, 8), nn.GroupNorm(self.groups, 8), _conv(8, 4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.b(self.norm(self.a(x))).mean((2, 3)))


class NormalisedInGroups(NormalisedAcross):
    groups = 4


class WrittenSizes(nn.Module):
    """Sizes and ends of slices that the code writes as numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = _conv(3, 8), _conv(3, 8), _conv(3, 8), _conv(3, 8)
        self.head = nn.Linear(8 * 64 + 5 + 8 + 4 * 64 + 3, 5)

    def forward(self, x):
        left, right = self.b(x).split([5, 3], dim=1)
        fixed = self.a(x).view(-1, 8 * 64)
        wide = left.mean((2, 3)), self.c(x).mean((2, 3)).expand(2, 8), self.d(x)[:, 4:].flatten(1)
        return self.head(torch.cat([fixed, *wide, right.amax((2, 3))], 1))


class FixedSizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = _conv(3, 8), _conv(3, 8), _conv(3, 8), _conv(3, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        a, b, c, d = self.a(x), self.b(x), self.c(x), self.d(x)
        scaled = c.mean((2, 3)) * c.shape[1] ** -0.5
        return self.head(scaled + a[:, 3].mean((1, 2)).unsqueeze(1) + b.mean((1, 2, 3)).unsqueeze(1)) + d[:, ::2].sum()


MODULES = [
    Residual, Concat, Chunk, ComputedSplit, Shuffle, ModuleShuffle, GroupedShuffle, Mobile, Grouped, Flattened,
    SqueezeExcite, PaddedShortcut, SpatialGate, Upsampling, NormalisedAcross, NormalisedInGroups, WrittenSizes,
    DepthwiseUpsampling,
]  # fmt: skip
EXAMPLE = torch.zeros(2, 3, 8, 8)


def _made(kind):
    """With normalisation statistics that are not neutral."""
    torch.manual_seed(0)
    module = kind().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module


def _groups(module, example=EXAMPLE):
    return {group.name: group for group in trace_channel_groups(module, example)}


def _free(module, example=EXAMPLE):
    return [group for group in trace_channel_groups(module, example) if group.locked is None]


def _random_removal(groups, seed):
    draw = random.Random(seed)
    return {group: draw.sample(range(group.size), draw.randrange(group.size)) for group in groups}


# Groups


def test_groups_of_the_digits_resnet_are_streams_and_inner_widths():
    groups = _groups(build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8))
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
    group = _groups(build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8))["stages.1.conv1"]
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
    module = _made(kind)
    groups = trace_channel_groups(module, EXAMPLE)
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parts = [part for g in groups for part in g.slices if part.name == f"{name}.weight" and part.role == "out"]
            assert sorted(i for part in parts for c in part.indices for i in c) == list(range(layer.weight.shape[0]))


def test_concatenated_channels_know_their_place_in_the_consumer():
    groups = _groups(_made(Concat))
    after = {part.name: part.indices for part in groups["b"].slices if part.role == "in"}
    assert after["c.weight"] == tuple((4 + c,) for c in range(6))
    assert after["head.weight"] == after["c.weight"]


@pytest.mark.parametrize("kind", [Chunk, ComputedSplit])
def test_chunked_channels_leave_every_chunk_at_once(kind):
    group = _groups(_made(kind))["a"]
    assert group.size == 6
    assert group.slices[0].indices == tuple((c, c + 6) for c in range(6))
    assert group.producers == ("a", "b")  # the product of both halves couples b too


@pytest.mark.parametrize("kind", [Shuffle, ModuleShuffle])
def test_shuffled_channels_leave_every_row_of_the_shuffle_at_once(kind):
    """Three rows of four; the shuffle puts place i of row j at 3i + j."""
    group = _groups(_made(kind))["a"]
    owned = {part.name: part.indices for part in group.slices}
    assert owned["a.weight"] == tuple((i, i + 4, i + 8) for i in range(4))
    assert owned["b.weight"] == tuple((3 * i, 3 * i + 1, 3 * i + 2) for i in range(4))


def test_shuffle_into_a_grouped_convolution_leaves_both_even():
    """Three rows of six, shuffled to 3i + j, read in groups of six: i and i + 2 are at the same place of a group."""
    owned = {part.name: part.indices for part in _groups(_made(GroupedShuffle))["a"].slices}
    assert owned["a.weight"] == tuple(tuple(range(i, 18, 2)) for i in range(2))
    assert owned["b.weight"] == ((0, 1, 2), (3, 4, 5))


def test_depthwise_filters_belong_to_the_channel_that_they_read():
    groups = _groups(_made(Mobile))
    assert groups["expand"].producers == ("expand", "depth")
    owned = {part.name: part.indices for part in groups["expand"].slices}
    assert owned["depth.weight"] == tuple((2 * c, 2 * c + 1) for c in range(8))
    assert owned["point.weight"] == owned["depth.weight"] == owned["prelu.weight"]


def test_grouped_convolution_loses_the_same_place_in_every_group():
    groups = _groups(_made(Grouped))
    assert groups["b"].slices[0].indices == tuple((c, c + 3, c + 6, c + 9) for c in range(3))
    assert groups["a"].size == 2
    assert groups["a"].producers == ("a", "c")


def test_flattened_channels_own_a_run_of_the_next_layers_inputs():
    group = _groups(_made(Flattened))["a"]
    assert group.slices[-1].name == "b.weight"
    assert group.slices[-1].indices == tuple(tuple(range(16 * c, 16 * c + 16)) for c in range(6))


def test_gate_and_gated_are_one_group():
    group = _groups(_made(SqueezeExcite))["a"]
    assert group.producers == ("a", "up")
    assert {part.name for part in group.slices} >= {"scale", "a.bias", "up.bias"}


def test_channels_added_to_padding_are_a_group_of_their_own_and_the_padding_shrinks_with_them():
    module = _made(PaddedShortcut)
    groups = _groups(module)
    assert groups["stem"].producers == ("stem", "b")
    assert (groups["stem"].size, groups["stem"].locked, groups["stem"].resizes) == (4, None, ())
    assert (groups["b"].size, groups["b"].locked) == (4, None)
    assert groups["b"].slices[0].indices == ((0,), (1,), (6,), (7,))
    smaller = remove_channels(module, EXAMPLE, {groups["b"]: [0, 2, 3]})
    (padded,) = (node for node in smaller.graph.nodes if node.name == "pad")
    assert list(padded.args[1]) == [0, 0, 0, 0, 1, 0]
    assert smaller.b.weight.shape[0] == 5


def test_widths_that_removal_would_change_in_other_places_are_locked():
    groups = _groups(FixedSizes().eval())
    assert "sliced across channels" in groups["a"].locked
    assert "reduced across channels" in groups["b"].locked
    assert "their number enters the arithmetic" in groups["c"].locked
    assert "reduced across channels" in groups["d"].locked


def test_sizes_written_in_the_code_are_rewritten_for_any_batch():
    module = _made(WrittenSizes)
    groups = trace_channel_groups(module, EXAMPLE)
    assert {g.name: g.size for g in groups if g.resizes} == {"a": 8, "b": 8, "c": 8, "d": 4}
    smaller = remove_channels(module, EXAMPLE, {g: [1] for g in groups if g.name in ("a", "b")})
    assert smaller.head.in_features == module.head.in_features - 64 - 1
    assert smaller.a.out_channels == 7
    assert set(smaller.state_dict()) == set(module.state_dict())


def test_only_whole_normalisation_groups_leave():
    groups = _groups(_made(NormalisedInGroups))
    assert (groups["a"].size, groups["a"].slices[0].indices) == (4, ((0, 1), (2, 3), (4, 5), (6, 7)))
    smaller = remove_channels(_made(NormalisedInGroups), EXAMPLE, {groups["a"]: [0, 3]})
    assert (smaller.norm.num_groups, smaller.norm.num_channels) == (2, 4)


def test_channels_normalised_together_are_locked():
    assert "normalised across channels" in _groups(_made(NormalisedAcross))["a"].locked


def test_one_gate_for_all_channels_cannot_leave_and_couples_nothing():
    groups = _groups(_made(SpatialGate))
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
        self.a = _conv(3, 4)

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


# Removal


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("seed", range(6))
def test_random_removals_compute_what_the_original_does_without_the_channels(kind, seed):
    module = _made(kind)
    removal = _random_removal(_free(module), seed)
    smaller = remove_channels(module, EXAMPLE, removal)
    removed = sum(len(channels) for channels in removal.values())
    assert (sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in module.parameters())) == (removed > 0)


def test_removed_channels_read_as_zeros_whatever_makes_them():
    """An oracle apart from the weights: hooks put zeros in front of the layers that read the channels."""
    module, gone = _made(Residual), [1, 4, 6]
    smaller = remove_channels(module, EXAMPLE, {_groups(module)["stem"]: gone})

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
    smaller = remove_channels(network, example, _random_removal(_free(network, example), seed))
    again = remove_channels(smaller, example, _random_removal(_free(smaller, example), seed + 9))
    assert again(example).shape == (1, 10)


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is absent: published CIFAR-10 weights")
def test_a_trained_network_with_padded_shortcuts_loses_random_channels():
    network, example = build_network("resnet56_cifar", 0), torch.zeros(1, 3, 32, 32)
    network.load_state_dict(torch.load(WEIGHTS / "resnet56_cifar10.pt"), strict=True)
    remove_channels(network, example, _random_removal(_free(network, example), 0))


def test_modules_say_what_their_smaller_weights_are():
    module = _made(Mobile)
    groups = _groups(module)
    smaller = remove_channels(module, EXAMPLE, {groups["expand"]: [0, 3, 5], groups["point"]: [1]})
    assert (smaller.expand.out_channels, smaller.bn.num_features, smaller.prelu.num_parameters) == (5, 10, 10)
    assert (smaller.depth.in_channels, smaller.depth.out_channels, smaller.depth.groups) == (5, 10, 5)
    assert (smaller.point.in_channels, smaller.point.out_channels, smaller.head.in_features) == (10, 5, 5)
    grouped = _made(Grouped)
    smaller = remove_channels(grouped, EXAMPLE, {_groups(grouped)["b"]: [2]})
    assert (smaller.b.in_channels, smaller.b.out_channels, smaller.b.groups) == (8, 8, 4)


def test_the_right_filters_stay():
    network, example = build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8)
    smaller = remove_channels(network, example, {_groups(network, example)["stages.0.conv1"]: range(3, 16)})
    assert torch.equal(smaller.stages[0].conv1.weight, network.stages[0].conv1.weight[:3])
    assert torch.equal(smaller.stages[0].conv2.weight, network.stages[0].conv2.weight[:, :3])


def test_removal_leaves_the_original_as_it_is_and_shares_nothing():
    network, example = build_network("digits_resnet", 0).train(), torch.zeros(1, 1, 8, 8)
    before = copy.deepcopy(network.state_dict())
    smaller = remove_channels(network, example, {_groups(network, example)["conv1"]: [0, 1]})
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
    smaller = remove_channels(network, example, {_groups(network, example)["conv1"]: [0]})
    smaller(torch.randn(2, 1, 8, 8)).sum().backward()
    assert not smaller.conv1.weight.requires_grad
    assert smaller.stages[0].conv1.weight.grad.shape == (16, 15, 3, 3)
    assert all(p.grad is None for p in network.parameters())


def test_empty_removal_gives_a_copy():
    module = _made(Residual)
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
    module = _made(Residual)
    wrong = _shifted(_groups(module)["stem"], role)
    with pytest.raises(PruningError, match="1 of 8 channels of stem changes the outputs by"):
        remove_channels(module, EXAMPLE, {wrong: [2]})
    remove_channels(module, EXAMPLE, {wrong: [2]}, verify=False)


def test_a_removal_that_forgets_a_consumer_is_caught():
    module = _made(Residual)
    group = _groups(module)["stem"]
    forgetful = dataclasses.replace(group, slices=tuple(p for p in group.slices if p.name != "head.weight"))
    with pytest.raises(PruningError, match="does not run after the removal of 1 of 8 channels of stem"):
        remove_channels(module, EXAMPLE, {forgetful: [0]})


def test_removing_from_a_group_that_should_be_locked_is_caught():
    module = _made(NormalisedAcross)
    unlocked = dataclasses.replace(_groups(module)["a"], locked=None)
    slices = [part for part in unlocked.slices if not part.name.startswith("norm")]
    module.norm = nn.GroupNorm(1, 8, affine=False)
    module.norm.num_channels = 6
    with pytest.raises(PruningError, match="changes the outputs"):
        remove_channels(module, EXAMPLE, {dataclasses.replace(unlocked, slices=tuple(slices)): [0, 4]})


def test_a_network_whose_signal_fades_is_verified_all_the_same():
    """Its outputs are its last bias but for a billionth: the difference is looked at in double precision."""
    module = _made(Residual)
    with torch.no_grad():
        module.head.weight.mul_(1e-9)
    group = _groups(module)["stem"]
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
        remove_channels(network, example, {_groups(network, example)[name]: channels})


def test_groups_of_another_network_are_refused():
    network, example = build_network("digits_resnet", 0), torch.zeros(1, 1, 8, 8)
    group = _groups(network, example)["conv1"]
    smaller = remove_channels(network, example, {group: [0]})
    with pytest.raises(PruningError, match=r"not of this network: conv1\.weight should have 16 .* found shape"):
        remove_channels(smaller, example, {group: [0]})
    with pytest.raises(PruningError, match=r"not of this network: conv1\.weight .* found nothing"):
        remove_channels(_made(Residual), EXAMPLE, {group: [0]})
