"""Prices and areas of an accelerator: sourced, replaceable, and never silently 0."""

from __future__ import annotations

from typing import Any

import pytest

from accel_models.accelerator import Accelerator, library_names, load_accelerator, parse_accelerator
from accel_models.energy import area_by_part, area_mm2, bank_of, energy_table, leakage_by_part, sram, technology
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.layers import Bits, Conv2d, VectorOp
from accel_models.sparsity import KofN
from accel_models.workload import Workload

DEVICES = ("itrs-lstp", "itrs-lop", "itrs-hp")
NODES = (65, 45, 32, 22, 16, 7)


def chip(name: str = "edge_os_16x16", **changes: Any) -> Accelerator:
    return load_accelerator(name, {key.replace("__", "."): value for key, value in changes.items()})


UNUSED = ("gather_bit", "select_bit", "scatter_bit", "intersection")
"""Prices of parts that an array may lack: then 0."""


@pytest.mark.parametrize("name", library_names())
def test_every_price_of_an_accelerator_has_value_unit_and_source(name: str):
    prices = energy_table(load_accelerator(name)).prices
    memories = {f"{m.name}.{a}_bit" for m in load_accelerator(name).memories for a in ("read", "write")}
    assert memories < set(prices)
    for entry, price in prices.items():
        assert price.value > 0 or entry in UNUSED, entry
        assert price.unit in {"pJ", "pJ/bit", "mW"}, entry
        assert len(price.source) > 20 or price.source.startswith("CACTI 7"), entry


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
    assert set(parts) == {"pe_array", "vector_unit"} | {m.name for m in machine.memories if m.kind != "dram"}
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


MEMORIES: list[dict[str, Any]] = [
    {"name": "dram", "kind": "dram", "holds": ["weight", "input", "output"], "dram_type": "LPDDR4",
     "bandwidth_bytes_per_cycle": 8},
    {"name": "glb", "kind": "sram", "holds": ["weight", "input", "output"], "capacity_bytes": 65536, "banks": 2,
     "axes": [{"size": 4, "dims": ["K"]}]},
    {"name": "local", "kind": "sram", "holds": ["weight"], "capacity_bytes": 2048,
     "axes": [{"size": 8, "dims": ["C"]}]},
    {"name": "rf", "kind": "registers", "holds": ["input", "output"], "capacity_bytes": 64},
]  # fmt: skip


def flexible(node: int = 45, energy: dict[str, Any] | None = None, **memories: dict[str, Any]) -> Accelerator:
    """4 x 8 PEs, each with 64 bytes of registers; a local SRAM for each 8 of them."""
    levels = [memory | memories.get(memory["name"], {}) for memory in MEMORIES]
    array = {"rows": 4, "cols": 8, "dataflow": "flexible", "input_bits": 8, "weight_bits": [4, 8], "psum_bits": 32}
    data = {"name": "flex", "clock_mhz": 500, "node_nm": node, "pe_array": array, "memories": levels}
    return parse_accelerator(data | {"energy": energy or {}}, "test")


def test_systolic_arrays_at_45nm_cost_what_they_did_before_other_arrays_came():
    table = energy_table(chip("edge_skip_16x16"))
    expected = {
        "multiply_4": 0.1, "multiply_8": 0.2, "add": 0.1, "register_bit": 0.009, "gather_bit": 0.009000000000000001,
        "dram.read_bit": 8.0, "dram.write_bit": 8.0,
        "input_buffer.read_bit": 0.0260890625, "input_buffer.write_bit": 0.05455625,
        "weight_buffer.read_bit": 0.06770770679352982, "weight_buffer.write_bit": 0.10953798821680724,
        "output_buffer.read_bit": 0.0430578125, "output_buffer.write_bit": 0.0662359375,
        "leakage": 4.159432925294364,
    }  # fmt: skip
    assert {entry: price.value for entry, price in table.prices.items()} == pytest.approx(expected, rel=1e-12)
    assert area_mm2(chip("edge_skip_16x16")) == pytest.approx(0.44291104029984096, rel=1e-12)


def test_arrays_that_are_not_systolic_pay_a_network_instead_of_registers_that_pass_operands_on():
    prices = energy_table(flexible()).prices
    assert set(prices) == {"multiply_4", "multiply_8", "add", "network.bit", "leakage"} | {
        f"{memory}.{access}_bit" for memory in ("dram", "glb", "local", "rf") for access in ("read", "write")
    }
    assert "network.bit" not in energy_table(chip()).prices


@pytest.mark.parametrize(("words", "levels"), [(1, 0), (2, 1), (3, 2), (8, 3), (9, 4)])
def test_reading_a_register_file_pays_a_multiplexer_a_level_and_writing_it_none(words: int, levels: int):
    tech = {name: price.value for name, price in technology().items()}
    table = energy_table(flexible(rf={"holds": ["output"], "capacity_bytes": 4 * words}))
    assert table["rf.read_bit"].value == pytest.approx(tech["register_bit"] + levels * tech["mux2_toggle"])
    assert table["rf.write_bit"] == technology()["register_bit"]
    assert f"one of {words} words" in table["rf.read_bit"].source or levels == 0


