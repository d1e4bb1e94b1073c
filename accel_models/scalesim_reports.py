"""Reports in the columns of SCALE-Sim 3.0.0, for tools that read those.

COMPUTE_REPORT, BANDWIDTH_REPORT, DETAILED_ACCESS_REPORT and, for n:m sparse layers, SPARSE_REPORT. A row is a
convolution or matrix product, LayerID its place among them; work without weights has no row there.

- Figures of the array (cycles without stalls, utilizations, SRAM reads and writes) are SCALE-Sim's own, with its
  conventions: totals one cycle short, A + B extra output writes for each fold of an output stationary array.
- Stalls, prefetch and DRAM traffic are this project's: a stall is a cycle that the layer takes beyond the array's own,
  without the first fill and the last drain; those are what "incl. prefetch" adds. SCALE-Sim counts some stalls twice.
- Start and stop cycles and DRAM bandwidths over such intervals have no equivalent here and stay empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accel_models.accelerator import Accelerator
from accel_models.activity import DATAFLOW_CODES, Access, Activity, store_weights
from accel_models.cost import NetworkCost
from accel_models.errors import InvalidInputError
from accel_models.importers.scalesim import ScaleSimConfig
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.sparsity import KofN, WeightStructure
from accel_models.workload import Workload

COMPUTE_COLUMNS = (
    "LayerID",
    "Total Cycles (incl. prefetch)",
    "Total Cycles",
    "Stall Cycles",
    "Overall Util %",
    "Mapping Efficiency %",
    "Compute Util %",
)
_METADATA = "Avg FILTER Metadata SRAM BW"
ACCESS_COLUMNS = (
    "LayerID",
    *(
        f"{memory} {operand} {figure}"
        for memory in ("SRAM", "DRAM")
        for operand, moved in (("IFMAP", "Reads"), ("Filter", "Reads"), ("OFMAP", "Writes"))
        for figure in ("Start Cycle", "Stop Cycle", moved)
    ),
)
SPARSE_COLUMNS = (
    "LayerID",
    "Sparsity Representation",
    "Original Filter Storage",
    "New Storage (Filter+Metadata)",
    "Filter Metadata Storage",
    _METADATA,
)
_WORD_BITS = 32
"""Of the words in which SCALE-Sim counts metadata."""

Row = tuple[int | float | str, ...]


@dataclass(frozen=True)
class LayerFigures:
    """One layer in SCALE-Sim's conventions; counts in words."""

    total_cycles: int
    stall_cycles: int
    latency_cycles: int
    """With the first fill and the last drain."""
    overall_percent: float
    mapping_percent: float
    compute_percent: float
    sram: tuple[int | float, int, int]
    """Input reads, weight reads, output writes."""
    dram: tuple[int, int, int]
    original_words: int = 0
    metadata_words: float = 0.0
    stored_words: float = 0.0


def write_reports(
    cost: NetworkCost, workload: Workload, folder: Path | str, structures: WeightStructure | None = None
) -> tuple[Path, ...]:
    """Write the reports of a simulated network into a folder, which is made if it is not there.

    Parameters
    ----------
    cost
        What `simulate` returned for this workload and these structures, on a systolic accelerator.
    structures
        Layer name -> k-of-n structure of its weights.

    Returns
    -------
    The files written.

    Raises
    ------
    InvalidInputError
        The accelerator is not systolic, the workload holds nothing but vector work, or the folder cannot be written.
    """
    figures = layer_figures(cost, workload, structures or {})
    sparse = any(figure.stored_words for figure in figures)
    tables: dict[str, tuple[Sequence[str], list[Row]]] = {
        "COMPUTE_REPORT.csv": (COMPUTE_COLUMNS, [_compute_row(figure) for figure in figures]),
        "BANDWIDTH_REPORT.csv": (bandwidth_columns(sparse), [_bandwidth_row(figure, sparse) for figure in figures]),
        "DETAILED_ACCESS_REPORT.csv": (ACCESS_COLUMNS, [_access_row(figure) for figure in figures]),
    }
    if sparse:
        tables["SPARSE_REPORT.csv"] = (SPARSE_COLUMNS, [_sparse_row(figure) for figure in figures])
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (columns, rows) in tables.items():
            (folder / name).write_text(_text(columns, rows), encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"{folder}: reports cannot be written ({error.strerror}); give another folder"
        ) from error
    return tuple(folder / name for name in tables)


def layer_figures(cost: NetworkCost, workload: Workload, structures: Mapping[str, KofN]) -> list[LayerFigures]:
    """The figures of every convolution and matrix product, in order."""
    accelerator = cost.accelerator
    if accelerator.pe_array.dataflow not in DATAFLOW_CODES:
        raise InvalidInputError(
            f"accelerator {accelerator.name!r}: SCALE-Sim's reports describe systolic arrays, not dataflow "
            f"{accelerator.pe_array.dataflow}; choose a systolic one"
        )
    activities = {layer.name: layer.activity for layer in cost.layers}
    layers = [layer for layer in workload.layers if not isinstance(layer, VectorOp)]
    missing = [layer.name for layer in layers if layer.name not in activities]
    if missing or not layers:
        what = f"layer {missing[0]!r} was not simulated" if missing else "it has no convolution or matrix product"
        raise InvalidInputError(f"workload {workload.name!r}: {what}: there is nothing to report")
    return [_figures(layer, activities[layer.name], structures.get(layer.name), accelerator) for layer in layers]


