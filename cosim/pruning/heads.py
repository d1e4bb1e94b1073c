"""Multi-head attention whose number of heads is not tied to its width: what stays of `nn.MultiheadAttention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the usual name


class HeadAttention(nn.Module):
    """`nn.MultiheadAttention` after heads, or channels of its input or output, have left; same parameter names.

    Parameters
    ----------
    in_proj_weight : Tensor [3 · heads · head_dim, inputs]
        Queries, keys and values; in_proj_bias, if any, [3 · heads · head_dim].
    out_proj : nn.Linear, heads · head_dim -> outputs
    head_dim : int
    """

    in_proj_bias: nn.Parameter | None
    bias_k = None
    add_zero_attn = False

    def __init__(
        self,
        in_proj_weight: nn.Parameter,
        in_proj_bias: nn.Parameter | None,
        out_proj: nn.Linear,
        head_dim: int,
        *,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        self.in_proj_weight = in_proj_weight
        self.register_parameter("in_proj_bias", in_proj_bias)
        self.out_proj = out_proj
        self.head_dim, self.dropout, self.batch_first = head_dim, dropout, batch_first

    @property
    def num_heads(self) -> int:
        return self.in_proj_weight.shape[0] // (3 * self.head_dim)

    @property
    def embed_dim(self) -> int:
        return self.out_proj.weight.shape[0]

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, on [L, N, E] (or [N, L, E] if batch_first, or [L, E])."""
        batched = query.dim() == 3
        parts = [part if batched else part.unsqueeze(1) for part in (query, key, value)]
        if (batched and not self.batch_first) or not batched:
            parts = [part.transpose(0, 1) for part in parts]
        q, k, v = self._projected(parts)
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        scores = _masked(scores, attn_mask, key_padding_mask, is_causal)
        weights = scores.softmax(-1)
        mixed = F.dropout(weights, self.dropout, self.training) @ v
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        out = out if batched and self.batch_first else out.transpose(0, 1)
        shown = (weights.mean(1) if average_attn_weights else weights) if need_weights else None
        return (out, shown) if batched else (out.squeeze(1), shown.squeeze(0) if shown is not None else None)

    def _projected(self, parts: list[Tensor]) -> list[Tensor]:
        """Heads of queries, keys and values, [N, heads, L, head_dim]."""
        weights = self.in_proj_weight.chunk(3)
        biases: Any = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None,) * 3
        flat = [F.linear(part, w, b) for part, w, b in zip(parts, weights, biases, strict=True)]
        return [part.unflatten(2, (-1, self.head_dim)).transpose(1, 2) for part in flat]


def _masked(scores: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Tensor:
    """Boolean masks are true where nothing may be read, others are added; [L, S], [N · heads, L, S], [N, S]."""
    if mask is None and is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (scores.shape[0], -1))
    if padding is not None:
        scores = _with_mask(scores, padding[:, None, None, :])
    return scores if mask is None else _with_mask(scores, mask)


def _with_mask(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask, float("-inf")) if mask.dtype == torch.bool else scores + mask


def as_head_attention(module: Any) -> HeadAttention:
    """A module of attention that takes the shapes of its (smaller) parameters for granted."""
    attention = HeadAttention(
        module.in_proj_weight,
        module.in_proj_bias,
        module.out_proj,
        module.head_dim,
        dropout=module.dropout,
        batch_first=module.batch_first,
    )
    return attention.train(module.training)
