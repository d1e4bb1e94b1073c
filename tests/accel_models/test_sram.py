"""SRAM: CACTI's own figures on its points, explicit scaling beyond its nodes, and nothing cheaper for being larger."""

from __future__ import annotations

import csv

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from accel_models.accelerator import LIBRARY
from accel_models.sram import Sram, energy_source, scaled_source, sram
from accel_models.technology import node_factor

DEVICES = ("itrs-lstp", "itrs-lop", "itrs-hp")
CACTI_NODES = (65, 45, 32, 22)
FIELDS = ("read_pj", "write_pj", "leakage_mw", "area_mm2")


def sram_rows(node: int, device: str) -> dict[tuple[int, int], Sram]:
    """CACTI's rows as the file has them."""
    lines = (LIBRARY / "sram_cacti7.csv").read_text().splitlines()
    return {
        (int(row["capacity_bytes"]), int(row["width_bits"])): Sram(*(float(row[field]) for field in FIELDS))
        for row in csv.DictReader(line for line in lines if line[0] != "#")
        if (row["node_nm"], row["device"]) == (str(node), device)
    }


@pytest.mark.parametrize("node", CACTI_NODES)
@pytest.mark.parametrize("device", DEVICES)
def test_an_sram_on_a_point_of_the_table_costs_what_cacti_says(node: int, device: str):
    rows = sram_rows(node, device)
    assert len(rows) == 93
    for (capacity, width), expected in rows.items():
        bank = sram(capacity, width, node, device)
        for field in FIELDS:
            assert getattr(bank, field) == pytest.approx(getattr(expected, field), rel=1e-12)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(256, 2**23),
    st.integers(256, 2**23),
    st.integers(8, 256),
    st.sampled_from((*CACTI_NODES, 16, 7)),
    st.sampled_from(DEVICES),
)
def test_a_larger_sram_never_writes_leaks_or_measures_less(first: int, second: int, width: int, node: int, device: str):
    small, large = (sram(size, width, node, device) for size in sorted((first, second)))
    for field in FIELDS[1:]:
        assert getattr(large, field) >= getattr(small, field) * (1 - 1e-12), field


@pytest.mark.parametrize("node", [16, 7])
@pytest.mark.parametrize("device", DEVICES)
def test_beyond_cacti_an_access_never_falls_with_the_capacity_though_its_factor_does(node: int, device: str):
    for width in (8, 48, 64, 256):
        banks = [
            sram(capacity, width, node, device)
            for capacity in sorted({2**k + d for k in range(9, 23) for d in (0, 99)})
        ]
        for field in ("read_pj", "write_pj"):
            energies = [getattr(bank, field) for bank in banks]
            assert energies == sorted(energies)


@settings(max_examples=200, deadline=None)
@given(st.integers(256, 2**23), st.integers(8, 256), st.sampled_from(CACTI_NODES), st.sampled_from(DEVICES))
def test_between_points_an_sram_costs_no_more_than_the_dearest_and_no_less_than_the_cheapest(
    capacity: int, width: int, node: int, device: str
):
    points = sram_rows(node, device)
    sizes, widths = sorted({c for c, _ in points}), sorted({w for _, w in points})
    near = [
        (c, w)
        for c in (max(s for s in sizes if s <= capacity), min(s for s in sizes if s >= capacity))
        for w in (max(x for x in widths if x <= width), min(x for x in widths if x >= width))
    ]
    assume(all(point in points for point in near))
    bank = sram(capacity, width, node, device)
    for field in FIELDS:
        values = [getattr(points[point], field) for point in near]
        assert min(values) * (1 - 1e-9) <= getattr(bank, field) <= max(values) * (1 + 1e-9)


@pytest.mark.parametrize(("capacity", "ratio"), [(8192, 7.5 / 10), (32768, 8.5 / 20), (2**20, 14 / 100)])
def test_accesses_at_7nm_fall_from_45nm_as_published(capacity: int, ratio: float):
    """Jouppi et al., ISCA 2021, Table 2."""
    old, new = (sram(capacity, 64, node, "itrs-lstp") for node in (45, 7))
    assert new.read_pj / old.read_pj == pytest.approx(ratio)
    assert new.write_pj / old.write_pj == pytest.approx(ratio)
    assert f"x {ratio:.3g} at this capacity (45 -> 7 nm; Jouppi" in energy_source(capacity, 7)


def test_at_64_bits_accesses_at_7nm_come_within_a_factor_of_two_of_the_published_ones():
    published = {8192: 7.5, 32768: 8.5, 2**20: 14.0}  # pJ, Jouppi et al., ISCA 2021, Table 2
    for capacity, energy in published.items():
        assert 0.5 < sram(capacity, 64, 7, "itrs-lstp").read_pj / energy < 1.0


def test_accesses_at_45nm_agree_with_the_published_ones():
    published = {8192: 10.0, 32768: 20.0, 2**20: 100.0}  # pJ of 64 bits, Horowitz, ISSCC 2014, Fig. 1.1.9
    for capacity, energy in published.items():
        assert 0.6 < sram(capacity, 64, 45, "itrs-lstp").read_pj / energy < 1.0


def test_16nm_lies_between_45_and_7nm():
    for capacity in (1024, 8192, 2**17, 2**22):
        old, mid, new = (sram(capacity, 64, node, "itrs-lstp") for node in (45, 16, 7))
        assert old.read_pj > mid.read_pj > new.read_pj
        assert old.area_mm2 > mid.area_mm2 > new.area_mm2
    assert "log-log in the node towards 7 nm" in energy_source(8192, 16)


@pytest.mark.parametrize("node", [16, 7])
@pytest.mark.parametrize(("kind", "field"), [("leakage", "leakage_mw"), ("area", "area_mm2")])
def test_leakage_and_area_are_those_of_22nm_times_a_factor_that_the_source_names(node: int, kind: str, field: str):
    factor = node_factor(kind, node) / node_factor(kind, 22)
    ratio = getattr(sram(65536, 128, node, "itrs-hp"), field) / getattr(sram(65536, 128, 22, "itrs-hp"), field)
    assert ratio == pytest.approx(factor)
    assert f"x {factor:.3g} (22 -> {node} nm; " in scaled_source(kind, node)


@pytest.mark.parametrize("node", CACTI_NODES)
def test_where_cacti_knows_the_node_it_alone_is_the_source(node: int):
    assert energy_source(8192, node) == scaled_source("area", node) == "CACTI 7, library/sram_cacti7.csv"
