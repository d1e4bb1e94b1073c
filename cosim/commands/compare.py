"""cosim simulate --compare-granularities: where sparsity pays; and the notices on masks and array edges of simulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from accel_models.accelerator import Accelerator
from accel_models.activity import Activity
from accel_models.advisor import Advice, compare_granularities
from accel_models.cost import NetworkCost
from accel_models.edges import EdgeLoss, edge_losses, lost_utilization
from accel_models.goal import DEFAULT_GOAL, Goal
from accel_models.layer_zeros import Densities
from accel_models.workload import Workload
from cosim.commands.show import count, energy, percent, save, table
from cosim.commands.zeros import Zeros

COLUMNS = [
    "granularity",
    "kept",
    "energy",
    "latency ms",
    "weights bytes",
    "metadata bytes",
    "imbalance cycles",
    "saves energy below",
    "saves time below",
]
MASK_FIGURES = ["est. cycles", "cycles", "differ", "est. MACs", "MACs", "est. energy", "energy"]
WORST = 5
"""Layers whose edges are shown."""


def run_compare(
    machine: Accelerator,
    workload: Workload,
    density: float,
    json_path: Path | None,
    console: Console,
    *,
    densities: Densities | None = None,
    goal: Goal = DEFAULT_GOAL,
) -> None:
    """Compare all granularities at one density of the weights, and show the table."""
    advice = compare_granularities(machine, workload, density, densities, goal)
    show_advice(advice, machine, workload, console)
    data = {
        "accelerator": machine.name,
        "workload": workload.name,
        "density": density,
        "granularities": [item.to_dict() for item in advice],
    }
    save(json_path, data, console)


def show_advice(advice: Sequence[Advice], machine: Accelerator, workload: Workload, console: Console) -> None:
    """The table, and what the accelerator could not exploit."""
    rows = [_row(item) for item in advice]
    console.print(table(f"{workload.name} on {machine.name}, by granularity", COLUMNS, rows))
    for item in advice:
        if item.notice is not None:
            console.print(f"notice: {item.granularity}: {item.notice}", style="yellow", markup=False, soft_wrap=True)


def _row(item: Advice) -> list[str]:
    dense = item.granularity == "dense"
    return [
        item.granularity,
        percent(item.density),
        energy(item.energy_pj),
        f"{item.latency_ms:.4g}",
        count(item.weight_bytes),
        count(item.metadata_bytes),
        count(item.imbalance_cycles),
        "-" if dense else _below(item.break_even_energy),
        "-" if dense else _below(item.break_even_latency),
    ]


def _below(density: float | None) -> str:
    return "never" if density is None else percent(density)


def show_masks(cost: NetworkCost, estimate: NetworkCost, zeros: Zeros, console: Console) -> None:
    """What masks cost beside what their densities let expect, by layer that has one, and in all."""
    kinds = {name: masks for name, masks in (("weights", zeros.masks), ("inputs", zeros.activation_masks)) if masks}
    rows = []
    for layer, expected in zip(cost.layers, estimate.layers, strict=True):
        known = [masks.get(layer.name) for masks in kinds.values()]
        if any(mask is not None for mask in known):
            shares = [percent(None if mask is None else mask.density) for mask in known]
            figures = [_figures(one.activity, one.total_energy_pj) for one in (expected, layer)]
            rows.append([layer.name, *shares, *_side_by_side(*figures)])
    totals = [(each.latency_cycles, each.macs, each.energy_pj) for each in (estimate, cost)]
    rows.append(["network", *("" for _ in kinds), *_side_by_side(*totals)])
    columns = ["layer", *(f"{name} kept" for name in kinds), *MASK_FIGURES]
    console.print(table("masks, and estimates from their densities (est.)", columns, rows))
    show_sparse(cost, console)


def _figures(activity: Activity, energy_pj: float) -> tuple[int, int, float]:
    return activity.latency_cycles, activity.macs.done, energy_pj


def _side_by_side(expected: tuple[int, int, float], exact: tuple[int, int, float]) -> list[str]:
    """Cycles, their difference, products done and energy: expected, then exact."""
    difference = f"{100 * (exact[0] / expected[0] - 1):+.1f} %"
    return [
        count(expected[0]),
        count(exact[0]),
        difference,
        count(expected[1]),
        count(exact[1]),
        energy(expected[2]),
        energy(exact[2]),
    ]


def show_sparse(cost: NetworkCost, console: Console) -> None:
    """Mask-exact cycles of the lanes beside those that densities let expect, one line; nothing without masks."""
    reports = [layer.activity.sparse for layer in cost.layers if layer.activity.sparse is not None]
    exact = [(report.exact, report) for report in reports if report.exact is not None]
    if not exact:
        return
    found, expected, balanced = (
        sum(values)
        for values in zip(
            *((counts.cycles, report.expected.cycles, report.balanced_cycles) for counts, report in exact), strict=True
        )
    )
    lost = {
        name: sum(getattr(counts, f"{name.replace(' ', '_')}_cycles") for counts, _ in exact)
        for name in ("imbalance", "bank conflict", "metadata", "fill")
    }
    parts = ", ".join(f"{count(cycles)} {name}" for name, cycles in lost.items() if cycles)
    console.print(
        f"masks of {len(exact)} layers: {count(found)} cycles of the lanes{f' ({parts})' if parts else ''}; random "
        f"masks of the same densities {count(expected)}, perfect balance {count(balanced)}",
        soft_wrap=True,
    )


def show_edges(machine: Accelerator, workload: Workload, console: Console) -> None:
    """What array edges cost the network, and channel counts that would not, of the layers that lose most."""
    losses = edge_losses(machine, workload)
    lost = lost_utilization(losses)
    if not losses or lost < 0.005:
        return
    console.print(f"edges: {percent(lost)} of the array's time is lost to folds that are not full", soft_wrap=True)
    for loss in _worst(losses):
        console.print(f"  {loss.describe()}", markup=False, soft_wrap=True)


def _worst(losses: Sequence[EdgeLoss]) -> list[EdgeLoss]:
    """Most slots wasted first; layers alike once."""
    ranked = sorted(losses, key=lambda loss: loss.macs - loss.macs / loss.utilization)
    alike: dict[str, EdgeLoss] = {}
    for loss in ranked:
        alike.setdefault(loss.describe().partition(":")[2], loss)
    return [loss for loss in alike.values() if loss.utilization < 1.0][:WORST]
