"""What passes between DRAM, shared buffers and lanes: which operand is held, and how often the others are fetched.

A layer is cut into output blocks (what the lanes take along outputs in one pass) and pixel blocks; a pass is one of
each, over the whole reduction. Three orders of the passes are considered:

- *inputs held*: G pixel blocks stay in the input buffer, every output block runs over them, weights are fetched once
  for each group of G.
- *weights held*: H output blocks stay in the weight buffer, pixel blocks stream past, inputs are fetched once for each
  group of H; pixel by pixel (unrolled, im2col), and for every pass, where no pixel block fits.
- *outputs held*: the reduction runs in parts that fit both buffers; every part runs over G x H blocks, whose partial
  sums wait in the output buffer between parts. Weights are fetched once for each group of G, inputs for each of H.

What is held is doubled, so that the next one loads behind it, unless all of it fits. An input block is a line buffer:
whole rows of the image; rows that neighbouring groups share stay where inputs or weights are held, and are fetched
again where outputs are. Lanes with room for the weights (inputs) of a pass keep them as long as the block stays the
same. `tests/reference/sparse_traffic.py` walks the passes one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from operator import le

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """One group of a layer, cut for the lanes; bits as stored in the buffers, at most."""

    outputs: int
    """Output blocks."""
    pixels: int
    """Pixel blocks."""
    weight_block_bits: int
    sum_bits: int
    """Partial sums of one pass."""
    reduction: int
    image_rows: int
    row_bits: int
    block_pixels: int
    all_pixels: int
    unrolled: Fraction
    """Inputs that all pixels take one by one, over the inputs of the image."""
    out_width: int
    out_rows: int
    """Of one image."""
    stride: int
    """Input rows between output rows, at most `window`: rows in between that nothing reads are not fetched."""
    window: int

    def rows(self, blocks: int) -> int:
        """Input rows of so many neighbouring pixel blocks, wherever they start."""
        span = blocks * self.block_pixels
        aligned = self.block_pixels % self.out_width == 0
        out_rows = span // self.out_width if aligned else -(-(span - 1) // self.out_width) + 1
        crossed = -(-(out_rows - 1) // self.out_rows) if self.all_pixels > self.out_rows * self.out_width else 0
        again = crossed * max(0, self.window - self.stride)
        return min(self.image_rows, (out_rows - 1) * self.stride + self.window + again)

    def fetched_rows(self, blocks: int) -> int:
        """Input rows of all groups of so many pixel blocks, each fetched on its own; the whole image at least."""
        size = (self.all_pixels, self.out_width, self.out_rows, self.image_rows)
        return _fetched_rows(blocks * self.block_pixels, size, self.stride, self.window)


@lru_cache(maxsize=8192)
def _fetched_rows(span: int, size: tuple[int, int, int, int], stride: int, window: int) -> int:
    """Input rows of all groups of `span` pixels; size: pixels, width and rows of an output image, input rows."""
    pixels, out_width, out_rows, image_rows = size
    starts = np.arange(0, pixels, span, dtype=np.int64)
    first, last = starts // out_width, (np.minimum(starts + span, pixels) - 1) // out_width
    crossed = last // out_rows - first // out_rows
    rows = (last - first) * stride + window + crossed * max(0, window - stride)
    return max(image_rows, int(np.minimum(image_rows, rows).sum()))


@dataclass(frozen=True, kw_only=True)
class Room:
    """Bits of the buffers for each operand, and what lanes can keep between passes."""

    weight_bits: int
    input_bits: int
    output_bits: int
    lanes_keep_weights: bool
    lanes_keep_inputs: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How often every stored weight and input moves."""

    held: str
    weight_fetches: int
    """From DRAM."""
    input_fetches: Fraction
    """Of the image, from DRAM."""
    weight_deliveries: int
    """From the buffer to the lanes; those along the other axis share one."""
    input_deliveries: int
    """Of the unrolled input."""
    parts: int = 1
    """Of the reduction."""
    parked: int = 0
    """How often a partial sum leaves the lanes for the output buffer and returns."""

    @property
    def moves(self) -> tuple[float, ...]:
        """All counts; a plan with none larger costs no more."""
        return (
            self.weight_fetches,
            float(self.input_fetches),
            self.parked,
            self.weight_deliveries,
            self.input_deliveries,
        )

    def describe(self) -> str:
        return f"{self.held}; weights fetched {self.weight_fetches} x, inputs {float(self.input_fetches):.3g} x"


@lru_cache(maxsize=8192)
def plans(blocks: Blocks, room: Room) -> tuple[Plan, ...]:
    """The plans worth comparing: as much held as fits, of every operand; none moves more of everything than another.

    Streaming both operands always works, and so do parts of the reduction with one block each, whose sums stay.
    """
    found = list(_output_plans(blocks, room))
    pixels, outputs = _pixel_blocks(blocks, room), _weight_blocks(blocks, room)
    # One block at a time as well: lanes may keep it.
    found += [_inputs_held(blocks, room, held) for held in sorted({pixels, min(1, pixels)} - {0})]
    found += [_weights_held(blocks, room, held, pixels > 0) for held in sorted({outputs, min(1, outputs)} - {0})]
    return _undominated(found)


def _undominated(found: list[Plan]) -> tuple[Plan, ...]:
    """Of equal plans the first."""
    return tuple(found[i] for i in _least([plan.moves for plan in found]))


