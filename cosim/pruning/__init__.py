"""Pruning: channel groups and their removal, criteria, k-of-n masks, plans. Knows neither hardware nor search."""

from cosim.errors import PruningError, UntraceableError
from cosim.pruning.apply import apply_plan, plan_of_groups
from cosim.pruning.coupling import ChannelGroup, ChannelSlice, trace_channel_groups
from cosim.pruning.criteria import score_layers
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan, load_plan
from cosim.pruning.plan_algebra import check_plan, compose_plans, remaining_filters
from cosim.pruning.quantize import attach_quantizers, freeze_quantizers
from cosim.pruning.removal import remove_channels

__all__ = [
    "ChannelGroup",
    "ChannelSlice",
    "FilterPlan",
    "LayerPlan",
    "MaskPlan",
    "PruningError",
    "PruningPlan",
    "UntraceableError",
    "apply_plan",
    "attach_masks",
    "attach_quantizers",
    "check_plan",
    "compose_plans",
    "freeze_masks",
    "freeze_quantizers",
    "load_plan",
    "plan_of_groups",
    "remaining_filters",
    "remove_channels",
    "score_layers",
    "trace_channel_groups",
]
