"""Pruning: channel groups and their removal, criteria, k-of-n masks, plans. Knows neither hardware nor search."""

from cosim.errors import PruningError, UntraceableError
from cosim.pruning.coupling import ChannelGroup, ChannelSlice, trace_channel_groups
from cosim.pruning.criteria import score_layers
from cosim.pruning.dpp import attach_masks, freeze_masks
from cosim.pruning.plan import FilterPlan, LayerPlan, MaskPlan, PruningPlan, load_plan
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
    "attach_masks",
    "attach_quantizers",
    "freeze_masks",
    "freeze_quantizers",
    "load_plan",
    "remove_channels",
    "score_layers",
    "trace_channel_groups",
]
