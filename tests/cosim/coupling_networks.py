"""Transformer blocks written in the ways in which people write them, for the tests of coupling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

WIDTH, HEADS = 24, 3


class FusedAttention(nn.Module):
    """One projection for queries, keys and values; `split` says how they are told apart."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.heads, self.width, self.scale = HEADS, WIDTH, (WIDTH // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = getattr(self, self.split)(x)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(x.shape))

    def unbound(self, x: Tensor) -> tuple[Tensor, ...]:
        b, n, c = x.shape
        return self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)

    def indexed(self, x: Tensor) -> tuple[Tensor, ...]:
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]

    def chunked(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._by_heads(x, self.qkv(x).chunk(3, dim=-1))

    def computed(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._by_heads(x, self.qkv(x).split(x.shape[2], dim=2))

    def written(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._by_heads(x, self.qkv(x).split([self.width] * 3, dim=2))

    def _by_heads(self, x: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        b, n, c = x.shape
        return tuple(parts[i].view(b, n, self.heads, c // self.heads).transpose(1, 2) for i in range(3))


class AdaptiveAttention(FusedAttention):
    """Heads are counted from the projection: the code follows when they leave."""

    def __init__(self) -> None:
        super().__init__("unbound")

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, -1, 8).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class SeparateAttention(nn.Module):
    """A projection each, batches of heads by hand, bmm and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = HEADS, WIDTH // HEADS
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.v, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.ones(5, 5).tril())

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k, v = (part.contiguous().view(b * self.heads, n, self.size) for part in (q, k, v))
        scores = torch.bmm(q, k.transpose(1, 2)) / self.size**0.5
        scores = scores.masked_fill(self.mask[:n, :n] == 0, float("-inf"))
        y = torch.bmm(F.softmax(scores, dim=-1), v).view(b, self.heads, n, self.size)
        return self.out(y.transpose(1, 2).contiguous().view(b, n, self.heads * self.size))


class EinsumAttention(nn.Module):
    """einsum with letters, a scale and a bias for every head, normalised queries."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = HEADS, WIDTH // HEADS
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.out = nn.LayerNorm(WIDTH // HEADS), nn.Linear(WIDTH, WIDTH)
        self.temperature = nn.Parameter(torch.randn(1, HEADS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (self.heads, self.size)) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("bnhd,bmhd->bhnm", self.norm(q), k) * self.temperature
        return self.out(torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v).flatten(2))


class ModuleAttention(nn.Module):
    """nn.MultiheadAttention."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.inner.batch_first else x.transpose(0, 1)
        y = self.inner(x, x, x)[0]
        return y if self.inner.batch_first else y.transpose(0, 1)


class Transformer(nn.Module):
    """Patches, a class token, position embedding, one block, a head that reads the class token."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, WIDTH)), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attention(self.norm1(x))
        return self.head((x + self.down(F.gelu(self.up(self.norm2(x)))))[:, 0])


class Plain(Transformer):
    """Without normalisation the stream itself can lose channels, with token and position embedding."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head((x + self.down(F.gelu(self.up(x))))[:, 0])


class Mixer(nn.Module):
    """Linear layers along the tokens and along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.tokens = nn.Conv2d(3, 8, 2, 2), nn.Sequential(nn.Linear(16, 6), nn.GELU(), nn.Linear(6, 16))
        self.channels, self.head = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2)
        x = (x + self.tokens(x)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


SPLITS = ("unbound", "indexed", "chunked", "computed", "written")
ATTENTIONS: dict[str, Callable[[], nn.Module]] = {
    **{split: (lambda split=split: FusedAttention(split)) for split in SPLITS},  # type: ignore[misc]
    "adaptive": AdaptiveAttention,
    "separate": SeparateAttention,
    "einsum": EinsumAttention,
    "module": ModuleAttention,
    "module, tokens first": lambda: ModuleAttention(batch_first=False),
}
