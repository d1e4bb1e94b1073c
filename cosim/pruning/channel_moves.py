"""What operators that move elements do to channel ids: executed on the ids, with an eye on sizes in the code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cosim.errors import UntraceableError
from cosim.pruning.channel_call import Call
from cosim.pruning.channel_ids import Sized, Slot, compact, constant, spread, varies, varying


def literal(call: Call) -> Any:
    """Moves elements without regard to sizes: executed on the ids as it is."""
    args, kwargs = call.concrete(call.node.args), call.concrete(call.node.kwargs)
    if call.node.op == "call_module":
        return call.module(*args)
    if call.node.op == "call_method":
        return getattr(args[0], call.target)(*args[1:], **kwargs)
    return call.node.target(*args, **kwargs)  # type: ignore[operator]


def concatenate(call: Call) -> Tensor:
    """cat and stack: parts side by side keep their channels; parts one after another (tokens) share them."""
    parts = list(call.argument(0, "tensors"))
    dim = int(call.argument(1, "dim", call.raw(1, "axis", 0)))
    if getattr(call.node.target, "__name__", "").startswith("stack"):
        dim %= parts[0].dim() + 1
        parts = [part.unsqueeze(dim) for part in parts]
    dim %= parts[0].dim()
    if any(varies(part, dim) for part in parts) or not any(varying(part) for part in parts):
        result = _joined(parts, dim)
        free = sorted((d for d in varying(result) if d != dim), key=lambda d: -result.shape[d])
        call.record.slab(result, free, call.node.name)
        return result
    first, *others = (part.narrow(dim, 0, 1) for part in parts)
    for other in others:
        first = call.record.join(first, other, call.node.name)
    return first.expand(call.value.shape)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """cat that does not write out dimensions along which every part repeats itself."""
    repeated = [d for d in range(parts[0].dim()) if d != dim and all(part.stride(d) == 0 for part in parts)]
    sizes = [parts[0].shape[d] if d in repeated else -1 for d in range(parts[0].dim())]
    for d in repeated:
        parts = [part.narrow(d, 0, 1) for part in parts]
    return torch.cat(parts, dim).expand(sizes)


def reshape(call: Call) -> Tensor:
    """view and reshape: whole slices leave, along the dimension whose size adapts if nothing else decides it."""
    ids = call.argument(0, "input")
    result = ids.reshape(call.value.shape)
    return _sized(call, result, sizes_of(call.node), 0)


def unflatten(call: Call) -> Tensor:
    ids = call.argument(0, "input")
    result = ids.reshape(call.value.shape)
    if call.node.op == "call_module":
        sizes, dim = list(call.module.unflattened_size), call.module.dim
        fixed = [d for d in range(len(sizes)) if sizes[d] != -1]
        for d in fixed:
            call.record.fix(result, dim % ids.dim() + d, f"its size is fixed in the module {call.target}")
        sizes = [-1] * len(sizes)
    else:
        sizes, dim = list(call.raw(2, "sizes")), int(call.raw(1, "dim"))
    return _sized(call, result, sizes, dim % ids.dim())


def _sized(call: Call, result: Tensor, sizes: list[Any] | None, first: int) -> Tensor:
    """Note which sizes of the code are sizes of dimensions that carry channels."""
    carrying = varying(result)
    if not carrying:
        return result
    whole = result.dim() if sizes is None else 0
    raws = [call.raw(1, "shape", call.node.kwargs.get("size"))] * result.dim() if sizes is None else sizes
    adapts = {first + i: _adapts(raw) for i, raw in enumerate(raws)}
    by_preference = sorted(carrying, key=lambda d: (-adapts.get(d, 0), -result.shape[d]))
    call.record.slab(result, by_preference, call.node.name)
    _note_sizes(call, result, raws, first, whole)
    return result


def _note_sizes(call: Call, ids: Tensor, raws: list[Any], first: int, whole: int) -> None:
    slots = [
        Slot(i, compact(ids), first + i, 0, ids.shape[first + i], ids.shape[first + i], raw)
        for i, raw in enumerate(raws)
        if not (isinstance(raw, int) and raw == -1) and varies(ids, first + i)
    ]
    if slots:
        call.record.sized.append(Sized(call.node.name, tuple(slots), whole))


def _adapts(raw: Any) -> int:
    """How likely a size follows the tensor: inferred, computed, a number."""
    return 2 if isinstance(raw, int) and raw == -1 else 1 if isinstance(raw, fx.Node) else 0


def sizes_of(n: fx.Node) -> list[Any] | None:
    """The sizes of a view, reshape or expand as the graph holds them; None where one node holds them all."""
    sizes: Any = n.args[1:] or (n.kwargs.get("shape", n.kwargs.get("size")),)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    if len(sizes) == 1 and isinstance(sizes[0], fx.Node):
        return None
    return list(sizes)


def expand(call: Call) -> Tensor:
    """Sizes written in the code fix the channels along them, unless they are -1."""
    ids = call.argument(0, "input").expand(call.value.shape)
    sizes = sizes_of(call.node)
    raws = [call.raw(1, "size")] * ids.dim() if sizes is None else sizes
    _note_sizes(call, ids, raws, 0, ids.dim() if sizes is None else 0)
    return ids


def chunk(call: Call) -> Any:
    """Parts of equal size shrink together."""
    ids = call.argument(0, "input")
    dim = call.argument(2, "dim", 0)
    parts = ids.split([part.shape[dim] for part in call.value], dim)
    if varies(ids, dim):
        if len({part.shape for part in parts}) == 1:
            call.record.tie(torch.stack([compact_parts(part) for part in parts]), call.node.name)
        else:
            call.record.lock(ids, f"chunked into unequal parts in {call.node.name}")
    return tuple(parts)


def compact_parts(part: Tensor) -> Tensor:
    return compact(part).contiguous()


def split(call: Call) -> Any:
    """Sizes that the code computes from the tensor are equal parts; sizes written in it are rewritten on removal."""
    ids = call.argument(0, "input")
    dim = int(call.argument(2, "dim", 0))
    raw = call.raw(1, "split_size", call.node.kwargs.get("split_size_or_sections", call.node.kwargs.get("split_sizes")))
    parts = ids.split([part.shape[dim] for part in call.value], dim)
    if not varies(ids, dim):
        return tuple(parts)
    sizes = list(raw) if isinstance(raw, tuple | list) else None
    if isinstance(raw, fx.Node):  # one computed size for all: it may follow if all parts shrink alike
        if len({part.shape for part in parts}) > 1:
            call.record.lock(ids, f"split into unequal parts of one computed size in {call.node.name}")
            return tuple(parts)
        call.record.tie(torch.stack([compact_parts(part) for part in parts]), call.node.name)
    slots, start = [], 0
    for i, length in enumerate(part.shape[dim] for part in parts):
        raw_size = sizes[i] if sizes else raw
        slots.append(Slot(i, compact(ids), dim % ids.dim(), start, start + length, length, raw_size))
        start += length
    call.record.sized.append(Sized(call.node.name, tuple(slots), together=sizes is None))
    return tuple(parts)


def unbind(call: Call) -> Any:
    ids, dim = call.argument(0, "input"), int(call.argument(1, "dim", 0))
    call.record.fix(ids, dim, f"unbound in {call.node.name}")
    return ids.unbind(dim)


def getitem(call: Call) -> Any:
    ids, index = call.argument(0, "input"), call.argument(1, "index")
    if not isinstance(ids, Tensor):
        return ids[index]
    raw = call.raw(1, "index")
    raw = raw if isinstance(raw, tuple) else (raw,)
    index = index if isinstance(index, tuple) else (index,)
    plain = [item for item in index if item is not None and item is not Ellipsis]
    if not all(isinstance(item, slice | int) for item in plain):
        return _indexed(call, ids, index)
    places, raws = ([item for item in items if item is not None] for items in (index, raw))
    if Ellipsis in places:
        at, fill = places.index(Ellipsis), [slice(None)] * (ids.dim() - len(plain))
        places[at : at + 1], raws[at : at + 1] = fill, list(fill)
    for d, item in enumerate(places):
        if item != slice(None) and varies(ids, d):
            _cut(call, ids, d, item, raws[d], number=2 * d)
    return ids[index]


def _cut(call: Call, ids: Tensor, d: int, item: Any, raw: Any, number: int) -> None:
    """A slice across channels: its ends move with the channels that leave before them."""
    fixed = not isinstance(item, slice) or item.step not in (None, 1) or Ellipsis in call.node.args[1:]
    if fixed or (isinstance(call.raw(1, "index"), tuple) and any(i is None for i in call.raw(1, "index"))):
        call.record.fix(ids, d, f"sliced across channels in {call.node.name}")
        return
    slots = []
    for end, (value, own) in enumerate(((item.start, raw.start), (item.stop, raw.stop))):
        if value is None:
            continue
        length = min(abs(value), ids.shape[d])
        start = 0 if value >= 0 else ids.shape[d] - length
        slots.append(Slot(number + end, compact(ids), d, start, start + length, length if value >= 0 else -length, own))
    call.record.sized.append(Sized(call.node.name, tuple(slots)))


def _indexed(call: Call, ids: Tensor, index: tuple[Any, ...]) -> Tensor:
    """One tensor picks places along one dimension that carries no channels."""
    at = [i for i, item in enumerate(index) if isinstance(item, Tensor)]
    others = [item for i, item in enumerate(index) if i not in at]
    if len(at) != 1 or any(item != slice(None) for item in others) or varies(ids, at[0]):
        raise UntraceableError(
            f"node {call.node.name}: indexed by a tensor across channels; the channel tracer knows slices and numbers"
        )
    count = call.value.dim() - ids.dim() + 1
    one = ids.narrow(at[0], 0, 1).squeeze(at[0])
    for _ in range(count):
        one = one.unsqueeze(at[0])
    return one.expand(call.value.shape)


def select(call: Call) -> Tensor:
    """aten.select and aten.slice: Tensor[:, i] and Tensor[:, i:j] as torch.export records them."""
    ids, dim = call.argument(0, "input"), int(call.argument(1, "dim", 0))
    call.record.fix(ids, dim, f"sliced across channels in {call.node.name}")
    return literal(call)


def index_select(call: Call) -> Tensor:
    ids, dim = call.argument(0, "input"), int(call.argument(1, "dim"))
    call.record.fix(ids, dim, f"picked by number in {call.node.name}")
    if varies(ids, dim):
        call.record.lock(ids, f"picked by number in {call.node.name}")
        return constant(call.value)
    return ids.narrow(dim, 0, 1).expand(call.value.shape)


def roll(call: Call) -> Tensor:
    """Roll and flip along dimensions without channels change nothing."""
    ids = call.argument(0, "input")
    dims = call.argument(2, "dims") if "roll" in str(call.node.target) else call.argument(1, "dims")
    over = range(ids.dim()) if dims is None else dims if isinstance(dims, tuple | list) else [dims]
    if any(varies(ids, d) for d in over):
        call.record.lock(ids, f"moved across channels in {call.node.name}")
    return ids


def pad(call: Call) -> Tensor:
    """Spatial padding belongs to the channel; padded channels are channels of their own, which may meet made ones."""
    ids, widths = call.argument(0, "input"), list(call.argument(1, "pad"))
    touched = {ids.dim() - 1 - i for i in range(len(widths) // 2) if any(widths[2 * i : 2 * i + 2])}
    if not touched & set(varying(ids)):
        for d in touched:
            ids = ids.narrow(d, 0, 1)
        return ids.expand(call.value.shape)
    read, at = call.channels(ids, 1), 2 * (ids.dim() - 2)
    before, after = widths[at : at + 2] or (0, 0)
    if len(widths) > at + 2 or min(before, after) < 0 or call.argument(2, "mode", "constant") != "constant":
        raise UntraceableError(
            f"node {call.node.name}: pads the batch, cuts channels, or pads them with other than a constant"
        )
    added = call.record.fresh(before + after)
    result = torch.cat([added[:before], read, added[before:]])
    raw = call.raw(1, "pad")
    places = ((at, 0, before), (at + 1, before + len(read), before + len(read) + after))
    slots = [
        Slot(number, result, 0, start, stop, stop - start, raw[number])
        for number, start, stop in places
        if stop > start
    ]
    call.record.sized.append(Sized(call.node.name, tuple(slots)))
    return spread(result, 1, call.value.shape)


def shuffle(call: Call) -> Tensor:
    """torch's channel shuffle: every group gives up the same place."""
    ids = call.argument(0, "input")
    groups = call.module.groups if call.node.op == "call_module" else call.argument(1, "groups")
    rows = call.channels(ids, 1).view(groups, -1)
    call.record.tie(rows, call.node.name)
    return spread(rows.T.reshape(-1), 1, call.value.shape)


