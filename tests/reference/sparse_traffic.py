"""The passes of a sparse array one by one: what every buffer holds, and what is fetched for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from accel_models.sparse_traffic import Blocks, Room


@dataclass
class Walk:
    """What moved, in whole weights, whole images of inputs, whole unrolled inputs, and partial sums of all outputs."""

    weight_fetches: Fraction = Fraction(0)
    input_fetches: Fraction = Fraction(0)
    weight_deliveries: Fraction = Fraction(0)
    input_deliveries: Fraction = Fraction(0)
    parked: Fraction = Fraction(0)
    passes: set[tuple[int, int]] = field(default_factory=set)


def touched_rows(blocks: Blocks, first: int, count: int) -> set[tuple[int, int]]:
    """(image, row) that pixel blocks first .. first + count - 1 read, above and below the image too."""
    pixels = range(first * blocks.block_pixels, min((first + count) * blocks.block_pixels, blocks.all_pixels))
    rows = set()
    for pixel in pixels:
        image, row = divmod(pixel // blocks.out_width, blocks.out_rows)
        rows |= {(image, row * blocks.stride + tap) for tap in range(blocks.window)}
    return rows


def share(blocks: Blocks, pixel: int) -> Fraction:
    """Share of all pixels that lie in a pixel block."""
    start = pixel * blocks.block_pixels
    return Fraction(max(0, min(start + blocks.block_pixels, blocks.all_pixels) - start), blocks.all_pixels)


def groups_of(total: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, total))) for start in range(0, total, size)]


def inputs_held(blocks: Blocks, room: Room, held: int) -> Walk:
    """For every group of pixel blocks: every output block over the group."""
    walk, buffered_weight, lane, lane_input = Walk(), None, None, None
    for group in groups_of(blocks.pixels, held):
        buffered_weight = lane = None if len(groups_of(blocks.pixels, held)) > 1 else lane
        for o in range(blocks.outputs):
            for p in group:
                if buffered_weight != o:
                    walk.weight_fetches += Fraction(1, blocks.outputs)
                    buffered_weight = o
                if not room.lanes_keep_weights or lane != o:
                    walk.weight_deliveries += Fraction(1, blocks.outputs)
                    lane = o
                if not (room.lanes_keep_inputs and held == 1) or lane_input != p:
                    walk.input_deliveries += share(blocks, p)
                    lane_input = p
                walk.passes.add((o, p))
    walk.input_fetches = Fraction(1)
    return walk


def weights_held(blocks: Blocks, room: Room, held: int, line: bool) -> Walk:
    """For every group of output blocks: every pixel block past the group; lanes keep weights of groups of one."""
    walk, lane = Walk(weight_fetches=Fraction(1)), None
    for group in groups_of(blocks.outputs, held):
        for p in range(blocks.pixels):
            kept = False
            for o in group:
                if not (room.lanes_keep_inputs and kept):
                    walk.input_deliveries += share(blocks, p)
                    if not line:
                        walk.input_fetches += share(blocks, p) * blocks.unrolled
                    kept = True
                if not (room.lanes_keep_weights and held == 1) or lane != o:
                    walk.weight_deliveries += Fraction(1, blocks.outputs)
                    lane = o
                walk.passes.add((o, p))
        if line:
            walk.input_fetches += 1
    return walk


def outputs_held(blocks: Blocks, outputs: int, pixels: int, parts: int) -> Walk:
    """For every G x H blocks of sums: every part of the reduction over all of them."""
    walk = Walk()
    for rows in groups_of(blocks.outputs, outputs):
        for columns in groups_of(blocks.pixels, pixels):
            for part in range(parts):
                walk.weight_fetches += Fraction(len(rows), blocks.outputs * parts)
                for o in rows:
                    for p in columns:
                        walk.weight_deliveries += Fraction(1, blocks.outputs * parts)
                        walk.input_deliveries += share(blocks, p) / parts
                        if part and outputs * pixels > 1:
                            walk.parked += share(blocks, p) / blocks.outputs
                        walk.passes.add((o, p))
    return walk
