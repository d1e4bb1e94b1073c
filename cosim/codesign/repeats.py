"""The points of a front trained again with several seeds: a search sees one seed and validation images only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosim.codesign.design import build_plan
from cosim.codesign.evaluator import accuracy_on_test, compress_design, facts
from cosim.codesign.study import StudySpec
from cosim.files import write_json, write_tensors
from cosim.pruning.plan import PruningPlan
from search import SearchResult
from search.distribute import Executor


@dataclass(frozen=True)
class Repeats:
    """One plan under several seeds, the study's own first."""

    plan: PruningPlan
    """With the filters that the study's seed keeps."""
    validation_accuracy: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    weights: Path
    """Weights of the study's seed."""
    errors: tuple[str, ...] = ()
    """Tracebacks of seeds that crashed."""


def plan_digest(plan: PruningPlan) -> str:
    """Content hash of a plan."""
    return hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]


def repeat_front(
    spec: StudySpec,
    found: SearchResult,
    out: Path,
    *,
    dense: Executor,
    repeat: Executor,
    on_done: Callable[[int, int], None],
) -> dict[str, Repeats]:
    """Train every plan of the front, and the dense one, with seeds seed, seed + 1, …

    Finished trainings are kept under `cache/repeats` and not done again.

    Parameters
    ----------
    dense, repeat
        Run the trainings of dense networks ({"seed"}) and of plans ({"plan", "seed", "digest"}).

    Returns
    -------
    dict of plan digest to Repeats
    """
    network = facts(spec, out / "cache")
    front = [build_plan(spec, network, record.params) for record in found.front()]
    plans = {plan_digest(plan): plan for plan in [*front, dense_plan(spec, out / "cache")]}
    seeds = [spec.seed + i for i in range(spec.repeats)]
    results: dict[tuple[str, int], dict[str, Any]] = {}
    tasks: list[dict[str, Any]] = []
    for digest, plan in plans.items():
        for seed in seeds:
            path = _record_path(out, digest, seed)
            if path.exists():
                results[digest, seed] = json.loads(path.read_text())
            else:
                tasks.append({"plan": plan.to_json(), "seed": seed, "digest": digest})
    total = len(plans) * len(seeds)
    on_done(total - len(tasks), total)
    if tasks:
        list(dense.run([{"seed": seed} for seed in seeds[1:]]))  # one training each, not one in every worker
    for position, outcome in repeat.run(tasks):
        task = tasks[position]
        results[str(task["digest"]), int(task["seed"])] = outcome.value or {"error": outcome.error}
        on_done(len(results), total)
    return {digest: _gather(digest, plan, [results[digest, s] for s in seeds], out) for digest, plan in plans.items()}


def dense_plan(spec: StudySpec, cache: Path) -> PruningPlan:
    """Nothing pruned, the widest weights: what the front is compared with."""
    network = facts(spec, cache)
    dense = {f"keep.{group.name}": 1.0 for group in network.groups}
    dense |= {f"mask.{block}": "dense" for block in spec.plan.blocks}  # type: ignore[misc]
    dense |= {f"bits.{block}": max(spec.plan.weight_bits) for block in spec.plan.blocks}
    return build_plan(spec, network, dense)


@dataclass(frozen=True)
class Repeat:
    """Task of a worker: train one plan with one seed, keep the figures and, for the study's seed, the weights."""

    spec: StudySpec
    out: Path

    def __call__(self, task: Mapping[str, Any]) -> dict[str, Any]:
        plan, seed, digest = PruningPlan.model_validate_json(task["plan"]), task["seed"], task["digest"]
        compressed = compress_design(plan, self.spec, self.out / "cache", seed)
        record = {
            "validation": compressed.accuracy["finetuned"],
            "test": accuracy_on_test(compressed, self.spec),
            "plan": compressed.plan.to_json(),
        }
        if seed == self.spec.seed:
            origin = {"network": self.spec.network, "dataset": self.spec.dataset, "seed": str(seed)}
            write_tensors(_weights_path(self.out, digest), compressed.model.state_dict(), origin)
        write_json(_record_path(self.out, digest, seed), record)
        return record


def _gather(digest: str, plan: PruningPlan, records: list[dict[str, Any]], out: Path) -> Repeats:
    """Crashed seeds leave their traceback instead of a figure."""
    good = [record for record in records if "error" not in record]
    own = PruningPlan.model_validate_json(records[0]["plan"]) if "plan" in records[0] else plan
    return Repeats(
        own,
        tuple(record["validation"] for record in good),
        tuple(record["test"] for record in good),
        _weights_path(out, digest),
        tuple(record["error"] for record in records if "error" in record),
    )


def _record_path(out: Path, digest: str, seed: int) -> Path:
    return out / "cache" / "repeats" / f"{digest}-{seed}.json"


def _weights_path(out: Path, digest: str) -> Path:
    return out / "cache" / "repeats" / f"{digest}.safetensors"
