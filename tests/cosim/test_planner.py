"""cosim plan: budgets are met by what `cosim simulate --plan` says, and the plan is as good as brute force can tell."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from accel_models import Accelerator, Workload, load_accelerator, simulate
from accel_models.accelerator import WeightSparsity
from cosim.codesign import plan_elimination as plan_elimination_module
from cosim.codesign import plan_search, plan_tables
from cosim.codesign.plan_elimination import Table, plan_elimination
from cosim.codesign.plan_importance import weight_quality
from cosim.codesign.plan_search import Found, Pool, collect, find_plan
from cosim.codesign.plan_shapes import network_shapes
from cosim.codesign.planner import BUDGETS, Budgets, Planned, PlanRequest, make_plan, prepare, used, why_not
from cosim.errors import InfeasibleError, PruningError
from cosim.extract import extract_workload
from cosim.files import read_json
from cosim.networks import build_network, network_example
from cosim.pruning.apply import plan_of_groups, prunable_groups, remove_filters
from cosim.pruning.coupling import trace_channel_groups
from cosim.pruning.plan import MaskPlan, load_plan
from tests.cosim.conftest import Ended

ACCELERATORS = ("edge_os_16x16", "edge_skip_16x16", "edge_ws_16x16", "eyeriss_v1")


class Chain(nn.Module):
    """Three convolutions in a row, of 8, 6 and 4 filters, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return self.head(x.mean(dim=(2, 3)))


