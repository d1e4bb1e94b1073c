"""Sparse arrays: one description for machines that skip or gate zeros, and the counts that they give.

Every machine is a grid of lanes. A lane owns a tile of outputs and a tile of pixels and walks the reduction in
segments; the parameters say which operand's zeros it skips, how many multipliers it has along outputs, pixels and the
reduction, and how far it may run ahead of the others. Published machines are settings of them (`sparse_machines.py`).

Left out: traffic beyond the lanes' own buffers (the memory levels of the accelerator count it), and pipeline latencies
other than `pass_cycles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from accel_models.errors import InvalidInputError

Zeros = Literal["none", "weight", "input", "both"]
Held = Literal["none", "weight", "input"]
Balance = Literal["none", "greedy"]
Operand = Literal["weight", "input"]
LEAST: Mapping[str, int] = {
    "segment": 0,
    "look_ahead": 0,
    "least_cycles": 0,
    "segment_cycles": 0,
    "latch_cycles": 0,
    "pass_cycles": 0,
    "gather_banks": 0,
    "gather_window": 0,
    "accumulator_banks": 0,
    "accumulator_queue": 0,
}


@dataclass(frozen=True, kw_only=True)
class SparseArray:
    """Lanes, what they skip, and what makes them wait. Counts are at least 1 unless 0 is given a meaning."""

    name: str
    source: str = ""
    skip: Zeros = "weight"
    """Operands whose zeros take no cycle."""
    gate: Zeros = "none"
    """Operands whose zeros, where they are not skipped, take a cycle but no multiplication."""
    lane_outputs: int = 1
    """Lanes along the outputs (rows of the weights)."""
    lane_pixels: int = 1
    """Lanes along the pixels (rows of the inputs, or planar tiles)."""
    tile_outputs: int = 1
    """Outputs of a lane's tile."""
    tile_pixels: int = 1
    """Pixels of a lane's tile."""
    vector_outputs: int = 1
    """F: weights of different outputs that a lane multiplies in a cycle."""
    vector_pixels: int = 1
    """I: inputs of different pixels that each of them meets."""
    vector_reduction: int = 1
    """V: reduction elements that a lane multiplies in a cycle; the multipliers of a lane are F x I x V."""
    segment: int = 0
    """Reduction indices that are fetched together; 0: the whole reduction."""
    look_ahead: int = 1
    """Segments in the buffer that lanes share: a lane runs at most so many ahead of the slowest; 0: no limit."""
    least_cycles: int = 0
    """Cycles that a segment takes even without non-zeros."""
    segment_cycles: int = 0
    """Metadata: cycles before the first product of a segment."""
    latch_cycles: int = 0
    """Metadata: cycles to latch one vector of the held operand."""
    held: Held = "none"
    """Operand whose vectors stay in registers while those of the other one stream past."""
    pass_cycles: int = 0
    """Fill and drain of one pass of the lanes."""
    gather_banks: int = 0
    """Banks that hold the inputs that lanes gather by index, one read a cycle each; 0: reads never collide."""
    gather_window: int = 1
    """Picks of a lane whose order is free (they are scheduled when the network is compiled)."""
    accumulator_banks: int = 0
    """Banks of a lane's accumulators, one update a cycle each; 0: updates never collide."""
    accumulator_queue: int = 1
    """Updates that wait at a bank before the multipliers stall."""
    balance: Balance = "none"
    """`greedy`: a lane owns two tiles, the densest with the sparsest of its group (weights are known in advance)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 1)
            if field.type == "int" and (type(value) is not int or value < least):
                raise InvalidInputError(
                    f"{self.name}: {field.name} = {value!r}: must be an integer of at least {least}"
                )
        for name, known in (("skip", Zeros), ("gate", Zeros), ("held", Held), ("balance", Balance)):
            if getattr(self, name) not in known.__args__:  # type: ignore[attr-defined]
                choices = ", ".join(known.__args__)  # type: ignore[attr-defined]
                raise InvalidInputError(f"{self.name}: {name} = {getattr(self, name)!r}: use one of {choices}")
        self._check_together()

    def _check_together(self) -> None:
        inner = self.vector_outputs == self.vector_pixels == self.tile_outputs == self.tile_pixels == 1
        if self.gather_banks and (self.skip != "weight" or not inner or self.segment or self.balance != "none"):
            raise InvalidInputError(
                f"{self.name}: gather_banks: lanes gather one row at a time; it needs skip: weight, tiles and vectors "
                "of 1, segment: 0 and balance: none"
            )
        if self.gather_banks and self.gather_window % self.vector_reduction:
            raise InvalidInputError(
                f"{self.name}: gather_window = {self.gather_window} must be a multiple of vector_reduction = "
                f"{self.vector_reduction}, the picks of a cycle"
            )
        if self.accumulator_banks and (
            self.skip != "both"
            or self.look_ahead
            or self.least_cycles
            or self.vector_reduction > 1
            or self.tile_pixels > 1
            or self.balance != "none"
        ):
            raise InvalidInputError(
                f"{self.name}: accumulator_banks: a lane that scatters products needs skip: both, look_ahead: 0, "
                "least_cycles: 0, vector_reduction: 1, tile_pixels: 1 and balance: none"
            )
        if self.balance == "greedy" and self.skip == "input":
            raise InvalidInputError(f"{self.name}: balance: greedy sorts rows of weights; it needs them skipped")

    @property
    def lanes(self) -> int:
        return self.lane_outputs * self.lane_pixels

    @property
    def multipliers(self) -> int:
        """Multiplications a cycle at full use."""
        return self.lanes * self.vector_outputs * self.vector_pixels * self.vector_reduction

    def skips(self, operand: Operand) -> bool:
        return self.skip in (operand, "both")

    def gates(self, operand: Operand) -> bool:
        return self.gate in (operand, "both")


@dataclass(frozen=True, kw_only=True)
class SparseShape:
    """A layer as the lanes see it: `groups` products of [pixels, reduction] and [outputs, reduction]."""

    outputs: int
    pixels: int
    """Rows of the input mask a group: output pixels, or planar tiles."""
    reduction: int
    """Indices of the reduction: elements, or channels where the units are larger than 1."""
    groups: int = 1
    weight_unit: int = 1
    """Weights of an output at one index: R x S where the index is a channel."""
    input_unit: int = 1
    """Inputs of a row at one index: the area of a planar tile."""
    filter: tuple[int, int] = (1, 1)
    """Height and width of the filter; kernels of k-of-n are height x width weights."""
    tile: tuple[int, int] = (1, 1)
    """Height and width of a planar tile."""
    dense_macs: int = 0
    """Products of the dense layer; 0: all pairs (planar tiles at the edge hold fewer inputs than their unit)."""

    def __post_init__(self) -> None:
        for field in ("outputs", "pixels", "reduction", "groups", "weight_unit", "input_unit"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                raise InvalidInputError(f"sparse shape: {field} = {value!r}: must be an integer of at least 1")

    @property
    def macs(self) -> int:
        pairs = self.outputs * self.weight_unit * self.pixels * self.input_unit
        return self.dense_macs or self.groups * self.reduction * pairs

    @property
    def kernel_size(self) -> int:
        return self.filter[0] * self.filter[1]


@dataclass(frozen=True, kw_only=True)
class SparseCounts:
    """What a layer makes a sparse array do: integers from masks, expected values from densities."""

    ideal_cycles: float
    """ceil(effectual products / multipliers): perfect balance."""
    fragmentation_cycles: float
    """Multipliers of a lane, and lanes at the edge of the layer, without work; zeros that are not skipped."""
    imbalance_cycles: float
    """Lanes that wait for the slowest."""
    bank_conflict_cycles: float
    metadata_cycles: float
    fill_cycles: float
    macs_done: float
    macs_gated: float
    macs_skipped: float
    weight_reads: float
    """Of the lanes' buffers, in elements."""
    input_reads: float
    output_updates: float
    """Partial sums read and written back."""
    intersections: float
    """Reduction indices at which two tiles are compared; 0 where one operand alone is skipped."""

    @property
    def compute_cycles(self) -> float:
        """Without fill and drain."""
        work = self.ideal_cycles + self.fragmentation_cycles + self.imbalance_cycles
        return work + self.bank_conflict_cycles + self.metadata_cycles

    @property
    def cycles(self) -> float:
        return self.compute_cycles + self.fill_cycles
