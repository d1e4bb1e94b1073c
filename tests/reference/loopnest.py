"""Walk a loop nest step by step and keep the sets of elements that every buffer holds: the oracle of the counts.

Written from the semantics in `accel_models/loopnest.py`, without its equations: no products of factors, no
stationarity rule, only sets. Slow: for layers of some thousand MACs.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise, product

from accel_models.mapping import DIMS, OPERANDS, LoopShape, Mapping

Element = tuple[int, ...]
Buffer = tuple[int, tuple[int, ...]]  # level, values of the spatial loops outside it


class Walker:
    """Counts in `self.counts[level, operand, field]`."""

    def __init__(self, shape: LoopShape, mapping: Mapping) -> None:
        self.shape, self.mapping = shape, mapping
        self.nest = [(loop, level) for level, loops in enumerate(mapping.loops) for loop in loops]
        self.units = len(mapping.levels)
        self.counts: dict[tuple[int, str, str], int] = defaultdict(int)
        self.tiles: dict[tuple[str, Buffer], frozenset[Element]] = {}
        self.live: dict[tuple[str, Buffer], set[Element]] = {}
        self.cache: dict[tuple[object, ...], frozenset[Element]] = {}

    def run(self) -> dict[tuple[int, str, str], int]:
        time_loops = [i for i, (loop, _) in enumerate(self.nest) if not loop.spatial]
        for values in product(*(range(self.nest[i][0].factor) for i in time_loops)):
            now = dict(zip(time_loops, values, strict=True))
            for operand in ("weight", "input"):
                self.fetch(operand, now)
            self.drain_outputs(now)
            self.fill_outputs(now)
            self.compute_outputs(now)
        self.drain_outputs(None)
        return self.counts

    def holders(self, operand: str) -> list[int]:
        return [i for i, level in enumerate(self.mapping.levels) if operand in level.holds] + [self.units]

    def buffers(self, level: int) -> list[Buffer]:
        ranges = [range(loop.factor) for loop, at in self.nest if loop.spatial and at < level]
        return [(level, values) for values in product(*ranges)]

    def parent_of(self, buffer: Buffer, parent: int) -> Buffer:
        outside = sum(1 for loop, at in self.nest if loop.spatial and at < parent)
        return parent, buffer[1][:outside]

    def tile(self, operand: str, buffer: Buffer, now: dict[int, int]) -> frozenset[Element]:
        """Elements touched while the loops outside the buffer's level stand still."""
        level, place = buffer
        spatial_at = iter(place)
        fixed: dict[int, int] = {}
        for i, (loop, at) in enumerate(self.nest):
            if at < level:
                fixed[i] = next(spatial_at) if loop.spatial else now[i]
        key = (operand, level, *sorted(fixed.items()))
        if key not in self.cache:
            free = [i for i in range(len(self.nest)) if i not in fixed]
            self.cache[key] = frozenset(
                self.element(operand, fixed | dict(zip(free, values, strict=True)))
                for values in product(*(range(self.nest[i][0].factor) for i in free))
            )
        return self.cache[key]

    def element(self, operand: str, values: dict[int, int]) -> Element:
        at = dict.fromkeys(DIMS, 0)
        for i, (loop, _) in enumerate(self.nest):  # mixed radix, outermost digit first
            at[loop.dim] = at[loop.dim] * loop.factor + values[i]
        if operand == "weight":
            return at["G"], at["K"], at["C"], at["R"], at["S"]
        if operand == "output":
            return at["N"], at["G"], at["K"], at["P"], at["Q"]
        (sh, sw), (dh, dw) = self.shape.stride, self.shape.dilation
        return at["N"], at["G"], at["C"], at["P"] * sh + at["R"] * dh, at["Q"] * sw + at["S"] * dw

    def add(self, level: int, operand: str, field: str, words: int) -> None:
        self.counts[level, operand, field] += words

    def fetch(self, operand: str, now: dict[int, int]) -> None:
        levels = self.holders(operand)
        self.tiles.setdefault((operand, (levels[0], ())), self.tile(operand, (levels[0], ()), now))
        self.note_tile(levels[0], operand, self.tiles[operand, (levels[0], ())])
        for parent, child in pairwise(levels):
            wanted: dict[Buffer, list[frozenset[Element]]] = defaultdict(list)
            for buffer in self.buffers(child):
                tile = self.tile(operand, buffer, now)
                kept = self.tiles.get((operand, buffer), frozenset()) if child < self.units else frozenset()
                self.tiles[operand, buffer] = tile
                wanted[self.parent_of(buffer, parent)].append(tile - kept)
                if child < self.units:
                    self.note_tile(child, operand, tile)
                    self.add(child, operand, "fills", len(tile - kept))
            for sets in wanted.values():
                shared = self.mapping.levels[parent].multicast
                words = len(frozenset().union(*sets)) if shared else sum(map(len, sets))
                self.add(parent, operand, "sends", words)

    def note_tile(self, level: int, operand: str, tile: frozenset[Element]) -> None:
        self.counts[level, operand, "tile_words"] = len(tile)

    def groups(self, parent: int, child: int) -> dict[Buffer, list[Buffer]]:
        siblings: dict[Buffer, list[Buffer]] = defaultdict(list)
        for buffer in self.buffers(child):
            siblings[self.parent_of(buffer, parent)].append(buffer)
        return siblings

    def arrive(self, parent: Buffer, leaving: list[frozenset[Element]]) -> None:
        """Partial sums of several instances come to a parent."""
        level = parent[0]
        together, one_by_one = len(frozenset().union(*leaving)), sum(map(len, leaving))
        if self.mapping.levels[level].spatial_reduction:
            self.add(level, "output", "updates", together)
        else:
            self.add(level, "output", "updates", one_by_one)
            self.add(level, "output", "merges", one_by_one - together)
        self.live.setdefault(("output", parent), set()).update(*leaving)

    def drain_outputs(self, now: dict[int, int] | None) -> None:
        """Tiles that change leave, innermost level first; at the end (`now` is None) all of them."""
        levels = self.holders("output")[:-1]
        for parent, child in reversed(list(pairwise(levels))):
            for outer, siblings in self.groups(parent, child).items():
                leaving = []
                for buffer in siblings:
                    tile = self.tiles.get(("output", buffer))
                    if tile is None or (now is not None and tile == self.tile("output", buffer, now)):
                        continue
                    assert self.live.pop(("output", buffer)) == tile, "a tile left before it was computed"
                    del self.tiles["output", buffer]
                    self.add(child, "output", "drains", len(tile))
                    leaving.append(tile)
                if leaving:
                    self.arrive(outer, leaving)

    def fill_outputs(self, now: dict[int, int]) -> None:
        levels = self.holders("output")[:-1]
        self.note_tile(levels[0], "output", self.tile("output", (levels[0], ()), now))
        for parent, child in pairwise(levels):
            for outer, siblings in self.groups(parent, child).items():
                known = set(self.live.get(("output", outer), ()))
                for buffer in siblings:
                    if ("output", buffer) in self.tiles:
                        continue
                    tile = self.tile("output", buffer, now)
                    refill = tile & known
                    known -= refill  # one instance gets the partial sum, its siblings start blank
                    self.tiles["output", buffer] = tile
                    self.live["output", buffer] = set(refill)
                    self.note_tile(child, "output", tile)
                    self.add(parent, "output", "sends", len(refill))
                    self.add(child, "output", "fills", len(refill))

    def compute_outputs(self, now: dict[int, int]) -> None:
        parent = self.holders("output")[-2]
        for outer, siblings in self.groups(parent, self.units).items():
            touched = [self.tile("output", buffer, now) for buffer in siblings]
            known = self.live.setdefault(("output", outer), set())
            self.add(parent, "output", "sends", len(frozenset().union(*touched) & known))
            self.arrive(outer, touched)


def walk(shape: LoopShape, mapping: Mapping) -> dict[tuple[str, str], dict[str, int]]:
    """(level name, operand) -> counts, for all operands that the level holds."""
    counts = Walker(shape, mapping).run()
    fields = ("tile_words", "sends", "drains", "fills", "updates", "merges")
    return {
        (level.name, operand): {field: counts[i, operand, field] for field in fields}
        for i, level in enumerate(mapping.levels)
        for operand in OPERANDS
        if operand in level.holds
    }
