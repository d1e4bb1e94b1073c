"""What masks do over a training: confidence, diversity and churn of every layer, and a figure of them.

The paper's formulas of confidence and diversity were not found; these are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cosim.pruning.dpp import KofNMask, find_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        """Confidence, diversity and churn over time, a line a layer; written to `path` (.png, .pdf, .svg) if given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11.0, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        for axis, name in zip(axes, ("confidence", "diversity", "churn"), strict=True):
            for layer in dict.fromkeys(record.layer for record in self.records):
                of_layer = self.of_layer(layer)
                axis.plot([r.moment for r in of_layer], [getattr(r, name) for r in of_layer], label=layer)
            axis.set(title=name, xlabel="time", ylim=(0.0, 1.02))
        if self.records:
            axes[-1].legend(fontsize="small")
        if path is not None:
            figure.savefig(path)
        return figure
