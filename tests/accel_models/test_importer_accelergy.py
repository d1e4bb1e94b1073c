"""Accelergy's tables: per bit through the width of an action, areas of all instances, errors naming the component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from accel_models.accelerator import Accelerator, parse_accelerator
from accel_models.energy import energy_table
from accel_models.errors import InvalidInputError
from accel_models.importers.accelergy import read_art, read_ert

MACHINE: dict[str, Any] = {
    "name": "eyeriss_like",
    "clock_mhz": 1000,
    "pe_array": {"rows": 12, "cols": 14, "dataflow": "row_stationary", "weight_bits": [8, 16], "input_bits": 16,
                 "psum_bits": 16},
    "memories": [
        {"name": "DRAM", "kind": "dram", "holds": ["weight", "input", "output"], "dram_type": "LPDDR4",
         "bandwidth_bytes_per_cycle": 8},
        {"name": "shared_glb", "kind": "sram", "holds": ["weight", "input", "output"], "capacity_bytes": 131072},
        {"name": "ifmap_spad", "kind": "registers", "holds": ["input"], "capacity_bytes": 24},
        {"name": "weights_spad", "kind": "registers", "holds": ["weight"], "capacity_bytes": 384},
        {"name": "psum_spad", "kind": "registers", "holds": ["output"], "capacity_bytes": 32},
    ],
}  # fmt: skip

ERT = """
ERT:
    version: '0.4'
    tables:
      - name: system_top_level.DRAM[1..1]
        actions:
          - {name: leak, arguments: {global_cycle_seconds: 1e-09}, energy: 0.0}
          - {name: write, arguments: {global_cycle_seconds: 1e-09}, energy: 512.0}
          - {name: read, arguments: {global_cycle_seconds: 1e-09}, energy: 512.0}
          - {name: update, arguments: {}, energy: 512.0}
      - name: system_top_level.shared_glb[1..1]
        actions:
          - {name: write, arguments: {}, energy: 14.137929}
          - {name: read, arguments: {}, energy: 18.183829}
      - name: system_top_level.ifmap_spad[1..168]
        actions:
          - {name: write, arguments: {}, energy: 0.176713}
          - {name: read, arguments: {}, energy: 0.202442}
      - name: system_top_level.mac[1..168]
        actions:
          - {name: compute, arguments: {}, energy: 0.207692}
"""
"""Shape and figures of timeloop-accelergy-exercises, example_designs/eyeriss_like/ref_outputs (commit 2d551080)."""

ART = """
ART:
    version: 0.3
    tables:
      - {name: 'system_top_level.DRAM[1..1]', area: 0.0}
      - {name: 'system_top_level.inter_PE_spatial[1..14]', area: 1.0}
      - {name: 'system_top_level.shared_glb[1..1]', area: 217363.36892}
      - {name: 'system_top_level.psum_spad[0..167]', area: 123.627348}
      - {name: system_top_level.MAC, area: 191.82}
