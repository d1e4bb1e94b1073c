"""Reports in SCALE-Sim's columns: its own figures where ours are proven equal, empty cells where we have none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from accel_models.accelerator import load_accelerator
from accel_models.cost import NetworkCost
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.importers.scalesim import load_scalesim_accelerator, read_config, read_topology
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.scalesim_reports import write_reports
from accel_models.sparsity import KofN
from accel_models.workload import Workload

WORKLOAD = Workload(
    name="net",
    layers=(
        Conv2d(name="conv", k=20, c=8, p=12, q=12, r=3, s=3),
        VectorOp(name="pool", kind="pool", input_elements=2880, output_elements=720, operations=2880),
        Conv2d(name="depthwise", k=8, c=8, p=5, q=5, r=3, s=3, groups=8),
        Gemm(name="fc", m=1, n=10, k=720),
    ),
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        header, *rows = ([cell.strip() for cell in row] for row in csv.reader(file))
    assert header[-1] == ""  # the comma behind the last column
    return [dict(zip(header[:-1], row[:-1], strict=True)) for row in rows]


def written(name: str, folder: Path) -> tuple[NetworkCost, dict[str, list[dict[str, str]]]]:
    cost = simulate(load_accelerator(name), WORKLOAD)
    return cost, {path.name: rows_of(path) for path in write_reports(cost, WORKLOAD, folder)}


@pytest.mark.parametrize("name", ["edge_os_16x16", "edge_ws_16x16"])
def test_cycles_add_up_to_the_models(name: str, tmp_path: Path):
    cost, reports = written(name, tmp_path / "new" / "folder")
    activities = [layer.activity for layer in cost.layers if layer.name != "pool"]
    for row, activity in zip(reports["COMPUTE_REPORT.csv"], activities, strict=True):
        total, stalls = int(row["Total Cycles"]), int(row["Stall Cycles"])
        assert int(row["Total Cycles (incl. prefetch)"]) == activity.latency_cycles - 1
        edges = activity.stall_cycles["dram_fill"] + activity.stall_cycles["dram_drain"]
        assert total == activity.latency_cycles - edges - 1
        assert stalls >= 0
        assert total + 1 - stalls <= activity.compute_cycles
        useful = activity.macs.done * 100 / (cost.accelerator.pe_array.pes * total)
        assert float(row["Overall Util %"]) == pytest.approx(useful)


def test_groups_run_one_after_the_other(tmp_path: Path):
    cost, reports = written("edge_os_16x16", tmp_path)
    row = reports["COMPUTE_REPORT.csv"][1]
    folds = 8 * 2 * 1  # groups x ceil(25 / 16) x ceil(1 / 16)
    assert int(row["Total Cycles"]) - int(row["Stall Cycles"]) == folds * (9 + 16 + 16 - 2) - 1
    access = reports["DETAILED_ACCESS_REPORT.csv"][1]
    assert int(access["SRAM IFMAP Reads"]) == 8 * 25 * 9
    assert int(access["SRAM Filter Reads"]) == 8 * 2 * 9
    assert int(access["SRAM OFMAP Writes"]) == 8 * 25 + folds * (16 + 16)
    dram = cost.layers[2].activity.accesses["dram"]
    assert int(access["DRAM IFMAP Reads"]) == dram["input"].reads
    assert int(access["DRAM OFMAP Writes"]) == dram["output"].writes == 200


def test_what_the_model_does_not_know_is_empty_and_nothing_else(tmp_path: Path):
    reports = written("edge_ws_16x16", tmp_path)[1]
    assert sorted(reports) == ["BANDWIDTH_REPORT.csv", "COMPUTE_REPORT.csv", "DETAILED_ACCESS_REPORT.csv"]
    for rows in reports.values():
        assert [row["LayerID"] for row in rows] == ["0", "1", "2"]
        for row in rows:
            for column, cell in row.items():
                unknown = column.endswith(("Start Cycle", "Stop Cycle", "DRAM BW"))
                assert (cell == "") == unknown, column


def test_bandwidths_are_words_over_cycles(tmp_path: Path):
    reports = written("edge_os_16x16", tmp_path)[1]
    tables = (reports[f"{name}_REPORT.csv"] for name in ("COMPUTE", "BANDWIDTH", "DETAILED_ACCESS"))
    for compute, bandwidth, access in zip(*tables, strict=True):
        cycles = int(compute["Total Cycles"])
        assert float(bandwidth["Avg IFMAP SRAM BW"]) == int(access["SRAM IFMAP Reads"]) / cycles
        assert float(bandwidth["Avg FILTER SRAM BW"]) == int(access["SRAM Filter Reads"]) / cycles
        assert float(bandwidth["Avg OFMAP SRAM BW"]) == int(access["SRAM OFMAP Writes"]) / cycles


def test_a_structure_that_the_array_cannot_skip_is_reported_dense(tmp_path: Path):
    structures = {"fc": KofN(granularity="weight", k=2, n=4)}
    dense = written("edge_ws_16x16", tmp_path / "dense")[1]
    cost = simulate(load_accelerator("edge_ws_16x16"), WORKLOAD, structures)
    paths = write_reports(cost, WORKLOAD, tmp_path / "masked", structures)
    access = next(path for path in paths if path.name == "DETAILED_ACCESS_REPORT.csv")
    assert rows_of(access) == dense[access.name]


def test_an_array_that_skips_reports_storage_of_its_sparse_layers_alone(tmp_path: Path):
    structures = {"fc": KofN(granularity="weight", k=2, n=4)}
    cost = simulate(load_accelerator("edge_skip_16x16"), WORKLOAD, structures)
    paths = {path.name: path for path in write_reports(cost, WORKLOAD, tmp_path, structures)}
    *dense, sparse = rows_of(paths["SPARSE_REPORT.csv"])
    assert all(row["Original Filter Storage"] == "" for row in dense)
    assert float(sparse["Original Filter Storage"]) == 7200
    assert float(sparse["Filter Metadata Storage"]) == 3600 * 2 / 32
    assert float(sparse["New Storage (Filter+Metadata)"]) == 3600 + 3600 * 2 / 32
    assert "Avg FILTER Metadata SRAM BW" in rows_of(paths["BANDWIDTH_REPORT.csv"])[0]


def test_a_workload_without_products_and_a_folder_that_is_a_file_are_refused(tmp_path: Path):
    accelerator = load_accelerator("edge_os_16x16")
    pool = Workload(name="pools", layers=WORKLOAD.layers[1:2])
    with pytest.raises(InvalidInputError, match=r"pools.*no convolution"):
        write_reports(simulate(accelerator, pool), pool, tmp_path)
    with pytest.raises(InvalidInputError, match="'conv' was not simulated"):
        write_reports(simulate(accelerator, pool), WORKLOAD, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"file: reports cannot be written .*another folder"):
        write_reports(simulate(accelerator, WORKLOAD), WORKLOAD, tmp_path / "file")


EQUAL = (
    "LayerID", "Mapping Efficiency %", "Compute Util %", "SRAM IFMAP Reads", "SRAM Filter Reads", "SRAM OFMAP Writes",
    "Sparsity Representation", "Original Filter Storage", "New Storage (Filter+Metadata)", "Filter Metadata Storage",
)  # fmt: skip
"""Columns that are SCALE-Sim's on every layer; Total Cycles are without stalls."""


