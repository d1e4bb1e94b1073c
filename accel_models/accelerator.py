"""Accelerator: the hardware description, a strict YAML file.

An unknown key is an error that names its path and the nearest key. Docstrings stand right below their field.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from accel_models.errors import InvalidInputError, UnknownNameError

LIBRARY = Path(__file__).parent / "library"
Operand = Literal["weight", "input", "output"]
OPERANDS: tuple[Operand, ...] = ("weight", "input", "output")
Dataflow = Literal["output_stationary", "weight_stationary", "input_stationary"]


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


class PEArray(_Strict):
    """A systolic array of multiply-accumulate units."""

    rows: Count
    cols: Count
    dataflow: Dataflow
    input_bits: Width = 8
    weight_bits: tuple[Width, ...] = (8,)
    """Widths that a multiplier works at, ascending; a weight runs at the narrowest one that holds it."""
    psum_bits: Width = 32

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.weight_bits or list(self.weight_bits) != sorted(set(self.weight_bits)):
            raise ValueError(f"weight_bits = {list(self.weight_bits)} must be different widths in ascending order")
        return self

    @property
    def pes(self) -> int:
        return self.rows * self.cols


class Memory(_Strict):
    """One memory level."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
    kind: Literal["dram", "sram"]
    holds: tuple[Operand, ...]
    capacity_bytes: Capacity | None = None
    """Of an SRAM; a DRAM has no limit."""
    banks: Count | None = None
    """Banks of an SRAM, each read or written once per cycle; none given: as many as feed the edge of the array."""
    width_bits: Word = 64
    """Word of one bank of an SRAM."""
    dram_type: str | None = None
    """Which energy per bit a DRAM has: an entry `dram_<type>` of technology_45nm.yaml."""
    bandwidth_bytes_per_cycle: Bandwidth | None = None
    """Of a DRAM, shared by reads and writes. An SRAM moves banks x width_bits per cycle."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = ("capacity_bytes",) if self.kind == "sram" else ("bandwidth_bytes_per_cycle", "dram_type")
        refused = ("bandwidth_bytes_per_cycle", "dram_type") if self.kind == "sram" else ("capacity_bytes",)
        for field in needed:
            if getattr(self, field) is None:
                raise ValueError(f"{field} is missing: memory {self.name!r} of kind {self.kind} needs it")
        for field in refused:
            if getattr(self, field) is not None:
                raise ValueError(f"{field} does not belong to memory {self.name!r} of kind {self.kind}; remove it")
        return self


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
    """One price that replaces the table's."""

    value: NotNegative
    source: str


class Accelerator(_Strict):
    """An accelerator: array, memories from the outside in, clock, technology, prices that differ from the table."""

    name: str
    description: str = ""
    source: str = ""
    """Where the numbers of this file come from."""
    clock_mhz: Positive
    node_nm: Literal[45] = 45
    """Technology of the on-chip parts, in nm."""
    sram_device: Literal["itrs-lstp", "itrs-lop", "itrs-hp"] = "itrs-lstp"
    """CACTI's transistors: low standby power (1.1 V, closest to Horowitz' 45 nm figures), low operating power (0.7 V)
    or high performance (1.0 V)."""
    pe_array: PEArray
    memories: tuple[Memory, ...]
    weight_sparsity: WeightSparsity = WeightSparsity()
    vector_lanes: Count = 16
    """Element-wise operations per cycle (pooling, residual adds)."""
    energy: dict[str, EnergyOverride] = Field(default_factory=dict)
    """Entry of the energy table -> value that replaces it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.memories or self.memories[0].kind != "dram" or set(self.memories[0].holds) != set(OPERANDS):
            raise ValueError("memories: the first one must be a dram that holds weight, input and output")
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories: names {names} must differ")
        if "register" in names:
            raise ValueError("memories: the name 'register' is taken by the registers of the PEs; choose another")
        if any(memory.kind != "sram" for memory in self.memories[1:]):
            raise ValueError("memories: all but the first must be of kind sram")
        for operand in OPERANDS:
            holders = [memory.name for memory in self.memories[1:] if operand in memory.holds]
            if len(holders) != 1 or any(len(memory.holds) != 1 for memory in self.memories[1:]):
                raise ValueError(
                    f"memories: a systolic array needs one sram for {operand} alone, found {holders or 'none'}"
                )
        return self

    @property
    def dram(self) -> Memory:
        return self.memories[0]

    def buffer(self, operand: Operand) -> Memory:
        """The on-chip memory that holds `operand`."""
        return next(memory for memory in self.memories[1:] if operand in memory.holds)

    def banks(self, memory: Memory) -> int:
        """Banks of an SRAM: those given, or enough for one edge of the array in every cycle."""
        return memory.banks or -(-self.edge_bits(memory.holds[0]) // memory.width_bits)

    def port_bits(self, memory: Memory) -> int:
        """Bits that an SRAM reads or writes in one cycle."""
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


def describe(accelerator: Accelerator) -> str:
    """Array, dataflow and sparse support in a few words."""
    array, sparse = accelerator.pe_array, accelerator.weight_sparsity
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is no YAML: it holds bytes that are no text; check the path") from error
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InvalidInputError(f"{path}: must hold keys and values at the top, not {type(data).__name__}")
    return data


def set_by_path(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    """data["a"]["b"] = value for key "a.b"; in a list a part is the name of an item, or its position."""
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, key, where)
    node[_place(node, last, key, where)] = value


def _child(node: Any, part: str, key: str, where: str) -> Any:
    place = _place(node, part, key, where)
    return node.setdefault(place, {}) if isinstance(node, dict) else node[place]


def _place(node: Any, part: str, key: str, where: str) -> Any:
    """Key or index of a part of a path."""
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise InvalidInputError(f"{where}: {key}: {part!r} is inside a value that has no fields")
    names = [item.get("name") for item in node if isinstance(item, dict)]
    if part in names:
        return next(i for i, item in enumerate(node) if isinstance(item, dict) and item.get("name") == part)
    if part.isdecimal() and int(part) < len(node):
        return int(part)
    raise InvalidInputError(f"{where}: {key}: no item is named {part!r}; there are {names or len(node)}")


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One line for the first fault of a pydantic error: origin, field path, value, remedy."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"]) or "(top)"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        keys = list(_model_at(model, first["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), keys, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(keys)}"
        return f"{where}: {path}: unknown key{hint}"
    given = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f" (given: {first['input']!r})"
    return f"{where}: {path}: {message}{given}"


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose fields stand at a place inside `model`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        model = next(_models_in(field.annotation), model) if field is not None else model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)
