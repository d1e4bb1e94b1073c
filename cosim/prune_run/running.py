"""From a recipe to a pruned network: the dense one, removal in steps, recovery; every training goes on where it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from cosim.compress import Trained, attach, load_compressed, mask_plans, plain_layout, prepare, recover
from cosim.data import Augmentation, Dataset
from cosim.errors import PruningError
from cosim.networks import build_network, load_weights
from cosim.prune_run.choosing import (
    Scores,
    Widths,
    choose_widths,
    find_budgets,
    no_wider,
    partway,
    plan_between,
    plan_of_widths,
    spread_scores,
)
from cosim.prune_run.folder import Folder, Step
from cosim.prune_run.masking import LearnedFilters, filter_plans_of, method_of, planned, schedule_of
from cosim.prune_run.measuring import IMAGES, drawn, measured_scores
from cosim.prune_run.recipe import PruneRecipe
from cosim.pruning.apply import choose_filters, group_filters, remove_filters
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.criteria import ScoreOptions
from cosim.pruning.plan import LayerPlan, PruningPlan
from cosim.pruning.refit import FIT_IMAGES, refit
from cosim.training import FitOptions, Recipe, evaluate, fit, recalibrate_batchnorm

Accuracy = dict[str, float]
"""Split -> accuracy in [0, 1]."""
Heard = Callable[[str, int, int], None]
"""Told of the progress: what is trained, epochs (of "refit": layers) that are over, in all."""


@dataclass(frozen=True)
class Run:
    """A recipe with its data, its device and its folder."""

    recipe: PruneRecipe
    data: Dataset
    device: torch.device
    folder: Folder
    heard: Heard

    def judge(self, model: nn.Module) -> Accuracy:
        """Accuracy on the images that the run does not train on."""
        splits = {"test": self.data.test}
        if not self.recipe.all_images:
            splits = {"validation": self.data.validation, **splits}
        return {name: evaluate(model, split) for name, split in splits.items()}

    def recalibrate(self, model: nn.Module, images: int | None = None) -> None:
        """Batch normalisation anew, in place, from (so many) training images, augmented as they are in training."""
        recalibrate_batchnorm(model, self.data.train, augmentation=self.augmentation, images=images)

    def watch(self, name: str, epochs: int, teacher: nn.Module | None = None) -> FitOptions:
        """Checkpoint, progress and teacher of a training."""
        self.heard(name, 0, epochs)
        return FitOptions(teacher, self.folder.checkpoint(name), lambda epoch, loss: self.heard(name, epoch, epochs))

    def score(self, model: nn.Module) -> Trained:
        """Groups and scores of a network, in its present form."""
        recipe = self.recipe
        options = ScoreOptions(variant=recipe.variant, seed=recipe.seed)  # type: ignore[arg-type]
        own = prepare(
            model, self.data, recipe.criterion, seed=recipe.seed, options=options, by_readers=recipe.by_readers
        )
        if not recipe.measured:
            return own
        images, augmentation = drawn(self.data.train, IMAGES, recipe.seed), self.augmentation
        return replace(own, scores=measured_scores(model, own.example, own.groups, own.scores, images, augmentation))

    @property
    def augmentation(self) -> Augmentation | None:
        """Of training images."""
        return tuning_recipe(self.recipe, 0).augmentation


@dataclass(frozen=True)
class Removed:
    """A network after its last removal, before it is recovered."""

    model: nn.Module
    plan: PruningPlan
    accuracy: dict[str, Accuracy]
    """`step 1`, …: after the fine-tuning of every step but the last."""


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    dense: Trained
    model: nn.Module
    plan: PruningPlan
    masks: dict[str, Tensor]
    accuracy: dict[str, dict[str, float]]
    """Stage -> split -> accuracy; in the order in which they were reached."""


def run_recipe(run: Run, base: PruningPlan) -> Outcome:
    """Train, prune and recover.

    Parameters
    ----------
    base
        The plan to execute, or an empty one for the network.

    Raises
    ------
    PruningError
        The network cannot be pruned so; the message names layer, budget or remedy.
    """
    dense = run.score(dense_network(run))
    accuracy = {"dense": run.judge(dense.model)}
    if run.recipe.granularity == "filter":
        outcome = _learn_filters(run, dense, base)
    else:
        removed = remove_in_steps(run, dense, base)
        accuracy |= removed.accuracy
        outcome = _recover(run, dense, removed)
    return Outcome(dense, outcome.model, outcome.plan, outcome.masks, accuracy | outcome.accuracy)


def dense_network(run: Run) -> nn.Module:
    """The given weights, those that this run has trained, or a training."""
    recipe = run.recipe
    model = build_network(recipe.network, recipe.seed)
    if recipe.from_ is not None:
        return load_weights(model, recipe.from_).to(run.device).eval()
    state = run.folder.dense()
    if state is not None:
        model.load_state_dict(state)
        return model.to(run.device).eval()
    model.to(run.device)
    options = run.watch("dense", recipe.dense_epochs)
    fit(model, run.data.train, dense_recipe(recipe), seed=recipe.seed, options=options)
    plain_layout(model)
    run.folder.keep_dense(model.state_dict())
    return model.eval()


def dense_recipe(recipe: PruneRecipe) -> Recipe:
    """How the dense network is trained."""
    adam = recipe.dense_optimizer == "adam"
    return Recipe(
        recipe.dense_epochs,
        recipe.batch_size,
        recipe.dense_lr,
        optimizer=recipe.dense_optimizer,
        weight_decay=1e-2 if adam else 5e-4,
        schedule="warmup_cosine" if adam else "cosine",
        crop_padding=recipe.crop_padding,
        flip=recipe.flip,
        precision=recipe.precision,
    )


def tuning_recipe(recipe: PruneRecipe, epochs: int) -> Recipe:
    """How a pruned network is fine-tuned."""
    return Recipe(
        epochs,
        recipe.batch_size,
        recipe.lr,
        optimizer=recipe.optimizer,
        weight_decay=recipe.weight_decay,
        crop_padding=recipe.crop_padding,
        flip=recipe.flip,
        precision=recipe.precision,
    )


def remove_in_steps(run: Run, dense: Trained, base: PruningPlan) -> Removed:
    """Remove channels once, in steps or group by group; between, score anew and fine-tune."""
    if run.recipe.plan is not None and run.recipe.schedule == "one_shot":
        plan = choose_filters(base, dense.groups, dense.scores)
        return Removed(_without(dense.model, dense.example, plan, dense.groups), plan, {})
    steps = _steps(run, dense, base)
    start, plan, model, accuracy = 1, base.model_copy(update={"layers": {}, "groups": {}}), dense.model, {}
    for number in range(1, len(steps)):
        done = run.folder.step(number)
        if done is not None:
            start, plan, accuracy[f"step {number}"] = number + 1, done.plan, done.accuracy
            model = load_compressed(dense.model, dense.example, _filters_only(plan), done.state)
    for number, widths_of in enumerate(steps[start - 1 :], start):
        now = dense if number == 1 else run.score(model)
        scores = spread_scores(now.scores, plan, dense.groups, run.recipe.scaling)
        widths = no_wider(widths_of(scores), plan, dense.groups)
        after = plan_of_widths(base, dense.groups, scores, widths)
        smaller = plan_between(plan, after, dense.groups, now.groups)
        model, plan = _without(model, now.example, smaller, now.groups), after
        if number < len(steps):
            accuracy[f"step {number}"] = _settle(run, dense, model, f"step-{number:02d}")
            run.folder.keep_step(number, Step(plan, model.state_dict(), accuracy[f"step {number}"]))
    return Removed(model if steps else copy.deepcopy(model), plan if steps else base, accuracy)


def _without(model: nn.Module, example: Tensor, plan: PruningPlan, groups: Sequence[ChannelGroup]) -> nn.Module:
    """Remove and prove it, on the CPU: a GPU's convolutions (TF32) are too coarse to be compared."""
    there = copy.deepcopy(model).cpu() if example.is_cuda else model
    return remove_filters(there, example.cpu(), plan, groups).to(example.device)


