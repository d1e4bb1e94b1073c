"""A good mapping fast: beam search over moves of factors between loops, for a start that the exact search improves.

A state is a tiling and, for every level, which operand its loops let rest (`ORDERS`). Its neighbours move one divisor
of one dimension from a temporal or spatial loop to another, or change the order at one level. The best `WIDTH` states
known are expanded until none of them is new. Deterministic; no bound is proven.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from accel_models.kernels.stage_floor import Space
from accel_models.mapping import DIMS, LoopShape
from accel_models.mapping_cost import MappingScores, MappingTable, evaluate_mappings
from accel_models.mapping_space import Hierarchy

WIDTH, STEPS, LEAPS = 12, 60, 1
"""States kept; at most so many rounds; how many states take two moves at once when no single one helps."""
ORDERS = np.array(["GKCRSNPQ", "NGKPQCRS", "NGCRSPQK"])
"""Outermost first: innermost stand the loops that let the weight, the output, the input rest."""
PALETTE = np.array([[DIMS.index(dim) for dim in order] for order in ORDERS], np.int8)

Ints = NDArray[np.int64]
Score = Callable[[MappingScores], NDArray[np.float64]]


def beam_mapping(shape: LoopShape, hierarchy: Hierarchy, space: Space, score: Score) -> MappingTable | None:
    """The best mapping that the beam meets, from all loops at the outermost level.

    Parameters
    ----------
    score : scores of B mappings -> float64[B], least is best; infinite: not acceptable, as a start all the same

    Returns
    -------
    MappingTable of one row, or None where no acceptable one was met
    """
    beam, best = _Beam(shape, hierarchy, space, score), np.inf
    for _ in range(STEPS):
        if beam.step():
            continue
        if not beam.scores[0] < best:
            break
        best = beam.scores[0]
        beam.leap()
    if not np.isfinite(beam.scores[0]):
        return None
    return beam.table(beam.states[:1], beam.orders[:1])


class _Beam:
    """The best states so far, by ascending score; slots are the temporal loops of all levels, then the spatial ones."""

    def __init__(self, shape: LoopShape, hierarchy: Hierarchy, space: Space, score: Score) -> None:
        self.shape, self.hierarchy, self.space, self.score = shape, hierarchy, space, score
        n_levels = len(hierarchy.levels)
        self.n_levels, self.moves = n_levels, _moves(space, n_levels)
        start = np.ones((1, 2 * n_levels, 8), np.int64)
        start[0, 0] = [shape.extents[dim] for dim in DIMS]
        rng = np.random.default_rng(0)
        self.salt = rng.integers(1, 2**62, 2 * n_levels * 8), rng.integers(1, 2**62, n_levels)
        self.turns = [level for level in range(n_levels) if space.loops[level].sum() > 1]
        self.orders = np.stack(np.meshgrid(*[[0, 1, 2] if i in self.turns[:2] else [1] for i in range(n_levels)]), -1)
        self.orders = self.orders.reshape(-1, n_levels)
        self.states = np.repeat(start, len(self.orders), axis=0)
        self.scores = self._scored(self.states, self.orders)
        self.seen = np.unique(self._keys(self.states, self.orders))
        self.fresh = np.ones(len(self.states), np.bool_)

    def step(self) -> bool:
        """Expand the states that are new; False where none is."""
        if not self.fresh.any():
            return False
        self._meet(*self._neighbours(self.states[self.fresh], self.orders[self.fresh]))
        return True

    def leap(self) -> None:
        """Expand the best states by two moves at once."""
        states, orders = self._neighbours(*self._moved(self.states[:LEAPS], self.orders[:LEAPS]))
        self._meet(states, orders)

    def _meet(self, states: Ints, orders: Ints) -> None:
        """Keep the best of the states known and these."""
        if not len(states):
            self.fresh[:] = False
            return
        keys, first = np.unique(self._keys(states, orders), return_index=True)
        first = first[~np.isin(keys, self.seen)]
        self.seen = np.union1d(self.seen, keys)
        states, orders = states[first], orders[first]
        self.states = np.concatenate([self.states, states])
        self.orders = np.concatenate([self.orders, orders])
        self.scores = np.concatenate([self.scores, self._scored(states, orders)])
        self.fresh = np.concatenate([np.zeros(len(self.fresh), np.bool_), np.ones(len(states), np.bool_)])
        best = np.argsort(self.scores, kind="stable")[:WIDTH]
        self.states, self.orders, self.scores = self.states[best], self.orders[best], self.scores[best]
        self.fresh = self.fresh[best]

    def _neighbours(self, states: Ints, orders: Ints) -> tuple[Ints, Ints]:
        """One move or one turn from the states; the states themselves need not be legal."""
        moved, kept = self._moved(states, orders)
        turned, turns = [moved], [kept]
        for level in self.turns:
            for turn in range(1, len(PALETTE)):
                other = orders.copy()
                other[:, level] = (other[:, level] + turn) % len(PALETTE)
                turned.append(states)
                turns.append(other)
        states, orders = np.concatenate(turned), np.concatenate(turns)
        legal = self._legal(states)
        return states[legal], orders[legal]

    def _moved(self, states: Ints, orders: Ints) -> tuple[Ints, Ints]:
        dim, source, target, factor = self.moves
        which, move = np.nonzero(states[:, source, dim] % factor == 0)
        grown, every = states[which], np.arange(len(which))
        grown[every, source[move], dim[move]] //= factor[move]
        grown[every, target[move], dim[move]] *= factor[move]
        return grown, orders[which]

    def _legal(self, states: Ints) -> NDArray[np.bool_]:
        temporal, spatial = states[:, : self.n_levels], states[:, self.n_levels :]
        tiles = np.cumprod((temporal * spatial)[:, ::-1], axis=1)[:, ::-1]
        legal = np.ones(len(states), np.bool_)
        for level in range(self.n_levels):
            legal &= self.space.spreads[level, self._number(spatial[:, level])]
            legal &= self.space.fits[level, self._number(tiles[:, level])]
        return legal

    def _number(self, vectors: Ints) -> Ints:
        return (self.space.digit[np.arange(8), vectors] * self.space.radix).sum(axis=1)

    def _keys(self, states: Ints, orders: Ints) -> Ints:
        """Hashes; two states of one are taken to be one."""
        return states.reshape(len(states), -1) @ self.salt[0] + orders @ self.salt[1]

    def _scored(self, states: Ints, orders: Ints) -> NDArray[np.float64]:
        table, machine = self.table(states, orders), self.hierarchy
        return self.score(evaluate_mappings(self.shape, machine.levels, table, machine.prices, machine.mac_pj))

    def table(self, states: Ints, orders: Ints) -> MappingTable:
        factors = states.astype(np.int32)
        return MappingTable(factors[:, : self.n_levels], factors[:, self.n_levels :], PALETTE[orders])


def _moves(space: Space, n_levels: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Dimension, slot to take from, slot to give to and factor of all moves that the hierarchy allows."""
    rows = []
    allowed = np.vstack([space.loops, space.across])
    for dim in range(8):
        slots = np.flatnonzero(allowed[:, dim])
        factors = space.divisors[dim][space.divisors[dim] > 1]
        rows += [(dim, a, b, int(f)) for a in slots for b in slots if a != b for f in factors]
    moves = np.array(rows, np.int64).reshape(-1, 4)
    return moves[:, 0], moves[:, 1], moves[:, 2], moves[:, 3]
