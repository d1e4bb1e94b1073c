"""Published cycles of DSTC, of an Eyeriss v2 PE and of SCNN."""

from __future__ import annotations

import pytest

from accel_models.errors import InvalidInputError
from accel_models.validation import dstc, eyeriss_v2_pe, scnn
from accel_models.validation.scnn_networks import NETWORKS


@pytest.mark.validation
@pytest.mark.parametrize(
    ("module", "file", "rows", "bar"),
    [(dstc, "dstc_fig13.csv", 9, 0.042), (eyeriss_v2_pe, "eyeriss_v2_pe_mobilenet.csv", 4, 0.035)],
)
def test_cycles_are_met_within_their_bar(shared, module, file, rows, bar):
    result = module.validate(shared / "reference/published" / file, cases=None)
    assert result.rows == rows
    assert result.mean_abs_error < bar
    assert result.passed


@pytest.mark.validation
def test_scnn_gains_are_met_within_their_bar(shared):
    result = scnn.validate(shared / "reference/published/scnn_totals.csv", cases=None)
    average = {case.quantity: case for case in result.cases if case.case == scnn.AVERAGE}
    assert abs(average[scnn.SPEED].relative_error) < 0.13
    assert abs(average[scnn.ENERGY].relative_error) < 0.06
    assert result.passed


def test_the_networks_of_scnn_have_the_layers_and_products_of_its_table_1():
    """5, 54 and 13 layers; 0.69, 1.1 and 15.3 billion multiplications."""
    assert [len(layers) for layers in NETWORKS.values()] == [5, 54, 13]
    billions = [
        sum(x.outputs * x.channels // x.groups * x.filter**2 * x.output_size**2 for x in layers) / 1e9
        for layers in NETWORKS.values()
    ]
    assert billions == pytest.approx([0.69, 1.1, 15.3], rel=0.05)


def test_more_zeros_never_slow_dstc_down():
    times = [dstc.latency_over_dense(a, 0.5) for a in (1.0, 0.8, 0.6, 0.4, 0.2)]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        (dstc, "A_density,B_density,dstc_norm\n1,x,1\n", "line 2: B_density = 'x' is not a number"),
        (dstc, "A_density,B_density\n1,1\n", "line 2: dstc_norm = None"),
        (eyeriss_v2_pe, "layer,M\n", "no rows"),
        (scnn, "workload,speedup_vs_DCNN\nResNet,2\n", "workload 'ResNet'; known: AlexNet"),
        (scnn, "workload,speedup_vs_DCNN\n,2\n", "line 2: workload is missing"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(module, text, message, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        module.validate(path)