"""


def machine(**changes: Any) -> Accelerator:
    return parse_accelerator(MACHINE | changes, "test")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tables.yaml"
    path.write_text(text)
    return path


def test_energies_become_prices_per_bit_of_an_action(tmp_path: Path):
    prices = read_ert(write(tmp_path, ERT), machine())
    values = {entry: price.value for entry, price in prices.items()}
    assert values["DRAM.read_bit"] == values["DRAM.write_bit"] == 512 / 64
    assert values["shared_glb.read_bit"] == pytest.approx(18.183829 / 64)
    assert values["shared_glb.write_bit"] == pytest.approx(14.137929 / 64)
    assert values["ifmap_spad.read_bit"] == pytest.approx(0.202442 / 16)
    assert prices["shared_glb.read_bit"].source == "tables.yaml, system_top_level.shared_glb: read 18.1838 pJ / 64 bits"
    assert not any(entry.startswith("psum_spad") for entry in values)


def test_a_width_of_its_own_divides_the_energy_of_an_action(tmp_path: Path):
    prices = read_ert(write(tmp_path, ERT), machine(), widths={"DRAM": 128})
    assert prices["DRAM.read_bit"].value == 4
    assert prices["shared_glb.read_bit"].value == pytest.approx(18.183829 / 64)
    with pytest.raises(InvalidInputError, match=r"tables.yaml: widths\['DRAM'\] = 0: an action moves at least one bit"):
        read_ert(write(tmp_path, ERT), machine(), widths={"DRAM": 0})


def test_a_mac_of_the_table_costs_what_the_table_says(tmp_path: Path):
    base = machine()
    imported = machine(energy=read_ert(write(tmp_path, ERT), base))
    assert energy_table(imported).mac_pj(16) == pytest.approx(0.207692)
    assert energy_table(imported)["add"] == energy_table(base)["add"]
    assert energy_table(imported)["multiply_8"].value == pytest.approx(energy_table(imported)["multiply_16"].value / 2)


def test_what_was_read_works_as_the_energy_of_a_yaml_file(tmp_path: Path):
    prices = read_ert(write(tmp_path, ERT), machine())
    text = yaml.safe_dump(MACHINE | {"energy": {entry: price.model_dump() for entry, price in prices.items()}})
    table = energy_table(parse_accelerator(yaml.safe_load(text), "test"))
    for entry, price in prices.items():
        assert (table[entry].value, table[entry].source) == (price.value, price.source)
    assert table["psum_spad.read_bit"] == energy_table(machine())["psum_spad.read_bit"]


def test_an_action_with_several_arguments_costs_its_dearest(tmp_path: Path):
    actions = [
        {"name": name, "arguments": {"data_delta": delta}, "energy": energy}
        for name in ("read", "update")
        for delta, energy in ((0, 0.00801), (1, 0.32508), (2, 0.1))
    ]
    data = {"ERT": {"version": 0.3, "tables": [{"name": "pe.psum_spad", "actions": actions}]}}
    prices = read_ert(write(tmp_path, yaml.safe_dump(data)), machine())
    assert {price.value for price in prices.values()} == {0.32508 / 16}


def test_the_summary_of_a_table_reads_alike(tmp_path: Path):
    actions = [
        {"name": "read", "average_energy": 0.16654, "max_energy": 0.32508, "min_energy": 0.00801},
        {"name": "write", "energy": 0.2},
        {"name": "idle", "energy": "1e-05"},
    ]
    rows = [{"name": "pe.psum_spad[1..168]", "actions": actions, "primitive_estimation(s)": []}]
    path = write(tmp_path, yaml.safe_dump({"ERT_summary": {"version": "0.4", "table_summary": rows}}))
    values = {entry: price.value for entry, price in read_ert(path, machine()).items()}
    assert values == {"psum_spad.read_bit": 0.32508 / 16, "psum_spad.write_bit": 0.2 / 16}


def test_areas_are_of_all_instances_in_mm2(tmp_path: Path):
    areas = read_art(write(tmp_path, ART), machine(), names={"inter_PE_spatial": None})
    assert set(areas) == {"shared_glb", "psum_spad", "pe_array"}
    assert areas["shared_glb"].value == pytest.approx(0.21736336892)
    assert areas["psum_spad"].value == pytest.approx(168 * 123.627348e-6)
    assert areas["pe_array"].value == pytest.approx(168 * 191.82e-6)
    assert areas["psum_spad"].source == "tables.yaml, system_top_level.psum_spad: 123.627 um2 x 168"


def test_another_number_of_instances_is_refused(tmp_path: Path):
    path = write(tmp_path, ART.replace("[0..167]", "[1..256]"))
    with pytest.raises(
        InvalidInputError, match=r"tables.yaml: system_top_level.psum_spad: 256 instances, .* has 168 of"
    ):
        read_art(path, machine(), names={"inter_PE_spatial": None})


def test_names_say_which_memory_a_component_is(tmp_path: Path):
    text = ERT.replace("shared_glb", "buffer").replace("DRAM", "main_memory")
    names = {"system_top_level.buffer": "shared_glb", "main_memory": "DRAM", "mac": None}
    prices = read_ert(write(tmp_path, text), machine(), names=names)
    assert {"shared_glb.read_bit", "DRAM.write_bit"} < set(prices)
    assert not any(entry.startswith("multiply") for entry in prices)


@pytest.mark.parametrize(
    ("old", "new", "names", "message"),
    [
        (
            "shared_glb",
            "shared_gb",
            None,
            r"component 'system_top_level.shared_gb' is no memory, nearest: 'shared_glb'",
        ),
        ("", "", {"mac": "glb"}, r"component 'system_top_level.mac': names gives 'glb', .* nearest: 'shared_glb'"),
        ("", "", {"mca": None}, r"names: there is no component 'mca', nearest: 'mac'"),
        ("", "", {"mac": "DRAM"}, r"components 'system_top_level.DRAM' and 'system_top_level.mac' are both 'DRAM'"),
        ("'0.4'", "'0.2'", None, r"ERT.version: '0.2' is none of 0.3, 0.4"),
        ("ERT:", "ART:", None, r"holds neither ERT nor ERT_summary"),
        ("tables:", "table:", None, r"ERT.tables: must be a list of components"),
        ("14.137929", "-1", None, r"system_top_level.shared_glb: write: energy: -1 is no number"),
        ("14.137929", ".nan", None, r"system_top_level.shared_glb: write: energy: nan is no number"),
        ("14.137929", "yes", None, r"system_top_level.shared_glb: write: energy: True is no number"),
        (
            "name: read, arguments: {}, energy: 18",
            "name: look, arguments: {}, energy: 18",
            None,
            r"system_top_level.shared_glb: has no action 'read', only write, look; name it None to leave",
        ),
        (
            "0.207692",
            "0.01",
            None,
            r"system_top_level.mac: compute costs 0.01 pJ, less than the add of 0.05 pJ; set energy.add first",
        ),
    ],
)
def test_a_fault_names_file_and_component(
    tmp_path: Path, old: str, new: str, names: dict[str, str | None] | None, message: str
):
    assert old in ERT
    path = write(tmp_path, ERT.replace(old, new) if old else ERT)
    with pytest.raises(InvalidInputError, match="tables.yaml: " + message):
        read_ert(path, machine(), names=names)
