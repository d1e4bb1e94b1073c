"""A sparse array stepped cycle by cycle: lanes with work lists, a shared segment buffer, banks and queues.

Knows an array only by its description: nothing here is shared with the kernels.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import NDArray

from accel_models.sparse_array import SparseArray, SparseShape

Bits = NDArray[np.bool_]


@dataclass
class Stepped:
    """What all passes did."""

    total: int = 0
    waited: int = 0
    busy: int = 0
    balanced: int = 0
    conflicts: int = 0
    passes: int = 0
    products: int = 0
    reads: dict[str, int] = field(default_factory=lambda: {"weight": 0, "input": 0})


@dataclass
class Job:
    """One segment of one lane: cycles with products, and cycles of metadata."""

    cycles: int
    metadata: int


def step_array(array: SparseArray, shape: SparseShape, weights: Bits | None, inputs: Bits | None) -> Stepped:
    """Run every pass of every group. weights [groups x outputs, reduction x unit], inputs likewise; None: dense."""
    done = Stepped()
    for g in range(shape.groups):
        w = _operand(weights, g, shape.outputs, shape.reduction, shape.weight_unit, array.skips("weight"))
        a = _operand(inputs, g, shape.pixels, shape.reduction, shape.input_unit, array.skips("input"))
        output_tiles = [
            range(i, min(i + array.tile_outputs, shape.outputs)) for i in range(0, shape.outputs, array.tile_outputs)
        ]
        pixel_tiles = [
            range(i, min(i + array.tile_pixels, shape.pixels)) for i in range(0, shape.pixels, array.tile_pixels)
        ]
        for owners in _owners(array, output_tiles, w, weights is not None):
            for at in range(0, len(pixel_tiles), array.lane_pixels):
                lanes = list(product(owners, pixel_tiles[at : at + array.lane_pixels]))
                _step_pass(array, shape, w, a, lanes, done)
            if array.gather_banks and weights is not None:
                picked = [np.flatnonzero(w[tiles[0][0], :, 0]) for tiles in owners]
                groups = -(-len(pixel_tiles) // array.lane_pixels)
                done.conflicts += groups * _gather(picked, array)
    return done


def _operand(bits: Bits | None, group: int, rows: int, reduction: int, unit: int, skipped: bool) -> Bits:
    """[rows, reduction, unit]; all True where zeros are not skipped."""
    if bits is None or not skipped:
        return np.ones((rows, reduction, unit), bool)
    return bits[group * rows : (group + 1) * rows].reshape(rows, reduction, unit)


def _owners(array: SparseArray, tiles: list[range], w: Bits, masked: bool) -> list[list[list[range]]]:
    """Passes of lanes of tiles."""
    if array.balance == "none" or not masked or not array.skips("weight"):
        return [[[t] for t in tiles[i : i + array.lane_outputs]] for i in range(0, len(tiles), array.lane_outputs)]
    kept = {t.start: int(w[t.start : t.stop].sum()) for t in tiles}
    ranked = sorted(tiles, key=lambda t: -kept[t.start])
    passes = []
    for i in range(0, len(ranked), 2 * array.lane_outputs):
        members = ranked[i : i + 2 * array.lane_outputs]
        lanes = [[tile] for tile in members[: array.lane_outputs]]
        for lane, tile in zip(reversed(lanes), members[array.lane_outputs :], strict=False):
            lane.append(tile)
        passes.append(lanes)
    return passes


def _step_pass(array: SparseArray, shape: SparseShape, w: Bits, a: Bits, lanes: list, done: Stepped) -> None:
    segment = array.segment or shape.reduction
    starts = range(0, shape.reduction, segment)
    jobs = [
        [_job(array, w, a, tiles, pixels, range(s, min(s + segment, shape.reduction)), done) for s in starts]
        for tiles, pixels in lanes
    ]
    busy = sum(job.cycles for lane in jobs for job in lane)
    waited = _clock([[job.cycles for job in lane] for lane in jobs], array.look_ahead)
    done.waited += waited
    done.total += _clock([[job.cycles + job.metadata for job in lane] for lane in jobs], array.look_ahead)
    done.busy += busy
    done.balanced += -(-busy // len(lanes))
    done.passes += 1
    if array.accumulator_banks:
        done.conflicts += max(_scatter(array, shape, w, a, tiles[0], pixels) for tiles, pixels in lanes) - waited


def _job(array: SparseArray, w: Bits, a: Bits, tiles: list[range], pixels: range, ks: range, done: Stepped) -> Job:
    """List the vectors of a segment one by one."""
    cycles = latches = 0
    for tile in tiles:
        pairs = 0
        for k in ks:
            weights, inputs = np.argwhere(w[tile.start : tile.stop, k]), np.argwhere(a[pixels.start : pixels.stop, k])
            weight_vectors = [
                weights[i : i + array.vector_outputs] for i in range(0, len(weights), array.vector_outputs)
            ]
            input_vectors = [inputs[i : i + array.vector_pixels] for i in range(0, len(inputs), array.vector_pixels)]
            if array.held == "weight" and input_vectors:
                latches += len(weight_vectors)
                done.reads["weight"] += len(weights)
            if array.held == "input" and weight_vectors:
                latches += len(input_vectors)
                done.reads["input"] += len(inputs)
            for some_weights, some_inputs in product(weight_vectors, input_vectors):
                pairs += 1
                done.products += len(some_weights) * len(some_inputs)
                done.reads["weight"] += len(some_weights) if array.held != "weight" else 0
                done.reads["input"] += len(some_inputs) if array.held != "input" else 0
        cycles += max(array.least_cycles, -(-pairs // array.vector_reduction))
    return Job(cycles, array.segment_cycles + array.latch_cycles * latches)


def _clock(work: list[list[int]], look_ahead: int) -> int:
    """Step lanes that share a buffer of `look_ahead` segments (0: of all); a slot is free when every lane is done."""
    segments = len(work[0])
    at, left = [-1] * len(work), [0] * len(work)
    resident: set[int] = set()
    fetched, clock = 0, 0
    while True:
        moved = True
        while moved:
            moved = False
            while fetched < segments and (not look_ahead or len(resident) < look_ahead):
                resident.add(fetched)
                fetched += 1
                moved = True
            for lane, jobs in enumerate(work):
                if left[lane] == 0 and at[lane] + 1 in resident:
                    at[lane] += 1
                    left[lane] = jobs[at[lane]]
                    moved = True
            finished = {s for s in resident if all(p > s or (p == s and n == 0) for p, n in zip(at, left, strict=True))}
            moved |= bool(finished)
            resident -= finished
        if fetched == segments and not resident:
            return clock
        clock += 1
        left = [max(n - 1, 0) for n in left]


def _gather(picked: list[NDArray[np.int64]], array: SparseArray) -> int:
    """Schedule the picks of every window without conflicts and count the cycles beyond those of the slowest lane."""
    lost = 0
    for start in range(0, max((len(p) for p in picked), default=0), array.gather_window):
        requests = []
        longest = 0
        for lane, all_picks in enumerate(picked):
            picks = all_picks[start : start + array.gather_window]
            longest = max(longest, -(-len(picks) // array.vector_reduction))
            for j, element in enumerate(picks):  # multipliers of a lane take turns
                requests.append(((lane, j % array.vector_reduction), int(element) % array.gather_banks))
        lost += _schedule(requests) - longest
    return lost


def _schedule(requests: list[tuple[tuple[int, int], int]]) -> int:
    """Give every request a cycle such that no multiplier and no bank has two; swaps alternating paths (Koenig)."""
    busiest = max([0, *Counter(m for m, _ in requests).values(), *Counter(b for _, b in requests).values()])
    cycle_of: dict[int, int] = {}

    def taken(node: object, side: int) -> dict[int, int]:
        return {cycle_of[i]: i for i, r in enumerate(requests) if i in cycle_of and r[side] == node}

    for i, (multiplier, bank) in enumerate(requests):
        mine = next(c for c in range(busiest) if c not in taken(multiplier, 0))
        theirs = next(c for c in range(busiest) if c not in taken(bank, 1))
        path, node, side, colour = [], bank, 1, mine
        while (edge := taken(node, side).get(colour)) is not None:
            path.append(edge)
            side = 1 - side
            node, colour = requests[edge][side], theirs if colour == mine else mine
        for edge in path:
            cycle_of[edge] = theirs if cycle_of[edge] == mine else mine
        cycle_of[i] = mine
    for side in (0, 1):
        slots = [(r[side], cycle_of[i]) for i, r in enumerate(requests)]
        assert len(set(slots)) == len(slots)
    return len(set(cycle_of.values()))


def _scatter(array: SparseArray, shape: SparseShape, w: Bits, a: Bits, tile: range, pixels: range) -> int:
    """Step one lane whose products queue at banks of accumulators."""
    height, width = shape.tile[0] + shape.filter[0] - 1, shape.tile[1] + shape.filter[1] - 1
    space = np.arange(array.tile_outputs * height * width).reshape(array.tile_outputs, height, width)
    queues: list[deque] = [deque() for _ in range(array.accumulator_banks)]
    clock = 0

    def retire() -> None:
        for queue in queues:
            if queue:
                queue.popleft()

    for k in range(shape.reduction):
        weights = [(n - tile.start, *divmod(i, shape.filter[1])) for n in tile for i in np.flatnonzero(w[n, k])]
        inputs = [divmod(int(i), shape.tile[1]) for i in np.flatnonzero(a[pixels.start, k])]
        for i in range(0, len(inputs), array.vector_pixels):
            for j in range(0, len(weights), array.vector_outputs):
                banks: list[list] = [[] for _ in queues]
                for (y, x), (n, r, s) in product(
                    inputs[i : i + array.vector_pixels], weights[j : j + array.vector_outputs]
                ):
                    place = space[n, y - r + shape.filter[0] - 1, x - s + shape.filter[1] - 1]
                    banks[place % len(banks)].append(place)
                while True:
                    clock += 1
                    retire()
                    pairs = list(zip(queues, banks, strict=True))
                    if all(
                        not new or not queue or len(queue) + len(new) <= array.accumulator_queue for queue, new in pairs
                    ):
                        break
                for queue, new in pairs:
                    queue.extend(new)
    while sum(map(len, queues)):
        retire()
        clock += bool(sum(map(len, queues)))
    return clock
