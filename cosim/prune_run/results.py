"""What a run reports: accuracy by stage, size and cost of the dense and of the pruned network, and its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from accel_models.accelerator import load_accelerator
from accel_models.evaluate import simulate
from accel_models.masks import weight_mask
from accel_models.workload import Workload
from cosim.codesign.design import Design
from cosim.codesign.evaluator import price_plan
from cosim.extract import extract_workload, weight_structures
from cosim.files import write_json, write_tensors, write_text
from cosim.prune_run.figures import accuracy_png, kept_png
from cosim.prune_run.folder import RESULTS
from cosim.prune_run.running import Outcome, Run
from cosim.pruning.plan import PruningPlan

Table = dict[str, Any]


def describe(run: Run, outcome: Outcome) -> Table:
    """The results as `--json` has them: `dense` and `pruned` with their figures, and the accuracy of every stage."""
    dense, accuracy, name = outcome.dense, outcome.accuracy, run.recipe.network
    columns: dict[str, dict[str, Any]] = {
        "dense": _size(extract_workload(dense.model, dense.example, name, None), dense.model),
        "pruned": _size(extract_workload(outcome.model, dense.example, name, outcome.plan), outcome.model),
    }
    for side, stage in (("dense", "dense"), ("pruned", "finetuned")):
        columns[side] |= {f"{split}_accuracy": value for split, value in accuracy[stage].items()}
    for stage in ("pruned", "recalibrated", "finetuned"):
        columns["pruned"] |= {f"{split}_{stage}": value for split, value in accuracy[stage].items()}
    if run.recipe.accelerator is not None:
        columns["dense"] |= _cost(run, outcome, PruningPlan(network=name), {})
        columns["pruned"] |= _cost(run, outcome, outcome.plan, outcome.masks)
    return {**columns, "accuracy": accuracy, "layers": kept_by_layer(dense.model, outcome.model)}


def _size(workload: Workload, model: nn.Module) -> dict[str, int]:
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return {
        "macs": workload.macs,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nonzero_weights": sum(int(weight.count_nonzero()) for weight in layers),
    }


def _cost(run: Run, outcome: Outcome, plan: PruningPlan, masks: Mapping[str, Tensor]) -> dict[str, float]:
    """Energy and latency; masks that are no k of n are priced as they are."""
    machine, dense = load_accelerator(run.recipe.accelerator or ""), outcome.dense
    loose = {name: mask for name, mask in masks.items() if name not in weight_structures(plan)}
    if not loose:
        cost = price_plan(Design(machine, plan), dense.model, dense.example, dense.groups)
        return {"energy_pj": cost.energy_pj, "latency_ms": cost.latency_ms}
    workload = extract_workload(outcome.model, dense.example, plan.network, plan)
    layers = {layer.name: layer for layer in workload.layers}
    packed = {name: weight_mask(np.asarray(mask.cpu()), layers[name]) for name, mask in loose.items()}
    cost = simulate(machine, workload, weight_structures(plan), masks=packed)
    return {"energy_pj": cost.energy_pj, "latency_ms": cost.latency_ms}


def kept_by_layer(dense: nn.Module, pruned: nn.Module) -> dict[str, dict[str, int]]:
    """Layer -> output channels and non-zero weights, of the dense network and of the pruned one."""
    after = dict(pruned.named_modules())
    found = {}
    for name, module in dense.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name in after:
            weight = after[name].weight
            assert isinstance(weight, Tensor)
            found[name] = {
                "channels": len(module.weight),
                "channels_kept": len(weight),
                "weights": module.weight.numel(),
                "weights_kept": int(weight.count_nonzero()),
            }
    return found


def write_network(run: Run, outcome: Outcome) -> None:
    """Plan, weights and masks: what has cost the training, before anything is made of it."""
    recipe, out = run.recipe, run.folder.path
    origin = {"network": recipe.network, "dataset": recipe.dataset, "seed": str(recipe.seed)}
    write_text(out / "plan.json", outcome.plan.to_json())
    write_tensors(out / "weights.safetensors", outcome.model.state_dict(), origin)
    write_tensors(out / "masks.safetensors", outcome.masks)


def write_results(run: Run, results: Table) -> None:
    """Figures, and results.json last: it says that the run is over."""
    recipe, out = run.recipe, run.folder.path
    accuracy_png(results["accuracy"], f"{recipe.network} on {recipe.dataset}", out / "accuracy.png")
    kept_png(results["layers"], f"{recipe.network}: what stays", out / "kept.png")
    write_json(out / RESULTS, results)
    run.folder.checkpoint("finetune").unlink(missing_ok=True)
