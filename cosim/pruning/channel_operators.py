"""What each operator and module does to channel ids (see `channel_ids`): the table, and element-wise work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import instancenorm, padding, pooling
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cosim.errors import UntraceableError
from cosim.pruning import channel_layers as layers
from cosim.pruning import channel_moves as moves
from cosim.pruning import channel_products as products
from cosim.pruning.channel_call import Call, Handler
from cosim.pruning.channel_ids import compact, spread, varies, varying
from cosim.pruning.heads import HeadAttention
from cosim.pruning.tracing import PLAIN_MODULES, operator_name


def handler_of(n: fx.Node, module: nn.Module | None) -> Handler:
    """The function that computes the ids of a node.

    Raises
    ------
    UntraceableError
        The module or operator is not known.
    """
    if module is not None:
        for kinds, handler in _MODULES:
            if isinstance(module, kinds):
                return handler
    else:
        name = operator_name(n)
        origin = getattr(n.target, "__module__", None) or "torch"
        if name in _OPERATORS and origin.startswith(("torch", "_operator", "builtins", "math")):
            return _OPERATORS[name]
    what = f"operator {n.target}" if module is None else f"module {type(module).__name__}"
    raise UntraceableError(
        f"node {n.name}: {what} is not known to the channel tracer, so nothing can be removed safely; "
        "write it with known operators, or leave this network unpruned"
    )


def elementwise(call: Call) -> Tensor:
    """Any number of tensors meet element by element; numbers do not matter unless they count channels."""
    result: Tensor | None = None
    parameters: list[tuple[str, Tensor]] = []
    for source in call.node.all_input_nodes:
        ids, value = call.run.ids.get(source), call.run.values[source]
        if isinstance(ids, Tensor):
            result = ids if result is None else _meet(call, result, ids)
        elif source.op == "get_attr" and not str(source.target).startswith("_tensor_constant"):
            parameters.append((str(source.target), value))
        elif isinstance(value, Tensor):
            constants = torch.tensor(-1).expand(value.shape)
            result = constants if result is None else _meet(call, result, constants)
    assert result is not None
    shape = call.value.shape
    result = result.reshape((1,) * (len(shape) - result.dim()) + result.shape).expand(shape)
    for name, value in parameters:
        _meet_parameter(call, result, name, value)
    return result


def _meet(call: Call, a: Tensor, b: Tensor) -> Tensor:
    shape = np.broadcast_shapes(a.shape, b.shape)
    a, b = (ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape) for ids in (a, b))
    for narrow, wide in ((a, b), (b, a)):
        over = [d for d in range(len(shape)) if narrow.shape[d] == 1 < wide.shape[d] and varies(wide, d)]
        if over:  # one value for all channels: couples nothing, but cannot leave
            call.record.lock(narrow, f"is spread over all channels in {call.node.name}")
            for d in varying(narrow):
                call.record.fix(wide, d, f"meets a tensor of fixed width in {call.node.name}")
            return wide.expand(shape)
    return call.record.join(a.expand(shape), b.expand(shape), call.node.name)


def _meet_parameter(call: Call, ids: Tensor, name: str, value: Tensor) -> None:
    """A parameter of several dimensions (a position embedding) has channels where the other tensor has them."""
    offset = ids.dim() - value.dim()
    along = [d for d in varying(ids) if d >= offset and value.shape[d - offset] > 1]
    if len(along) == 1 and len(varying(ids)) == 1:
        call.record.use(name, along[0] - offset, "out", compact(ids).flatten())
    elif along:
        call.record.lock(ids, f"meets a parameter across several dimensions in {call.node.name}")


def per_position(call: Call) -> Tensor:
    """Pooling, interpolation: another spatial size, the same channels along dimension 1."""
    if not isinstance(call.value, Tensor):
        raise UntraceableError(f"node {call.node.name}: gives more than one tensor; return the pooled values only")
    ids = call.argument(0, "input")
    read = call.channels(ids, 1)
    if call.value.dim() < 2 or call.value.shape[1] != len(read):
        raise UntraceableError(
            f"node {call.node.name}: changes dimension 1, the channels; it may change later ones only"
        )
    return spread(read, 1, call.value.shape)


_ELEMENTWISE = """
    add iadd radd sub isub rsub mul imul rmul truediv itruediv div neg abs pow sqrt rsqrt square exp log log1p clamp
    clip clamp_min clamp_max maximum minimum addcmul where masked_fill masked_fill_ lerp erf sin cos round sign
    relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu silu_ mish sigmoid sigmoid_ logsigmoid tanh
    tanh_ hardtanh hardtanh_ hardswish hardswish_ hardsigmoid softplus softsign
    dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    add_ sub_ mul_ div_ contiguous clone detach detach_ to type type_as float double half bfloat16 zeros_like ones_like
    expand_as lift_fresh_copy lift_fresh tril triu nan_to_num eq ne lt le gt ge logical_and logical_or logical_not