def pixel_shuffle(call: Call) -> Tensor:
    """Squares of r x r channels become pixels of one channel."""
    ids = call.argument(0, "input")
    r = call.module.upscale_factor if call.module is not None else int(call.argument(1, "upscale_factor"))
    squares = call.channels(ids, 1).view(-1, r * r)
    call.record.tie(squares.T, call.node.name)
    return spread(squares[:, 0], 1, call.value.shape)


def pixel_unshuffle(call: Call) -> Tensor:
    ids = call.argument(0, "input")
    r = call.module.downscale_factor if call.module is not None else int(call.argument(1, "downscale_factor"))
    return spread(call.channels(ids, 1).repeat_interleave(r * r), 1, call.value.shape)


def unfold(call: Call) -> Tensor:
    """F.unfold: every channel becomes a run of window positions."""
    ids = call.argument(0, "input")
    read = call.channels(ids, 1)
    return spread(read.repeat_interleave(call.value.shape[1] // len(read)), 1, call.value.shape)


def reduce(call: Call) -> Tensor:
    """mean, sum, amax, … over dimensions; over channels it couples them all, so they are locked."""
    ids = call.argument(0, "input")
    dim = call.argument(1, "dim")
    dims: Sequence[int] = range(ids.dim()) if dim is None else dim if isinstance(dim, tuple | list) else [dim]
    over = [d % ids.dim() for d in dims]
    if any(varies(ids, d) for d in over):
        call.record.lock(ids, f"reduced across channels in {call.node.name}")
        return constant(call.value)
    for d in over:
        ids = ids.narrow(d, 0, 1)
    return ids.reshape(call.value.shape)
