"""Accelerator: the hardware description, a strict YAML file.

An unknown key is an error that names its path and the nearest key. Docstrings stand right below their field.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from accel_models.config_files import explain, read_yaml, set_by_path
from accel_models.errors import InvalidInputError, UnknownNameError
from accel_models.sparse_fields import Formats, Lanes, check_sparse, refuse_lanes

LIBRARY = Path(__file__).parent / "library"
Operand = Literal["weight", "input", "output"]
OPERANDS: tuple[Operand, ...] = ("weight", "input", "output")
Dim = Literal["N", "G", "K", "C", "P", "Q", "R", "S"]
Dataflow = Literal["output_stationary", "weight_stationary", "input_stationary", "row_stationary", "flexible", "sparse"]
SYSTOLIC: tuple[Dataflow, ...] = ("output_stationary", "weight_stationary", "input_stationary")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number; YAML reads yes, no, on, off, true, false as a truth value")
    return value


_Integer = Annotated[int, BeforeValidator(_no_bool)]
Capacity = Annotated[_Integer, Field(ge=1, le=2**40)]
Count = Annotated[_Integer, Field(ge=1, le=2**16)]
Width = Annotated[_Integer, Field(ge=1, le=64)]
Word = Annotated[_Integer, Field(ge=1, le=4096)]
Bandwidth = Annotated[float, BeforeValidator(_no_bool), Field(ge=1e-3, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkWidth(_Strict):
    """Bits of each operand that the network of a row-stationary array delivers in a cycle."""

    weight: Word
    input: Word
    output: Word
    """Into the array; as many may leave it at the same time."""


class PEArray(_Strict):
    """An array of multiply-accumulate units.

    Three dataflows are systolic. `row_stationary` is Eyeriss' (`row_stationary.py`). `flexible` runs any loop nest
    that the memories and their axes allow; the mapper finds the best one. `sparse` is an array of `lanes`.
    """

    rows: Count
    cols: Count
    dataflow: Dataflow
    input_bits: Width = 8
    weight_bits: tuple[Width, ...] = (8,)
    """Widths that a multiplier works at, ascending; a weight runs at the narrowest one that holds it, and so do inputs:
    a multiplier made of narrow ones narrows both (Bit Fusion, Sharma et al., ISCA 2018), up to `input_bits`."""
    psum_bits: Width = 32
    network: NetworkWidth | None = None
    """Of a row-stationary array; none given: as wide as needed."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.weight_bits or list(self.weight_bits) != sorted(set(self.weight_bits)):
            raise ValueError(f"weight_bits = {list(self.weight_bits)} must be different widths in ascending order")
        if self.network is not None and self.dataflow != "row_stationary":
            raise ValueError(f"network belongs to dataflow: row_stationary, not to {self.dataflow}; remove it")
        return self

    @property
    def pes(self) -> int:
        return self.rows * self.cols


class Axis(_Strict):
    """Instances side by side, over which loops of some dimensions may be spread."""

    size: Count
    dims: tuple[Dim, ...] = Field(min_length=1)


