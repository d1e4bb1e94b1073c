"""Runs a network on channel ids: which channels must be equal in number, and which positions of a weight they own.

Beside every activation goes an int64 tensor of the same shape that says whose channel each element is. Convolutions
and linear layers give out new ids; operators that move elements (reshape, chunk, cat, transpose, slice) are executed
literally on the ids; where two tensors meet element by element the ids that meet become one channel. An id of -1
belongs to no channel (a constant).

What has to be decided with all ids at hand waits in the record: a reshape that splits channels over several
dimensions (`slabs`: which of them can shrink depends on what follows, a shuffle or attention heads), dimensions that
must keep their size (`fixed`), and sizes written in the code (`sized`).
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
    makes: bool
    """The positions make a channel that was not there before (weights of convolution, linear, embedding)."""


class Slab(NamedTuple):
    """A tensor of which only whole slices can leave, because it stays a tensor."""

    ids: Tensor
    free: int
    """Dimension along which slices leave where nothing else decides it."""
    node: str


class Fixed(NamedTuple):
    """A dimension that must keep its size: channels that take a part of it are locked."""

    ids: Tensor
    dim: int
    reason: str


class Slot(NamedTuple):
    """A size in the code of a node: the length of `ids` along `dim` from `start` to `stop`."""

    number: int
    """Which of the node's sizes."""
    ids: Tensor
    dim: int
    start: int
    stop: int
    size: int
    """Its value, ± (stop − start); negative: counted from the end."""
    raw: Any
    """What the graph holds: a number, or the node that computes it."""


class Sized(NamedTuple):
    """A node with sizes in its arguments."""

    node: str
    slots: tuple[Slot, ...]
    whole: int = 0
    """Number of sizes that one node of the graph holds together; 0 where each is written by itself."""
    together: bool = False
    """One size of the code stands for all: it is replaced by all of them, or not at all."""


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
    slabs: list[Slab] = field(default_factory=list)
    fixed: list[Fixed] = field(default_factory=list)
    sized: list[Sized] = field(default_factory=list)
    canonical: dict[str, str] = field(default_factory=dict)
    """Name of a parameter or buffer -> the first name of the same tensor."""
    _first: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def fresh(self, count: int) -> Tensor:
        self.count += count
        return torch.arange(self.count - count, self.count)

    def use(
        self, name: str, dim: int, role: str, ids: Tensor, producer: str | None = None, *, makes: bool = False
    ) -> None:
        name = self.canonical.get(name, name)
        before = self._first.setdefault((name, dim), ids)
        if before is not ids and len(before) == len(ids):
            self.join(before, ids, f"another use of {name}")  # tied weights lose the same positions
        self.uses.append(Use(name, dim, role, ids, producer, makes or producer is not None))

    def lock(self, ids: Tensor, reason: str) -> None:
        self.locks.append((compact(ids).unique(), reason))

    def fix(self, ids: Tensor, dim: int, reason: str) -> None:
        self.fixed.append(Fixed(compact(ids), dim % ids.dim(), reason))

    def slab(self, ids: Tensor, free: Sequence[int], node: str) -> None:
        """Only whole slices of `ids` leave; `free` lists dimensions, the one to be preferred first."""
        ids = compact(ids)
        varying = [d for d in range(ids.dim()) if varies(ids, d)]
        if len(varying) > 1:
            self.slabs.append(Slab(ids, next(d for d in (*free, *varying) if d in varying), node))

    def join(self, a: Tensor, b: Tensor, where: str) -> Tensor:
        """Ids of a tensor in which `a` and `b` (of one shape) meet element by element."""
        short_a, short_b = torch.broadcast_tensors(compact(a), compact(b))
        both = (short_a >= 0) & (short_b >= 0) & (short_a != short_b)
        if both.any():
            self.same.append((short_a[both], short_b[both]))
        alone = torch.cat([short_a[short_b < 0], short_b[short_a < 0]])
        if (alone >= 0).any():
            self.lock(alone, f"meets a tensor of fixed width in {where}")
        return torch.where(short_a >= 0, short_a, short_b).expand(a.shape)

    def tie(self, rows: Tensor, where: str) -> None:
        """Entries at the same place in every row become one channel."""
        if len(rows) > 1:
            rows = rows.reshape(len(rows), -1)
            self.join(rows[:1].expand(len(rows) - 1, -1), rows[1:], where)

    def tie_along(self, ids: Tensor, free: int, where: str) -> None:
        """Everything at one place of dimension `free` becomes one channel."""
        self.tie(compact(ids).movedim(free, -1).flatten(0, -2), where)

    def bind(self, ids: Tensor, dims: Sequence[int], reason: str) -> None:
        """Positions along `dims` leave together or not at all (a normalisation runs over them)."""
        ids = compact(ids)
        inside = [d % ids.dim() for d in dims]
        if not any(varies(ids, d) for d in inside):
            return
        outside = [d for d in range(ids.dim()) if d not in inside and varies(ids, d)]
        if outside:
            self.tie(ids.movedim(inside, list(range(len(inside)))).flatten(0, len(inside) - 1), reason)
        else:
            self.lock(ids, reason)


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
    ids = compact(ids)
    return bool((ids != ids.narrow(dim, 0, 1)).any())


def varying(ids: Tensor) -> list[int]:
    """Dimensions along which there is more than one channel."""
    return [d for d in range(ids.dim()) if varies(ids, d)]


def compact(ids: Tensor) -> Tensor:
    """Without the repetition along expanded dimensions."""
    for dim in range(ids.dim()):
        if ids.stride(dim) == 0 and ids.shape[dim] > 1:
            ids = ids.narrow(dim, 0, 1)
    return ids
