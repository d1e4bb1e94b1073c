"""What each operator and module does to channel ids (see `channel_ids`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the usual name
from torch import Tensor, fx, nn
from torch.nn.modules import activation, dropout, padding, pooling
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from cosim.errors import UntraceableError
from cosim.pruning.channel_ids import NO_CHANNEL, ChannelRecord, constant, spread, varies


@dataclass(frozen=True)
class Call:
    """One node of the traced network while it runs."""

    node: fx.Node
    module: Any
    """The module that the node calls, or None."""
    value: Any
    """What the node computed on the example."""
    record: ChannelRecord
    ids: dict[fx.Node, Any]
    """Channel ids of the nodes before this one that hold tensors."""
    values: dict[fx.Node, Any]
    seen: dict[str, tuple[Tensor, Tensor]]
    """Layers called before: what each read and gave out."""

    @property
    def target(self) -> str:
        return str(self.node.target)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """A concrete argument, with ids in the place of tensors."""
        n = self.node
        return self.concrete(n.args[position] if len(n.args) > position else n.kwargs.get(name, default))

    def concrete(self, raw: Any) -> Any:
        return fx.node.map_arg(raw, lambda node: self.ids[node] if node in self.ids else self.values[node])

    def channels(self, ids: Tensor, dim: int) -> Tensor:
        """Ids along `dim`; channels that do not lie along it alone are locked."""
        others = [d for d in range(ids.dim()) if d != dim % ids.dim()]
        if any(varies(ids, d) for d in others):
            self.record.lock(ids, f"lies across the spatial positions that {self.node.name} reads")
            return torch.full((ids.shape[dim],), NO_CHANNEL)
        for d in others:
            ids = ids.narrow(d, 0, 1)
        return ids.reshape(-1)

    def weighted(self, read: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """Ids that a layer gives out; a layer called again reads and gives out the same."""
        if self.target in self.seen:
            before, given = self.seen[self.target]
            self.record.join(before, read, self.node.name)
            return given
        given = make()
        self.seen[self.target] = (read, given)
        return given


Handler = Callable[[Call], Any]


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
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        origin = getattr(n.target, "__module__", None) or "torch"
        if name in _OPERATORS and origin.startswith(("torch", "_operator", "builtins")):
            return _OPERATORS[name]
    what = f"operator {n.target}" if module is None else f"module {type(module).__name__}"
    raise UntraceableError(
        f"node {n.name}: {what} is not known to the channel tracer, so nothing can be removed safely; "
        "write it with known operators, or leave this network unpruned"
    )


def _conv(call: Call) -> Tensor:
    module = call.module
    read = call.channels(call.argument(0, "input"), 1)
    if module.groups > 1 and isinstance(module, _ConvTransposeNd):
        raise UntraceableError(f"node {call.node.name}: a grouped transposed convolution is not known; use groups=1")
    given = call.weighted(read, lambda: _conv_ids(call.record, call.target, module, read))
    return spread(given, 1, call.value.shape)


def _conv_ids(record: ChannelRecord, target: str, module: _ConvNd, read: Tensor) -> Tensor:
    out_dim, in_dim = (1, 0) if isinstance(module, _ConvTransposeNd) else (0, 1)
    if module.groups > 1 and module.groups == module.in_channels:
        given = read.repeat_interleave(module.out_channels // module.groups)
    else:
        given = record.fresh(module.out_channels)
        first = read[: module.in_channels // module.groups]
        for ids in (read, given) if module.groups > 1 else ():
            record.tie(ids.view(module.groups, -1), f"the groups of {target}")
        record.use(f"{target}.weight", in_dim, "in", first)
    record.use(f"{target}.weight", out_dim, "out", given, producer=target)
    if module.bias is not None:
        record.use(f"{target}.bias", 0, "out", given)
    return given


def _linear(call: Call) -> Tensor:
    module, target = call.module, call.target
    read = call.channels(call.argument(0, "input"), -1)

    def make() -> Tensor:
        given = call.record.fresh(module.out_features)
        call.record.use(f"{target}.weight", 1, "in", read)
        call.record.use(f"{target}.weight", 0, "out", given, producer=target)
        if module.bias is not None:
            call.record.use(f"{target}.bias", 0, "out", given)
        return given

    return spread(call.weighted(read, make), call.value.dim() - 1, call.value.shape)


def _per_channel_parameters(call: Call) -> Tensor:
    """Batch and instance normalisation, PReLU: vectors along the channels, which pass through."""
    module, ids = call.module, call.argument(0, "input")
    read = call.channels(ids, 1)

    def make() -> Tensor:
        for name in ("weight", "bias", "running_mean", "running_var"):
            vector = getattr(module, name, None)
            if isinstance(vector, Tensor) and len(vector) == len(read):
                call.record.use(f"{call.target}.{name}", 0, "out", read)
        return read

    call.weighted(read, make)
    return ids


def _mixing_norm(call: Call) -> Tensor:
    """LayerNorm, GroupNorm and LocalResponseNorm divide by statistics over channels: removal would not be exact."""
    ids = call.argument(0, "input")
    call.record.lock(ids, f"normalised across channels in {call.node.name}")
    return ids


def _elementwise(call: Call) -> Tensor:
    """Any number of tensors meet element by element; numbers do not matter."""
    result: Tensor | None = None
    for source in call.node.all_input_nodes:
        if isinstance(call.ids.get(source), Tensor):
            ids = call.ids[source]
            result = ids if result is None else _meet(call, result, ids)
    assert result is not None
    return result.expand(call.value.shape)


def _meet(call: Call, a: Tensor, b: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (ids.reshape((1,) * (len(shape) - ids.dim()) + ids.shape) for ids in (a, b))
    for narrow, wide in ((a, b), (b, a)):
        over = [d for d in range(len(shape)) if narrow.shape[d] == 1 < wide.shape[d] and varies(wide, d)]
        if over:  # one value for all channels: couples nothing, but cannot leave
            call.record.lock(narrow, f"is spread over all channels in {call.node.name}")
            return wide.expand(shape)
    return call.record.join(a.expand(shape), b.expand(shape), call.node.name)


def _per_position(call: Call) -> Tensor:
    """Pooling, interpolation: another spatial size, the same channels along dimension 1."""
    if not isinstance(call.value, Tensor):
        raise UntraceableError(f"node {call.node.name}: gives more than one tensor; return the pooled values only")
    ids = call.channels(call.argument(0, "input"), 1)
    if call.value.dim() < 2 or call.value.shape[1] != len(ids):
        raise UntraceableError(
            f"node {call.node.name}: changes dimension 1, the channels; it may change later ones only"
        )
    return spread(ids, 1, call.value.shape)


def _pad(call: Call) -> Tensor:
    """Spatial padding belongs to the channel; padded channels belong to none."""
    ids, pad = call.argument(0, "input"), list(call.argument(1, "pad"))
    read = call.channels(ids, 1)
    before, after = pad[2 * (ids.dim() - 2) : 2 * (ids.dim() - 1)] or (0, 0)
    if len(pad) > 2 * (ids.dim() - 1) or ((before or after) and call.argument(2, "mode", "constant") != "constant"):
        raise UntraceableError(f"node {call.node.name}: pads the batch, or pads channels with other than a constant")
    return spread(F.pad(read, (before, after), value=NO_CHANNEL), 1, call.value.shape)


def _literal(call: Call) -> Tensor:
    """Moves elements without regard to sizes: executed on the ids as it is."""
    args, kwargs = call.concrete(call.node.args), call.concrete(call.node.kwargs)
    if call.node.op == "call_module":
        return call.module(*args)
    if call.node.op == "call_method":
        return getattr(args[0], call.target)(*args[1:], **kwargs)
    return call.node.target(*args, **kwargs)  # type: ignore[operator]


def _reshape(call: Call) -> Tensor:
    ids = call.argument(0, "input")
    result = ids.reshape(call.value.shape)
    flexible = _flexible_sizes(call.node, call.value.dim())
    for dims in _segments(ids.shape, call.value.shape):
        carrying = [d for d in dims if varies(result, d)]
        free = [d for d in dims if flexible[d]]
        if not carrying or (len(dims) == 1 and free):
            continue
        if len(free) != 1:
            call.record.lock(result, f"reshaped to a size fixed in the code in {call.node.name}")
        else:  # the others stay: only whole slices along the free dimension can leave
            others = [d for d in dims if d != free[0]]
            slices = result.permute(*others, *(d for d in range(call.value.dim()) if d not in others))
            call.record.tie(slices.flatten(0, len(others) - 1), call.node.name)
    return result


def _flexible_sizes(n: fx.Node, count: int) -> list[bool]:
    """Which sizes of a reshape adapt by themselves: -1, and those computed from other sizes."""
    sizes: Any = n.args[1:] or (n.kwargs.get("shape", n.kwargs.get("size")),)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    if len(sizes) != count:  # one node holds the whole shape
        return [True] * count
    return [isinstance(size, fx.Node) or size == -1 for size in sizes]


def _segments(old: Sequence[int], new: Sequence[int]) -> list[list[int]]:
    """Runs of new dimensions that hold the same elements as a run of old ones."""
    segments: list[list[int]] = []
    i = 0
    have = want = 1
    for d, size in enumerate(new):
        if have == want:
            segments.append([])
            have, want = 1, 1
            if i < len(old):
                have, i = old[i], i + 1
        segments[-1].append(d)
        want *= size
        while have < want:
            have, i = have * old[i], i + 1
    return segments


def _chunk(call: Call) -> Any:
    """chunk and split: parts of equal size shrink together; sizes written in the code are fixed."""
    ids = call.argument(0, "input")
    dim = call.argument(2, "dim", 0)
    parts = ids.split([part.shape[dim] for part in call.value], dim)
    if varies(ids, dim):
        adapts = call.node.target in (torch.chunk, "chunk") or _all_nodes(_sizes(call.node))
        if adapts and len({part.shape for part in parts}) == 1:
            call.record.tie(torch.stack(parts), call.node.name)
        else:
            call.record.lock(ids, f"split into sizes fixed in the code in {call.node.name}")
    return tuple(parts)


def _getitem(call: Call) -> Any:
    ids, index = call.argument(0, "input"), call.argument(1, "index")
    if not isinstance(ids, Tensor):
        return ids[index]
    index = index if isinstance(index, tuple) else (index,)
    plain = [item for item in index if item is not None and item is not Ellipsis]
    if not all(isinstance(item, slice | int) for item in plain):
        raise UntraceableError(
            f"node {call.node.name}: indexed by a tensor; the channel tracer knows slices and numbers"
        )
    places = [item for item in index if item is not None]
    if Ellipsis in places:
        at = places.index(Ellipsis)
        places[at : at + 1] = [slice(None)] * (ids.dim() - len(plain))
    if any(item != slice(None) and varies(ids, d) for d, item in enumerate(places)):
        call.record.lock(ids, f"sliced across channels in {call.node.name}")
    return ids[index]


def _reduce(call: Call) -> Tensor:
    """mean, sum, amax, … over dimensions; over channels it couples them all, so they are locked."""
    ids = call.argument(0, "input")
    dim = call.argument(1, "dim")
    dims = range(ids.dim()) if dim is None else dim if isinstance(dim, tuple | list) else [dim]
    over = [d % ids.dim() for d in dims]
    if any(varies(ids, d) for d in over):
        call.record.lock(ids, f"reduced across channels in {call.node.name}")
        return constant(call.value)
    for d in over:
        ids = ids.narrow(d, 0, 1)
    return ids.reshape(call.value.shape)


def _shuffle(call: Call) -> Tensor:
    """torch's channel shuffle: every group gives up the same place."""
    ids = call.argument(0, "input")
    groups = call.module.groups if call.node.op == "call_module" else call.argument(1, "groups")
    rows = call.channels(ids, 1).view(groups, -1)
    call.record.tie(rows, call.node.name)
    return spread(rows.T.reshape(-1), 1, call.value.shape)