class Memory(_Strict):
    """One memory level."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
    kind: Literal["dram", "sram", "registers"]
    """`registers`: flip-flops of a PE, priced by the bit; they never limit the bandwidth."""
    holds: tuple[Operand, ...]
    capacity_bytes: Capacity | None = None
    """Of one instance of an on-chip memory; a DRAM has no limit."""
    banks: Count | None = None
    """Banks of an SRAM, each read or written once per cycle. None given: as many as feed the edge of a systolic array,
    one elsewhere."""
    width_bits: Word = 64
    """Word of one bank of an SRAM."""
    dram_type: str | None = None
    """Which energy per bit a DRAM has: an entry `dram_<type>` of the technology file."""
    bandwidth_bytes_per_cycle: Bandwidth | None = None
    """Shared by reads and writes; a DRAM needs it. None given: an SRAM moves banks x width_bits per cycle."""
    latency_cycles: Annotated[_Integer, Field(ge=0, le=10**6)] = 0
    """Of a DRAM: from a request to its first word, in mode `detailed`; not of a systolic array."""
    double_buffered: bool = True
    """Of an SRAM of a flexible array: half of it holds the tile at work, the other half receives the next one."""
    axes: tuple[Axis, ...] = ()
    """What lies inside one instance of this memory, of a flexible array, side by side; sizes multiply."""
    temporal: tuple[Dim, ...] | None = None
    """Dimensions that may loop in time at this level of a flexible array; none given: all."""
    formats: dict[Operand, Formats] = Field(default_factory=dict)
    """How operands lie here (`format_names.py`), of several the first that can store a layer; others lie dense."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        dram = self.kind == "dram"
        needed = ("bandwidth_bytes_per_cycle", "dram_type") if dram else ("capacity_bytes",)
        refused = ("capacity_bytes", "banks") if dram else ("dram_type",)
        for field in needed:
            if getattr(self, field) is None:
                raise ValueError(f"{field} is missing: memory {self.name!r} of kind {self.kind} needs it")
        for field in refused:
            if getattr(self, field) is not None:
                raise ValueError(f"{field} does not belong to memory {self.name!r} of kind {self.kind}; remove it")
        if not self.holds or len(set(self.holds)) != len(self.holds):
            raise ValueError(f"holds = {list(self.holds)}: memory {self.name!r} must hold different operands")
        return self

    @property
    def fanout(self) -> int:
        """Instances of what lies inside, per instance."""
        return prod(axis.size for axis in self.axes)


class WeightSparsity(_Strict):
    """What the hardware makes of zero weights."""

    action: Literal["none", "gate", "skip"] = "none"
    """`gate`: a zero weight costs its cycle but no multiply-accumulate energy. `skip`: a k-of-n row takes k / n of
    the cycles."""
    format: Literal["dense", "k_of_n"] = "dense"
    """How weights lie in DRAM and in the weight buffer; `k_of_n` stores kept weights and their indices."""
    gather: Annotated[_Integer, Field(ge=2, le=4096)] | None = None
    """Largest n whose inputs a PE can select from; needed by `skip`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.action == "skip" and self.format != "k_of_n":
            raise ValueError("action: skip needs format: k_of_n (a PE selects inputs by the stored indices)")
        if (self.action == "skip") != (self.gather is not None):
            raise ValueError("gather belongs to action: skip, and action: skip needs it")
        return self


class EnergyOverride(_Strict):
    """One price or area that replaces the table's."""

    value: NotNegative
    source: str


