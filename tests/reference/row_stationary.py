"""Row stationary, walked: every PE of every pass touches its words one by one, and sets say what is new.

Nothing here is closed-form. `walk` also checks that every multiplication happens exactly once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from math import ceil


@dataclass(frozen=True)
class Shape:
    """One group of a layer: images, filters, channels, output rows and columns, filter rows and columns."""

    n: int
    k: int
    c: int
    p: int
    q: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)


@dataclass
class Walked:
    counts: Counter[str] = field(default_factory=Counter)
    macs: Counter[tuple[int, ...]] = field(default_factory=Counter)
    partial: set[tuple[int, ...]] = field(default_factory=set)
    """Outputs that have a partial sum somewhere."""
    in_dram: set[tuple[int, ...]] = field(default_factory=set)
    cycles: int = 0


def chunks(items: list[int], size: int) -> list[list[int]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def walk(shape: Shape, mapping: dict, array_rows: int, rates: tuple[float, float, float]) -> Walked:
    """Run one group; `mapping` holds m, n, e, c, p, q, r, t and held; `rates` are words a cycle of the networks."""
    tiles_k = chunks(list(range(shape.k)), mapping["m"])
    tiles_c = chunks(list(range(shape.c)), mapping["c"])
    tiles_b = list(product(chunks(list(range(shape.n)), mapping["n"]), chunks(list(range(shape.p)), mapping["e"])))
    if mapping["held"] == "output":
        order = [(k, b, c) for k in tiles_k for b in tiles_b for c in tiles_c]
    else:
        order = [(k, b, c) for b in tiles_b for c in tiles_c for k in tiles_k]
    done = Walked()
    held_input: set[tuple[int, ...]] = set()
    held_output: set[tuple[int, ...]] = set()
    for filters, (images, rows), channels in order:
        inputs = {
            (n, c, h, w)
            for n in images
            for c in channels
            for h in input_positions(rows, range(shape.r), shape.stride[0], shape.dilation[0])
            for w in input_positions(range(shape.q), range(shape.s), shape.stride[1], shape.dilation[1])
        }
        if inputs != held_input:
            done.counts["dram_input_reads"] += len(inputs)
            held_input = inputs
        outputs = set(product(images, filters, rows, range(shape.q)))
        if outputs != held_output:
            leave(done, held_output)
            done.counts["dram_output_reads"] += len(outputs & done.in_dram)
            held_output = outputs
        run_tile(shape, mapping, array_rows, rates, filters, channels, images, rows, done)
    leave(done, held_output)
    return done


def leave(done: Walked, outputs: set[tuple[int, ...]]) -> None:
    done.counts["dram_output_writes"] += len(outputs)
    done.in_dram |= outputs


def input_positions(outputs, taps, stride: int, dilation: int) -> set[int]:
    return {o * stride + t * dilation for o in outputs for t in taps}


def run_tile(shape, mapping, array_rows, rates, filters, channels, images, rows, done: Walked) -> None:
    folds = ceil(shape.r / array_rows)
    taps = chunks(list(range(shape.r)), ceil(shape.r / folds))
    for pass_filters in chunks(filters, mapping["p"] * mapping["t"]):
        for pass_channels in chunks(channels, mapping["q"] * mapping["r"]):
            for fold in taps:
                sets = list(product(chunks(pass_channels, mapping["q"]), chunks(pass_filters, mapping["p"])))
                run_pass(shape, rates, sets, fold, images, rows, done)


def run_pass(shape, rates, sets, fold, images, rows, done: Walked) -> None:
    """All sets at once: each has a PE for every filter row of the fold and every output row of the strip."""
    counts = done.counts
    weights, inputs, outputs = set(), set(), set()
    hops: Counter[tuple[int, ...]] = Counter()
    busiest = 0
    for (channels, filters), r, p in product(sets, fold, rows):
        held = {(k, c, r, s) for k in filters for c in channels for s in range(shape.s)}
        weights |= held
        counts["noc_weight"] += len(held)
        for n in images:
            busiest = max(busiest, run_pe(shape, channels, filters, n, r, p, inputs, done))
            for k, q in product(filters, range(shape.q)):
                outputs.add((n, k, p, q))
                hops[n, k, p, q] += 1
    counts["dram_weight_reads"] += len(weights)
    counts["glb_weight_reads"] += len(weights)
    counts["glb_input_reads"] += len(inputs)
    again = outputs & done.partial
    counts["noc_output"] += sum(hops.values()) + len(again)
    counts["glb_output_reads"] += len(again)
    counts["glb_output_writes"] += len(outputs)
    done.partial |= outputs
    done.cycles += cycles_of_pass(shape, rates, weights, inputs, outputs, busiest, len(images))


def run_pe(shape, channels, filters, n, r, p, inputs, done: Walked) -> int:
    """One image in one PE: its words and register file; returns its MACs. Every output sum is handed on at its end."""
    counts, macs = done.counts, 0
    row = p * shape.stride[0] + r * shape.dilation[0]
    received = set()
    for k, q in product(filters, range(shape.q)):
        for step, (c, s) in enumerate(product(channels, range(shape.s))):
            received.add((n, c, row, q * shape.stride[1] + s * shape.dilation[1]))
            done.macs[n, k, c, p, q, r, s] += 1
            counts["rf"] += 3 + (step > 0)
            macs += 1
        counts["rf"] += 1
    counts["noc_input"] += len(received)
    inputs |= received
    return macs


def cycles_of_pass(shape, rates, weights, inputs, outputs, busiest: int, images: int) -> int:
    """Fill, images, drain, from the words that were touched."""
    into, of_weights, out = rates
    lines = len({(n, c, h) for n, c, h, _ in inputs}) // images
    window = ceil(lines * shape.s / into)
    stream = ceil((len(inputs) // images - lines * shape.s) / into)
    per_output_column = len({(k, p) for _, k, p, _ in outputs})
    work = max(busiest, stream, ceil(len(outputs) // images / out))
    refill = (images - 1) * max(0, window - busiest // shape.q)
    return max(window, ceil(len(weights) / of_weights)) + images * work + refill + ceil(per_output_column / out)
