"""Logic, wires and DRAM: the same entries at every node, each sourced, scaled explicitly or by a figure of its own."""

from __future__ import annotations

import math

import pytest

from accel_models.technology import node_factor, node_share, technology

NODES = (65, 45, 32, 22, 16, 7)
UNITS = {"pJ", "pJ/bit", "pJ/bit/mm", "mW", "mW/bit", "um2", "um2/bit"}
LOGIC = [name for name in technology() if not name.startswith("dram_")]


@pytest.mark.parametrize("node", NODES)
def test_every_entry_has_value_unit_and_source(node: int):
    assert set(technology(node)) == set(technology())
    for name, price in technology(node).items():
        assert price.value > 0, name
        assert price.unit in UNITS, name
        assert price.unit == technology()[name].unit, name
        assert len(price.source) > 20, name


@pytest.mark.parametrize("node", [65, 32, 22, 16, 7])
@pytest.mark.parametrize("name", LOGIC)
def test_a_scaled_price_names_the_price_it_comes_from_the_factor_and_the_nodes(node: int, name: str):
    base, price = technology()[name], technology(node)[name]
    if f"(45 -> {node} nm; " not in price.source:
        assert (name, node) in {("multiply_8x8", 7), ("add_32", 7), ("wire_bit_mm", 7), ("wire_bit_mm", 65)}
        return
    assert price.source.startswith(base.source)
    assert f"x {price.value / base.value:.3g} (45 -> {node} nm; " in price.source


def test_operations_at_7nm_are_the_published_ones():
    """Jouppi et al., ISCA 2021, Table 2."""
    assert technology(7)["multiply_8x8"].value == 0.07
    assert technology(7)["add_32"].value == 0.03


@pytest.mark.parametrize("name", LOGIC)
def test_a_smaller_node_never_costs_more(name: str):
    values = [technology(node)[name].value for node in NODES]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_65nm_energy_is_that_of_stillmaker_and_baas():
    factor = (3.755 * 1.0**2 - 4.398 * 1.0 + 1.975) / (1.018 * 0.9**2 - 0.3107 * 0.9 + 0.1539)
    assert node_factor("energy", 65) == pytest.approx(factor, rel=1e-3)
    assert technology(65)["multiply_8x8"].value == pytest.approx(0.2 * factor, rel=1e-3)


def test_between_45_and_7nm_an_energy_is_a_power_of_the_node():
    exponent = math.log(0.2 / 0.07) / math.log(45 / 7)
    for node in (32, 22, 16):
        assert technology(node)["multiply_8x8"].value == pytest.approx(0.2 * (node / 45) ** exponent)
        assert node_factor("leakage", node) == pytest.approx(0.3 ** node_share(node))


def test_dram_hangs_on_no_node_of_the_chip():
    dram = {name: price for name, price in technology().items() if name.startswith("dram_")}
    assert {"dram_LPDDR4", "dram_DDR3", "dram_DDR4", "dram_GDDR5", "dram_GDDR6", "dram_HBM2", "dram_HBM3"} < set(dram)
    for node in NODES:
        assert {name: technology(node)[name] for name in dram} == dram
