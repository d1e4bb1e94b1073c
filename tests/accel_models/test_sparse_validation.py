"""The published sparse sets: what they must show, other rows of the same form, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from accel_models.errors import InvalidInputError
from accel_models.formats import BlockedNM
from accel_models.layers import Gemm
from accel_models.validation import sparseloop_eyeriss, sparseloop_formats, stc

FORMATS_FILE = "reference/published/sparseloop_fig1_format_comparison.csv"
EYERISS_FILE = "reference/published/sparseloop_table7_eyeriss_alexnet_refoutputs.csv"
STC_FILE = "reference/published/stc_fig15_resnet50.csv"
SETS = (sparseloop_formats, sparseloop_eyeriss, stc)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.validation
def test_sparse_tensor_core_takes_exactly_half_the_cycles(shared):
    result = stc.validate(shared / STC_FILE, cases=None)
    assert result.passed
    assert result.exact_share == 1.0
    dense, sparse = ({c.case: c.model for c in result.cases if c.quantity == name} for name in stc.QUANTITIES)
    assert len(dense) == 4
    assert all(2 * sparse[layer] == dense[layer] for layer in dense)


@pytest.mark.validation
def test_eyeriss_on_sparse_alexnet_has_sparseloops_computes_and_cycles(shared):
    result = sparseloop_eyeriss.validate(shared / EYERISS_FILE, cases=None)
    assert result.passed
    assert result.rows == 5
    errors = {q.quantity: q.max_abs_error for q in result.quantities}
    assert errors["algorithmic_computes"] == errors["actual_computes"] == 0
    assert errors["cycles"] < 1e-6


@pytest.mark.validation
def test_bitmask_gating_and_list_skipping_have_sparseloops_cycles_and_crossover(shared):
    result = sparseloop_formats.validate(shared / FORMATS_FILE, cases=None)
    assert result.passed
    assert result.rows == 8
    errors = {q.quantity: q.max_abs_error for q in result.quantities}
    assert errors["bitmask_gating_cycles"] == 0
    assert errors["coordlist_skipping_cycles"] < 1e-4
    assert errors["bitmask_uJ"] < 0.01
    assert errors["coordlist_uJ"] < 0.011  # the reference has two digits after the point
    assert errors["energy_crossover_density"] < 0.02


@pytest.mark.validation
@pytest.mark.parametrize("module", SETS, ids=lambda module: module.NAME)
def test_as_many_cases_as_asked_for_are_kept(module, shared):
    assert len(module.validate(cases=2).cases) == 2


def test_gating_takes_all_cycles_and_skipping_those_of_the_non_zeros():
    dense = sparseloop_formats.cycles(0.8, skip=False)
    assert sparseloop_formats.cycles(0.1, skip=False) == dense >= 128**3
    assert sparseloop_formats.cycles(0.1, skip=True) < dense / 5
    assert sparseloop_formats.cycles(0.8, skip=True) > dense  # coordinates take turns, too


@pytest.mark.parametrize("skip", [False, True])
def test_more_non_zeros_never_cost_less(skip):
    densities = [i / 50 for i in range(1, 51)]
    for figure in (sparseloop_formats.cycles, sparseloop_formats.energy_pj):
        values = [figure(density, skip=skip) for density in densities]
        assert values == sorted(values)


def test_a_density_that_is_no_label_of_the_paper_runs_as_it_is(tmp_path):
    cycles = [sparseloop_formats.cycles(0.3, skip=skip) for skip in (False, True)]
    energies = [sparseloop_formats.energy_pj(0.3, skip=skip) / 1e6 for skip in (False, True)]
    header = ",".join(("density_A=B", *sparseloop_formats.COLUMNS))
    file = write(tmp_path / "rows.csv", f"{header}\n0.3,{cycles[0]},{cycles[1]},{energies[0]},{energies[1]}\n")
    result = sparseloop_formats.validate(file)
    assert result.passed
    assert result.max_abs_error == 0
    assert "energy_crossover_density" not in {q.quantity for q in result.quantities}  # one row has none


def test_other_figures_do_not_pass(tmp_path):
    header = ",".join(("density_A=B", *sparseloop_formats.COLUMNS))
    assert not sparseloop_formats.validate(
        write(tmp_path / "a.csv", f"{header}\n0.1,2113536,400000,2.27,2.92\n")
    ).passed
    assert not sparseloop_formats.validate(
        write(tmp_path / "b.csv", f"{header}\n0.1,2113536,295152,2.92,2.27\n")
    ).passed
    assert not stc.validate(write(tmp_path / "c.csv", "layer,TC_cycles,STC_2to4_cycles\n1,131072,65537\n")).passed
    columns = "layer,density_I,algorithmic_computes,actual_computes,cycles"
    row = "conv5,0.5,299040768,149520384,990000"
    assert not sparseloop_eyeriss.validate(write(tmp_path / "d.csv", f"{columns}\n{row}\n")).passed


def test_multipliers_bind_above_half_density_and_weight_ports_below():
    layer = sparseloop_eyeriss.LAYERS["conv5"]
    dense = layer.layer.macs / layer.pes
    cycles = [sparseloop_eyeriss.cycles(layer, density) for density in (0.1, 0.5, 0.75, 1.0)]
    assert cycles == [dense / 2, dense / 2, dense * 0.75, dense]


def test_the_image_of_the_first_layer_is_not_gated():
    first = sparseloop_eyeriss.LAYERS["conv1"]
    assert sparseloop_eyeriss.computes(first, 0.5) == first.layer.macs


def test_a_tensor_core_at_1_of_4_is_bound_by_shared_memory():
    """64 inputs a cycle, of which 42 words can be read: a quarter of the products is not a quarter of the cycles."""
    layer = Gemm(name="fc", m=1024, n=512, k=256)
    dense = stc.tensor_core_cycles(layer)
    assert stc.tensor_core_cycles(layer, BlockedNM(2, 4)) == dense / 2
    assert dense / 4 < stc.tensor_core_cycles(layer, BlockedNM(1, 4)) < dense / 2


def test_a_tensor_core_pays_for_its_edges():
    layer = Gemm(name="edge", m=128, n=65, k=34)
    assert stc.tensor_core_cycles(layer) == 2 * 3 * 128
    assert stc.tensor_core_cycles(layer, BlockedNM(2, 4)) == 2 * 2 * 128


def test_a_file_may_bring_its_own_layers(tmp_path):
    file = write(tmp_path / "rows.csv", "layer,M,K,N,TC_cycles,STC_2to4_cycles\nfc,64,64,256,1024,512\n")
    assert stc.validate(file).passed


BAD = (
    (stc, "layer,TC_cycles,STC_2to4_cycles\n9,1,1\n", "layer '9' has no known shape"),
    (stc, "layer,TC_cycles,STC_2to4_cycles\n1,x,1\n", "line 2: TC_cycles = 'x' is not a number"),
    (stc, "layer,TC_cycles\n1,1\n", "line 2: STC_2to4_cycles = None is not a number"),
    (stc, "", "no rows"),
    (
        sparseloop_eyeriss,
        "layer,density_I,algorithmic_computes,actual_computes,cycles\nconv9,1,1,1,1\n",
        "layer 'conv9'; the set has conv1",
    ),
    (
        sparseloop_eyeriss,
        "layer,density_I,algorithmic_computes,actual_computes,cycles\nconv1,1.5,1,1,1\n",
        "'conv1': density_I = 1.5: must be above 0 and at most 1",
    ),
    (
        sparseloop_formats,
        "density_A=B,bitmask_gating_cycles,coordlist_skipping_cycles,bitmask_uJ,coordlist_uJ\n0,1,1,1,1\n",
        "density_A=B = 0: must be above 0",
    ),
    (
        sparseloop_formats,
        "density_A=B,bitmask_gating_cycles,coordlist_skipping_cycles,bitmask_uJ,coordlist_uJ\n0.1,nan,1,1,1\n",
        "line 2: bitmask_gating_cycles = nan is not finite",
    ),
)


@pytest.mark.parametrize(("module", "text", "message"), BAD)
def test_files_that_cannot_be_used_are_refused_with_file_line_and_field(tmp_path, module, text, message):
    with pytest.raises(InvalidInputError, match=r"rows\.csv") as raised:
        module.validate(write(tmp_path / "rows.csv", text))
    assert message in str(raised.value)


@pytest.mark.parametrize("module", SETS, ids=lambda module: module.NAME)
def test_a_missing_file_says_where_the_data_comes_from(module, tmp_path):
    with pytest.raises(InvalidInputError, match=r"no such reference data.*MICRO 2022"):
        module.validate(tmp_path / "absent.csv")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        module.validate(tmp_path)