def _filters_only(plan: PruningPlan) -> PruningPlan:
    """Without masks and bits, which the network gets last."""
    layers = {name: LayerPlan(filters=layer.filters) for name, layer in plan.layers.items()}
    return plan.model_copy(update={"layers": layers})


def _steps(run: Run, dense: Trained, base: PruningPlan) -> list[Callable[[Scores], Widths]]:
    """For each step: scores of the dense network's filters -> the widths to which it prunes."""
    recipe, sizes = run.recipe, {group.name: group.size for group in dense.groups}
    if not (recipe.plan or recipe.keep or recipe.budgeted):
        return []
    budgets = find_budgets(recipe, dense.model, dense.example, dense.groups)

    def widths(scores: Scores, share: float) -> Widths:
        if budgets:
            return choose_widths(recipe, dense.groups, scores, partway(budgets, share))
        if recipe.plan is not None:
            final = {group.name: filters.k for group, filters in group_filters(base, dense.groups).items()}
        else:
            final = choose_widths(recipe, dense.groups, scores, budgets)
        return {name: sizes[name] - round(share * (sizes[name] - width)) for name, width in final.items()}

    if recipe.schedule != "layerwise":
        return [partial(widths, share=number / recipe.rounds) for number in range(1, recipe.rounds + 1)]
    empty = PruningPlan(network=recipe.network)
    final = widths(spread_scores(dense.scores, empty, dense.groups, recipe.scaling), 1.0)
    names = [name for name, width in final.items() if width < sizes[name]]
    return [partial(_first_of, final, names[:number]) for number in range(1, len(names) + 1)]


