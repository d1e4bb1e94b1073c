"""What products of activations do to channel ids: matmul, bmm, einsum, scaled dot-product attention.

A batch index that carries channels (an attention head) leaves as a whole, in both factors. Channels of rows or columns
stay channels of the product. Channels that are summed over are locked: no weight reads them alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cosim.errors import UntraceableError
from cosim.pruning.channel_call import Call
from cosim.pruning.channel_ids import ChannelRecord, compact, spread, varying


@dataclass(frozen=True)
class Factor:
    """Ids of a factor, and a letter for each of its dimensions."""

    ids: Tensor
    letters: str

    def carriers(self) -> str:
        """Letters along which there is more than one channel."""
        return "".join(self.letters[d] for d in varying(self.ids))

    def vector(self, letter: str) -> Tensor:
        """Ids along a letter, at the first place of all others."""
        ids = self.ids.movedim(self.letters.index(letter), 0)
        return ids.flatten(1)[:, 0] if ids.dim() > 1 else ids

    def extent(self, letter: str) -> int:
        return self.ids.shape[self.letters.index(letter)] if letter in self.letters else 1


def contract(record: ChannelRecord, factors: Sequence[Factor], out: str, shape: Sequence[int], node: str) -> Tensor:
    """Ids of sum over the letters that are not in `out` of the product of `factors`."""
    carriers = [factor.carriers() for factor in factors]
    every = set("".join(carriers))
    times = Counter(letter for factor in factors for letter in factor.letters)
    batch = [letter for letter in every if letter in out and times[letter] > 1]
    if not every:
        return _single(record, factors, shape, node)
    if batch:
        return _batched(record, factors, batch, out, shape, node)
    if len(every) == 1:
        (letter,) = every
        if letter in out:
            (factor,) = (f for f in factors if letter in f.carriers())
            return spread(factor.vector(letter), out.index(letter), shape)
    for factor in factors:
        record.lock(factor.ids, f"multiplied with other channels in {node}")
    return torch.tensor(-1).expand(tuple(shape))


def _single(record: ChannelRecord, factors: Sequence[Factor], shape: Sequence[int], node: str) -> Tensor:
    """No dimension carries channels: at most one channel each, which may not leave."""
    for factor in factors:
        record.lock(factor.ids, f"multiplied as a whole in {node}")
    return torch.tensor(-1).expand(tuple(shape))


def _batched(
    record: ChannelRecord, factors: Sequence[Factor], batch: list[str], out: str, shape: Sequence[int], node: str
) -> Tensor:
    letter = batch[0]
    if len(batch) > 1 or any(factor.extent(letter) == 1 and factor.carriers() for factor in factors):
        for factor in factors:
            record.lock(factor.ids, f"lies across the batches of {node}")
        return torch.tensor(-1).expand(tuple(shape))
    for factor in factors:
        if letter in factor.letters:
            record.tie_along(factor.ids, factor.letters.index(letter), node)
    _join_along(record, factors, letter, node)
    first = next(factor for factor in factors if letter in factor.carriers())
    return spread(first.vector(letter), out.index(letter), shape)


def _join_along(record: ChannelRecord, factors: Sequence[Factor], letter: str, node: str) -> None:
    vectors = [factor.vector(letter) for factor in factors if factor.extent(letter) > 1]
    for other in vectors[1:]:
        record.join(vectors[0], other, node)


def matmul(call: Call) -> Tensor:
    """matmul, bmm, mm, @: the last two dimensions are rows and columns; a parameter on the right is a linear layer."""
    right = call.parameter(1, "other")
    a, b = call.argument(0, "input"), call.argument(1, "other" if "mat2" not in call.node.kwargs else "mat2")
    if right is not None and right[1].dim() == 2 and not _carries(b):
        return _parameter_product(call, a, right[0], right[1])
    return _matmul(call.record, a, b, call.value.shape, call.node.name)


def baddbmm(call: Call) -> Tensor:
    a, b = call.argument(1, "batch1"), call.argument(2, "batch2")
    product = _matmul(call.record, a, b, call.value.shape, call.node.name)
    return call.record.join(product, call.argument(0, "input").expand(call.value.shape), call.node.name)


def _carries(ids: Tensor) -> bool:
    return bool((compact(ids) >= 0).any())


def _parameter_product(call: Call, a: Tensor, name: str, weight: Tensor) -> Tensor:
    read = call.channels(a, -1)

    def make() -> Tensor:
        given = call.record.fresh(weight.shape[1])
        call.record.use(name, 0, "in", read)
        call.record.use(name, 1, "out", given, makes=True)
        return given

    return spread(call.weighted(name, read, make), call.value.dim() - 1, call.value.shape)


def _matmul(record: ChannelRecord, a: Tensor, b: Tensor, shape: Sequence[int], node: str) -> Tensor:
    if a.dim() < 2 or b.dim() < 2:
        record.lock(a, f"multiplied with a vector in {node}")
        record.lock(b, f"multiplied with a vector in {node}")
        return torch.tensor(-1).expand(tuple(shape))
    batch = "abcdefgh"[: max(a.dim(), b.dim()) - 2]
    letters_a, letters_b = batch[len(batch) - a.dim() + 2 :] + "ik", batch[len(batch) - b.dim() + 2 :] + "kj"
    return contract(record, [Factor(a, letters_a), Factor(b, letters_b)], batch + "ij", shape, node)


def attention(call: Call) -> Tensor:
    """F.scaled_dot_product_attention: scores over the width of a head, softmax, weighted values."""
    q, k, v = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    if call.raw(6, "scale") is None:
        call.record.fix(q, -1, f"its width scales the scores of {call.node.name}")
    if call.raw(7, "enable_gqa", False) and q.shape[-3] != k.shape[-3]:
        raise UntraceableError(f"node {call.node.name}: grouped-query attention is not known; repeat the keys")
    shape = [*call.value.shape[:-1], k.shape[-2]]
    scores = _matmul(call.record, q, k.transpose(-1, -2), shape, call.node.name)
    mask = call.argument(3, "attn_mask")
    if isinstance(mask, Tensor):
        reason = f"masks the scores of {call.node.name}"
        call.record.lock(mask, reason)
        if len({size for size in mask.shape[:-2] if size > 1}) and varying(scores):
            call.record.lock(scores, f"meets a mask of fixed width in {call.node.name}")
    return _matmul(call.record, scores, v, call.value.shape, call.node.name)


def einsum(call: Call) -> Tensor:
    """torch.einsum with letters; a parameter among the factors must not carry channels that leave."""
    equation = call.node.args[0]
    raw: Any = call.node.args[1:]
    if len(raw) == 1 and isinstance(raw[0], tuple | list):
        raw = raw[0]
    if not isinstance(equation, str) or "." in equation:
        raise UntraceableError(f"node {call.node.name}: einsum without '...' is known; write every letter")
    left, arrow, out = equation.replace(" ", "").partition("->")
    if not arrow:
        raise UntraceableError(f"node {call.node.name}: write the letters of the result in the einsum")
    letters = left.split(",")
    factors = [Factor(ids, own) for ids, own in zip(call.concrete(tuple(raw)), letters, strict=True)]
    return _with_parameters(call, list(raw), factors, out)


def _with_parameters(call: Call, raw: list[Any], factors: list[Factor], out: str) -> Tensor:
    """A parameter gets ids: those of the other factor where they meet, new ones along a letter of its own."""
    names = [str(n.target) if isinstance(n, fx.Node) and n.op == "get_attr" else None for n in raw]
    places = [i for i, name in enumerate(names) if name is not None and not _carries(factors[i].ids)]
    if len(factors) != 2 or len(places) != 1:
        return contract(call.record, factors, out, call.value.shape, call.node.name)
    weight, other = factors[places[0]], factors[1 - places[0]]
    name, shared = str(names[places[0]]), [c for c in other.carriers() if c in weight.letters]
    own = [c for c in weight.letters if c not in other.letters and c in out]
    if len(other.carriers()) != 1 or len(shared) != 1 or shared[0] in out or len(own) != 1:
        return contract(call.record, factors, out, call.value.shape, call.node.name)
    read = other.vector(shared[0])

    def make() -> Tensor:
        given = call.record.fresh(weight.extent(own[0]))
        call.record.use(name, weight.letters.index(shared[0]), "in", read)
        call.record.use(name, weight.letters.index(own[0]), "out", given, makes=True)
        return given

    return spread(call.weighted(name, read, make), out.index(own[0]), call.value.shape)


def softmax(call: Call) -> Tensor:
    """Normalises along one dimension: its channels leave together or not at all."""
    ids = call.argument(0, "input")
    dim = call.module.dim if call.module is not None else call.argument(1, "dim")
    if call.node.target in (torch.nn.functional.normalize, "normalize"):
        dim = call.argument(2, "dim", 1)
    if dim is None:
        call.record.lock(ids, f"normalised in {call.node.name}")
    else:
        call.record.bind(ids, dim if isinstance(dim, tuple | list) else [dim], f"normalised in {call.node.name}")
    return ids