def same(ours: str, theirs: str) -> bool:
    """Percentages are added up in float over the folds there: equal to 10 decimals."""
    try:
        return float(ours) == pytest.approx(float(theirs), rel=1e-11)
    except ValueError:
        return ours == theirs


@pytest.mark.validation
def test_columns_of_the_array_are_those_that_scalesim_wrote(shared: Path, tmp_path: Path):
    compared = 0
    for run in sorted(path for path in (shared / "reference" / "scalesim").iterdir() if path.is_dir()):
        config, topology = read_config(run / "config.cfg"), read_topology(run / "topology.csv")
        structures = topology.structures if config.sparse else {}
        cost = simulate(load_scalesim_accelerator(run / "config.cfg", structures), topology.workload, structures)
        for path in write_reports(cost, topology.workload, tmp_path / run.name, structures):
            if path.name == "BANDWIDTH_REPORT.csv":
                continue  # the reference folders have none
            ours, theirs = rows_of(path), rows_of(run / path.name)
            assert [list(row) for row in ours] == [list(row) for row in theirs]
            for a, b in zip(ours, theirs, strict=True):
                wrong = [column for column in a if column in EQUAL and not same(a[column], b[column])]
                assert not wrong, (run.name, wrong)
                compared += sum(column in EQUAL for column in a)
                if "Total Cycles" in a:
                    free = [int(row["Total Cycles"]) - int(row["Stall Cycles"]) for row in (a, b)]
                    assert free[0] == free[1], run.name
                    stalled = int(a["Stall Cycles"]) > 0 or int(b["Stall Cycles"]) > 0
                    assert stalled or same(a["Overall Util %"], b["Overall Util %"])
    assert compared == 42 * 3 + 42 * 4 + 3 * 5