def _figures(
    layer: Conv2d | Gemm, activity: Activity, structure: KofN | None, accelerator: Accelerator
) -> LayerFigures:
    from accel_models.validation.scalesim import modelled  # here: the sets beside it take their time to load

    array, gemm = accelerator.pe_array, layer.as_gemm()
    if structure is not None and store_weights(layer, structure, accelerator).kept == gemm.k:
        structure = None  # runs at dense cycles
    config = ScaleSimConfig("", array.rows, array.cols, array.dataflow, {}, structure is not None)
    less_one, mapping, *sram = modelled(_one_group(layer), structure, config)
    array_cycles = gemm.groups * (int(less_one) + 1)
    outside = sum(activity.stall_cycles.get(cause, 0) for cause in ("dram_fill", "dram_drain"))
    total = activity.latency_cycles - outside - 1
    kept = gemm.k if structure is None else structure.kept_per_row(layer)
    dram, nothing = activity.accesses[accelerator.dram.name], Access()
    figures = LayerFigures(
        total_cycles=total,
        stall_cycles=total + 1 - array_cycles,
        latency_cycles=activity.latency_cycles - 1,
        overall_percent=layer.macs * 100 / (total * array.pes),
        mapping_percent=mapping,
        compute_percent=mapping * _busy_share(gemm, kept, config),
        sram=(_whole(gemm.groups * sram[0]), *(int(gemm.groups * count) for count in sram[1:])),  # type: ignore[arg-type]
        dram=(dram.get("input", nothing).reads, dram.get("weight", nothing).reads, dram.get("output", nothing).writes),
    )
    return figures if structure is None else _with_storage(figures, layer, structure)


def _one_group(layer: Conv2d | Gemm) -> Conv2d | Gemm:
    """SCALE-Sim knows no groups: they run one after the other."""
    if isinstance(layer, Gemm):
        return replace(layer, groups=1)
    return replace(layer, k=layer.k // layer.groups, c=layer.c // layer.groups, groups=1)


def _busy_share(gemm: Gemm, kept: int, config: ScaleSimConfig) -> float:
    """Steps of a fold over its cycles, by SCALE-Sim's count: with pinned operands B - 1 more than the fold takes."""
    skew = config.rows + config.cols - 2
    if config.dataflow == "output_stationary":
        return kept / (kept + skew)
    steps = gemm.m if config.dataflow == "weight_stationary" else gemm.n
    return steps / (steps + skew + config.rows + config.cols - 1)


def _with_storage(figures: LayerFigures, layer: Conv2d | Gemm, structure: KofN) -> LayerFigures:
    gemm = layer.as_gemm()
    outputs = gemm.groups * gemm.n
    metadata = outputs * structure.index_bits_per_row(layer) / _WORD_BITS
    stored = outputs * structure.kept_per_row(layer) + metadata
    return replace(figures, original_words=outputs * gemm.k, metadata_words=metadata, stored_words=stored)


def _whole(count: float) -> int | float:
    return int(count) if float(count).is_integer() else count


def bandwidth_columns(sparse: bool) -> tuple[str, ...]:
    """Columns of BANDWIDTH_REPORT.csv; runs with sparsity have one more."""
    metadata = (_METADATA,) if sparse else ()
    sram = ("Avg IFMAP SRAM BW", "Avg FILTER SRAM BW", *metadata, "Avg OFMAP SRAM BW")
    return ("LayerID", *sram, *(f"Avg {operand} DRAM BW" for operand in ("IFMAP", "FILTER", "OFMAP")))


def _compute_row(figures: LayerFigures) -> Row:
    return (
        figures.latency_cycles,
        figures.total_cycles,
        figures.stall_cycles,
        figures.overall_percent,
        figures.mapping_percent,
        figures.compute_percent,
    )


def _bandwidth_row(figures: LayerFigures, sparse: bool) -> Row:
    reads, weights, writes = (count / figures.total_cycles for count in figures.sram)
    metadata = (figures.metadata_words / figures.total_cycles,) if sparse else ()
    return (reads, weights, *metadata, writes, "", "", "")


def _access_row(figures: LayerFigures) -> Row:
    return tuple(cell for count in (*figures.sram, *figures.dram) for cell in ("", "", count))


def _sparse_row(figures: LayerFigures) -> Row:
    if not figures.stored_words:
        return ("", "", "", "", "")
    words = (figures.original_words, figures.stored_words, figures.metadata_words)
    return ("ellpack_block", *words, figures.metadata_words / figures.total_cycles)


def _text(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """SCALE-Sim's form: `, ` between the cells and a comma behind the last one."""
    lines = [", ".join(columns), *(", ".join(map(str, (number, *row))) for number, row in enumerate(rows))]
    return "".join(f"{line},\n" for line in lines)
