"""The masks of a recipe on a network, and filters that dynamic probabilistic pruning chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cosim.errors import PruningError
from cosim.prune_run.choosing import STREAMS, matching, with_bits
from cosim.prune_run.recipe import PruneRecipe
from cosim.pruning.apply import prunable_groups
from cosim.pruning.coupling import ChannelGroup
from cosim.pruning.dpp import attach_masks, freeze_masks, kept_filters
from cosim.pruning.dpp_layout import Plan, check_fit, unit_count
from cosim.pruning.dpp_schedules import MaskSchedule
from cosim.pruning.mask_methods import DynamicProbabilistic, MaskMethod, build_method
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan


def planned(recipe: PruneRecipe, plan: PruningPlan, model: nn.Module, groups: Sequence[ChannelGroup]) -> PruningPlan:
    """A plan with the masks and bits that the recipe asks for.

    Parameters
    ----------
    model
        What the plan's removal leaves; masks of weights and kernels are made for its layers.
    groups
        Of the dense network: names that `exclude` may mean.

    Raises
    ------
    PruningError
        A layer cannot have the mask; the message names it and the remedy.
    """
    sizes = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    layers = dict(plan.layers)
    if recipe.masked and recipe.granularity != "filter":
        whole = matching([pattern for pattern in recipe.exclude if pattern != STREAMS], groups)
        for name, module in sizes.items():
            if name not in whole:
                mask = _mask_plan(recipe, name, module)
                layers[name] = layers.get(name, LayerPlan()).model_copy(update={"mask": mask})
    return with_bits(recipe, model, plan.model_copy(update={"layers": layers}))


def _mask_plan(recipe: PruneRecipe, layer: str, module: nn.Conv2d | nn.Linear) -> MaskPlan:
    kind = "kernel" if recipe.granularity == "kernel" else "weight"
    shaped = MaskPlan(granularity=kind, k=1, n=1)  # type: ignore[arg-type]
    units = unit_count(module.weight.shape, shaped)
    if kind == "kernel" and units == 1:
        raise PruningError(
            f"{layer}: an output reads one input channel, so it has no kernels to choose from; use --granularity "
            f"weight, or --exclude {layer}"
        )
    k, n = _k_of_n(recipe, units)
    plan = shaped.model_copy(update={"k": k, "n": n})
    try:
        check_fit(module, plan, layer)
    except PruningError as error:
        raise PruningError(f"{error}, or --density, or --exclude {layer}") from error
    return plan


def _k_of_n(recipe: PruneRecipe, units: int) -> tuple[int, int]:
    if recipe.k is not None and recipe.n is not None:
        return recipe.k, recipe.n
    return max(1, round((recipe.density or 1.0) * units)), units


class LearnedFilters(DynamicProbabilistic):
    """DPP on whole filters: each group's first layer leads, what makes the same channels follows its draws."""

    def __init__(self, groups: Sequence[ChannelGroup], schedule: MaskSchedule) -> None:
        super().__init__(schedule)
        self.groups = tuple(groups)
        self.kept: dict[str, FilterPlan] = {}
        """Group -> what stays; known when finished."""

    def attach(self, model: nn.Module, plans: Mapping[str, Plan], *, seed: int) -> None:
        """`plans` names groups' first layers."""
        shared = {group.name: _followers(group) for group in self.groups}
        attach_masks(model, plans, seed=seed, shared=shared)

    def finish(self, model: nn.Module) -> dict[str, Tensor]:
        self.kept = kept_filters(model)
        return freeze_masks(model)


def filter_plans_of(recipe: PruneRecipe, groups: Sequence[ChannelGroup]) -> dict[str, FilterPlan]:
    """Group -> how many of its filters stay; for groups whose channels are whole outputs of all their layers.

    Raises
    ------
    PruningError
        No group is left, or --n is not the filters of one.
    """
    whole, found = matching(recipe.exclude, groups), {}
    for group in prunable_groups(groups):
        if {group.name, *group.producers}.isdisjoint(whole) and _is_whole(group):
            k, n = _k_of_n(recipe, group.size)
            if n != group.size:
                raise PruningError(
                    f"{group.name}: --n {n} is not its {group.size} filters; use --density, or --exclude {group.name}"
                )
            found[group.name] = FilterPlan(k=k, n=n)
    if not found:
        raise PruningError("no group of filters is left that masks could be learned for; exclude fewer")
    return found


def _is_whole(group: ChannelGroup) -> bool:
    return group.name in group.producers and all(
        part.length == group.size for part in group.slices if part.role == "out"
    )


def _followers(group: ChannelGroup) -> list[str]:
    """Modules that make the group's channels, besides the leader, in the order in which they run."""
    outputs = [part.name.rpartition(".")[0] for part in group.slices if part.role == "out"]
    return [name for name in dict.fromkeys(outputs) if name != group.name]


def method_of(recipe: PruneRecipe) -> MaskMethod:
    """The method that learns masks of weights and kernels."""
    method = recipe.method or "dpp"
    return DynamicProbabilistic(schedule_of(recipe)) if method == "dpp" else build_method(method)


def schedule_of(recipe: PruneRecipe) -> MaskSchedule:
    """How masks of DPP are searched for."""
    return MaskSchedule(straight_through=recipe.straight_through, follow=recipe.straight_through)