def test_a_register_file_of_several_operands_selects_among_words_of_the_narrowest():
    """64 bytes are 64 inputs of 8 bits or 16 partial sums of 32 bits."""
    assert "one of 64 words" in energy_table(flexible())["rf.read_bit"].source


def test_a_larger_register_file_never_costs_less():
    machines = [flexible(rf={"capacity_bytes": size}) for size in (4, 16, 17, 64, 256, 4096)]
    for cost in (
        [energy_table(m)["rf.read_bit"].value for m in machines],
        [area_by_part(m)["rf"] for m in machines],
        [leakage_by_part(m)["rf"] for m in machines],
        [energy_table(m)["network.bit"].value for m in machines],
    ):
        assert cost == sorted(cost)
        assert cost[0] < cost[-1]


def test_area_and_leakage_count_every_instance():
    machine, tech = flexible(), {name: price.value for name, price in technology().items()}
    glb, local, registers = machine.memories[1:]
    assert [machine.instances(memory) for memory in (glb, local, registers)] == [1, 4, 32]
    area, leakage = area_by_part(machine), leakage_by_part(machine)
    assert area["glb"] == pytest.approx(2 * sram(32768, 64, 45, "itrs-lstp").area_mm2)
    assert area["local"] == pytest.approx(4 * sram(2048, 64, 45, "itrs-lstp").area_mm2)
    assert leakage["local"] == pytest.approx(4 * sram(2048, 64, 45, "itrs-lstp").leakage_mw)
    assert area["rf"] == pytest.approx(32 * (512 * tech["register_area"] + (512 - 8) * tech["mux2_area"]) * 1e-6)
    assert leakage["rf"] == pytest.approx(32 * 512 * tech["register_leakage"])
    assert energy_table(machine)["leakage"].value == pytest.approx(sum(leakage.values()))


def test_a_bit_to_a_pe_travels_half_the_edge_of_the_array_with_what_lies_in_it():
    parts, price = area_by_part(flexible()), energy_table(flexible())["network.bit"]
    length = (parts["pe_array"] + parts["local"] + parts["rf"]) ** 0.5 / 2
    assert price.value == pytest.approx(technology()["wire_bit_mm"].value * length)
    assert price.unit == "pJ/bit"
    assert "half the edge of the array" in price.source


def test_eyeriss_network_costs_about_what_its_authors_say():
    """Twice a MAC for 16 bits (ISCA 2016, Table IV), with a MAC of 2 pJ: 0.25 pJ a bit."""
    assert 0.15 < energy_table(load_accelerator("eyeriss_v1"))["network.bit"].value < 0.3


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("device", DEVICES)
def test_no_part_of_a_chip_is_free_at_any_node(node: int, device: str):
    for machine in (flexible(node), chip(node_nm=node)):
        machine = machine.model_copy(update={"sram_device": device})
        on_chip = {"pe_array", "vector_unit"} | {m.name for m in machine.memories if m.kind != "dram"}
        for parts in (area_by_part(machine), leakage_by_part(machine)):
            assert set(parts) == on_chip
            assert min(parts.values()) > 0
        for entry, price in energy_table(machine).prices.items():
            assert price.value > 0 or entry in UNUSED, entry
            assert len(price.source) > 20, entry


def test_a_price_at_another_node_says_where_it_comes_from_and_by_how_much_it_was_scaled():
    table = energy_table(flexible(65))
    assert table["multiply_8"].source.startswith("Horowitz, ISSCC 2014")
    assert "x 1.91 (45 -> 65 nm; Stillmaker and Baas 2017" in table["multiply_8"].source
    assert energy_table(flexible(7))["multiply_8"].value == pytest.approx(0.07)
    assert "x 0.75 at this capacity (45 -> 7 nm; Jouppi" in energy_table(flexible(7))["local.read_bit"].source
    assert "22 nm, x " in energy_table(flexible(7))["leakage"].source


KINDS = sorted(name.removeprefix("dram_") for name in technology() if name.startswith("dram_"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_dram_has_a_sourced_price_that_an_accelerator_can_replace(kind: str):
    price = technology()[f"dram_{kind}"]
    table = energy_table(flexible(dram={"dram_type": kind}))
    assert table["dram.read_bit"] == table["dram.write_bit"] == price
    mine = {"dram.read_bit": {"value": 5.5, "source": "a data sheet"}}
    replaced = energy_table(flexible(dram={"dram_type": kind}, energy=mine))
    assert (replaced["dram.read_bit"].value, replaced["dram.read_bit"].source) == (5.5, "a data sheet")
    assert replaced["dram.write_bit"] == price


@pytest.mark.parametrize("entry", sorted(energy_table(flexible()).prices))
def test_every_entry_of_an_array_that_is_not_systolic_can_be_replaced(entry: str):
    table = energy_table(flexible(energy={entry: {"value": 50.0, "source": "a measurement"}}))
    assert (table[entry].value, table[entry].source) == (50.0, "a measurement")
    assert table[entry].unit == energy_table(flexible())[entry].unit
