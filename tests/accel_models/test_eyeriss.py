from __future__ import annotations

from dataclasses import replace

import pytest

from accel_models.errors import InvalidInputError
from accel_models.row_stationary import RowStationarySpace, optimal_mapping
from accel_models.validation import eyeriss_isca16, eyeriss_jssc17

ISCA16 = "reference/published/eyeriss_isca16_fig10_alexnet_energy.csv"
JSSC17 = "reference/published/eyeriss_jssc17_table5_alexnet_chip.csv"


def test_alexnet_has_its_published_operations():
    macs = {name: layer.macs for name, layer in eyeriss_isca16.alexnet(4).items()}
    assert macs["conv1"] == 421_660_800
    assert macs["conv2"] == 895_795_200
    assert macs["conv5"] == 299_040_768
    assert eyeriss_isca16.alexnet(1)["fc1"].weight_elements == 37_748_736


@pytest.mark.validation
def test_every_entry_of_figure_10_is_met(shared):
    result = eyeriss_isca16.validate(shared / ISCA16, cases=None)
    assert result.passed
    assert result.rows == 8
    assert len(result.cases) == 24
    for case in result.cases:
        assert abs(case.model - case.reference) <= eyeriss_isca16.TOLERANCE, case


@pytest.mark.validation
def test_the_chip_has_its_latency_and_active_pes(shared):
    result = eyeriss_jssc17.validate(shared / JSSC17, cases=None)
    worst = {q.quantity: q.max_abs_error for q in result.quantities}
    assert result.rows == 5
    assert worst["processing_latency_ms"] <= eyeriss_jssc17.LATENCY_BAR
    assert worst["active_pes"] == 0
    assert result.exact_share == 1


@pytest.mark.validation
def test_the_chips_power_is_met_by_its_clock_network_and_zero_gating(shared, monkeypatch):
    """Without them conv1 and conv2 draw more than the prices explain; neither alone explains all layers."""
    assert _met(shared) == {"conv1", "conv2", "conv3", "conv4", "conv5"}
    monkeypatch.setattr(eyeriss_jssc17, "ZEROS", dict.fromkeys(eyeriss_jssc17.ZEROS, 0.0))
    assert _met(shared) == {"conv1", "conv2", "conv3"}


def _met(shared) -> set[str]:
    cases = [c for c in eyeriss_jssc17.validate(shared / JSSC17, cases=None).cases if c.quantity == "power_mW"]
    return {case.case for case in cases if abs(case.relative_error) <= eyeriss_jssc17.POWER_BAR}


def test_the_chips_own_pe_sets_are_found():
    """Chen et al., JSSC 2017, section IV.A: strips of 7 rows and t = 2 for conv1, r = t = 2 for conv4 and conv5."""
    layers = eyeriss_isca16.alexnet(4)
    mappings = {name: eyeriss_jssc17.map_layer(layers[name]).mapping for name in ("conv1", "conv2", "conv4", "conv5")}
    sets = {name: (found.e, found.r, found.t) for name, found in mappings.items()}
    assert sets == {"conv1": (7, 1, 2), "conv2": (27, 1, 1), "conv4": (13, 2, 2), "conv5": (13, 2, 2)}


def test_whole_banks_leave_conv4_six_channels():
    """64 filters x 4 images x 13 x 13 sums take 22 of 25 banks; three hold 4 x 6 x 15 x 15 inputs, not 4 x 8 x 225."""
    layer = eyeriss_isca16.alexnet(4)["conv4"]
    found = eyeriss_jssc17.map_layer(layer).mapping
    assert (found.m, found.n, found.e, found.c, found.q * found.r) == (64, 4, 13, 6, 6)
    wordwise = replace(eyeriss_jssc17.ARRAY, glb_bank_bytes=None)
    assert optimal_mapping(layer, wordwise, eyeriss_jssc17.PRICES, space=eyeriss_jssc17.SPACE).mapping.c == 8


def test_freer_mappings_of_conv1_move_less_than_the_figure_shows():
    layer = eyeriss_isca16.alexnet(16)["conv1"]
    free = RowStationarySpace(narrow_strips=True, input_held=True)
    published = eyeriss_isca16.map_layer(layer)
    better = optimal_mapping(layer, eyeriss_isca16.ARRAY, eyeriss_isca16.PRICES, space=free)
    assert better.total_energy < published.total_energy
    assert better.counts.dram_accesses < 0.85 * published.counts.dram_accesses


@pytest.mark.parametrize("module", [eyeriss_isca16, eyeriss_jssc17])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("layer\n", "no rows"),
        ("layer,alu_1e9\nconv9,1\n", "line 2: layer 'conv9'"),
        ("layer,alu_1e9\nconv1,many\n", "line 2: .* is not a number"),
    ],
)
def test_a_faulty_table_is_refused_by_line(tmp_path, module, text, named):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidInputError, match=named):
        module.validate(path)


@pytest.mark.parametrize("module", [eyeriss_isca16, eyeriss_jssc17])
def test_absent_data_says_where_it_comes_from(tmp_path, module):
    with pytest.raises(InvalidInputError, match="nn_dataflow"):
        module.validate(tmp_path / "absent.csv")
