"""cosim simulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console

from accel_models.accelerator import Accelerator, load_accelerator
from accel_models.cost import NetworkCost
from accel_models.edges import edge_losses
from accel_models.goal import Goal, Mode, Objective
from accel_models.importers.accelergy import read_art, read_ert
from accel_models.importers.onnx import read_onnx
from accel_models.importers.scalesim import load_scalesim_accelerator, read_topology
from accel_models.scalesim_reports import write_reports
from accel_models.sparsity import KofN
from accel_models.workload import Workload, load_workload
from cosim.commands.compare import run_compare, show_edges, show_masks
from cosim.commands.show import count, energy, percent, save, table
from cosim.commands.zeros import ZeroFiles, read_zeros, simulate_zeros, useless_zeros
from cosim.errors import ConfigError, PruningError
from cosim.networks.workloads import network_workload


@dataclass(frozen=True, kw_only=True)
class OtherTools:
    """Files of SCALE-Sim and Accelergy; reports are written."""

    scalesim_config: Path | None = None
    ert: Path | None = None
    art: Path | None = None
    scalesim_reports: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SimulateRequest:
    """What the command line asks for; the fields are its options."""

    accelerator: str | None
    workload: str
    settings: Sequence[str] = ()
    objective: str = "edp"
    mode: str = "detailed"
    search_nodes: int = 0
    compare: float | None = None
    zeros: ZeroFiles = field(default_factory=ZeroFiles)
    tools: OtherTools = field(default_factory=OtherTools)


def run_simulate_command(request: SimulateRequest, json_path: Path | None, console: Console) -> None:
    """Simulate and show a table of layers and a line of totals."""
    goal = Goal(cast(Objective, request.objective), cast(Mode, request.mode), request.search_nodes)
    workload, structures = load_any_workload(request.workload, request.zeros.plan)
    machine = _accelerator(request, structures)
    zeros = read_zeros(request.zeros, workload, structures)
    if request.compare is not None:
        densities = zeros.estimate().densities
        run_compare(machine, workload, request.compare, json_path, console, densities=densities, goal=goal)
        return
    cost = simulate_zeros(machine, workload, zeros, goal)
    show_cost(cost, console)
    data = cost.to_dict() | {"edges": [loss.to_dict() for loss in edge_losses(machine, workload)]}
    useless = useless_zeros(machine, zeros)
    if zeros.masks or (zeros.activation_masks and not useless):
        estimate = simulate_zeros(machine, workload, zeros.estimate(), goal)
        show_masks(cost, estimate, zeros, console)
        data["from_densities"] = estimate.to_dict()
    show_edges(machine, workload, console)
    for notice in (*zeros.notices, *useless):
        console.print(f"notice: {notice}", style="yellow", markup=False, soft_wrap=True)
    if request.tools.scalesim_reports is not None:
        for path in write_reports(cost, workload, request.tools.scalesim_reports, structures):
            console.print(f"written: {path}", markup=False, soft_wrap=True)
    save(json_path, data, console)


def _accelerator(request: SimulateRequest, structures: Mapping[str, KofN]) -> Accelerator:
    if (request.accelerator is None) == (request.tools.scalesim_config is None):
        raise ConfigError("give the accelerator with -a NAME or FILE.yaml, or with --scalesim-config FILE.cfg")
    if request.accelerator is not None:
        machine = load_accelerator(request.accelerator, parse_settings(request.settings))
        return _with_tables(machine, request.tools.ert, request.tools.art)
    if request.settings:
        raise ConfigError("--set changes a field of -a; with --scalesim-config change the .cfg itself")
    machine = load_scalesim_accelerator(cast(Path, request.tools.scalesim_config), structures)
    return _with_tables(machine, request.tools.ert, request.tools.art)


def _with_tables(machine: Accelerator, ert: Path | None, art: Path | None) -> Accelerator:
    """Figures of Accelergy's tables instead of the model's."""
    energy = read_ert(ert, machine) if ert is not None else {}
    area = read_art(art, machine) if art is not None else {}
    return machine.model_copy(update={"energy": {**machine.energy, **energy}, "area": {**machine.area, **area}})


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
    """A SCALE-Sim topology CSV, a workload JSON, an ONNX file, or a network with or without a plan.

    Networks that ship need no torch without a plan.
    """
    if name.endswith((".csv", ".json", ".onnx")):
        if plan is not None:
            raise ConfigError(f"--plan {plan} needs a network name as the workload: a file holds no channels to remove")
        return _workload_file(name)
    shipped = network_workload(name) if plan is None else None
    return (shipped, {}) if shipped is not None else _network_workload(name, plan)


def _workload_file(name: str) -> tuple[Workload, Mapping[str, KofN]]:
    if name.endswith(".csv"):
        topology = read_topology(name)
        return topology.workload, topology.structures
    return (load_workload if name.endswith(".json") else read_onnx)(name), {}


def _network_workload(name: str, plan: Path | None) -> tuple[Workload, Mapping[str, KofN]]:
    from cosim.extract import check_structures, extract_workload, weight_structures
    from cosim.networks import build_network, network_example
    from cosim.pruning.apply import remove_filters
    from cosim.pruning.coupling import trace_channel_groups
    from cosim.pruning.plan import load_plan

    model, example = build_network(name), network_example(name)
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
        f"utilization {percent(cost.utilization)}, {cost.area_mm2:.3g} mm2, "
        f"{count(cost.peak_activation_bytes)} bytes of activations at most",
        soft_wrap=True,
    )
    parts = sorted(cost.energy_by_component().items(), key=lambda item: -item[1])
    console.print("energy: " + ", ".join(f"{name} {energy(value)}" for name, value in parts if value), soft_wrap=True)
    for notice in cost.notices:
        console.print(f"notice: {notice}", style="yellow", markup=False, soft_wrap=True)