def _softmax(call: Call) -> Tensor:
    ids = call.argument(0, "input")
    call.record.lock(ids, f"normalised in {call.node.name}")
    return ids


def _expand(call: Call) -> Tensor:
    """Sizes written in the code fix the channels along them, unless they are -1."""
    ids = call.argument(0, "input").expand(call.value.shape)
    if any(varies(ids, d) and not free for d, free in enumerate(_flexible_sizes(call.node, call.value.dim()))):
        call.record.lock(ids, f"expanded to a size fixed in the code in {call.node.name}")
    return ids


def _sizes(n: fx.Node) -> Any:
    return n.args[1] if len(n.args) > 1 else n.kwargs.get("split_size", n.kwargs.get("split_size_or_sections"))


def _all_nodes(sizes: Any) -> bool:
    return all(isinstance(size, fx.Node) for size in (sizes if isinstance(sizes, tuple | list) else [sizes]))


_ELEMENTWISE = """
    add iadd sub isub mul imul truediv itruediv div neg abs pow sqrt exp clamp clip maximum minimum
    relu relu_ relu6 leaky_relu elu selu celu gelu silu mish sigmoid sigmoid_ logsigmoid tanh tanh_ hardtanh hardswish
    hardsigmoid softplus softsign dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
    add_ sub_ mul_ div_ contiguous clone detach to float double half zeros_like ones_like expand_as
"""
_PER_POSITION = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate
"""
_MOVING = "flatten permute transpose swapaxes movedim squeeze unsqueeze cat concat concatenate stack repeat"
_OPERATORS: dict[str, Handler] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_PER_POSITION.split(), _per_position),
    **dict.fromkeys(_MOVING.split(), _literal),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "std", "var"), _reduce),
    **dict.fromkeys(("softmax", "log_softmax", "normalize", "layer_norm", "group_norm"), _softmax),
    **dict.fromkeys(("reshape", "view"), _reshape),
    **dict.fromkeys(("chunk", "split"), _chunk),
    "getitem": _getitem,
    "pad": _pad,
    "expand": _expand,
    "channel_shuffle": _shuffle,
}
_ACTIVATIONS = (
    activation.ReLU, activation.ReLU6, activation.LeakyReLU, activation.ELU, activation.SELU, activation.CELU,
    activation.GELU, activation.SiLU, activation.Mish, activation.Sigmoid, activation.LogSigmoid, activation.Tanh,
    activation.Hardtanh, activation.Hardswish, activation.Hardsigmoid, activation.Softplus, activation.Softsign,
)  # fmt: skip
_POOLS = (pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd, pooling._AdaptiveMaxPoolNd, nn.Upsample)
_PADDINGS = (padding._ConstantPadNd, padding._ReflectionPadNd, padding._ReplicationPadNd)
_MODULES: tuple[tuple[Any, Handler], ...] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    ((_BatchNorm, _InstanceNorm, nn.PReLU), _per_channel_parameters),
    ((nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm), _mixing_norm),
    ((*_ACTIVATIONS, dropout._DropoutNd, nn.Identity), _elementwise),
    ((*_POOLS, *_PADDINGS), _per_position),
    (nn.Flatten, _literal),
    (nn.ChannelShuffle, _shuffle),
    ((nn.Softmax, nn.LogSoftmax), _softmax),
)
