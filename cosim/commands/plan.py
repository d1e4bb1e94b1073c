"""cosim plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from accel_models.accelerator import load_accelerator
from accel_models.cost import LayerCost, NetworkCost
from cosim.codesign.design import plan_summary
from cosim.codesign.evaluator import one_thread
from cosim.codesign.planner import Budgets, Planned, PlanRequest, make_plan, used
from cosim.commands.show import count, energy, percent, save, table
from cosim.files import write_text
from cosim.networks import build_network, load_weights, network_example
from cosim.pruning.plan import LayerPlan, PruningPlan

UNITS = {"latency_ms": ("latency", "ms"), "energy_mj": ("energy", "mJ"), "memory_kb": ("memory", "kB")}


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The options of `cosim plan`."""

    network: str
    accelerator: str
    latency_ms: float | None = None
    energy_mj: float | None = None
    memory_kb: float | None = None
    weights: Path | None = None
    mixed_bits: bool = False
    out: Path | None = None


def run_plan_command(options: PlanOptions, json_path: Path | None, console: Console) -> None:
    """Make a plan within the budgets, and show what every layer costs before and after."""
    budgets = Budgets(latency_ms=options.latency_ms, energy_mj=options.energy_mj, memory_kb=options.memory_kb)
    accelerator = load_accelerator(options.accelerator)
    one_thread()
    model, example = build_network(options.network).eval(), network_example(options.network)
    if options.weights is not None:
        load_weights(model, options.weights)
    request = PlanRequest(
        network=options.network,
        model=model,
        example=example,
        accelerator=accelerator,
        budgets=budgets,
        mixed_bits=options.mixed_bits,
        choose=has_weights(options),
    )
    planned = make_plan(request)
    show_plan(options, planned, budgets, console)
    if options.out is not None:
        write_text(options.out, planned.plan.to_json())
        console.print(f"plan: {options.out}", markup=False, soft_wrap=True)
    save(json_path, plan_data(planned, budgets), console)


def has_weights(options: PlanOptions) -> bool:
    """Whether the weights mean something: read from a file, or a user's own network."""
    return options.weights is not None or ":" in options.network


def show_plan(options: PlanOptions, planned: Planned, budgets: Budgets, console: Console) -> None:
    """Layers, totals, what is kept, and how much more could be."""
    before, after = planned.before, planned.after
    rows = [
        [old.name, _treatment(planned.plan, old.name), *_pairs(old, new)]
        for old, new in zip(before.layers, after.layers, strict=True)
    ]
    columns = ["layer", "plan", "cycles", "after", "energy", "after", "weight bytes", "after"]
    console.print(table(f"{before.workload} on {before.accelerator.name}", columns, rows, left=2))
    limits, costs = budgets.given, (used(before), used(after))
    for name, (what, unit) in UNITS.items():
        limit = f", budget {limits[name]:g} {unit}" if name in limits else ""
        note = " (stored weights and peak of the activations)" if name == "memory_kb" else ""
        console.print(
            f"{what}: {costs[0][name]:.4g} -> {costs[1][name]:.4g} {unit}{limit}{note}", highlight=False, soft_wrap=True
        )
    console.print(f"plan: {plan_summary(planned.plan)}", markup=False, soft_wrap=True)
    if planned.plan.groups:
        groups = ", ".join(f"{name} {kept.k}/{kept.n}" for name, kept in planned.plan.groups.items())
        console.print(f"channel groups that several layers share in part: {groups}", markup=False, soft_wrap=True)
    console.print(_importance(planned), soft_wrap=True)
    if not has_weights(options):
        console.print("the weights are untrained; give --weights FILE to choose by trained ones", style="yellow")


def _importance(planned: Planned) -> str:
    kept = (
        f"importance kept: {planned.importance:.4f} of 1 (geometric mean over layers of the squared weights that stay)"
    )
    if planned.exact and planned.bound <= planned.importance:
        return f"{kept}; no plan of these choices keeps more"
    gap = planned.bound - planned.importance
    return f"{kept}; no plan of these choices keeps more than {planned.bound:.4f}, a gap of {percent(gap)}"


def _treatment(plan: PruningPlan, name: str) -> str:
    """What a plan does to a layer, in short."""
    entry: LayerPlan = plan[name]
    parts = [f"{entry.filters.k}/{entry.filters.n} filters"] if entry.filters is not None else []
    if entry.mask is not None:
        parts.append(f"{entry.mask.k}:{entry.mask.n} {entry.mask.granularity}s")
    if entry.weight_bits != LayerPlan().weight_bits:
        parts.append(f"{entry.weight_bits} bits")
    return ", ".join(parts) or "-"


def _pairs(old: LayerCost, new: LayerCost) -> list[str]:
    return [
        count(old.activity.latency_cycles),
        count(new.activity.latency_cycles),
        energy(old.total_energy_pj),
        energy(new.total_energy_pj),
        count(old.activity.weight_bits / 8),
        count(new.activity.weight_bits / 8),
    ]


def plan_data(planned: Planned, budgets: Budgets) -> dict[str, Any]:
    """The JSON of the command."""
    dense, reached = used(planned.before), used(planned.after)
    return {
        "network": planned.plan.network,
        "accelerator": planned.after.accelerator.name,
        "importance": planned.importance,
        "bound": planned.bound,
        "gap": planned.bound - planned.importance,
        "exact": planned.exact,
        "budgets": {
            name: {"limit": budgets.given.get(name), "before": dense[name], "after": reached[name]} for name in UNITS
        },
        "total": {"before": _totals(planned.before), "after": _totals(planned.after)},
        "layers": [
            {"name": old.name, "plan": _treatment(planned.plan, old.name), "before": _layer(old), "after": _layer(new)}
            for old, new in zip(planned.before.layers, planned.after.layers, strict=True)
        ],
        "plan": planned.plan.model_dump(mode="json", exclude_none=True),
    }


def _totals(cost: NetworkCost) -> dict[str, Any]:
    """As `cosim simulate` has them, and the bytes of the weights."""
    totals: dict[str, Any] = cost.to_dict()["total"]
    return {**totals, "weight_bytes": cost.weight_bytes}


def _layer(cost: LayerCost) -> dict[str, float]:
    return {
        "latency_cycles": cost.activity.latency_cycles,
        "energy_pj": cost.total_energy_pj,
        "weight_bytes": cost.activity.weight_bits / 8,
    }