class Residual(nn.Module):
    """A stream of 8 channels around inner convolutions of 6 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up, self.down = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.wide, self.back = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.down(self.up(x).relu())
        x = x + self.back(self.wide(x).relu())
        return self.head(x.mean(dim=(2, 3)))


NETWORKS = {"chain": Chain, "residual": Residual}
EXAMPLE = torch.zeros(1, 3, 10, 10)
MACHINES = {
    "os": load_accelerator("edge_os_16x16", {"pe_array.rows": 4, "pe_array.cols": 4}),
    "ws": load_accelerator("edge_ws_16x16", {"pe_array.rows": 4, "pe_array.cols": 4}),
}
SKIP = load_accelerator("edge_skip_16x16", {"pe_array.rows": 4, "pe_array.cols": 4})


@lru_cache
def small_network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return NETWORKS[name]().eval()


def request(name: str, machine: Accelerator, **budgets: float) -> PlanRequest:
    return PlanRequest(
        network=name, model=small_network(name), example=EXAMPLE, accelerator=machine, budgets=Budgets(**budgets)
    )


def weight_of(model: nn.Module, layer: str) -> torch.Tensor:
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach()


@lru_cache
def all_plans(name: str) -> list[tuple[float, Workload]]:
    """Importance and workload of every combination of widths: removed, extracted, and scored from the weights."""
    model = small_network(name)
    groups = trace_channel_groups(model, EXAMPLE)
    free = prunable_groups(groups)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = {layer: weight_of(model, layer).double().flatten(1).square().sum(1) for layer in layers}
    found = []
    for counts in itertools.product(*(range(1, group.size + 1) for group in free)):
        plan = plan_of_groups(name, groups, {group.name: k for group, k in zip(free, counts, strict=True)})
        smaller = remove_filters(model, EXAMPLE, plan, groups, verify=False)
        logs = 0.0
        for group, k in zip(free, counts, strict=True):
            shares = torch.stack([weights[layer] / weights[layer].sum() for layer in group.producers])
            kept = shares.sum(0).argsort(descending=True)[:k]
            logs += float(shares[:, kept].sum(1).log().sum())
        found.append((math.exp(logs / len(layers)), extract_workload(smaller, EXAMPLE, name)))
    return found


@lru_cache
def all_costs(name: str, machine: str) -> list[tuple[float, dict[str, float]]]:
    """Importance of every combination of widths, and what it uses."""
    return [(importance, used(simulate(MACHINES[machine], workload))) for importance, workload in all_plans(name)]


def brute_force(name: str, machine: str, limits: dict[str, float]) -> float:
    costs = all_costs(name, machine)
    return max(worth for worth, use in costs if all(use[budget] <= limit for budget, limit in limits.items()))


def dense(name: str, machine: Accelerator) -> dict[str, float]:
    """What the network as it is uses."""
    return used(simulate(machine, extract_workload(small_network(name), EXAMPLE, name)))


def digits_use(accelerator: str) -> dict[str, float]:
    workload = extract_workload(build_network("digits_resnet"), network_example("digits_resnet"), "digits_resnet")
    return used(simulate(load_accelerator(accelerator), workload))


def digits_plan(accelerator: Accelerator, budgets: dict[str, float], **fields: Any) -> Planned:
    model = build_network("digits_resnet").eval()
    given = PlanRequest(
        network="digits_resnet",
        model=model,
        example=network_example("digits_resnet"),
        accelerator=accelerator,
        budgets=Budgets(**budgets),
        **fields,
    )
    return make_plan(given)


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_a_plan_meets_its_budgets_and_simulate_says_the_same(
    accelerator: str, cosim: Callable[..., Ended], tmp_path: Path
) -> None:
    model, example = build_network("digits_resnet"), network_example("digits_resnet")
    full = digits_use(accelerator)
    latency, energy = 0.7 * full["latency_ms"], 0.7 * full["energy_mj"]
    budgets = ("--latency-ms", latency, "--energy-mj", energy)
    files = tmp_path / "plan.json", tmp_path / "shown.json", tmp_path / "cost.json"
    ended = cosim("plan", "-n", "digits_resnet", "-a", accelerator, *budgets, "--out", files[0], "--json", files[1])
    assert ended.code == 0, ended.err
    shown = read_json(files[1])
    assert shown["budgets"]["latency_ms"]["after"] <= latency
    assert shown["budgets"]["energy_mj"]["after"] <= energy
    ended = cosim("simulate", "-w", "digits_resnet", "-a", accelerator, "--plan", files[0], "--json", files[2])
    assert ended.code == 0, ended.err
    cost = read_json(files[2])
    assert {name: shown["total"]["after"][name] for name in cost["total"]} == cost["total"]
    for layer, simulated in zip(shown["layers"], cost["layers"], strict=True):
        assert layer["after"]["latency_cycles"] == simulated["latency_cycles"]
        assert layer["after"]["energy_pj"] == sum(simulated["energy_pj"].values())
    groups = trace_channel_groups(model, example)
    remove_filters(model, example, load_plan(files[0]), groups)  # verified
    assert 0.0 < shown["importance"] <= shown["bound"] <= 1.0
    assert shown["gap"] < 0.01


LIMITS = [("latency_ms",), ("energy_mj",), ("memory_kb",), ("latency_ms", "energy_mj"), BUDGETS]


@pytest.mark.parametrize("names", LIMITS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_small_network_gets_the_best_of_all_plans(network: str, machine: str, names: tuple[str, ...]) -> None:
    limits = {name: 0.7 * dense(network, MACHINES[machine])[name] for name in names}
    planned = make_plan(request(network, MACHINES[machine], **limits))
    assert planned.exact
    assert planned.importance == pytest.approx(brute_force(network, machine, limits), rel=1e-12)
    assert planned.bound == planned.importance
    assert all(used(planned.after)[name] <= limit for name, limit in limits.items())


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("names", LIMITS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_search_comes_within_its_printed_gap_of_the_best_plan(
    network: str, names: tuple[str, ...], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "FEW_PLANS", 0)
    limits = {name: share * dense(network, MACHINES["os"])[name] for name in names}
    planned = make_plan(request(network, MACHINES["os"], **limits))
    best = brute_force(network, "os", limits)
    assert not planned.exact
    assert planned.importance <= best * (1 + 1e-12)
    assert planned.bound >= best * (1 - 1e-9)
    assert planned.importance >= 0.97 * best


def test_a_table_too_large_is_priced_on_demand_and_the_bound_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_search, "FEW_PLANS", 0)
    monkeypatch.setattr(plan_tables, "MOST_ENTRIES", 10)
    limits = {"latency_ms": 0.7 * dense("chain", MACHINES["os"])["latency_ms"]}
    planned = make_plan(request("chain", MACHINES["os"], **limits))
    best = brute_force("chain", "os", limits)
    assert planned.importance <= best * (1 + 1e-12)
    assert planned.bound >= best * (1 - 1e-9)
    assert planned.importance >= 0.9 * best


@pytest.mark.parametrize("rows", [(0,), (1,), (0, 1)], ids=["latency", "energy", "latency+energy"])
@pytest.mark.parametrize("machine", [MACHINES["os"], SKIP], ids=["os", "skip"])
def test_a_looser_budget_never_keeps_less(
    machine: Accelerator, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_search, "FEW_PLANS", 0)
    planner = prepare(request("residual", machine, latency_ms=1.0))
    full = planner.dense.cost
    kept = []
    for share in np.linspace(0.3, 1.0, 10 if len(rows) == 1 else 4):
        budgets = np.where(np.isin(np.arange(len(full)), rows), share * full, np.inf)
        best = find_plan(planner.search, budgets, budgets, rows).best
        assert best is not None
        kept.append(best.value)
    assert kept == sorted(kept)
    assert kept[-1] == 0.0  # the dense network, of importance 1, is within its own cost
    assert kept[0] < -0.1


def test_the_same_input_gives_the_same_plan() -> None:
    limit = {"latency_ms": 0.5 * dense("residual", SKIP)["latency_ms"]}
    first, second = (make_plan(request("residual", SKIP, **limit)) for _ in range(2))
    assert first.plan.to_json() == second.plan.to_json()
    assert (first.importance, first.bound) == (second.importance, second.bound)


def test_an_array_that_skips_gets_masks_and_keeps_more_than_with_filters_alone() -> None:
    plain = SKIP.model_copy(update={"weight_sparsity": WeightSparsity()})
    limit = {"latency_ms": 0.6 * dense("residual", SKIP)["latency_ms"]}
    masked, filters = (make_plan(request("residual", machine, **limit)) for machine in (SKIP, plain))
    assert any(layer.mask is not None for layer in masked.plan.layers.values())
    assert all(layer.mask is None for layer in filters.plan.layers.values())
    assert masked.importance > filters.importance


def test_mixed_bits_keep_more_within_a_memory_budget() -> None:
    limit = {"memory_kb": 0.9 * dense("residual", MACHINES["os"])["memory_kb"]}
    given = request("residual", MACHINES["os"], **limit)
    plain, mixed = make_plan(given), make_plan(replace(given, mixed_bits=True))
    assert {layer.weight_bits for layer in plain.plan.layers.values()} == {8}
    assert 4 in {layer.weight_bits for layer in mixed.plan.layers.values()}
    assert mixed.importance > plain.importance
    assert used(mixed.after)["memory_kb"] <= limit["memory_kb"]


def test_an_accelerator_that_keeps_outputs_on_chip_meets_its_budget_by_the_whole_simulation() -> None:
    machine = load_accelerator("tpu_like_128x128")
    limit = 0.7 * digits_use("tpu_like_128x128")["latency_ms"]
    planned = digits_plan(machine, {"latency_ms": limit})
    assert 0.9 * limit <= planned.after.latency_ms <= limit
    assert planned.importance <= planned.bound


def test_the_channels_that_stay_are_those_of_most_weight() -> None:
    planned = make_plan(request("chain", MACHINES["os"], latency_ms=0.6 * dense("chain", MACHINES["os"])["latency_ms"]))
    model, checked = small_network("chain"), 0
    for name, layer in planned.plan.layers.items():
        if layer.filters is not None and layer.filters.keep is not None:
            norms = weight_of(model, name).flatten(1).norm(dim=1)
            best = norms.argsort(descending=True)[: layer.filters.k]
            assert list(layer.filters.keep) == sorted(best.tolist())
            checked += 1
    assert checked


def test_given_scores_replace_weights() -> None:
    limit = 0.6 * dense("chain", MACHINES["os"])["latency_ms"]
    scores = {"a": torch.tensor([9.0, 9.0, 9.0, 9.0, 1e-3, 1e-3, 1e-3, 1e-3])}
    planned = make_plan(replace(request("chain", MACHINES["os"], latency_ms=limit), scores=scores))
    filters = planned.plan["a"].filters
    assert filters is not None
    assert set(filters.keep or ()) <= {0, 1, 2, 3} or set(filters.keep or ()) >= {0, 1, 2, 3}
    with pytest.raises(PruningError, match="not finite"):
        make_plan(replace(request("chain", MACHINES["os"], latency_ms=limit), scores={"a": torch.full((8,), math.nan)}))


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_out_of_reach_names_itself_and_the_least_which_is_reachable(name: str) -> None:
    with pytest.raises(InfeasibleError, match=f"meets --{name.replace('_', '-')} .*least reachable is") as caught:
        make_plan(request("residual", MACHINES["os"], **{name: 1e-9}))
    least = float(re.findall(r"reachable is ([0-9.e-]+);", str(caught.value))[0])
    assert least == pytest.approx(min(use[name] for _, use in all_costs("residual", "os")), rel=1e-3)
    make_plan(request("residual", MACHINES["os"], **{name: 1.001 * least}))


def test_budgets_that_only_together_are_out_of_reach_name_the_one_that_binds() -> None:
    """With two plans to choose from, of which one takes less time and the other less energy."""
    planner = prepare(request("residual", MACHINES["ws"], latency_ms=1.0, energy_mj=1.0))
    pool = collect(planner.search, planner.rows)
    fast, frugal = next(
        (i, j) for i, j in itertools.product(range(len(pool.value)), repeat=2)
        if pool.cost[i, 0] < pool.cost[j, 0] and pool.cost[i, 1] > pool.cost[j, 1]
    )  # fmt: skip
    rows = [fast, frugal]
    two = Pool(pool.plans[rows], pool.value[rows], pool.cost[rows])
    uses = [used(planner.realise(two.point(i))[1]) for i in range(2)]
    limits = {"latency_ms": uses[0]["latency_ms"], "energy_mj": uses[1]["energy_mj"]}
    tight = prepare(request("residual", MACHINES["ws"], **limits))
    message = why_not(tight, Found(None, 0.0, True, two))
    binds = min(limits, key=lambda name: max(use[name] for use in uses) / limits[name])
    assert f"meets all budgets: --{binds.replace('_', '-')} {limits[binds]:g} binds" in message
    assert f"least reachable is {max(use[binds] for use in uses):.4g};" in message


BAD = {
    "none": ((), "give at least one budget: --latency-ms, --energy-mj, --memory-kb"),
    "zero": (("--latency-ms", 0), "--latency-ms 0: must be a finite number above 0"),
    "negative": (("--energy-mj=-1",), "--energy-mj -1: must be"),
    "nan": (("--memory-kb", "nan"), "--memory-kb nan: must be"),
    "infinite": (("--latency-ms", "inf"), "--latency-ms inf: must be"),
    "weights": (("--latency-ms", 1, "--weights", "missing.pt"), "missing.pt: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_line_and_code_2(case: str, cosim: Callable[..., Ended]) -> None:
    options, words = BAD[case]
    ended = cosim("plan", "-n", "digits_resnet", "-a", "edge_os_16x16", *options)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1


def test_no_plan_ends_with_one_line_and_code_1(cosim: Callable[..., Ended]) -> None:
    ended = cosim("plan", "-n", "digits_resnet", "-a", "edge_os_16x16", "--latency-ms", 1e-6)
    assert ended.code == 1
    assert re.fullmatch(r"error: no plan of digits_resnet on edge_os_16x16 meets --latency-ms 1e-06: .*\n", ended.err)


@pytest.mark.parametrize("name", ["resnet20_cifar", "gpt_small", pytest.param("shufflenet_v2", marks=pytest.mark.slow)])
def test_sizes_follow_the_widths_exactly(name: str) -> None:
    model, example = build_network(name), network_example(name)
    groups = trace_channel_groups(model, example)
    shapes = network_shapes(name, model, example, groups)
    counts = [max(1, group.size * (3 + 5 * i % 11) // 16) for i, group in enumerate(shapes.groups)]
    plan = plan_of_groups(name, groups, {g.name: k for g, k in zip(shapes.groups, counts, strict=True)})
    smaller = remove_filters(model, example, plan, groups, verify=False)
    assert shapes.workload(counts) == extract_workload(smaller, example, name)


def random_tables(seed: int) -> tuple[tuple[int, ...], list[Table]]:
    """A loop of six decisions and some unary tables."""
    rng = np.random.default_rng(seed)
    sizes = tuple(int(size) for size in rng.integers(2, 5, 6))
    pairs: list[tuple[int, ...]] = [(i, i + 1) for i in range(5)]
    scopes: list[tuple[int, ...]] = [*pairs, (0, 5), (0,), (1,), (2,), ()]
    return sizes, [(scope, rng.normal(size=[sizes[i] for i in scope])) for scope in scopes]


def worth(tables: list[Table], plan: tuple[int, ...]) -> float:
    return sum(float(table[tuple(plan[i] for i in scope)]) for scope, table in tables)


@pytest.mark.parametrize("seed", range(5))
def test_elimination_finds_the_best_of_all_plans(seed: int) -> None:
    sizes, tables = random_tables(seed)
    best = plan_elimination(sizes, [scope for scope, _ in tables]).solve(tables)
    every = [worth(tables, plan) for plan in itertools.product(*map(range, sizes))]
    assert best.bound == pytest.approx(max(every))
    assert worth(tables, best.choices) == pytest.approx(max(every))


@pytest.mark.parametrize("seed", range(5))
def test_split_buckets_bound_all_plans(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_elimination_module, "MOST_ENTRIES", 16)
    sizes, tables = random_tables(seed)
    best = plan_elimination(sizes, [scope for scope, _ in tables]).solve(tables)
    every = [worth(tables, plan) for plan in itertools.product(*map(range, sizes))]
    assert best.bound >= max(every) - 1e-9
    assert worth(tables, best.choices) <= max(every) + 1e-9


def test_a_mask_keeps_the_largest_weights_of_each_tile() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 0.0]])
    quality = weight_quality(weight, MaskPlan(granularity="weight", k=1, n=2), None)
    assert quality == pytest.approx((4 + 16 + 25) / (1 + 4 + 9 + 16 + 25))
    assert weight_quality(weight, None, 8) == pytest.approx(1.0, abs=1e-3)
    assert weight_quality(torch.zeros(2, 2), MaskPlan(granularity="weight", k=1, n=2), 4) == 1.0