class Accelerator(_Strict):
    """An accelerator: array, memories from the outside in, clock, technology, prices that differ from the table."""

    name: str
    description: str = ""
    source: str = ""
    """Where the numbers of this file come from."""
    clock_mhz: Positive
    node_nm: Literal[65, 45, 32, 22, 16, 7] = 45
    """Technology of the on-chip parts, in nm."""
    sram_device: Literal["itrs-lstp", "itrs-lop", "itrs-hp"] = "itrs-lstp"
    """CACTI's transistors: low standby power (1.1 V, closest to Horowitz' 45 nm figures), low operating power (0.7 V)
    or high performance (1.0 V)."""
    pe_array: PEArray
    memories: tuple[Memory, ...]
    weight_sparsity: WeightSparsity = WeightSparsity()
    lanes: Lanes | None = None
    """Of a sparse array: the lanes, what they skip and what makes them wait (`sparse_array.py`)."""
    gate_inputs: bool = False
    """Of a row-stationary array: a zero input costs its cycle, but neither multiplication nor the read of a weight."""
    keep_outputs: bool = False
    """Outputs stay on chip, in the memory that holds inputs, for the layers that read them, when they fit."""
    tile_machine: str | None = None
    """Latency model of tiles with a DMA engine and a host, of `library/latency` (flexible arrays, mode `detailed`)."""
    vector_lanes: Count = 16
    """Element-wise operations per cycle (pooling, residual adds)."""
    energy: dict[str, EnergyOverride] = Field(default_factory=dict)
    """Entry of the energy table -> value that replaces it."""
    area: dict[str, EnergyOverride] = Field(default_factory=dict)
    """Part (`pe_array`, `vector_unit`, a memory with all its instances) -> mm2 that replace the model's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.memories or self.memories[0].kind != "dram" or set(self.memories[0].holds) != set(OPERANDS):
            raise ValueError("memories: the first one must be a dram that holds weight, input and output")
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories: names {names} must differ")
        taken = sorted({"register", "network"} & set(names))
        if taken:
            raise ValueError(f"memories: the name {taken[0]!r} is taken by a part of the PE array; choose another")
        if any(memory.kind == "dram" for memory in self.memories[1:]):
            raise ValueError("memories: all but the first must be of kind sram or registers")
        refuse_lanes(self)
        _CHECKS.get(self.pe_array.dataflow, _check_systolic)(self)
        return self

    @property
    def dram(self) -> Memory:
        return self.memories[0]

    @property
    def systolic(self) -> bool:
        return self.pe_array.dataflow in SYSTOLIC

    def buffer(self, operand: Operand) -> Memory:
        """The outermost on-chip memory that holds `operand`."""
        return next(memory for memory in self.memories[1:] if operand in memory.holds)

    def instances(self, memory: Memory) -> int:
        """How often a memory is there."""
        if self.lanes is not None:
            return self.lanes.array.lanes if memory.kind == "registers" else 1
        if self.pe_array.dataflow == "row_stationary":
            return self.pe_array.pes if memory.kind == "registers" else 1
        return prod(outer.fanout for outer in self.memories[: self.memories.index(memory)])

    def inside_axes(self) -> frozenset[str]:
        """Names of the memories that are there more than once: the network of the array leads to them."""
        return frozenset(memory.name for memory in self.memories if self.instances(memory) > 1)

    def first_inside(self, operand: Operand) -> Memory | None:
        """The outermost memory inside the axes that holds `operand`; None: the multipliers take it as it comes."""
        inside = self.inside_axes()
        return next((m for m in self.memories if m.name in inside and operand in m.holds), None)

    def banks(self, memory: Memory) -> int:
        """Banks of one instance of an SRAM: those given, or enough for one edge of a systolic array in every cycle."""
        if memory.banks is not None or not self.systolic:
            return memory.banks or 1
        return -(-self.edge_bits(memory.holds[0]) // memory.width_bits)

    def port_bits(self, memory: Memory) -> int:
        """Bits that one instance of an SRAM reads or writes in one cycle."""
        if memory.bandwidth_bytes_per_cycle is not None:
            return int(8 * memory.bandwidth_bytes_per_cycle)
        return self.banks(memory) * memory.width_bits

    def edge_bits(self, operand: Operand) -> int:
        """Bits of one operand that cross the edge of the array in a full cycle.

        A gathering array takes up to `gather` inputs for each weight it multiplies, and an index with the weight.
        """
        array, gather = self.pe_array, self.weight_sparsity.gather or 1
        pinned_input = array.dataflow == "input_stationary"
        if operand == "input":
            return array.input_bits * (array.cols if pinned_input else array.rows * gather)
        if operand == "weight":
            stored = array.weight_bits[-1] + (gather - 1).bit_length()
            return stored * (array.rows if pinned_input else array.cols)
        accesses = 1 if array.dataflow == "output_stationary" else 2  # else partial sums are read and written back
        return accesses * array.cols * array.psum_bits

    def multiplier_bits(self, weight_bits: int) -> int:
        """The width at which a weight of `weight_bits` is multiplied.

        Raises
        ------
        InvalidInputError
            No multiplier width of this array holds the weight.
        """
        for width in self.pe_array.weight_bits:
            if weight_bits <= width:
                return width
        raise InvalidInputError(
            f"accelerator {self.name!r}: pe_array.weight_bits = {list(self.pe_array.weight_bits)} holds no weight of "
            f"{weight_bits} bits; quantise the layer to at most {self.pe_array.weight_bits[-1]} bits or add a width"
        )

    def to_yaml(self) -> str:
        data = self.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _check_systolic(machine: Accelerator) -> None:
    for operand in OPERANDS:
        holders = [memory.name for memory in machine.memories[1:] if operand in memory.holds]
        if len(holders) != 1 or any(len(memory.holds) != 1 for memory in machine.memories[1:]):
            raise ValueError(
                f"memories: a systolic array needs one sram for {operand} alone, found {holders or 'none'}"
            )
    for memory in machine.memories:
        _refuse_fields(machine, memory, ("axes", "temporal", "latency_cycles"))
        if memory.kind == "registers":
            raise ValueError(f"memories.{memory.name}: a systolic array brings its own registers; use kind: sram")


def _check_row_stationary(machine: Accelerator) -> None:
    """A buffer of inputs and partial sums (and weights, or one of their own), and registers of a PE."""
    for memory in machine.memories:
        _refuse_fields(machine, memory, ("axes", "temporal"))
    for kind in ("sram", "registers"):
        held = sorted(operand for m in machine.memories if m.kind == kind for operand in m.holds)
        if held != sorted(OPERANDS):
            raise ValueError(
                f"memories: a row-stationary array holds each operand in one {kind} memory, found {held or 'none'}"
            )
    if machine.buffer("input") != machine.buffer("output"):
        raise ValueError("memories: a row-stationary array holds input and output in one sram")
    _refuse_sparsity(machine)


def _check_flexible(machine: Accelerator) -> None:
    instances = prod(memory.fanout for memory in machine.memories)
    if instances != machine.pe_array.pes:
        raise ValueError(
            f"memories: the axes make {instances} multipliers, pe_array.rows x cols = {machine.pe_array.pes}; make "
            "them equal"
        )
    _refuse_sparsity(machine)


def _refuse_sparsity(machine: Accelerator) -> None:
    if machine.weight_sparsity.action == "skip" or machine.weight_sparsity.format != "dense":
        raise ValueError(
            f"weight_sparsity: a {machine.pe_array.dataflow} array gates zero weights at most and stores them dense; "
            "set action to none or gate"
        )


def _refuse_fields(machine: Accelerator, memory: Memory, fields: tuple[str, ...]) -> None:
    for field in fields:
        if getattr(memory, field):
            raise ValueError(
                f"memories.{memory.name}.{field}: belongs to dataflow: flexible, not to {machine.pe_array.dataflow}"
            )


_CHECKS = {"row_stationary": _check_row_stationary, "flexible": _check_flexible, "sparse": check_sparse}


def describe(accelerator: Accelerator) -> str:
    """Array, dataflow and sparse support in a few words."""
    array, sparse = accelerator.pe_array, accelerator.weight_sparsity
    if accelerator.lanes is not None:
        return f"{accelerator.lanes.array.lanes} lanes of {array.rows} x {array.cols} skip {accelerator.lanes.skip}"
    words = f"{array.rows} x {array.cols} {array.dataflow.replace('_', ' ')}"
    if sparse.action == "skip":
        return f"{words}, skips k of n <= {sparse.gather}"
    return words if sparse.action == "none" else f"{words}, gates zeros"


def library_names() -> list[str]:
    """Names of the accelerators that ship."""
    return sorted(path.stem for path in (LIBRARY / "accelerators").glob("*.yaml"))


def load_accelerator(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Accelerator:
    """Read an accelerator of the library, or a YAML file, with `key.path: value` overrides.

    Raises
    ------
    UnknownNameError
        Neither a file nor a name of the library; the message names the nearest one.
    InvalidInputError
        A field cannot be used; the message names file, field and remedy.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = LIBRARY / "accelerators" / f"{name_or_path}.yaml"
        if not path.exists():
            near = difflib.get_close_matches(str(name_or_path), library_names(), n=1, cutoff=0.0)
            raise UnknownNameError(
                f"accelerator {str(name_or_path)!r} is not in the library; nearest: {near[0]!r} "
                "(`cosim accelerators` lists them, a path must end in .yaml)"
            )
    data = read_yaml(path)
    for key, value in (overrides or {}).items():
        set_by_path(data, key, value, where=f"override of {path.name}")
    return parse_accelerator(data, where=str(name_or_path))


def parse_accelerator(data: Any, where: str) -> Accelerator:
    """Check a mapping as an accelerator; `where` names its origin in errors."""
    try:
        return Accelerator.model_validate(data)
    except ValidationError as error:
        raise InvalidInputError(explain(error, Accelerator, where)) from error
