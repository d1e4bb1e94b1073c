"""Fields of an accelerator file that belong to sparse arrays: its lanes, and how operands are stored.

`Lanes` is made from the fields of `SparseArray`, so the two cannot drift.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from accel_models.errors import AccelError
from accel_models.sparse_array import SparseArray

if TYPE_CHECKING:
    from accel_models.accelerator import Accelerator

_CONFIG = ConfigDict(frozen=True, extra="forbid")
_NOT_IN_FILES = ("name", "source")
"""Fields of `SparseArray` that the accelerator itself gives."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number; YAML reads yes, no, on, off, true, false as a truth value")
    return value


def _field_types() -> dict[str, Any]:
    hints = get_type_hints(SparseArray)
    integer = Annotated[int, BeforeValidator(_no_bool)]
    named = [field for field in fields(SparseArray) if field.name not in _NOT_IN_FILES]
    return {field.name: (integer if hints[field.name] is int else hints[field.name], field.default) for field in named}


_LaneFields: Any = create_model("_LaneFields", __config__=_CONFIG, **_field_types())


class Lanes(_LaneFields):
    """Lanes of a sparse array: the fields of `sparse_array.SparseArray` by name, and how layers are laid on them."""

    accumulators: Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**20)] | None = None
    """Partial sums of a lane. Given: lanes own planar tiles of the input (SCNN), whose products scatter; none given: a
    layer runs as a matrix product."""
    tile_share: Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=1)] = 1.0
    """Share of compressed tiles of unknown zeros that fit the space a buffer keeps for one; 1: the worst case fits."""

    @model_validator(mode="after")
    def _check(self) -> Lanes:
        try:
            array = self.array
        except AccelError as error:
            raise ValueError(str(error)) from error
        if (self.accumulators is not None) != (array.accumulator_banks > 0):
            raise ValueError("accumulators and accumulator_banks belong to planar lanes, which need both")
        return self

    @cached_property
    def array(self) -> SparseArray:
        """The array that these fields describe."""
        named = {field.name: getattr(self, field.name) for field in fields(SparseArray) if field.name in _LANE_NAMES}
        return SparseArray(name="lanes", **named)


_LANE_NAMES = frozenset(_LaneFields.model_fields)


class StorageFormat(BaseModel):
    """A storage format by name (`format_names.FORMATS`) and its options.

    `k_of_n` without options takes k, n and granularity from the layer's own structure.
    """

    model_config = _CONFIG

    name: str
    options: dict[str, int | str | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> StorageFormat:
        from accel_models.format_names import make_format  # numba: half a second that dense accelerators need not pay

        if self.name == "k_of_n" and not self.options:
            return self
        try:
            make_format(self.name, **self.options)
        except AccelError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def key(self) -> tuple[str, tuple[tuple[str, int | str | bool], ...]]:
        """Name and options, to be hashed."""
        return self.name, tuple(sorted(self.options.items()))


def _as_formats(value: Any) -> Any:
    """A name, a name with options, or several of them: the first one that can store a layer is used."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple({"name": item} if isinstance(item, str) else item for item in several)


Formats = Annotated[tuple[StorageFormat, ...], BeforeValidator(_as_formats), Field(min_length=1)]


def check_sparse(machine: Accelerator) -> None:
    """Lanes are given and make up the PE array; every operand has a memory outside the lanes, and one at most inside.

    Raises
    ------
    ValueError
        With the remedy.
    """
    if machine.lanes is None:
        raise ValueError("lanes is missing: pe_array.dataflow: sparse needs a section lanes")
    multipliers = machine.lanes.array.multipliers
    if multipliers != machine.pe_array.pes:
        raise ValueError(
            f"lanes make {multipliers} multipliers, pe_array.rows x cols = {machine.pe_array.pes}; make them equal"
        )
    if machine.weight_sparsity.action != "none" or machine.weight_sparsity.format != "dense":
        raise ValueError("weight_sparsity: a sparse array says in lanes (skip, gate) what it makes of zeros; remove it")
    for operand in ("weight", "input", "output"):
        holders = [memory.name for memory in machine.memories[1:] if operand in memory.holds]
        if not 1 <= len(holders) <= 2:
            raise ValueError(
                f"memories: a sparse array holds {operand} in one or two on-chip memories (shared, then of the lanes), "
                f"found {holders or 'none'}"
            )
    for memory in machine.memories:
        if memory.axes or memory.temporal or memory.latency_cycles:
            raise ValueError(f"memories.{memory.name}: axes, temporal and latency_cycles belong to dataflow: flexible")


def refuse_lanes(machine: Accelerator) -> None:
    """What only sparse and row-stationary arrays know is refused elsewhere."""
    dataflow = machine.pe_array.dataflow
    if dataflow != "sparse" and machine.lanes is not None:
        raise ValueError(f"lanes belong to pe_array.dataflow: sparse, not to {dataflow}; remove them")
    if dataflow != "row_stationary" and machine.gate_inputs:
        raise ValueError(f"gate_inputs belongs to dataflow: row_stationary, not to {dataflow}; see lanes.gate")
    for memory in machine.memories:
        coded = memory.formats and dataflow != "sparse" and not (dataflow == "row_stationary" and memory.kind == "dram")
        if coded:
            raise ValueError(
                f"memories.{memory.name}.formats: belong to dataflow: sparse (and the dram of row_stationary), not to "
                f"{dataflow}; remove them"
            )
        wrong = sorted(set(memory.formats) - set(memory.holds))
        if wrong:
            raise ValueError(f"memories.{memory.name}.formats.{wrong[0]}: the memory does not hold {wrong[0]}")