def _least(moves: list[tuple[float, ...]]) -> list[int]:
    """Places of the tuples that no other one equals or beats everywhere; of equal ones the first."""
    left: list[int] = []
    kept: list[tuple[float, ...]] = []
    for i in sorted(range(len(moves)), key=moves.__getitem__):
        own = moves[i]
        for other in kept:
            if all(map(le, other, own)):
                break
        else:
            left.append(i)
            kept.append(own)
    return left


def _inputs_held(blocks: Blocks, room: Room, held: int) -> Plan:
    stays = room.lanes_keep_weights or 2 * blocks.weight_block_bits <= room.weight_bits
    held = held if stays else 1
    groups = -(-blocks.pixels // held)
    return Plan(
        held=f"inputs held, {held} pixel blocks at a time",
        weight_fetches=groups,
        input_fetches=Fraction(1),
        weight_deliveries=groups if room.lanes_keep_weights else blocks.pixels,
        input_deliveries=1 if room.lanes_keep_inputs and held == 1 else blocks.outputs,
    )


def _weights_held(blocks: Blocks, room: Room, held: int, line: bool) -> Plan:
    groups = -(-blocks.outputs // held)
    times = groups if line or room.lanes_keep_inputs else blocks.outputs
    return Plan(
        held=f"weights held, {held} output blocks at a time",
        weight_fetches=1,
        input_fetches=times * (Fraction(1) if line else blocks.unrolled),
        weight_deliveries=1 if room.lanes_keep_weights and held == 1 else blocks.pixels,
        input_deliveries=groups if room.lanes_keep_inputs else blocks.outputs,
    )


def _output_plans(blocks: Blocks, room: Room) -> Iterator[Plan]:
    """Sums of H x G blocks within the output buffer, of fixed sizes: more room never takes a plan away.

    They differ in what they fetch and park only, so most are left before a `Plan` is made of them.
    """
    yield _streamed(blocks)
    if not room.weight_bits or not room.input_bits:
        return
    parts_of: list[tuple[int, float]] = []  # of as many pixel blocks as were reached
    found: list[tuple[int, int, int]] = []
    moves: list[tuple[float, ...]] = []
    for outputs in _sizes(blocks.outputs):
        most = room.output_bits // (outputs * blocks.sum_bits)
        weight_parts = max(1, -(-2 * outputs * blocks.weight_block_bits // room.weight_bits))
        for i, pixels in enumerate(_sizes(blocks.pixels)):
            if pixels > most and outputs * pixels > 1:  # one block of each stays in the lanes
                break
            if i == len(parts_of):
                parts_of.append(_pixel_part(blocks, room, pixels))
            parts = max(weight_parts, parts_of[i][0])
            if parts <= blocks.reduction:  # else not even one index of the reduction fits
                groups, parked = -(-blocks.outputs // outputs), parts - 1 if outputs * pixels > 1 else 0
                found.append((outputs, pixels, parts))
                moves.append((-(-blocks.pixels // pixels), groups * parts_of[i][1], parked))
    for i in _least(moves):
        yield _output_plan(blocks, *found[i])


def _pixel_part(blocks: Blocks, room: Room, pixels: int) -> tuple[int, float]:
    """(parts of the reduction that fit the input buffer, inputs fetched over those of the image) of G blocks."""
    parts = -(-2 * blocks.rows(pixels) * blocks.row_bits // room.input_bits)
    unrolled = blocks.unrolled.numerator / blocks.unrolled.denominator
    return parts, min(unrolled, blocks.fetched_rows(pixels) / blocks.image_rows)


def _image(blocks: Blocks, pixels: int) -> Fraction:
    return min(blocks.unrolled, Fraction(blocks.fetched_rows(pixels), blocks.image_rows))


@lru_cache(maxsize=1024)
def _sizes(most: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 6, 8, 12, ..., most."""
    grid = {2**power * factor // 2 for power in range(most.bit_length() + 1) for factor in (2, 3)}
    return tuple(sorted(size for size in grid | {most} if 1 <= size <= most))


def _streamed(blocks: Blocks) -> Plan:
    """Nothing is held: every pass fetches both operands, element by element."""
    return Plan(
        held="nothing held",
        weight_fetches=blocks.pixels,
        input_fetches=blocks.outputs * blocks.unrolled,
        weight_deliveries=blocks.pixels,
        input_deliveries=blocks.outputs,
    )


def _output_plan(blocks: Blocks, outputs: int, pixels: int, parts: int) -> Plan:
    """G = `pixels`, H = `outputs`."""
    return Plan(
        held=f"outputs held, {outputs} x {pixels} blocks at a time, reduction in {parts} parts",
        weight_fetches=-(-blocks.pixels // pixels),
        input_fetches=-(-blocks.outputs // outputs) * _image(blocks, pixels),
        weight_deliveries=blocks.pixels,
        input_deliveries=blocks.outputs,
        parts=parts,
        parked=parts - 1 if outputs * pixels > 1 else 0,
    )


def _weight_blocks(blocks: Blocks, room: Room) -> int:
    """Output blocks that the weight buffer holds; 0: not one."""
    if blocks.outputs * blocks.weight_block_bits <= room.weight_bits:
        return blocks.outputs
    return room.weight_bits // (2 * blocks.weight_block_bits)


def _pixel_blocks(blocks: Blocks, room: Room) -> int:
    """Pixel blocks that the input buffer holds; 0: not one."""
    if blocks.image_rows * blocks.row_bits <= room.input_bits:
        return blocks.pixels
    low, high = 0, blocks.pixels
    while low < high:
        middle = (low + high + 1) // 2
        if 2 * blocks.rows(middle) * blocks.row_bits <= room.input_bits:
            low = middle
        else:
            high = middle - 1
    return low
