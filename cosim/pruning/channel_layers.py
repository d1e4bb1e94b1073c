"""What layers with weights do to channel ids: convolution, linear, embedding, normalisation, attention modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from cosim.errors import UntraceableError
from cosim.pruning.channel_call import Call
from cosim.pruning.channel_ids import ChannelRecord, constant, spread, varying


@dataclass(frozen=True)
class Weights:
    """A weight, its bias and how a layer uses them."""

    layer: str
    """Name of the layer, or of the weight where it belongs to none."""
    weight: str
    shape: torch.Size
    bias: str | None
    groups: int = 1
    transposed: bool = False


def conv_module(call: Call) -> Tensor:
    module, target = call.module, call.target
    bias = f"{target}.bias" if module.bias is not None else None
    transposed = isinstance(module, _ConvTransposeNd)
    weights = Weights(target, f"{target}.weight", module.weight.shape, bias, module.groups, transposed)
    return _convolved(call, weights)


def conv_function(call: Call) -> Tensor:
    """F.conv1d, conv2d, conv3d with weights of the network."""
    weights = _function_weights(call, int(call.raw(6, "groups", 1)))
    return _convolved(call, weights) if weights else _computed_weight(call, 1)


def linear_module(call: Call) -> Tensor:
    module, target = call.module, call.target
    bias = f"{target}.bias" if module.bias is not None else None
    return _linear(call, Weights(target, f"{target}.weight", module.weight.shape, bias))


def linear_function(call: Call) -> Tensor:
    weights = _function_weights(call, 1)
    return _linear(call, weights) if weights else _computed_weight(call, -1)


def _function_weights(call: Call, groups: int) -> Weights | None:
    weight, bias = call.parameter(1, "weight"), call.parameter(2, "bias")
    if weight is None or (bias is None and call.raw(2, "bias") is not None):
        return None
    name = weight[0]
    layer = name.removesuffix(".weight")
    return Weights(layer, name, weight[1].shape, bias[0] if bias else None, groups)


def _computed_weight(call: Call, dim: int) -> Tensor:
    """The weight is not a parameter: what it reads and makes keeps its width."""
    call.record.lock(call.argument(0, "input"), f"read by a weight that the code computes in {call.node.name}")
    return constant(call.value)


def _convolved(call: Call, weights: Weights) -> Tensor:
    ids = call.argument(0, "input")
    dim = 1 if ids.dim() == call.value.dim() == len(weights.shape) else 0
    read = call.channels(ids, dim)
    given = call.weighted(weights.weight, read, lambda: _conv_ids(call.record, weights, read))
    return spread(given, dim, call.value.shape)


def _conv_ids(record: ChannelRecord, weights: Weights, read: Tensor) -> Tensor:
    out_dim, in_dim = (1, 0) if weights.transposed else (0, 1)
    groups, inputs = weights.groups, len(read)
    outputs = weights.shape[out_dim] * (groups if weights.transposed else 1)
    if groups > 1 and groups == inputs:  # depthwise: a filter belongs to the channel that it reads
        given = read.repeat_interleave(outputs // groups)
        record.use(weights.weight, 0, "out", read if weights.transposed else given, producer=weights.layer)
    else:
        given = record.fresh(outputs)
        for ids in (read, given) if groups > 1 else ():
            record.tie(ids.view(groups, -1), f"the groups of {weights.layer}")
        own = given[: outputs // groups] if weights.transposed else given
        record.use(weights.weight, in_dim, "in", read if weights.transposed else read[: inputs // groups])
        record.use(weights.weight, out_dim, "out", own, producer=weights.layer)
    if weights.bias is not None:
        record.use(weights.bias, 0, "out", given)
    return given


def _linear(call: Call, weights: Weights) -> Tensor:
    ids = call.argument(0, "input")
    across = [d for d in varying(ids) if d != ids.dim() - 1]
    if across:
        return _linear_across(call, weights, ids, across)
    read = call.channels(ids, -1)

    def make() -> Tensor:
        given = call.record.fresh(weights.shape[0])
        call.record.use(weights.weight, 1, "in", read)
        call.record.use(weights.weight, 0, "out", given, producer=weights.layer)
        if weights.bias is not None:
            call.record.use(weights.bias, 0, "out", given)
        return given

    return spread(call.weighted(weights.weight, read, make), call.value.dim() - 1, call.value.shape)


def _linear_across(call: Call, weights: Weights, ids: Tensor, across: list[int]) -> Tensor:
    """The layer runs along another dimension than the channels (token mixing): they pass, its own outputs stay."""
    reason = f"lies across the channels that {call.node.name} passes"
    call.record.bind(ids, [-1], reason)
    call.record.slab(ids, across, call.node.name)

    def make() -> Tensor:
        own = call.record.fresh(weights.shape[0])
        call.record.lock(own, reason)
        call.record.use(weights.weight, 0, "out", own, producer=weights.layer)
        return own

    call.weighted(f"{weights.weight} across", torch.full((weights.shape[1],), -1), make)
    return ids.narrow(-1, 0, 1).expand(call.value.shape)


def embedding(call: Call) -> Tensor:
    """A row of the table for every token: the columns are channels."""
    if call.module is not None:
        name, width = f"{call.target}.weight", call.module.embedding_dim
    else:  # F.embedding takes (input, weight), the ATen operator (weight, indices)
        found = call.parameter(1, "weight") or call.parameter(0, "weight")
        if found is None:
            return constant(call.value)
        name, width = found[0], found[1].shape[1]

    def make() -> Tensor:
        given = call.record.fresh(width)
        call.record.use(name, 1, "out", given, makes=True)
        return given

    return spread(call.weighted(name, torch.zeros(0, dtype=torch.long), make), call.value.dim() - 1, call.value.shape)


def per_channel_module(call: Call) -> Tensor:
    """Batch and instance normalisation, PReLU: vectors along the channels, which pass through."""
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [(f"{call.target}.{name}", getattr(call.module, name, None)) for name in names]
    return _per_channel(call, [(name, v) for name, v in vectors if isinstance(v, Tensor)])


def per_channel_function(call: Call) -> Tensor:
    """F.batch_norm, F.instance_norm, F.prelu with tensors of the network."""
    values = {node: call.run.values[node] for node in call.node.all_input_nodes if node.op == "get_attr"}
    return _per_channel(call, [(str(node.target), v) for node, v in values.items() if isinstance(v, Tensor)])


def _per_channel(call: Call, vectors: list[tuple[str, Tensor]]) -> Tensor:
    ids = call.argument(0, "input")
    read = call.channels(ids, 1)

    def make() -> Tensor:
        for name, vector in vectors:
            if vector.dim() == 1 and len(vector) == len(read) > 1:
                call.record.use(name, 0, "out", read)
        return read

    call.weighted(vectors[0][0] if vectors else call.node.name, read, make)
    return ids


def group_norm(call: Call) -> Tensor:
    """Only whole normalisation groups can leave without changing the statistics of the others."""
    ids, module = call.argument(0, "input"), call.module
    read = call.channels(ids, 1)
    if module.num_groups == 1 or module.weight is None or len(varying(ids)) > 1:
        call.record.lock(ids, f"normalised across channels in {call.node.name}")
        return ids
    call.record.tie(read.view(module.num_groups, -1).T, f"a group of {call.node.name}")
    return per_channel_module(call)


def layer_norm(call: Call) -> Tensor:
    """LayerNorm and RMSNorm divide by statistics over the last dimensions."""
    ids = call.argument(0, "input")
    shape = call.module.normalized_shape if call.module is not None else call.raw(1, "normalized_shape")
    dims = [-1 - i for i in range(len(shape) if isinstance(shape, tuple | list) else 1)]
    call.record.bind(ids, dims, f"normalised across channels in {call.node.name}")
    return ids


def mixing_norm(call: Call) -> Tensor:
    """LocalResponseNorm and functional group_norm: removal would not be exact."""
    ids = call.argument(0, "input")
    call.record.lock(ids, f"normalised across channels in {call.node.name}")
    return ids


def multihead_attention(call: Call) -> Any:
    """nn.MultiheadAttention: a head is a channel; its rows of the fused projection and columns of the output."""
    module, target, record = call.module, call.target, call.record
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        raise UntraceableError(
            f"node {call.node.name}: module MultiheadAttention with kdim, vdim, add_bias_kv or add_zero_attn is not "
            "known; project queries, keys and values with one width and no added entries"
        )
    parts = [call.argument(i, name) for i, name in enumerate(("query", "key", "value"))]
    reads = [call.channels(ids, -1) for ids in parts]
    for other in reads[1:]:
        record.join(reads[0], other, call.node.name)

    def make() -> Tensor:
        heads = record.fresh(module.num_heads)
        rows = heads.repeat_interleave(module.head_dim)
        given = record.fresh(module.out_proj.weight.shape[0])
        record.use(f"{target}.in_proj_weight", 1, "in", reads[0])
        record.use(f"{target}.in_proj_weight", 0, "out", rows.repeat(3), makes=True)
        if module.in_proj_bias is not None:
            record.use(f"{target}.in_proj_bias", 0, "out", rows.repeat(3))
        record.use(f"{target}.out_proj.weight", 1, "in", rows)
        record.use(f"{target}.out_proj.weight", 0, "out", given, producer=f"{target}.out_proj")
        if module.out_proj.bias is not None:
            record.use(f"{target}.out_proj.bias", 0, "out", given)
        return given

    given = call.weighted(target, reads[0], make)
    out, scores = call.value
    return spread(given, out.dim() - 1, out.shape), constant(scores)
