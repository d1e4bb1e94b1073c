"""What a run leaves behind: front.json, front.csv, and a plan, an accelerator and the weights of every point."""

from __future__ import annotations

import csv
import io
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel_models.accelerator import describe, load_accelerator
from accel_models.cost import NetworkCost
from cosim.codesign.design import Design, build_design, plan_summary
from cosim.codesign.evaluator import facts, price_design
from cosim.codesign.repeats import Repeats, dense_plan, plan_digest
from cosim.codesign.study import StudySpec
from cosim.files import write_json, write_text
from search import SearchResult, TrialRecord

NOTES = [
    "Accuracy: fine-tuned after pruning. The search saw validation images and one seed; test accuracy is the mean and "
    "standard deviation over seeds that train dense network and pruning anew. Gaps below one test image in "
    "percentage points, or within a standard deviation, are noise.",
    "Accuracy uses weights quantized to the plan's bits and 32-bit activations; hardware is priced with 8-bit ones.",
    "Energy leaves out clock tree, control, the network between buffers and array, and DRAM background power; "
    "tensors between layers pass through DRAM. Area leaves out DRAM interface and pads.",
]
_COLUMNS = (
    *("id", "trial", "validation_accuracy", "test_accuracy_mean", "test_accuracy_sd", "repeats"),
    *("energy_pj", "latency_cycles", "latency_ms", "area_mm2", "dram_bytes", "macs", "weight_bytes", "utilization"),
    *("plan", "accelerator", "weights"),
)


def write_front(
    spec: StudySpec, found: SearchResult, random: SearchResult | None, repeats: Mapping[str, Repeats], out: Path
) -> list[dict[str, Any]]:
    """Write the files of the front; returns its points, most accurate first."""
    for folder in ("plans", "accelerators", "weights"):
        shutil.rmtree(out / folder, ignore_errors=True)
    records = sorted(found.front(), key=lambda r: (-_value(r, 0), _value(r, 1), r.number))
    points = [_point(spec, f"p{i:02d}", record, repeats, out) for i, record in enumerate(records)]
    history = {found.sampler: found.hypervolume_history().tolist()}
    if random is not None:
        history["random"] = random.hypervolume_history().tolist()
    data = {
        "version": 1,
        "name": spec.name,
        "network": spec.network,
        "dataset": spec.dataset,
        "sampler": found.sampler,
        "seed": spec.seed,
        "counts": found.counts(),
        "objectives": [{"name": o.name, "direction": o.direction, "unit": o.unit} for o in found.problem.objectives],
        "constraints": [{"name": "area_mm2", "limit": spec.limits.area_mm2, "unit": "mm2"}],
        "reference": [o.worst for o in found.problem.objectives],
        "hypervolume": history,
        "dense": _dense(spec, repeats, out),
        "points": points,
        "notes": NOTES,
    }
    write_json(out / "front.json", data)
    write_text(out / "front.csv", _csv(points))
    return points


def _value(record: TrialRecord, objective: int) -> float:
    assert record.evaluation is not None
    assert record.evaluation.objectives is not None
    return record.evaluation.objectives[objective]


def _point(
    spec: StudySpec, name: str, record: TrialRecord, repeats: Mapping[str, Repeats], out: Path
) -> dict[str, Any]:
    design = build_design(spec, facts(spec, out / "cache"), record.params)
    repeated = repeats[plan_digest(design.plan)]
    files = {
        "plan": f"plans/{name}.json",
        "accelerator": f"accelerators/{name}.yaml",
        "weights": f"weights/{name}.safetensors",
    }
    write_text(out / files["plan"], repeated.plan.to_json())
    write_text(out / files["accelerator"], design.accelerator.to_yaml())
    if repeated.weights.exists():
        (out / "weights").mkdir(exist_ok=True)
        shutil.copyfile(repeated.weights, out / files["weights"])
    cost = price_design(design, spec, out / "cache")
    return {
        "id": name,
        "trial": record.number,
        "validation_accuracy": _value(record, 0),
        **_test(repeated),
        **_figures(cost),
        "array": describe(design.accelerator),
        "design": dict(record.params),
        "plan_summary": plan_summary(design.plan),
        **files,
        "layers": [_layer(layer) for layer in cost.to_dict()["layers"]],
        "notices": list(cost.notices),
        "errors": list(repeated.errors),
    }


def _layer(layer: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "latency_cycles", "compute_cycles", "stall_cycles", "energy_pj", "utilization", "mapping")
    return {key: layer[key] for key in kept}


def _test(repeated: Repeats) -> dict[str, Any]:
    test = list(repeated.test_accuracy)
    return {
        "test_accuracy": test,
        "test_accuracy_mean": statistics.fmean(test) if test else None,
        "test_accuracy_sd": statistics.stdev(test) if len(test) > 1 else None,
    }


def _figures(cost: NetworkCost) -> dict[str, Any]:
    total = cost.to_dict()["total"]
    return {**total, "weight_bytes": cost.weight_bytes}


def _dense(spec: StudySpec, repeats: Mapping[str, Repeats], out: Path) -> dict[str, Any]:
    plan = dense_plan(spec, out / "cache")
    repeated = repeats[plan_digest(plan)]
    base = load_accelerator(spec.hardware.base)
    cost = price_design(Design(base, plan), spec, out / "cache")
    return {
        "validation_accuracy": repeated.validation_accuracy[0] if repeated.validation_accuracy else None,
        **_test(repeated),
        **_figures(cost),
        "accelerator": base.name,
    }


def _csv(points: list[dict[str, Any]]) -> str:
    """One row a point; numbers as Python writes them, so that equal runs give equal files."""
    if not points:
        return ",".join(_COLUMNS) + "\n"
    text = io.StringIO()
    parameters = list(points[0]["design"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *parameters])
    for point in points:
        row = [len(point["test_accuracy"]) if column == "repeats" else point[column] for column in _COLUMNS]
        writer.writerow([*row, *(point["design"][name] for name in parameters)])
    return text.getvalue()
