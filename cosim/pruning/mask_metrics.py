"""What masks do over a training: confidence, diversity and churn of every layer, and a figure of them.

The paper's formulas of confidence and diversity were not found; these are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cosim.pruning.dpp import KofNMask, find_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_LEAST_SCALE = 0.01
"""Largest value of a colour scale, at least: changes below it do not show."""


def _tile_statistics(rows: Tensor) -> tuple[float, float]:
    """(confidence, diversity) of Φ [rows, n]."""
    if rows.shape[1] == 1:
        return 1.0, 0.0
    log_p = rows.double().log_softmax(1)
    p = log_p.exp()
    mean_entropy = float(-(p * log_p).sum(1).mean())
    entropy_of_mean = float(torch.special.entr(p.mean(0)).sum())
    scale = math.log(rows.shape[1])
    return 1.0 - mean_entropy / scale, (entropy_of_mean - mean_entropy) / scale


@torch.no_grad()
def _statistic(mask: KofNMask, index: int) -> float:
    """Average over the tile lengths, weighted by their rows."""
    parts = [(_tile_statistics(rows)[index], len(rows)) for rows, _ in mask.tiles()]
    return sum(value * count for value, count in parts) / sum(count for _, count in parts)


def confidence(mask: KofNMask) -> float:
    """1 - mean_r H(p_r) / log n with p = softmax(Φ): 0 for uniform rows, 1 when each row is sure of one unit."""
    return _statistic(mask, 0)


def diversity(mask: KofNMask) -> float:
    """(H(mean_r p_r) - mean_r H(p_r)) / log n in [0, 1]: 0 when all rows prefer the same units."""
    return _statistic(mask, 1)


def churn(before: Tensor, after: Tensor) -> float:
    """Share of the units kept before that are gone now, in [0, 1]; both bool masks of one shape.

    With the same k in both, as many units are new.
    """
    return float((before & ~after).sum()) / max(int(before.sum()), 1)


@dataclass(frozen=True)
class MaskRecord:
    """One layer's masks at one moment."""

    layer: str
    moment: float
    """What the caller counts: epochs, steps."""
    confidence: float
    diversity: float
    churn: float
    """Against the record before; 0 in the first."""
    settled: float
    """Share of the rows that are fixed early."""


@dataclass
class MaskHistory:
    """Records of all masks of a network over a training: call `record` once an epoch."""

    records: list[MaskRecord] = field(default_factory=list)
    _last: dict[str, Tensor] = field(default_factory=dict)

    def record(self, model: nn.Module, moment: float) -> None:
        """Add one record a layer."""
        for layer, mask in find_masks(model).items():
            now = mask.mask()
            moved = churn(self._last.get(layer, now), now)
            self._last[layer] = now
            self.records.append(
                MaskRecord(layer, moment, confidence(mask), diversity(mask), moved, mask.settled_share())
            )

    def of_layer(self, layer: str) -> list[MaskRecord]:
        """The records of one layer, in the order in which they came."""
        return [record for record in self.records if record.layer == layer]

    def figure(self, path: Path | None = None) -> Figure:
        """Confidence, diversity and churn: a row a layer, time to the right; written to `path` (.png, .pdf, .svg)."""
        from matplotlib.figure import Figure

        layers = list(dict.fromkeys(record.layer for record in self.records))
        moments = sorted({record.moment for record in self.records})
        figure = Figure(figsize=(11.0, 1.6 + 0.19 * max(len(layers), 4)), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        axes[0].set_yticks([row + 0.5 for row in range(len(layers))], layers, fontsize="small")
        axes[0].invert_yaxis()
        for axis, name in zip(axes, ("confidence", "diversity", "churn"), strict=True):
            axis.set(title=name, xlabel="time")
            if layers:
                cells = [[self._value(name, layer, moment) for moment in moments] for layer in layers]
                most = max(_LEAST_SCALE, *(getattr(record, name) for record in self.records))
                colours = axis.pcolormesh(_edges(moments), range(len(layers) + 1), cells, vmin=0.0, vmax=most)
                figure.colorbar(colours, ax=axis)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def _value(self, name: str, layer: str, moment: float) -> float:
        """NaN where the layer had no mask at that moment."""
        return next((float(getattr(r, name)) for r in self.of_layer(layer) if r.moment == moment), math.nan)


def _edges(moments: list[float]) -> list[float]:
    """Where the cells of ascending moments begin and end: half-way between neighbours."""
    between = [(a + b) / 2 for a, b in pairwise(moments)]
    first, last = (moments[1] - moments[0], moments[-1] - moments[-2]) if between else (1.0, 1.0)
    return [moments[0] - first / 2, *between, moments[-1] + last / 2]
