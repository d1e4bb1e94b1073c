"""Prices and areas: sourced, on CACTI's points, replaceable, and never silently 0."""

from __future__ import annotations

import csv
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from accel_models.accelerator import LIBRARY, Accelerator, library_names, load_accelerator
from accel_models.energy import area_by_part, area_mm2, bank_of, energy_table, sram, technology
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.layers import Bits, Conv2d, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload

DEVICES = ("itrs-lstp", "itrs-lop", "itrs-hp")
UNITS = {"pJ", "pJ/bit", "mW", "mW/bit", "um2", "um2/bit"}


def chip(name: str = "edge_os_16x16", **changes: Any) -> Accelerator:
    return load_accelerator(name, {key.replace("__", "."): value for key, value in changes.items()})


def sram_rows() -> list[dict[str, str]]:
    lines = (LIBRARY / "sram_cacti7.csv").read_text().splitlines()
    return [row for row in csv.DictReader(x for x in lines if x[0] != "#") if row["node_nm"] == "45"]


def test_every_entry_of_the_technology_has_value_unit_and_source():
    for name, price in technology().items():
        assert price.value > 0, name
        assert price.unit in UNITS, name
        assert len(price.source) > 20, name


@pytest.mark.parametrize("name", library_names())
def test_every_price_of_an_accelerator_has_value_unit_and_source(name: str):
    prices = energy_table(load_accelerator(name)).prices
    memories = {f"{m.name}.{a}_bit" for m in load_accelerator(name).memories for a in ("read", "write")}
    assert memories < set(prices)
    for entry, price in prices.items():
        assert price.value > 0 or entry == "gather_bit", entry
        assert price.unit in {"pJ", "pJ/bit", "mW"}, entry
        assert len(price.source) > 20 or price.source.startswith("CACTI 7"), entry


def test_an_sram_on_a_point_of_the_table_costs_what_cacti_says():
    rows = sram_rows()
    assert {row["device"] for row in rows} == set(DEVICES)
    for row in rows:
        bank = sram(int(row["capacity_bytes"]), int(row["width_bits"]), 45, row["device"])
        found = (bank.read_pj, bank.write_pj, bank.leakage_mw, bank.area_mm2)
        assert found == pytest.approx([float(row[c]) for c in ("read_pj", "write_pj", "leakage_mw", "area_mm2")], 1e-12)


@settings(max_examples=300, deadline=None)
@given(st.integers(256, 2**23), st.integers(256, 2**23), st.integers(8, 256), st.sampled_from(DEVICES))
def test_a_larger_sram_never_writes_leaks_or_measures_less(first: int, second: int, width: int, device: str):
    small, large = (sram(size, width, 45, device) for size in sorted((first, second)))
    for field in ("write_pj", "leakage_mw", "area_mm2"):
        assert getattr(large, field) >= getattr(small, field) * (1 - 1e-12), field


@settings(max_examples=200, deadline=None)
@given(st.integers(256, 2**23), st.integers(8, 256), st.sampled_from(DEVICES))
def test_between_points_an_sram_costs_no_more_than_the_dearest_and_no_less_than_the_cheapest(
    capacity: int, width: int, device: str
):
    points = {(int(r["capacity_bytes"]), int(r["width_bits"])): r for r in sram_rows() if r["device"] == device}
    sizes, widths = sorted({c for c, _ in points}), sorted({w for _, w in points})
    near = [
        (c, w)
        for c in (max(s for s in sizes if s <= capacity), min(s for s in sizes if s >= capacity))
        for w in (max(x for x in widths if x <= width), min(x for x in widths if x >= width))
    ]
    assume(all(point in points for point in near))
    bank = sram(capacity, width, 45, device)
    for field in ("read_pj", "write_pj", "leakage_mw", "area_mm2"):
        values = [float(points[point][field]) for point in near]
        assert min(values) * (1 - 1e-9) <= getattr(bank, field) <= max(values) * (1 + 1e-9)


def test_the_device_decides_leakage_and_access_energy():
    prices = {device: energy_table(chip(sram_device=device)) for device in DEVICES}
    leakage = {device: table["leakage"].value for device, table in prices.items()}
    assert leakage["itrs-lstp"] < leakage["itrs-lop"] < leakage["itrs-hp"]
    read = {device: table["input_buffer.read_bit"].value for device, table in prices.items()}
    assert len(set(read.values())) == 3


def test_energy_of_a_multiplication_grows_with_the_product_of_its_widths():
    table = energy_table(chip(pe_array__weight_bits=[2, 4, 8, 16]))
    assert [table[f"multiply_{bits}"].value for bits in (2, 4, 8, 16)] == pytest.approx([0.05, 0.1, 0.2, 0.4])
    assert table.mac_pj(8) == pytest.approx(0.2 + 0.1)
    assert energy_table(chip(pe_array__psum_bits=16)).mac_pj(8) == pytest.approx(0.2 + 0.05)
    assert energy_table(chip(pe_array__input_bits=4)).mac_pj(8) == pytest.approx(0.1 + 0.1)


