"""cosim simulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from accel_models.accelerator import load_accelerator
from accel_models.cost import NetworkCost
from accel_models.errors import InvalidInputError
from accel_models.evaluate import simulate
from accel_models.importers.scalesim import read_topology
from accel_models.sparsity import KofN
from accel_models.workload import Workload, load_workload
from cosim.commands.show import count, energy, percent, save, table
from cosim.errors import ConfigError, PruningError


def run_simulate_command(
    accelerator: str,
    workload: str,
    plan: Path | None,
    settings: Sequence[str],
    json_path: Path | None,
    console: Console,
) -> None:
    """Simulate and show a table of layers and a line of totals."""
    machine = load_accelerator(accelerator, parse_settings(settings))
    layers, structures = load_any_workload(workload, plan)
    cost = simulate(machine, layers, structures)
    show_cost(cost, console)
    save(json_path, cost.to_dict(), console)


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """["pe_array.rows=32"] -> {"pe_array.rows": 32}; values are read as YAML."""
    parsed = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {setting!r} must read key=value, e.g. pe_array.rows=32")
        try:
            parsed[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting!r}: the value is no YAML") from error
    return parsed


def load_any_workload(name: str, plan: Path | None) -> tuple[Workload, Mapping[str, KofN]]:
    """A SCALE-Sim topology CSV, a workload JSON, or a network with or without a plan.

    Networks of the zoo without a plan need no torch when their workload has been extracted before.
    """
    if name.endswith((".csv", ".json")):
        if plan is not None:
            raise ConfigError(f"--plan {plan} needs a network name as the workload: a file holds no channels to remove")
        if name.endswith(".json"):
            return load_workload(name), {}
        topology = read_topology(name)
        return topology.workload, topology.structures
    if Path(name).suffix == ".onnx":
        raise InvalidInputError(f"{name}: ONNX files are not read yet; give a network name, a topology CSV or a JSON")
    return _network_workload(name, plan)


def _network_workload(name: str, plan: Path | None) -> tuple[Workload, Mapping[str, KofN]]:
    import torch

    from cosim.extract import check_structures, extract_workload, weight_structures
    from cosim.networks import build_network, network_input_shape
    from cosim.pruning.apply import remove_filters
    from cosim.pruning.coupling import trace_channel_groups
    from cosim.pruning.plan import load_plan

    model, example = build_network(name), torch.zeros(1, *network_input_shape(name))
    if plan is None:
        return extract_workload(model, example, name), {}
    loaded = load_plan(plan)
    if loaded.network != name:
        raise ConfigError(f"{plan}: network: the plan is for {loaded.network!r}, the workload is {name!r}")
    try:
        pruned = remove_filters(model, example, loaded, trace_channel_groups(model, example))
        workload, structures = extract_workload(pruned, example, name, loaded), weight_structures(loaded)
        check_structures(workload, structures)
    except PruningError as error:
        raise ConfigError(f"{plan}: {error}") from error
    return workload, structures


def show_cost(cost: NetworkCost, console: Console) -> None:
    """Layers, totals, energy by component, and what the accelerator could not exploit."""
    rows = []
    for layer in cost.layers:
        activity = layer.activity
        cause, most = max(activity.stall_cycles.items(), key=lambda item: item[1])
        rows.append(
            [
                layer.name,
                cause if most else "-",
                count(sum(activity.stall_cycles.values())),
                count(activity.compute_cycles),
                count(activity.latency_cycles),
                energy(layer.total_energy_pj),
                percent(activity.utilization) if activity.macs.done else "-",
            ]
        )
    columns = ["layer", "most stalls by", "stalls", "compute", "cycles", "energy", "utilization"]
    console.print(table(f"{cost.workload} on {cost.accelerator.name}", columns, rows, left=2))
    console.print(
        f"total: {count(cost.latency_cycles)} cycles = {cost.latency_ms:.4g} ms at {cost.accelerator.clock_mhz:g} MHz, "
        f"{energy(cost.energy_pj)}, {count(cost.dram_bytes)} bytes of DRAM traffic, {count(cost.macs)} MACs, "
        f"utilization {percent(cost.utilization)}, {cost.area_mm2:.3g} mm2",
        soft_wrap=True,
    )
    parts = sorted(cost.energy_by_component().items(), key=lambda item: -item[1])
    console.print("energy: " + ", ".join(f"{name} {energy(value)}" for name, value in parts if value), soft_wrap=True)
    for notice in cost.notices:
        console.print(f"notice: {notice}", style="yellow", markup=False, soft_wrap=True)
