"""Memory that a plan needs: its weights as stored, and the activations at the moment at which most are alive.

Activations of a layer are a straight line in the widths of the groups; the peak is the largest of these lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accel_models.layers import Layer
from accel_models.liveness import input_elements, tensors
from cosim.codesign.plan_shapes import NetworkShapes
from cosim.codesign.plan_tables import MEMORY, Array, Decision, Factor

MOST_ROWS = 6
SHARES = np.linspace(0.1, 1.0, 10)
"""Widths, all groups alike, at which the peaks are looked for."""


@dataclass(frozen=True)
class MemoryRow:
    """Bytes of the activations that are alive while one layer runs."""

    dense: float
    each: Array
    """[groups]: bytes that leave with a channel of each group."""


def memory_rows(shapes: NetworkShapes) -> tuple[MemoryRow, ...]:
    """The lines of which the peak is the largest; those that are it most often first, at most six."""
    groups = len(shapes.groups)
    sizes = np.array([group.size for group in shapes.groups], float)
    workload = shapes.workload([group.size for group in shapes.groups])
    by_name = {shape.layer.name: shape for shape in shapes.layers}
    written = {name: _line(shape.layer, [shape.at({g: 1}) for g in range(groups)]) for name, shape in by_name.items()}
    fed = {consumer for _, consumer in workload.edges}
    alive = tensors(workload)
    rows = []
    for position, tensor in enumerate(alive):
        lines = [written[t.producer] for t in alive if t.first <= position <= t.last]
        if tensor.producer not in fed:
            shape = by_name[tensor.producer]
            lines.append(_line(shape.layer, [shape.at({g: 1}) for g in range(groups)], reads=True))
        rows.append(MemoryRow(sum(line.dense for line in lines), sum((line.each for line in lines), np.zeros(groups))))
    rows = [
        row
        for i, row in enumerate(rows)
        if not any(_covers(o, row, sizes, j < i) for j, o in enumerate(rows) if j != i)
    ]
    at = np.array([[row.dense - float(row.each @ (sizes - np.maximum(1, sizes * s))) for row in rows] for s in SHARES])
    often = Counter(at.argmax(axis=1).tolist())
    return tuple(rows[i] for i in sorted(range(len(rows)), key=lambda i: (-often[i], -rows[i].dense, i))[:MOST_ROWS])


def _line(dense: Layer, narrower: Sequence[Layer], *, reads: bool = False) -> MemoryRow:
    """Bytes that a layer writes (or reads), and what they lose with a channel of each group."""

    def size(layer: Layer) -> float:
        if reads:
            return input_elements(layer) * layer.bits.input / 8
        return layer.output_elements * layer.bits.output / 8

    return MemoryRow(size(dense), np.array([size(dense) - size(layer) for layer in narrower]))


def _covers(one: MemoryRow, other: MemoryRow, sizes: Array, first: bool) -> bool:
    """Whether `one` is never below `other`; of equal ones the first covers."""
    least = one.dense - other.dense - float(np.maximum(one.each - other.each, 0.0) @ (sizes - 1))
    equal = one.dense == other.dense and bool((one.each == other.each).all())
    return first if equal else least >= 0


def memory_factors(rows: Sequence[MemoryRow], decisions: Sequence[Decision], resources: int) -> list[Factor]:
    """Bytes of activations, one factor a group."""
    found = []
    if rows:
        cost = np.zeros(resources)
        cost[MEMORY:] = [row.dense for row in rows]
        found.append(Factor((), np.zeros(()), cost, cost))
    for number in range(len(rows[0].each) if rows else 0):
        counts = np.array(decisions[number].counts, float)
        cost = np.zeros((resources, len(counts)))
        cost[MEMORY:] = np.outer([-row.each[number] for row in rows], counts[-1] - counts)
        if cost.any():
            found.append(Factor((number,), np.zeros(len(counts)), cost, cost))
    return found


__all__ = ["MemoryRow", "memory_factors", "memory_rows"]