def test_selecting_from_a_larger_tile_costs_more_and_from_none_nothing():
    assert energy_table(chip())["gather_bit"].value == 0
    costs = [energy_table(chip("edge_skip_16x16", weight_sparsity__gather=n))["gather_bit"].value for n in (2, 4, 8)]
    assert costs == pytest.approx([0.003, 0.006, 0.009])


def test_leakage_per_cycle_is_power_over_clock():
    machine = chip()
    table = energy_table(machine)
    assert table.leakage_pj_per_cycle(500) == pytest.approx(table["leakage"].value * 1e-3 / 500e6 * 1e12)


WORKLOAD = Workload(
    name="w",
    layers=(
        Conv2d(name="c", k=16, c=16, p=8, q=8, r=3, s=3, padding=(1, 1)),
        VectorOp(name="add", kind="elementwise", input_elements=2048, output_elements=1024, operations=1024),
    ),
)


@pytest.mark.parametrize("entry", sorted(energy_table(load_accelerator("edge_skip_16x16")).prices))
def test_every_entry_can_be_replaced_and_is_paid(entry: str):
    base = chip("edge_skip_16x16")
    structures = {"c": KofN(granularity="weight", k=2, n=8)}
    override = {entry: {"value": 50.0, "source": "a measurement"}}
    workload = WORKLOAD
    if entry == "multiply_4":
        conv = Conv2d(name="c", k=16, c=16, p=8, q=8, r=3, s=3, padding=(1, 1), bits=Bits(weight=4))
        workload = Workload(name="w", layers=(conv, *WORKLOAD.layers[1:]))
    changed = base.model_copy(update={"energy": load_accelerator("edge_os_16x16", {"energy": override}).energy})
    price = energy_table(changed)[entry]
    assert (price.value, price.source, price.unit) == (50.0, "a measurement", energy_table(base)[entry].unit)
    assert simulate(changed, workload, structures).energy_pj > simulate(base, workload, structures).energy_pj


@pytest.mark.parametrize(
    ("entry", "nearest"),
    [("multiply_16", "multiply_"), ("dram.read", "dram.read_bit"), ("leak", "leakage"), ("reg_bit", "register_bit")],
)
def test_an_entry_that_does_not_exist_is_named_with_the_nearest(entry: str, nearest: str):
    machine = chip(energy={entry: {"value": 1.0, "source": "mine"}})
    with pytest.raises(InvalidInputError, match=rf"edge_os_16x16: energy.{entry}: no such entry; nearest: '{nearest}"):
        energy_table(machine)


def test_an_unknown_dram_is_named_with_those_that_exist():
    with pytest.raises(InvalidInputError, match=r"memories.dram.dram_type: 'DDR9' is none of \['DDR3', .*'LPDDR4'\]"):
        energy_table(chip(memories__dram__dram_type="DDR9"))


def test_the_dram_type_decides_the_price_of_a_bit():
    bits = {
        kind: energy_table(chip(memories__dram__dram_type=kind))["dram.read_bit"].value for kind in ("LPDDR4", "DDR3")
    }
    assert bits == {"LPDDR4": 8, "DDR3": 70}


@pytest.mark.parametrize("name", library_names())
def test_area_is_the_sum_of_parts_that_are_all_above_zero(name: str):
    machine = load_accelerator(name)
    parts = area_by_part(machine)
    assert set(parts) == {"pe_array", "vector_unit"} | {m.name for m in machine.memories if m.kind == "sram"}
    assert min(parts.values()) > 0
    assert area_mm2(machine) == pytest.approx(sum(parts.values()))


@pytest.mark.parametrize(
    "change",
    [
        {"pe_array__rows": 32},
        {"pe_array__cols": 17},
        {"pe_array__psum_bits": 48},
        {"pe_array__weight_bits": [4, 8, 16]},
        {"memories__input_buffer__capacity_bytes": 32768},
        {"memories__weight_buffer__banks": 4},
        {"vector_lanes": 32},
    ],
)
def test_more_hardware_takes_more_area_and_leaks_more(change: dict[str, Any]):
    base, more = chip(), chip(**change)
    assert area_mm2(more) > area_mm2(base)
    assert energy_table(more)["leakage"].value > energy_table(base)["leakage"].value


def test_a_gathering_array_is_larger_than_a_plain_one():
    assert area_by_part(chip("edge_skip_16x16"))["pe_array"] > 1.3 * area_by_part(chip())["pe_array"]


def test_pe_array_area_is_what_its_cells_add_up_to():
    tech = {name: price.value for name, price in technology().items()}
    registers = (8 + 2 * 8 + 32) * tech["register_area"]
    cells = tech["multiply_area"] + tech["add_area"] + registers
    assert area_by_part(chip())["pe_array"] == pytest.approx(256 * cells * 1e-6)


def test_a_buffer_is_made_of_banks_that_share_its_capacity():
    machine = chip(memories__input_buffer__banks=4)
    bank = bank_of(machine.buffer("input"), machine)
    assert bank == sram(4096, 64, 45, "itrs-lstp")
    assert area_by_part(machine)["input_buffer"] == pytest.approx(4 * bank.area_mm2)