def _first_of(final: Widths, names: Sequence[str], scores: Scores) -> Widths:
    return {name: final[name] for name in names}


def _settle(run: Run, dense: Trained, model: nn.Module, name: str) -> Accuracy:
    """Fine-tune between two steps, in place; the accuracy that is reached."""
    epochs, recipe = run.recipe.step_epochs, run.recipe
    options = run.watch(name, epochs, dense.model if recipe.distill else None)
    fit(model, run.data.train, tuning_recipe(recipe, epochs), seed=recipe.seed, options=options)
    plain_layout(model)
    run.recalibrate(model)
    return run.judge(model)


def _recover(run: Run, dense: Trained, removed: Removed) -> Outcome:
    """Masks, bits and fine-tuning on what removal has left."""
    recipe, model = run.recipe, removed.model
    plan, method = planned(recipe, removed.plan, model, dense.groups), method_of(recipe)
    if recipe.refit:
        images = drawn(run.data.train, FIT_IMAGES, recipe.seed).batch(slice(None))
        refit(model, mask_plans(plan), images, told=lambda layer, done, count: run.heard("refit", done, count))
    attach(model, plan, method, mask_plans(plan), seed=recipe.seed)
    accuracy = _untrained(run, model)
    options = run.watch("finetune", recipe.epochs, dense.model if recipe.distill else None)
    tuning = tuning_recipe(recipe, recipe.epochs)
    masks = recover(model, run.data.train, method, tuning, seed=recipe.seed, options=options)
    accuracy["finetuned"] = run.judge(model)
    if not method.exact_rows:  # the masks are in their file; as k of n they would be promised and not kept
        bare = {name: layer.model_copy(update={"mask": None}) for name, layer in plan.layers.items()}
        plan = plan.model_copy(update={"layers": bare})
    return Outcome(dense, model, plan, masks, accuracy)


def _untrained(run: Run, model: nn.Module) -> dict[str, Accuracy]:
    found = {"pruned": run.judge(model)}
    run.recalibrate(model)
    return found | {"recalibrated": run.judge(model)}


def _learn_filters(run: Run, dense: Trained, base: PruningPlan) -> Outcome:
    """Let DPP choose whole filters while it trains, then remove the others."""
    recipe, groups = run.recipe, {group.name: group for group in dense.groups}
    plans = filter_plans_of(recipe, dense.groups)
    method, model = LearnedFilters([groups[name] for name in plans], schedule_of(recipe)), copy.deepcopy(dense.model)
    plan = planned(recipe, base, model, dense.groups)
    attach(model, plan, method, plans, seed=recipe.seed)
    accuracy = _untrained(run, model)
    options = run.watch("finetune", recipe.epochs, dense.model if recipe.distill else None)
    tuning = tuning_recipe(recipe, recipe.epochs)
    recover(model, run.data.train, method, tuning, seed=recipe.seed, options=options)
    chosen = {
        layer: _indicator(method.kept[name].keep or (), groups[name].size)
        for name in plans
        for layer in groups[name].producers
    }
    plan = plan_of_widths(plan, dense.groups, chosen, {name: kept.k for name, kept in plans.items()})
    smaller = _without(model, dense.example, plan, dense.groups)
    plain_layout(smaller)
    run.recalibrate(smaller)
    return Outcome(dense, smaller.eval(), plan, {}, accuracy | {"finetuned": run.judge(smaller)})


def _indicator(kept: Sequence[int], size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64).index_fill_(0, torch.tensor(kept, dtype=torch.long), 1.0)


def check_explicit(recipe: PruneRecipe, base: PruningPlan) -> None:
    """Refuse a plan that names the filters that stay where a schedule is to choose them anew.

    Raises
    ------
    PruningError
        The message names the schedule.
    """
    named = any(layer.filters is not None and layer.filters.keep for layer in base.layers.values())
    if recipe.schedule != "one_shot" and (named or any(filters.keep for filters in base.groups.values())):
        raise PruningError(
            f"{recipe.plan}: names the filters that stay (keep), and --schedule {recipe.schedule} scores them anew; "
            "remove keep, or prune in one shot"
        )
