"""ViT-Tiny for 224x224 images and a small GPT for tokens.

Heads are counted from the width of the fused projection (`reshape(..., -1, head)`), so a network from whose projections
whole heads were removed runs as it is.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, nn

from cosim.networks.initial import truncated_normal


class Attention(nn.Module):
    """Multi-head attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens = x.shape[0], x.shape[1]
        qkv = self.qkv(x).reshape(batch, tokens, 3, -1, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class ViTBlock(nn.Module):
    """Attention and MLP, each behind a layer normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches of the image as tokens."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """Vision transformer; as it stands, ViT-Ti/16: width 192, 3 heads, 12 blocks, 5,717,416 parameters.

    Source: Dosovitskiy et al., arXiv 2010.11929, section 3.1; the size is DeiT-Ti of Touvron et al., arXiv 2012.12877,
    Table 1. Parameter names of timm's `vit_tiny_patch16_224`.
    """

    def __init__(
        self, width: int = 192, heads: int = 3, depth: int = 12, patch: int = 16, size: int = 224, classes: int = 1000
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        truncated_normal(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class CausalAttention(nn.Module):
    """Multi-head attention in which a token sees itself and those before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens = x.shape[0], x.shape[1]
        query, key, value = self.c_attn(x).chunk(3, dim=-1)
        query = query.view(batch, tokens, -1, self.head_width).transpose(1, 2)
        key = key.view(batch, tokens, -1, self.head_width).transpose(1, 2)
        value = value.view(batch, tokens, -1, self.head_width).transpose(1, 2)
        x = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(x.transpose(1, 2).reshape(batch, tokens, -1))


class GPTBlock(nn.Module):
    """Causal attention and MLP, each behind a layer normalisation and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), CausalAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        hidden, act = nn.Linear(width, 4 * width), nn.GELU(approximate="tanh")
        self.mlp = nn.Sequential(OrderedDict(c_fc=hidden, act=act, c_proj=nn.Linear(4 * width, width)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Tokens [N, T] int64 in [0, vocabulary), T <= context, to logits [N, T, vocabulary] of each next token.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3, whose parameter
    names it has. The sizes are this project's (bytes as tokens); the head has weights of its own, GPT-2's are those of
    the token embedding.
    """

    def __init__(
        self, vocabulary: int = 256, context: int = 128, width: int = 128, heads: int = 4, depth: int = 4
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.Sequential(*(GPTBlock(width, heads) for _ in range(depth)))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        truncated_normal(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        return self.lm_head(self.ln_f(self.h(x)))
