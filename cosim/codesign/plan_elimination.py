"""The best choice of every decision for given prices of the resources, by eliminating one decision after the other.

Max-sum bucket elimination (Dechter, Artificial Intelligence 113, 1999) on the factors' tables: exact where no table on
the way grows beyond a limit. Otherwise a bucket is split (mini-buckets: Dechter and Rish, Journal of the ACM 50,
2003): the value found is then an upper bound, and the choices are good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_ENTRIES = 400_000
"""Entries of the largest table on the way."""
Table = tuple[tuple[int, ...], Array]
"""Decisions, ascending, and a value for each combination of their choices."""


class Best(NamedTuple):
    """The best plan, or a good one and a bound."""

    bound: float
    choices: tuple[int, ...]


@dataclass(frozen=True)
class Elimination:
    """In which order decisions are eliminated."""

    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def solve(self, tables: Sequence[Table]) -> Best:
        """Maximise the sum of the tables."""
        buckets: list[list[Table]] = []
        left = list(tables)
        for decision in self.order:
            bucket = [table for table in left if decision in table[0]]
            left = [table for table in left if decision not in table[0]]
            buckets.append(bucket)
            left += [self._eliminate(decision, part) for part in self._split(bucket)]
        chosen: dict[int, int] = {}
        for decision, bucket in zip(reversed(self.order), reversed(buckets), strict=True):
            chosen[decision] = int(np.argmax(self._given(decision, bucket, chosen)))
        return Best(float(sum(float(table) for _, table in left)), tuple(chosen[i] for i in range(len(self.sizes))))

    def _split(self, bucket: Sequence[Table]) -> list[list[Table]]:
        """Parts whose joint tables are small enough; one where possible."""
        parts: list[tuple[set[int], list[Table]]] = []
        for table in sorted(bucket, key=lambda table: (-len(table[0]), table[0])):
            for scope, part in parts:
                if prod(self.sizes[i] for i in scope | set(table[0])) <= MOST_ENTRIES:
                    scope.update(table[0])
                    part.append(table)
                    break
            else:
                parts.append((set(table[0]), [table]))
        return [part for _, part in parts]

    def _eliminate(self, decision: int, part: Sequence[Table]) -> Table:
        scope = tuple(sorted({i for table in part for i in table[0]}))
        total = np.zeros([self.sizes[i] for i in scope])
        for own, table in part:
            total += table.reshape([self.sizes[i] if i in own else 1 for i in scope])
        return tuple(i for i in scope if i != decision), total.max(axis=scope.index(decision))

    def _given(self, decision: int, bucket: Sequence[Table], chosen: dict[int, int]) -> Array:
        """Sum of a bucket's tables for each choice of its decision, the others as chosen."""
        total = np.zeros(self.sizes[decision])
        for scope, table in bucket:
            total = total + table[tuple(slice(None) if i == decision else chosen[i] for i in scope)]
        return total


def plan_elimination(sizes: Sequence[int], scopes: Sequence[tuple[int, ...]]) -> Elimination:
    """Eliminate the decision first whose joint table is smallest, again and again (min-weight)."""
    near: dict[int, set[int]] = {i: set() for i in range(len(sizes))}
    for scope in scopes:
        for i in scope:
            near[i] |= set(scope) - {i}
    order = []
    while near:
        decision = min(near, key=lambda i: (sizes[i] * prod(sizes[j] for j in near[i]), i))
        for i in near[decision]:
            near[i] |= near[decision] - {i}
            near[i].discard(decision)
        del near[decision]
        order.append(decision)
    return Elimination(tuple(sizes), tuple(order))


def is_exact(elimination: Elimination, scopes: Sequence[tuple[int, ...]]) -> bool:
    """Whether no table on the way is too large."""
    left = [set(scope) for scope in scopes]
    for decision in elimination.order:
        joint = set().union(*(scope for scope in left if decision in scope))
        if prod(elimination.sizes[i] for i in joint) > MOST_ENTRIES:
            return False
        left = [scope for scope in left if decision not in scope] + [joint - {decision}]
    return True


__all__ = ["Best", "Elimination", "Table", "is_exact", "plan_elimination"]
