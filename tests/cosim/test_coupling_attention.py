"""Heads, embeddings and token mixing: what leaves together, and that it leaves exactly."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from cosim.errors import UntraceableError
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.removal import remove_channels
from tests.cosim.coupling_networks import ATTENTIONS, SPLITS, FusedAttention, Mixer, Plain, Transformer

EXAMPLE = torch.zeros(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(attention: str) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ATTENTIONS[attention]()).eval()


def free(model: nn.Module, example: Tensor = EXAMPLE) -> list[ChannelGroup]:
    return [group for group in trace_channel_groups(model, example) if group.locked is None]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_head_is_a_channel_and_the_hidden_width_another_group(attention: str) -> None:
    groups = trace_channel_groups(made(attention), EXAMPLE)
    assert sorted(group.size for group in groups if group.locked is None) == [3, 20]
    stream = next(group for group in groups if "embed" in group.producers)
    assert "normalised across channels in norm1" in str(stream.locked)


@pytest.mark.parametrize("split", SPLITS)
def test_a_head_owns_its_rows_of_queries_keys_and_values(split: str) -> None:
    (heads, _) = free(made(split))
    rows = tuple(tuple(24 * part + 8 * head + i for part in range(3) for i in range(8)) for head in range(3))
    owned = {(part.name, part.role): part.indices for part in heads.slices}
    assert owned["attention.qkv.weight", "out"] == owned["attention.qkv.bias", "out"] == rows
    columns = tuple(tuple(range(8 * h, 8 * h + 8)) for h in range(3))
    assert owned["attention.proj.weight", "in"] == columns


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_heads_leave_exactly_and_again_from_what_remains(attention: str) -> None:
    model = made(attention)
    heads, hidden = sorted(free(model), key=lambda group: group.size)
    smaller = remove_channels(model, EXAMPLE, {heads: [1], hidden: [0, 7]})
    assert smaller(torch.randn(5, 3, 8, 8)).shape == (5, 5)  # any batch
    assert set(smaller.state_dict()) == set(model.state_dict())
    again = {group: [0] for group in free(smaller)}
    assert sorted(group.size for group in again) == [2, 18]
    last = remove_channels(smaller, EXAMPLE, again)
    assert sum(p.numel() for p in last.parameters()) < sum(p.numel() for p in smaller.parameters())


def test_a_removed_head_is_a_head_whose_output_reads_as_zero() -> None:
    """An oracle apart from the weights: a hook blanks what the projection reads of the head."""
    model = made("unbound")
    smaller = remove_channels(model, EXAMPLE, {free(model)[0]: [2]})

    def blank(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        kept = torch.ones(24)
        kept[16:] = 0
        return (args[0] * kept,)

    model.attention.proj.register_forward_pre_hook(blank)  # type: ignore[union-attr]
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(smaller(images), model(images), rtol=1e-4, atol=1e-5)


def test_code_that_counts_its_heads_keeps_its_class() -> None:
    model = made("adaptive")
    (heads, _) = free(model)
    assert heads.resizes == ()
    assert type(remove_channels(model, EXAMPLE, {heads: [0]})) is Transformer


def test_one_head_cannot_leave_and_its_width_is_locked() -> None:
    model = made("unbound")
    (heads, _) = free(model)
    single = remove_channels(model, EXAMPLE, {heads: [0, 2]})
    width = next(group for group in trace_channel_groups(single, EXAMPLE) if "attention.qkv" in group.producers)
    assert width.locked is not None
    assert all(group.size != 1 for group in free(single))


@pytest.mark.parametrize("seed", range(4))
def test_streams_with_class_token_and_position_embedding_lose_channels(seed: int) -> None:
    torch.manual_seed(seed)
    model = Plain(FusedAttention("unbound")).eval()
    draw, groups = random.Random(seed), free(model)
    stream = next(group for group in groups if group.name == "embed")
    assert {"token", "position"} <= {part.name for part in stream.slices}
    remove_channels(model, EXAMPLE, {g: draw.sample(range(g.size), draw.randrange(g.size)) for g in groups})


@pytest.mark.parametrize("seed", range(4))
def test_channels_pass_through_token_mixing(seed: int) -> None:
    torch.manual_seed(seed)
    model = Mixer().eval()
    draw, groups = random.Random(seed), free(model)
    assert sorted(group.name for group in groups) == ["channels.0", "embed"]
    locked = {group.name: str(group.locked) for group in trace_channel_groups(model, EXAMPLE)}
    assert "lies across the channels" in locked["tokens.0"]
    remove_channels(model, EXAMPLE, {g: draw.sample(range(g.size), draw.randrange(g.size)) for g in groups})


class Branching(nn.Module):
    """Branches on shapes: torch.fx cannot trace it, torch.export can."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape[-1] > 4 and x.shape[1] <= self.width:
            x = x + self.b(x).relu()
        return self.head(x.mean((2, 3)))


def test_what_fx_cannot_trace_is_recorded_and_its_own_code_kept_where_it_follows() -> None:
    model = Branching().eval()
    (group,) = free(model)
    assert (group.name, group.producers, group.recorded) == ("a", ("a", "b"), True)
    smaller = remove_channels(model, EXAMPLE, {group: [1, 2]})
    assert type(smaller) is Branching
    assert smaller.a.out_channels == 6


class Exact(Branching):
    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.head((x + self.b(x).relu() if x.shape[1] == 8 else x).mean((2, 3)))


def test_code_that_asks_for_its_own_width_becomes_the_recorded_pass() -> None:
    model = Exact().eval()
    (group,) = free(model)
    smaller = remove_channels(model, EXAMPLE, {group: [1, 2]})
    assert isinstance(smaller, torch.fx.GraphModule)
    assert set(smaller.state_dict()) == set(model.state_dict())


class Sampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        while x.abs().max() > 1.0:
            x = x / 2
        return x


def test_a_loop_on_values_is_refused_with_its_line() -> None:
    with pytest.raises(UntraceableError, match=r"test_coupling_attention\.py:\d+: 'while x\.abs\(\)\.max\(\) > 1\.0:'"):
        trace_channel_groups(Sampled(), EXAMPLE)