"""
_PER_POSITION = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d boolean_dispatch
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample_nearest2d upsample_bilinear2d
"""
_MOVING = """
    flatten permute transpose transpose_ swapaxes movedim moveaxis squeeze unsqueeze repeat tile t ravel
"""
_OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(_ELEMENTWISE.split(), elementwise),
    **dict.fromkeys(_PER_POSITION.split(), per_position),
    **dict.fromkeys(_MOVING.split(), moves.literal),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), moves.concatenate),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "std", "var"), moves.reduce),
    **dict.fromkeys(("softmax", "log_softmax", "normalize"), products.softmax),
    **dict.fromkeys(("matmul", "bmm", "mm"), products.matmul),
    **dict.fromkeys(("reshape", "view"), moves.reshape),
    **dict.fromkeys(("roll", "flip"), moves.roll),
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), layers.per_channel_function),
    **dict.fromkeys(("layer_norm", "rms_norm"), layers.layer_norm),
    **dict.fromkeys(("group_norm", "local_response_norm"), layers.mixing_norm),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.conv_function),
    "linear": layers.linear_function,
    "embedding": layers.embedding,
    "einsum": products.einsum,
    "baddbmm": products.baddbmm,
    "scaled_dot_product_attention": products.attention,
    "unflatten": moves.unflatten,
    "chunk": moves.chunk,
    "split": moves.split,
    "split_with_sizes": moves.split,
    "unbind": moves.unbind,
    "getitem": moves.getitem,
    "select": moves.select,
    "slice": moves.select,
    "index_select": moves.index_select,
    "pad": moves.pad,
    "expand": moves.expand,
    "channel_shuffle": moves.shuffle,
    "native_channel_shuffle": moves.shuffle,
    "pixel_shuffle": moves.pixel_shuffle,
    "pixel_unshuffle": moves.pixel_unshuffle,
    "unfold": moves.unfold,
}
_POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd, nn.Upsample)
_PADDINGS = (padding._ConstantPadNd, padding._ReflectionPadNd, padding._ReplicationPadNd)
_MODULES: tuple[tuple[Any, Handler], ...] = (
    (_ConvNd, layers.conv_module),
    (nn.Linear, layers.linear_module),
    (nn.Embedding, layers.embedding),
    ((_BatchNorm, instancenorm._InstanceNorm, nn.PReLU), layers.per_channel_module),
    (nn.GroupNorm, layers.group_norm),
    ((nn.LayerNorm, nn.RMSNorm), layers.layer_norm),
    (nn.LocalResponseNorm, layers.mixing_norm),
    ((nn.MultiheadAttention, HeadAttention), layers.multihead_attention),
    (PLAIN_MODULES, elementwise),
    ((*_POOLS, *_PADDINGS), per_position),
    (nn.Flatten, moves.literal),
    (nn.Unflatten, moves.unflatten),
    (nn.ChannelShuffle, moves.shuffle),
    (nn.PixelShuffle, moves.pixel_shuffle),
    (nn.PixelUnshuffle, moves.pixel_unshuffle),
    (nn.Unfold, moves.unfold),
    ((nn.Softmax, nn.LogSoftmax), products.softmax),
)
