"""Evaluator: a design -> accuracy, energy, latency and the violation of the limits; pure in (design, seed)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accel_models.cost import NetworkCost
from accel_models.energy import area_mm2
from accel_models.errors import NoMappingError
from accel_models.evaluate import simulate
from accel_models.sparsity import KofN
from accel_models.workload import Workload
from cosim.codesign.design import Design, NetworkFacts, build_design, network_facts
from cosim.codesign.study import StudySpec
from cosim.compress import Compressed, Recovery, Trained, compress, prepare
from cosim.data import Dataset, load_dataset
from cosim.extract import check_structures, extract_workload, weight_structures
from cosim.files import read_tensors, write_tensors
from cosim.networks import build_network
from cosim.pruning.apply import remove_filters
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.plan import PruningPlan
from cosim.training import Recipe, evaluate, fit
from search import Evaluation


@dataclass(frozen=True)
class Evaluator:
    """What a search calls: parameters -> Evaluation. Picklable; networks are cached by content under `cache`."""

    spec: StudySpec
    cache: Path

    def __call__(self, params: dict[str, Any]) -> Evaluation:
        """Area first: a design that cannot be built is not trained."""
        network = facts(self.spec, self.cache)
        design = build_design(self.spec, network, params)
        excess = area_mm2(design.accelerator) - self.spec.limits.area_mm2
        if excess > 0:
            return Evaluation(None, (excess, 0.0))
        try:
            cost = price_design(design, self.spec, self.cache)
        except NoMappingError as error:
            return Evaluation(None, (excess, float(error.missing_bytes)), {"reason": str(error)})
        compressed = compress_design(design.plan, self.spec, self.cache, self.spec.seed)
        objectives = (compressed.accuracy["finetuned"], cost.energy_pj, cost.latency_ms)
        return Evaluation(objectives, (excess, 0.0), {"accuracy": compressed.accuracy, "area_mm2": cost.area_mm2})


def price_design(design: Design, spec: StudySpec, cache: Path) -> NetworkCost:
    """Energy and latency of a design; only the shapes of the pruned network matter."""
    trained = trained_network(spec, cache, spec.seed)
    return price_plan(design, trained.model, trained.example, trained.groups)


def price_plan(design: Design, model: nn.Module, example: torch.Tensor, groups: Sequence[ChannelGroup]) -> NetworkCost:
    """The plan on a dense network, extracted and simulated."""
    return simulate(design.accelerator, *extract_plan(design.plan, model, example, groups))


def plan_workload(plan: PruningPlan, spec: StudySpec, cache: Path) -> tuple[Workload, dict[str, KofN]]:
    """What hardware executes of a plan on the study's network."""
    trained = trained_network(spec, cache, spec.seed)
    return extract_plan(plan, trained.model, trained.example, trained.groups)


def extract_plan(
    plan: PruningPlan, model: nn.Module, example: torch.Tensor, groups: Sequence[ChannelGroup]
) -> tuple[Workload, dict[str, KofN]]:
    """Shapes, bits and structures of a plan on a dense network; weights do not matter."""
    pruned = remove_filters(model, example, plan, groups, verify=False)
    workload, structures = extract_workload(pruned, example, plan.network, plan), weight_structures(plan)
    check_structures(workload, structures)
    return workload, structures


def compress_design(plan: PruningPlan, spec: StudySpec, cache: Path, seed: int) -> Compressed:
    """Prune and recover the dense network of this seed."""
    trained = trained_network(spec, cache, seed)
    training = spec.training
    recipe = Recipe(
        epochs=training.finetune_epochs,
        batch_size=training.batch_size,
        lr=training.finetune_lr,
    )
    return compress(trained, dataset(spec), plan, Recovery(recipe, training.entropy_weight), seed=seed)


def facts(spec: StudySpec, cache: Path) -> NetworkFacts:
    """Groups and layers of the study's network."""
    trained = trained_network(spec, cache, spec.seed)
    return network_facts(spec.network, trained.model, trained.groups)


def dataset(spec: StudySpec) -> Dataset:
    """The study's data; the split hangs on the study's seed, also when repeats train with others."""
    return _dataset(spec.dataset, spec.seed)


@lru_cache(maxsize=4)
def _dataset(name: str, seed: int) -> Dataset:
    return load_dataset(name, seed)


def trained_network(spec: StudySpec, cache: Path, seed: int) -> Trained:
    """The dense network trained with this seed, from the cache where it is, with its filter scores."""
    text = json.dumps(_dense_identity(spec, seed), sort_keys=True)
    return _trained(text, spec, cache)


def _dense_identity(spec: StudySpec, seed: int) -> dict[str, Any]:
    recipe = asdict(_dense_recipe(spec))
    return {
        "network": spec.network,
        "dataset": [spec.dataset, spec.seed],
        "recipe": recipe,
        "seed": seed,
        "criterion": spec.plan.criterion,
        "torch": torch.__version__,
    }


def _dense_recipe(spec: StudySpec) -> Recipe:
    return Recipe(
        epochs=spec.training.dense_epochs,
        batch_size=spec.training.batch_size,
        lr=spec.training.dense_lr,
        optimizer="adam",
        weight_decay=1e-2,
        schedule="warmup_cosine",
    )


_TRAINED: dict[str, Trained] = {}


def _trained(identity: str, spec: StudySpec, cache: Path) -> Trained:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    if digest not in _TRAINED:
        seed = json.loads(identity)["seed"]
        path = cache / f"dense-{digest}.safetensors"
        model = build_network(spec.network, seed)
        if path.exists():
            model.load_state_dict(read_tensors(path))
        else:
            fit(model, dataset(spec).train, _dense_recipe(spec), seed=seed)
            write_tensors(path, model.state_dict())
        _TRAINED[digest] = prepare(model.eval(), dataset(spec), spec.plan.criterion, seed=seed)
    return _TRAINED[digest]


def accuracy_on_test(compressed: Compressed, spec: StudySpec) -> float:
    """Accuracy on the images that neither training nor search has seen."""
    return evaluate(compressed.model, dataset(spec).test)


def one_thread() -> None:
    """Small networks are fastest, and results the same on every machine, with one thread per process."""
    torch.set_num_threads(1)
