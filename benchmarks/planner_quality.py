"""What cosim plan is worth: importance kept against uniform pruning within the same budget, and how long it takes."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
from torch import nn

from accel_models import load_accelerator, simulate
from benchmarks.registry import Row, benchmark
from cosim.codesign.evaluator import one_thread
from cosim.codesign.plan_importance import ChannelImportance, channel_importance
from cosim.codesign.plan_problem import worth_factors
from cosim.codesign.plan_shapes import NetworkShapes, network_shapes
from cosim.codesign.plan_tables import Decision
from cosim.codesign.planner import Budgets, Planned, PlanRequest, make_plan, used
from cosim.data import load_dataset
from cosim.networks import build_network, load_weights, network_example
from cosim.pruning.coupling import trace_channel_groups
from cosim.training import Recipe, fit

ACCELERATOR = "edge_os_16x16"
SHARE = 0.5
"""Budgets as a share of what the dense network uses."""
UNIFORM_STEPS = 256
"""Shares of the channels that uniform pruning tries."""
NETWORKS = {"digits_resnet": "digits", "resnet20_cifar": "resnet20"}
RESOURCES = {"latency_ms": "latency", "energy_mj": "energy"}


@benchmark(*(f"plan_over_uniform_{net}_{what}" for net in NETWORKS.values() for what in RESOURCES.values()))
def planner_quality() -> list[Row]:
    """Half the latency or energy of the dense network: the best uniform share of all groups is the peer."""
    one_thread()
    rows = []
    for network, short in NETWORKS.items():
        model, note = trained(network)
        example, machine = network_example(network), load_accelerator(ACCELERATOR)
        shapes = network_shapes(network, model, example, trace_channel_groups(model, example))
        importance = channel_importance(model, shapes.groups)
        dense = used(simulate(machine, shapes.workload([group.size for group in shapes.groups])))
        for name, what in RESOURCES.items():
            limit = SHARE * dense[name]
            start = time.perf_counter()
            budgets = Budgets(**{name: limit})
            request = PlanRequest(network=network, model=model, example=example, accelerator=machine, budgets=budgets)
            planned = make_plan(request)
            seconds = time.perf_counter() - start
            value, share = best_uniform(model, shapes, importance, name, limit)
            rows.append(
                _row(f"plan_over_uniform_{short}_{what}", planned, value, f"{share:.3f} of all; {note}", seconds)
            )
    return rows


def trained(network: str) -> tuple[nn.Module, str]:
    """A trained network where that is possible, and in words which."""
    model = build_network(network)
    weights = Path(os.environ.get("COSIM_DATA", "data")) / "weights" / "resnet20_cifar10.pt"
    if network == "digits_resnet":
        recipe = Recipe(epochs=15, lr=0.003, optimizer="adam", weight_decay=1e-2, schedule="warmup_cosine")
        fit(model, load_dataset("digits", 0).train, recipe, seed=0)
        return model.eval(), "trained 15 epochs"
    if weights.exists():
        return load_weights(model, weights).eval(), "trained weights"
    return model.eval(), "initial weights (no $COSIM_DATA/weights)"


def best_uniform(
    model: nn.Module, shapes: NetworkShapes, importance: ChannelImportance, name: str, limit: float
) -> tuple[float, float]:
    """(importance, share) of the largest share of every group that is within the budget."""
    machine = load_accelerator(ACCELERATOR)
    for step in range(UNIFORM_STEPS, 0, -1):
        widths = [max(1, round(group.size * step / UNIFORM_STEPS)) for group in shapes.groups]
        if used(simulate(machine, shapes.workload(widths)))[name] <= limit:
            return importance_of(model, shapes, importance, widths), step / UNIFORM_STEPS
    return math.nan, 0.0


def importance_of(model: nn.Module, shapes: NetworkShapes, importance: ChannelImportance, widths: list[int]) -> float:
    """As the planner scores it, for any widths."""
    decisions = [Decision(group.name, counts=(k,)) for group, k in zip(shapes.groups, widths, strict=True)]
    return math.exp(sum(float(np.sum(f.value)) for f in worth_factors(model, importance, decisions, {}, 0)))


def _row(name: str, planned: Planned, uniform: float, note: str, seconds: float) -> Row:
    return Row(
        name=name,
        value=planned.importance,
        unit="importance",
        peer="uniform pruning",
        peer_value=uniform,
        ratio=planned.importance / uniform,
        note=f"half the cost on {ACCELERATOR}; bound {planned.bound:.4f}; {seconds:.1f} s; uniform keeps {note}",
    )


@benchmark("plan_resnet20_s", "plan_resnet50_s")
def planner_speed() -> list[Row]:
    """The whole plan at half the latency, tracing, pricing and search included; kernels compiled before."""
    one_thread()
    rows = []
    for network, name in (("resnet20_cifar", "plan_resnet20_s"), ("resnet50", "plan_resnet50_s")):
        model, example, machine = build_network(network).eval(), network_example(network), load_accelerator(ACCELERATOR)
        shapes = network_shapes(network, model, example, trace_channel_groups(model, example))
        dense = used(simulate(machine, shapes.workload([group.size for group in shapes.groups])))
        budgets = Budgets(latency_ms=SHARE * dense["latency_ms"])
        request = PlanRequest(network=network, model=model, example=example, accelerator=machine, budgets=budgets)
        start = time.perf_counter()
        planned = make_plan(request)
        seconds = time.perf_counter() - start
        rows.append(Row(name=name, value=seconds, unit="s", note=f"gap {planned.bound - planned.importance:.5f}"))
    return rows
