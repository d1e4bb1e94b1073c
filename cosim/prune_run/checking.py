"""What can be refused before anything is trained: names, devices, shapes, budgets that no network of the kind meets."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from accel_models.accelerator import load_accelerator
from cosim.codesign.check import check_images
from cosim.codesign.design import Design
from cosim.codesign.evaluator import price_plan
from cosim.compress import attach, load_own_plan, mask_plans
from cosim.data import Dataset
from cosim.errors import ConfigError, PruningError
from cosim.networks import build_network, load_weights
from cosim.prune_run.choosing import choose_widths, find_budgets, width_rules
from cosim.prune_run.masking import filter_plans_of, method_of, planned
from cosim.prune_run.recipe import PruneRecipe
from cosim.prune_run.running import check_explicit
from cosim.pruning.apply import plan_of_groups, remove_filters
from cosim.pruning.coupling import ChannelGroup, trace_channel_groups
from cosim.pruning.plan import PruningPlan
from cosim.pruning.selection import allowed_widths


def check_run(recipe: PruneRecipe, data: Dataset) -> PruningPlan:
    """Refuse what cannot work; the plan to execute, or an empty one.

    Raises
    ------
    ConfigError, PruningError, AccelError
        The message names the file or the option.
    """
    model = build_network(recipe.network, recipe.seed)
    example = check_images(model, recipe.network, data)
    if recipe.from_ is not None:
        load_weights(model, recipe.from_)
    base = load_own_plan(recipe.plan, recipe.network) if recipe.plan else PruningPlan(network=recipe.network)
    check_explicit(recipe, base)
    groups = trace_channel_groups(model, example)
    _check_plan(recipe, base, model, example, groups)
    if recipe.accelerator is not None:
        plan = planned(recipe, PruningPlan(network=recipe.network), model, groups)
        price_plan(Design(load_accelerator(recipe.accelerator), plan), model, example, groups)
    return base


def _check_plan(
    recipe: PruneRecipe, base: PruningPlan, model: nn.Module, example: torch.Tensor, groups: list[ChannelGroup]
) -> None:
    """Try widths, masks and bits on an untrained network, at the least widths that the budgets leave."""
    plan, asked = base, f"{recipe.plan}: " if recipe.plan else ""
    if recipe.granularity == "filter":
        filter_plans_of(recipe, groups)
    if recipe.keep is not None or recipe.budgeted:
        easy = recipe.model_copy(update={"selection": "local"})  # asks no scores, and meets budgets if anything does
        widths = choose_widths(easy, groups, {}, find_budgets(recipe, model, example, groups))
        if recipe.budgeted:
            widths = {name: allowed[0] for name, allowed in allowed_widths(groups, width_rules(recipe, groups)).items()}
            asked = "where every group has its least width (--multiple or --min-share raise it): "
        plan = plan_of_groups(recipe.network, groups, widths)
    try:
        pruned = remove_filters(model, example, plan, groups, verify=False)
        plan = planned(recipe, plan, pruned, groups)
        if recipe.refit and not mask_plans(plan):
            raise PruningError("no layer has a mask, which is what --refit fits; leave --refit out")
        attach(pruned, plan, method_of(recipe), mask_plans(plan), seed=recipe.seed)
    except PruningError as error:
        raise ConfigError(f"{asked}{error}") from error


def find_device(recipe: PruneRecipe) -> torch.device:
    """Where the networks run.

    Raises
    ------
    ConfigError
        There is no CUDA device.
    """
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: there is no CUDA device here; use --device cpu")
    return torch.device(recipe.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def training_data(recipe: PruneRecipe, data: Dataset) -> Dataset:
    """The data set, with the validation images among those to train on where the recipe says so."""
    if not recipe.all_images:
        return data
    note = "; ".join(filter(None, (data.note, "validation images are trained on too")))
    return replace(data, train=data.train.joined(data.validation), note=note)
