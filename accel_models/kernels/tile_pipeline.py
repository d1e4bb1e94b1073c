"""Tile pipeline of a systolic array with a DMA engine behind two caches: what every tile moves, and when it is done.

Numbers in, numbers out. `measure_tiles` walks the tiles in order and counts requests, beats, lines, misses, rows and
commands of each; `run_pipeline` turns the counts into cycles. The machine is Gemmini's (ucb-bar/gemmini: LoopConv,
LoopMatmul, DMA, ExecuteController, ReservationStation); addresses are bytes of three arrays laid out row-major:
input [N, H, W, C], weight [R, S, C, K], output [N, P, Q, K], one byte an element.

Tile loops stand in the order N, P, Q, K, R, S, C everywhere. The L2 drops the line used least recently, the last-level
cache a random one; the generator is a fixed sequence, so results repeat.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

N, P, Q, K, R, S, C = range(7)

# Counts of one tile (columns of `measure_tiles`).
LOAD_REQUESTS, LOAD_BEATS, LOAD_LINES, LOAD_L2_MISSES, LOAD_LLC_MISSES, LOAD_COMMANDS, ZERO_ROWS = range(7)
BLOCKS, BLOCK_ROWS, BLOCK_CHUNKS = 7, 8, 9
STORE_REQUESTS, STORE_REPEATS, STORE_L2_MISSES, STORE_LLC_MISSES, STORE_COMMANDS = range(10, 15)
COUNTS = 15

# Sums and the finish time (fields of `run_pipeline`).
CYCLES, COMPUTE, LOAD, STORE, HOST = range(5)

MIN_ROWS = 4
"""Fewest rows the array streams for one compute: writes to one accumulator row must lie 4 cycles apart."""


class Layer(NamedTuple):
    """Input height and width, stride and padding per axis; matrix: run as a matrix product."""

    height: int
    width: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    matrix: bool


class Hardware(NamedTuple):
    """Array edge, widest DMA row and bus beat in bytes, two caches (sets x ways of `line` bytes), queue entries."""

    edge: int
    dma_bytes: int
    beat_bytes: int
    line_bytes: int
    l2_sets: int
    l2_ways: int
    llc_sets: int
    llc_ways: int
    load_entries: int
    execute_entries: int
    store_entries: int


class Costs(NamedTuple):
    """Calibrated cycles; library/latency/gemmini_16x16.yaml says what each one means."""

    start: float
    host_convolution: float
    host_matrix: float
    issue: float
    line: float
    load_l2_miss: float
    load_llc_miss: float
    store_request: float
    store_repeat: float
    store_l2_miss: float
    store_llc_miss: float
    port_share: float


@njit(cache=True)
def _miss_recent(tags: Ints, line: int, sets: int, ways: int) -> int:
    """1 where the line was absent, else 0; a set holds its lines in the order of their last use, latest first."""
    first = (line % sets) * ways
    way = first
    while way < first + ways - 1 and tags[way] != line:
        way += 1
    miss = 0 if tags[way] == line else 1
    for i in range(way, first, -1):
        tags[i] = tags[i - 1]
    tags[first] = line
    return miss


@njit(cache=True)
def _miss_random(tags: Ints, state: Ints, line: int, sets: int, ways: int) -> int:
    """1 where the line was absent (it takes an empty or a random place), else 0."""
    first = (line % sets) * ways
    empty = -1
    for way in range(first, first + ways):
        if tags[way] == line:
            return 0
        if tags[way] < 0:
            empty = way
    if empty < 0:
        state[0] = (state[0] * 1103515245 + 12345) & 0x7FFFFFFF
        empty = first + (state[0] >> 16) % ways
    tags[empty] = line
    return 1


@njit(cache=True)
def _packets(address: int, length: int, beat: int, most: int) -> tuple[int, int]:
    """Requests and beats of one row: aligned powers of two, each covering as much of the rest as one can."""
    requests = 0
    beats = 0
    while length > 0:
        taken = 0
        size = beat
        chosen = beat
        while size <= most:
            covered = min(size - address % size, length)
            if covered > taken:
                taken = covered
                chosen = size
            size *= 2
        requests += 1
        beats += chosen // beat
        address += taken
        length -= taken
    return requests, beats


@njit(cache=True)
def _load_row(address: int, length: int, hardware: Hardware, l2: Ints, llc: Ints, state: Ints, row: Ints) -> None:
    """Read one row; state[1] is the line touched last."""
    requests, beats = _packets(address, length, hardware.beat_bytes, hardware.dma_bytes)
    row[LOAD_REQUESTS] += requests
    row[LOAD_BEATS] += beats
    for line in range(address // hardware.line_bytes, (address + length - 1) // hardware.line_bytes + 1):
        if line != state[1]:
            row[LOAD_LINES] += 1
            state[1] = line
        if _miss_recent(l2, line, hardware.l2_sets, hardware.l2_ways):
            row[LOAD_L2_MISSES] += 1
            row[LOAD_LLC_MISSES] += _miss_random(llc, state, line, hardware.llc_sets, hardware.llc_ways)


@njit(cache=True)
def _store_row(address: int, length: int, hardware: Hardware, l2: Ints, llc: Ints, state: Ints, row: Ints) -> None:
    """Write one row; state[2] is the line written last."""
    row[STORE_REQUESTS] += _packets(address, length, hardware.beat_bytes, hardware.dma_bytes)[0]
    for line in range(address // hardware.line_bytes, (address + length - 1) // hardware.line_bytes + 1):
        if line == state[2]:
            row[STORE_REPEATS] += 1
        state[2] = line
        if _miss_recent(l2, line, hardware.l2_sets, hardware.l2_ways):
            row[STORE_L2_MISSES] += 1
            row[STORE_LLC_MISSES] += _miss_random(llc, state, line, hardware.llc_sets, hardware.llc_ways)


@njit(cache=True)
def _load_weights(
    at: Ints, size: Ints, limits: Ints, base: int, hardware: Hardware, l2: Ints, llc: Ints, state: Ints, row: Ints
) -> None:
    wide = hardware.dma_bytes
    for k in range(at[K], at[K] + size[K], wide):
        length = min(wide, at[K] + size[K] - k)
        for r in range(at[R], at[R] + size[R]):
            for s in range(at[S], at[S] + size[S]):
                for c in range(at[C], at[C] + size[C]):
                    address = base + ((r * limits[S] + s) * limits[C] + c) * limits[K] + k
                    _load_row(address, length, hardware, l2, llc, state, row)
    row[LOAD_COMMANDS] += size[R] * size[S] * -(-size[C] // hardware.edge) * -(-size[K] // wide)


@njit(cache=True)
def _window(
    start: tuple[int, int], outputs: int, taps: int, stride: int, pad: int, extent: int
) -> tuple[int, int, int, int]:
    """First input index, how many lie inside the input, and how many are padding before and after it."""
    first = start[0] * stride + start[1] - pad
    length = (outputs - 1) * stride + taps + (stride - 1)
    before = min(max(0, -first), length)
    after = min(max(0, first + length - extent), length - before)
    return first + before, length - before - after, before, after


@njit(cache=True)
def _load_inputs(
    at: Ints, size: Ints, limits: Ints, layer: Layer, hardware: Hardware, l2: Ints, llc: Ints, state: Ints, row: Ints
) -> None:
    """Rows of pixels; a tile reaches stride - 1 elements beyond its last tap, as the hardware's loop does."""
    top, height, above, below = _window((at[P], at[R]), size[P], size[R], layer.stride_h, layer.pad_h, layer.height)
    left, width, before, after = _window((at[Q], at[S]), size[Q], size[S], layer.stride_w, layer.pad_w, layer.width)
    wide = hardware.dma_bytes
    for n in range(at[N], at[N] + size[N]):
        for y in range(top, top + height):
            for x in range(left, left + width):
                for c in range(at[C], at[C] + size[C], wide):
                    address = ((n * layer.height + y) * layer.width + x) * limits[C] + c
                    length = min(wide, at[C] + size[C] - c)
                    _load_row(address, length, hardware, l2, llc, state, row)
    pieces = -(-size[C] // wide) * size[N]
    columns = before + width + after
    padded = -(-columns // hardware.edge) * (above + below) + height * ((before > 0) + (after > 0))
    row[LOAD_COMMANDS] += pieces * (height * -(-width // hardware.edge) + padded)
    row[ZERO_ROWS] += pieces * ((above + below) * columns + height * (before + after))


@njit(cache=True)
def _store(
    at: Ints,
    size: Ints,
    limits: Ints,
    base: int,
    layer: Layer,
    hardware: Hardware,
    l2: Ints,
    llc: Ints,
    state: Ints,
    row: Ints,
) -> None:
    edge = hardware.edge
    wide = hardware.dma_bytes if layer.matrix else edge
    for n in range(at[N], at[N] + size[N]):
        for p in range(at[P], at[P] + size[P]):
            for first in range(at[Q], at[Q] + size[Q], edge):
                for k in range(at[K], at[K] + size[K], wide):
                    length = min(wide, at[K] + size[K] - k)
                    for q in range(first, min(first + edge, at[Q] + size[Q])):
                        address = base + ((n * limits[P] + p) * limits[Q] + q) * limits[K] + k
                        _store_row(address, length, hardware, l2, llc, state, row)
                    row[STORE_COMMANDS] += 1


@njit(cache=True)
def _compute(size: Ints, edge: int, row: Ints) -> None:
    """Weight blocks, and the rows and chunks that stream through each; the last one hides the next preload."""
    full, rest = size[Q] // edge, size[Q] % edge
    lines = size[N] * size[P]
    row[BLOCKS] = -(-size[K] // edge) * size[R] * size[S] * -(-size[C] // edge)
    row[BLOCK_CHUNKS] = lines * (full + (rest > 0))
    row[BLOCK_ROWS] = lines * (full * edge + (max(rest, MIN_ROWS) if rest else 0))
    if rest:
        row[BLOCK_ROWS] += max(0, edge - max(rest, MIN_ROWS))


@njit(cache=True)
def _advance(at: Ints, limits: Ints, steps: Ints, order: Ints) -> None:
    for i in range(6, -1, -1):
        dim = order[i]
        at[dim] += steps[dim]
        if at[dim] < limits[dim]:
            return
        at[dim] = 0


@njit(cache=True)
def _warm(first: int, size: int, hardware: Hardware, l2: Ints, llc: Ints, state: Ints) -> None:
    for line in range(first // hardware.line_bytes, -(-(first + size) // hardware.line_bytes)):
        if _miss_recent(l2, line, hardware.l2_sets, hardware.l2_ways):
            _miss_random(llc, state, line, hardware.llc_sets, hardware.llc_ways)


@njit(cache=True)
def measure_tiles(limits: Ints, steps: Ints, order: Ints, layer: Layer, hardware: Hardware) -> Ints:
    """Counts of every tile, in order: int64 [tiles, COUNTS].

    Parameters
    ----------
    limits, steps : int64 [7]
        Extents of the layer and of a full tile; the last tile of a loop may be smaller.
    order : int64 [7]
        Loops from the outermost to the innermost.
    layer : Layer
    hardware : Hardware

    Notes
    -----
    The caches start with what one pass over input, weights and outputs leaves there. Outputs are stored by the last
    reduction tile, after the loads of the tile that follows. Convolutions clear their accumulators by loads of zeros.
    """
    tiles = 1
    for i in range(7):
        tiles *= -(-limits[i] // steps[i])
    counts = np.zeros((tiles, COUNTS), np.int64)
    l2 = np.full(hardware.l2_sets * hardware.l2_ways, -1, np.int64)
    llc = np.full(hardware.llc_sets * hardware.llc_ways, -1, np.int64)
    state = np.full(3, -1, np.int64)
    weights, outputs = 1 << 40, 1 << 41
    _warm(0, limits[N] * layer.height * layer.width * limits[C], hardware, l2, llc, state)
    _warm(weights, limits[R] * limits[S] * limits[C] * limits[K], hardware, l2, llc, state)
    _warm(outputs, limits[N] * limits[P] * limits[Q] * limits[K], hardware, l2, llc, state)

    at = np.zeros(7, np.int64)
    size = np.zeros(7, np.int64)
    stored_at = np.zeros(7, np.int64)
    stored_size = np.zeros(7, np.int64)
    pending = -1
    for t in range(tiles):
        for i in range(7):
            size[i] = min(steps[i], limits[i] - at[i])
        row = counts[t]
        _load_weights(at, size, limits, weights, hardware, l2, llc, state, row)
        _load_inputs(at, size, limits, layer, hardware, l2, llc, state, row)
        _compute(size, hardware.edge, row)
        if at[R] == 0 and at[S] == 0 and at[C] == 0 and not layer.matrix:
            blocks = size[N] * size[P] * -(-size[K] // hardware.edge)
            row[LOAD_COMMANDS] += blocks * -(-size[Q] // hardware.edge)
            row[ZERO_ROWS] += blocks * size[Q]
        if pending >= 0:
            _store(stored_at, stored_size, limits, outputs, layer, hardware, l2, llc, state, counts[pending])
            pending = -1
        if at[R] + size[R] >= limits[R] and at[S] + size[S] >= limits[S] and at[C] + size[C] >= limits[C]:
            pending = t
            stored_at[:] = at
            stored_size[:] = size
        _advance(at, limits, steps, order)
    _store(stored_at, stored_size, limits, outputs, layer, hardware, l2, llc, state, counts[pending])
    return counts


@njit(cache=True)
def run_pipeline(counts: Ints, matrix: bool, hardware: Hardware, costs: Costs) -> NDArray[np.float64]:
    """Finish time, and busy cycles of array, loads, stores and host: float64 [5].

    Two tiles are in flight: tile i is configured once the commands of tile i - 2 have left. Loads, computes and stores
    each run in order. A queue holds a few commands, so a stage is `left` when all but those have been done. A
    convolution issues computes when all loads of the tile are issued, a matrix product as soon as operands arrive.
    The first result of a tile is complete one chunk into its last block, so the stores begin there.
    Stores share the port of the loads: those of the next tile lose a share of the time that a store takes.
    """
    out = np.zeros(5)
    ready = costs.start
    host = costs.host_matrix if matrix else costs.host_convolution
    loaded, computed, stored, left, left_before = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(counts.shape[0]):
        tile = counts[t]
        lines = tile[LOAD_LINES] * costs.line + max(0, tile[LOAD_REQUESTS] - tile[LOAD_LINES])
        load = max(float(tile[LOAD_BEATS]), lines) + tile[ZERO_ROWS]
        load += costs.load_l2_miss * tile[LOAD_L2_MISSES] + costs.load_llc_miss * tile[LOAD_LLC_MISSES]
        block = max(float(tile[BLOCK_ROWS]), tile[BLOCK_CHUNKS] * costs.issue)
        compute = tile[BLOCKS] * block
        store = costs.store_request * tile[STORE_REQUESTS] + costs.store_repeat * tile[STORE_REPEATS]
        store += costs.store_l2_miss * tile[STORE_L2_MISSES] + costs.store_llc_miss * tile[STORE_LLC_MISSES]

        ready = max(ready + host, left_before)
        begin = max(ready, loaded)
        loaded = begin + load
        if matrix:
            issued = begin + load / tile[LOAD_COMMANDS]
        else:
            issued = loaded - load * min(1.0, hardware.load_entries / tile[LOAD_COMMANDS])
        chunk = block / tile[BLOCK_CHUNKS]
        computed = max(max(computed, issued) + compute, loaded + chunk)
        left_before = left
        if tile[STORE_REQUESTS] > 0:
            stored = max(max(computed - block + chunk, stored) + store, computed)
            loaded += costs.port_share * store
            left = stored - store * min(1.0, hardware.store_entries / tile[STORE_COMMANDS])
        else:
            pairs = tile[BLOCKS] * tile[BLOCK_CHUNKS]
            left = computed - compute * min(1.0, hardware.execute_entries / 2 / pairs)
        out[COMPUTE] += compute
        out[LOAD] += load
        out[STORE] += store
        out[HOST] += host
    out[CYCLES] = max(computed, stored)
    return out
