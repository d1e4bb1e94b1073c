"""Expected cost of one mapping with random zeros, slowly: exact fractions, and sets of elements walked one by one.

Shares with the fast model only the dense counts (`count_accesses`, proven elsewhere) and the definitions of `Zeros`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import ceil, comb, inf, isqrt, log2

from accel_models.loopnest import count_accesses
from accel_models.mapping import DIMS, OPERANDS, RELEVANT, LoopShape, Mapping
from accel_models.mapping_space import Hierarchy
from accel_models.mapping_sparse import Zeros


def nonzeros(shape: LoopShape, zeros: Zeros, operand: str) -> int:
    return int(zeros.density.get(operand, 1.0) * shape.words(operand) + 0.5)


def empty(whole: int, full: int, tile: int) -> Fraction:
    """Probability that a tile holds no non-zero."""
    return Fraction(comb(whole - tile, full), comb(whole, full))


def room_for(whole: int, full: int, tile: int, sigmas: float) -> int:
    """Non-zeros for which a tile has room: the smallest whole number above mean + sigmas x deviation."""
    most = min(tile, full)
    if sigmas == inf or whole == 1:
        return most
    mean = Fraction(tile * full, whole)
    variance = mean * Fraction(whole - full, whole) * Fraction(whole - tile, whole - 1)
    square = variance * Fraction(sigmas) ** 2
    count = ceil(mean) + isqrt(int(square)) + 2
    while count > mean and (count - 1 - mean) >= 0 and (count - 1 - mean) ** 2 >= square:
        count -= 1
    return min(most, count)


def bits(form: str, words: int, full: float, width: int, zeros: Zeros, worst: bool) -> float:
    if form == "dense":
        return words * width
    if form == "bitmask":
        return full * width + words
    if form == "coordinates":
        return full * (width + ceil(log2(words))) + ceil(log2(words + 1))
    span = 2**zeros.run_bits
    if worst:
        return (full + ceil((words - full) / span)) * (width + zeros.run_bits)
    share = full / words
    length = sum((1 - share) ** i for i in range(span))  # mean words of an entry: it goes on while words are zero
    return words / length * (width + zeros.run_bits)


def met(shape: LoopShape, mapping: Mapping, parent: int, child: int, operand: str, leader: str) -> int:
    """Elements of the leader that meet a tile of the operand while it stays at the child, from its first step on."""
    seen: set[tuple[int, ...]] = set()
    first = None
    for step in steps(shape, mapping, child):
        tile = {element(shape, point, operand) for point in points(shape, mapping, child, child, step, operand)}
        if first is None:
            first = tile
        elif tile != first or child == len(mapping.levels):
            break
        shared = parent if mapping.levels[parent].multicast else child
        seen |= {element(shape, point, leader) for point in points(shape, mapping, shared, child, step, operand)}
    return len(seen)


def strides(mapping: Mapping) -> list[list[tuple[str, int, bool, int]]]:
    """Of every loop of every level: dimension, factor, spatial, and how far one iteration moves the index."""
    inside = dict.fromkeys(DIMS, 1)
    rows: list[list[tuple[str, int, bool, int]]] = []
    for loops in reversed(mapping.loops):
        row = []
        for loop in reversed(loops):
            row.append((loop.dim, loop.factor, loop.spatial, inside[loop.dim]))
            inside[loop.dim] *= loop.factor
        rows.append(row[::-1])
    return rows[::-1]


def steps(shape: LoopShape, mapping: Mapping, child: int) -> Iterator[dict[str, int]]:
    """Indices that the temporal loops outside a child add up to, in the order of time."""
    loops = [loop for row in strides(mapping)[:child] for loop in row if not loop[2]]
    yield from _sums(loops)


def points(
    shape: LoopShape, mapping: Mapping, parent: int, child: int, step: dict[str, int], operand: str
) -> Iterator[dict[str, int]]:
    """Iterations inside a child, and inside those that fetch the same tile of the operand behind a parent."""
    rows = strides(mapping)
    loops = [loop for row in rows[child:] for loop in row]
    loops += [loop for row in rows[parent:child] for loop in row if loop[2] and loop[0] not in RELEVANT[operand]]
    for point in _sums(loops):
        yield {dim: point[dim] + step[dim] for dim in DIMS}


def _sums(loops: list[tuple[str, int, bool, int]]) -> Iterator[dict[str, int]]:
    for index in product(*(range(loop[1]) for loop in loops)):
        point = dict.fromkeys(DIMS, 0)
        for at, loop in zip(index, loops, strict=True):
            point[loop[0]] += at * loop[3]
        yield point


def element(shape: LoopShape, point: dict[str, int], operand: str) -> tuple[int, ...]:
    if operand != "input":
        return tuple(point[dim] for dim in DIMS if dim in RELEVANT[operand])
    row = point["P"] * shape.stride[0] + point["R"] * shape.dilation[0]
    column = point["Q"] * shape.stride[1] + point["S"] * shape.dilation[1]
    return point["N"], point["G"], point["C"], row, column


def excess_bits(shape: LoopShape, mapping: Mapping, hierarchy: Hierarchy, zeros: Zeros) -> int:
    worst = 0
    dense = count_accesses(shape, mapping).levels
    for index, level in enumerate(hierarchy.levels):
        room = hierarchy.room_bytes(index)
        if room is None:
            continue
        need = 0
        for operand, counts in dense[index].operands.items():
            tile, whole, full = counts.tile_words, shape.words(operand), nonzeros(shape, zeros, operand)
            width = level.word_bits[OPERANDS.index(operand)]
            form = zeros.formats.get((level.name, operand), "dense")
            need += ceil(bits(form, tile, room_for(whole, full, tile, zeros.sigmas), width, zeros, True))
        worst = max(worst, need - 8 * room)
    return worst


def cost(shape: LoopShape, mapping: Mapping, hierarchy: Hierarchy, zeros: Zeros) -> tuple[float, float]:
    """Expected cycles, not rounded up, and pJ."""
    counts = count_accesses(shape, mapping)
    n_levels = len(mapping.levels)
    effectual = 1.0
    if zeros.macs is not None:
        for leader in sorted(zeros.macs.leaders):
            effectual *= zeros.density.get(leader, 1.0)
    skips = zeros.macs is not None and zeros.macs.kind == "skip"
    energy = counts.macs * hierarchy.mac_pj * effectual
    cycles = counts.macs / mapping.instances(n_levels) * (effectual if skips else 1.0)
    words = [0.0] * n_levels
    for operand in OPERANDS:
        holders = [i for i, level in enumerate(mapping.levels) if operand in level.holds]
        spent, timed, outer = 1.0, 1.0, (1.0, 1.0)
        for parent, child in zip(holders, [*holders[1:], n_levels], strict=True):
            level, price = hierarchy.levels[parent], hierarchy.prices[parent]
            share, kind = happens(shape, mapping, zeros, parent, child, operand)
            outer = spent, timed
            spent = min(spent, share)
            timed = min(timed, share) if kind == "skip" else timed
            c = counts.levels[parent].operands[operand]
            width = level.word_bits[OPERANDS.index(operand)]
            form = zeros.formats.get((level.name, operand), "dense")
            mean = zeros.density.get(operand, 1.0) * c.tile_words
            stored = bits(form, c.tile_words, mean, width, zeros, False) / (c.tile_words * width)
            reads = spent * (c.sends + c.merges) + outer[0] * c.drains
            writes = spent * c.updates + outer[0] * c.fills
            energy += stored * (reads * price.read_pj.get(operand, 0.0) + writes * price.write_pj.get(operand, 0.0))
            words[parent] += stored * (timed * (c.sends + c.merges + c.updates) + outer[1] * (c.drains + c.fills))
    for index, price in enumerate(hierarchy.prices):
        cycles = max(cycles, words[index] / (price.bandwidth * mapping.instances(index)))
    return cycles, energy


def happens(
    shape: LoopShape, mapping: Mapping, zeros: Zeros, parent: int, child: int, operand: str
) -> tuple[float, str]:
    """Which share of the reads of a parent happens, and what the others save."""
    action = zeros.reads.get((mapping.levels[parent].name, operand))
    if action is None:
        return 1.0, "none"
    share = 1.0
    for leader in sorted(action.leaders):
        tile = met(shape, mapping, parent, child, operand, leader)
        share *= float(1 - empty(shape.words(leader), nonzeros(shape, zeros, leader), tile))
    return share, action.kind
