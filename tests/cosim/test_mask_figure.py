"""The figure of mask metrics holds as many layers as a network has."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cosim.pruning.mask_metrics import MaskHistory, MaskRecord


def history(layers: int, moments: tuple[float, ...]) -> MaskHistory:
    return MaskHistory(
        [MaskRecord(f"layer{i}", t, 0.9 * i / layers, 0.5, 0.02 * t, 0.0) for t in moments for i in range(layers)]
    )


@pytest.mark.parametrize("layers", [1, 20, 55])
def test_every_layer_has_a_readable_name_and_a_row_in_every_panel(layers: int) -> None:
    figure = history(layers, (0, 1, 2)).figure()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    panels = figure.axes[:3]
    assert [panel.get_title() for panel in panels] == ["confidence", "diversity", "churn"]
    labels = panels[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [f"layer{i}" for i in range(layers)]
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in labels]
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes)), "labels overlap"
    values = panels[0].collections[0].get_array()
    assert values is not None
    assert values.reshape(layers, 3)[:, 1].tolist() == [0.9 * i / layers for i in range(layers)]


def test_a_layer_without_a_mask_at_a_moment_stays_empty_then() -> None:
    records = history(2, (0.0, 0.5, 2.0)).records
    panel = MaskHistory(records[:-1]).figure().axes[0]
    values = panel.collections[0].get_array()
    assert values is not None
    assert values.mask.reshape(2, 3).tolist() == [[False, False, False], [False, False, True]]


def test_a_history_without_records_gives_empty_panels() -> None:
    assert len(MaskHistory().figure().axes) == 3
