"""What the edges of an array cost a layer, and the channel counts that fill it.

A dense array cuts a layer into folds of its size; the last one is paid in full. So filters that leave save time only
when a whole fold leaves with them, and up to the next edge channels are free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from accel_models.accelerator import Accelerator
from accel_models.layers import Conv2d, Gemm, VectorOp
from accel_models.workload import Workload


@dataclass(frozen=True)
class UsefulCounts:
    """Channels of a layer, and the counts at which a fold ends."""

    channels: int
    fewer: int | None
    """The most channels that need one fold less; None: there is one fold."""
    most: int
    """Up to so many cost no more cycles."""


@dataclass(frozen=True)
class EdgeLoss:
    """One layer on an array."""

    layer: str
    utilization: float
    """Share of the array that its folds fill, in (0, 1]; 1 - utilization is lost to edges."""
    output_channels: UsefulCounts | None
    """None: outputs do not lie along an edge of this array."""
    input_channels: UsefulCounts | None
    macs: int

    def describe(self) -> str:
        """One line: what is lost and what would not be."""
        words = [f"{self.layer}: {100 * (1 - self.utilization):.0f} % of the array lost to edges"]
        for what, counts in (("output", self.output_channels), ("input", self.input_channels)):
            if counts is not None and counts.most > counts.channels:
                less = f"{counts.fewer} save a fold, " if counts.fewer else ""
                words.append(f"{counts.channels} {what} channels ({less}{counts.most} cost no more)")
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def edge_losses(accelerator: Accelerator, workload: Workload) -> list[EdgeLoss]:
    """Every layer with weights of a network on a systolic or sparse array; empty for other dataflows, whose mapper
    fills the array in other ways."""
    if not accelerator.systolic and accelerator.lanes is None:
        return []
    return [edge_loss(accelerator, layer) for layer in workload.layers if not isinstance(layer, VectorOp)]


def lost_utilization(losses: list[EdgeLoss]) -> float:
    """Share of the multiplications' slots that edges waste over all layers, in [0, 1)."""
    slots = sum(loss.macs / loss.utilization for loss in losses)
    return 1.0 - sum(loss.macs for loss in losses) / slots if slots else 0.0


def edge_loss(accelerator: Accelerator, layer: Conv2d | Gemm) -> EdgeLoss:
    """One layer; the accelerator is systolic or sparse."""
    edges, gemm = _edges(accelerator), layer.as_gemm()
    sizes = {"m": gemm.m, "n": gemm.n, "k": gemm.k}
    share = 1.0
    for axis, edge in edges.items():
        share *= sizes[axis] / (-(-sizes[axis] // edge) * edge)
    taps = layer.r * layer.s if isinstance(layer, Conv2d) else 1
    return EdgeLoss(
        layer=layer.name,
        utilization=share,
        output_channels=_useful(gemm.n, 1, edges["n"], gemm.groups) if "n" in edges else None,
        input_channels=_useful(gemm.k // taps, taps, edges["k"], gemm.groups) if "k" in edges else None,
        macs=layer.macs,
    )


def _edges(accelerator: Accelerator) -> dict[str, int]:
    """Dimension of the matrix product -> how much of it one fold takes."""
    array = accelerator.pe_array
    if accelerator.lanes is not None:
        lanes = accelerator.lanes.array
        if accelerator.lanes.accumulators is not None:
            return {"n": lanes.vector_outputs}
        return {"m": lanes.lane_pixels * lanes.tile_pixels, "n": lanes.lane_outputs * lanes.tile_outputs}
    rows, cols = {
        "output_stationary": ("m", "n"),
        "weight_stationary": ("k", "n"),
        "input_stationary": ("k", "m"),
    }[array.dataflow]
    return {rows: array.rows, cols: array.cols}


def _useful(channels: int, taps: int, edge: int, groups: int) -> UsefulCounts:
    """Of one group; a channel takes `taps` places along the edge."""
    folds = -(-channels * taps // edge)
    fewer = (folds - 1) * edge // taps
    return UsefulCounts(groups * channels, groups * fewer if fewer else None, groups * (folds * edge // taps))
