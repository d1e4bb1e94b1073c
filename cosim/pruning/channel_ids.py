"""Runs a network on channel ids: which channels must be equal in number, and which positions of a weight they own.

Beside every activation goes an int64 tensor of the same shape that says whose channel each element is. Convolutions
and linear layers give out new ids; operators that move elements (reshape, chunk, cat, transpose, slice) are executed
literally on the ids; where two tensors meet element by element the ids that meet become one channel. An id of -1
belongs to no channel (a constant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

NO_CHANNEL = -1


class Use(NamedTuple):
    """A parameter or buffer that has a position along `dim` for each entry of `ids`."""

    name: str
    dim: int
    role: str
    """"out": the positions make the channel; "in": they read it."""
    ids: Tensor
    """[length of the dimension], int64; -1 where the position belongs to no channel."""
    producer: str | None
    """The convolution or linear layer that this is the weight of, for role "out"."""


@dataclass
class ChannelRecord:
    """What a run on channel ids found."""

    count: int = 0
    """Ids given out so far."""
    uses: list[Use] = field(default_factory=list)
    same: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Pairs of equally long id vectors: entry by entry one channel."""
    locks: list[tuple[Tensor, str]] = field(default_factory=list)
    """Ids that cannot be removed, and why."""

    def fresh(self, count: int) -> Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def use(self, name: str, dim: int, role: str, ids: Tensor, producer: str | None = None) -> None:
        self.uses.append(Use(name, dim, role, ids, producer))

    def lock(self, ids: Tensor, reason: str) -> None:
        self.locks.append((_compact(ids).unique(), reason))

    def join(self, a: Tensor, b: Tensor, where: str) -> Tensor:
        """Ids of a tensor in which `a` and `b` (of one shape) meet element by element."""
        short_a, short_b = _compact_together(a, b)
        both = (short_a >= 0) & (short_b >= 0) & (short_a != short_b)
        if both.any():
            pairs = torch.stack([short_a[both], short_b[both]]).unique(dim=1)
            self.same.append((pairs[0], pairs[1]))
        alone = torch.cat([short_a[short_b < 0], short_b[short_a < 0]])
        if (alone >= 0).any():
            self.lock(alone, f"meets a tensor of fixed width in {where}")
        return torch.where(short_a >= 0, short_a, short_b).expand(a.shape)

    def tie(self, rows: Tensor, where: str) -> None:
        """Entries at the same place in every row become one channel."""
        for row in rows[1:]:
            self.join(rows[0], row, where)


def tensors(value: Any) -> list[Tensor]:
    values = value if isinstance(value, tuple | list) else [value]
    return [item for item in values if isinstance(item, Tensor)]


def constant(value: Any) -> Any:
    return torch.tensor(NO_CHANNEL).expand(value.shape) if isinstance(value, Tensor) else value


def spread(ids: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    view = [1] * len(shape)
    view[dim] = -1
    return ids.view(view).expand(shape)


def varies(ids: Tensor, dim: int) -> bool:
    dim = dim % ids.dim()
    if ids.shape[dim] == 1 or ids.stride(dim) == 0:
        return False
    ids = _compact(ids)
    return bool((ids != ids.narrow(dim, 0, 1)).any())


def _compact(ids: Tensor) -> Tensor:
    """Without the repetition along expanded dimensions."""
    for dim in range(ids.dim()):
        if ids.stride(dim) == 0 and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids


def _compact_together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return torch.broadcast_tensors(_compact(a), _compact(b))
