"""cosim sweep: one network on a grid, or on random samples, of systolic designs; in parts, so that it resumes.

runs/<name>/
  sweep.yaml            what was asked
  part-00000.csv …      every design with its scores, `chunk` rows a file (or .parquet)
  front.csv             designs that no other beats in latency, energy and area
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.config_files import explain, read_yaml
from accel_models.designs import DATAFLOWS, check_base, designs_like, evaluate_designs
from accel_models.workload import Workload
from cosim.errors import ConfigError
from cosim.files import read_json, replace_file, write_json, write_text
from search.pareto import non_dominated

Count = Annotated[int, Field(ge=1)]
OBJECTIVES = ("latency_ms", "energy_pj", "area_mm2")


class SweepSpec(BaseModel):
    """What `cosim sweep` reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    workload: str
    """Network name, SCALE-Sim topology CSV or workload JSON."""
    base: str
    """Accelerator: library name or YAML file."""
    samples: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Random designs; none: the whole grid."""
    seed: Annotated[int, Field(ge=0)] = 0
    chunk: Annotated[int, Field(ge=1, le=10**6)] = 100_000
    """Designs of one file: what is in memory at once, and what a resumed sweep does not do again."""
    format: Literal["csv", "parquet"] = "csv"
    vary: dict[str, list[Any]]
    """Key path of the accelerator, as in a study -> values."""

    @field_validator("vary")
    @classmethod
    def _some(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, choices in value.items():
            if not choices:
                raise ValueError(f"{key}: give at least one value")
        return value

    @property
    def designs(self) -> int:
        """Number of designs."""
        return self.samples or math.prod(len(choices) for choices in self.vary.values())


def load_sweep(path: Path) -> SweepSpec:
    """Read a sweep file.

    Raises
    ------
    ConfigError
        The message names file, field and remedy.
    """
    try:
        return SweepSpec.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(explain(error, SweepSpec, str(path))) from error


def design_fields(base: Accelerator) -> dict[str, str]:
    """Key path of the accelerator -> field of DESIGN."""
    buffers = {
        f"memories.{base.buffer(operand).name}.capacity_bytes": f"{operand}_bytes"
        for operand in ("weight", "input", "output")
    }
    return {
        "pe_array.rows": "rows",
        "pe_array.cols": "cols",
        "pe_array.dataflow": "dataflow",
        "clock_mhz": "clock_mhz",
        f"memories.{base.dram.name}.bandwidth_bytes_per_cycle": "dram_bytes_per_cycle",
        **buffers,
    }


def run_sweep(
    spec: SweepSpec, workload: Workload, out: Path, *, resume: bool, on_done: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Score every design and return the front, least latency first.

    Raises
    ------
    ConfigError
        A key or value cannot be swept, or the folder holds another sweep.
    """
    base = load_accelerator(spec.base)
    check_base(base)
    choices = _choices(spec, base)
    _open(spec, out, resume)
    finished, points = _state(out / "state.json")
    for number, start in enumerate(range(0, spec.designs, spec.chunk)):
        rows = min(spec.chunk, spec.designs - start)
        if number >= finished:
            designs = _designs(spec, base, choices, number, start, rows)
            scores = evaluate_designs(base, workload, designs)
            _write_part(out / f"part-{number:05d}.{spec.format}", designs, scores)
            points = _merge(points, designs, scores)
            write_json(out / "state.json", {"parts": number + 1, "front": points})
        on_done(start + rows, spec.designs)
    write_text(out / "front.csv", _csv(points))
    return points


def _state(path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Parts that are finished, and their front."""
    if not path.exists():
        return 0, []
    state = read_json(path)
    return state["parts"], state["front"]


def _choices(spec: SweepSpec, base: Accelerator) -> dict[str, NDArray[Any]]:
    """Field of DESIGN -> its values; refused by key where they cannot be."""
    fields = design_fields(base)
    choices: dict[str, NDArray[Any]] = {}
    for key, values in spec.vary.items():
        if key not in fields:
            raise ConfigError(f"sweep {spec.name}: vary.{key}: cannot be swept; known keys: {', '.join(fields)}")
        named = [DATAFLOWS.index(v) if v in DATAFLOWS else v for v in values] if fields[key] == "dataflow" else values
        dtype = designs_like(base, 1).dtype[fields[key]]
        for value in named:
            if isinstance(value, bool | str) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"sweep {spec.name}: vary.{key}: {value!r} is no value of it")
            if dtype.kind == "i" and value != int(value):
                raise ConfigError(f"sweep {spec.name}: vary.{key}: {value!r} must be a whole number")
        choices[fields[key]] = np.array(named, dtype)
    return choices


def _designs(
    spec: SweepSpec, base: Accelerator, choices: dict[str, NDArray[Any]], number: int, start: int, rows: int
) -> NDArray[Any]:
    """Rows start..start + rows of the grid, or the random samples of this part."""
    designs = designs_like(base, rows)
    if spec.samples is not None:
        rng = np.random.default_rng([spec.seed, number])
        for field, values in choices.items():
            designs[field] = rng.choice(values, rows)
        return designs
    position = np.arange(start, start + rows)
    for field, values in reversed(choices.items()):
        designs[field] = values[position % len(values)]
        position //= len(values)
    return designs


def _open(spec: SweepSpec, out: Path, resume: bool) -> None:
    text = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    known = out / "sweep.yaml"
    if known.exists():
        if not resume:
            raise ConfigError(f"{out}: holds a sweep already; continue it with --resume, or give another --out")
        if known.read_text(encoding="utf-8") != text:
            raise ConfigError(f"{known}: --resume finds another sweep there; give another --out")
    write_text(known, text)


def _columns(designs: NDArray[Any], scores: NDArray[Any]) -> dict[str, NDArray[Any]]:
    columns = {name: designs[name] for name in designs.dtype.names or ()}
    columns["dataflow"] = np.array(DATAFLOWS)[designs["dataflow"]]
    return columns | {name: scores[name] for name in scores.dtype.names or ()}


def _write_part(path: Path, designs: NDArray[Any], scores: NDArray[Any]) -> None:
    columns = _columns(designs, scores)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        write_text(path, text.getvalue())
        return
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError("format: parquet needs pyarrow: pip install 'cosim[parquet]', or use csv") from error
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    replace_file(path, lambda target: pq.write_table(table, target))


def _merge(front: list[dict[str, Any]], designs: NDArray[Any], scores: NDArray[Any]) -> list[dict[str, Any]]:
    """The front so far and what a part adds to it, least latency first; designs with unmapped layers stay out."""
    columns = _columns(designs, scores)
    mapped = np.flatnonzero(scores["unmapped_layers"] == 0)
    best = mapped[non_dominated(_objectives(scores[mapped]))] if len(mapped) else mapped
    together = front + [{name: column[i].item() for name, column in columns.items()} for i in best]
    if not together:
        return together
    kept = non_dominated([[point[name] for name in OBJECTIVES] for point in together])
    survivors = [point for point, keep in zip(together, kept, strict=True) if keep]
    return sorted(survivors, key=lambda point: tuple(point[name] for name in OBJECTIVES))


def _objectives(scores: NDArray[Any]) -> NDArray[np.float64]:
    return np.stack([scores[name] for name in OBJECTIVES], axis=1)


def _csv(points: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(points[0]) if points else ["empty"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()
