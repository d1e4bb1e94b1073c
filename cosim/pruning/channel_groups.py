"""From what a run on channel ids found to groups: union-find, whole slices, locks, positions; numpy throughout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cosim.pruning.channel_ids import ChannelRecord, Use, compact

Ints = NDArray[np.int64]

MADE_BY_NONE = "no convolution, linear layer or embedding makes it"


@dataclass(frozen=True)
class Members:
    """A group before it has a name: channels that own positions of the same uses, and are locked alike."""

    uses: tuple[int, ...]
    """Numbers of the uses."""
    positions: tuple[tuple[tuple[int, ...], ...], ...]
    """For every use, for every channel: its positions."""
    roots: Ints
    """The id that stands for each channel."""
    locked: str | None


def find_roots(record: ChannelRecord) -> Ints:
    """The id that stands for the channel that each id belongs to; ties a tensor's slices where nothing else did."""
    roots = _components(record)
    slabs = list(record.slabs)
    while slabs:
        sliced = [_is_sliced(rooted(slab.ids, roots)) for slab in slabs]
        if all(sliced):
            break
        for slab, whole in zip(slabs, sliced, strict=True):
            if not whole:
                record.tie_along(slab.ids, slab.free, slab.node)
        slabs = [slab for slab, whole in zip(slabs, sliced, strict=True) if whole]
        roots = _components(record)
    return roots


def _components(record: ChannelRecord) -> Ints:
    """Connected components, each under its smallest id."""
    if not record.same:
        return np.arange(record.count)
    left, right = (np.concatenate([pair[side].numpy() for pair in record.same]) for side in (0, 1))
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(record.count, record.count))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return np.asarray(first[label], dtype=np.int64)


def rooted(ids: Tensor, roots: Ints) -> Ints:
    raw = compact(ids).numpy()
    return np.where(raw >= 0, roots[raw], -1)


def distinct(values: Ints) -> Ints:
    """Different values, ascending; numpy's own hashes, which is slower on few values."""
    ordered = np.sort(values, axis=None)
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def extents(at: Ints, dim: int) -> tuple[Ints, Ints]:
    """(roots in a tensor of roots, at how many places of `dim` each lies)."""
    places = np.broadcast_to(np.arange(at.shape[dim]).reshape([-1] + [1] * (at.ndim - dim - 1)), at.shape)
    present = at >= 0
    keys = distinct(at[present] * at.shape[dim] + places[present])
    return np.unique(keys // at.shape[dim], return_counts=True)


def _is_sliced(at: Ints) -> bool:
    """Whether every channel takes whole slices along one dimension."""
    found, total = np.unique(at[at >= 0], return_counts=True)
    cuts, product = np.zeros(len(found), np.int64), np.ones(len(found), np.int64)
    for dim, size in enumerate(at.shape):
        _, count = extents(at, dim)
        cuts += count < size
        product *= count
    return bool((cuts <= 1).all() and (product == total).all())


def cut_roots(ids: Tensor, dim: int, roots: Ints) -> Ints:
    """Channels that take a part of a dimension."""
    at = rooted(ids, roots)
    found, count = extents(at, dim)
    return found[count < at.shape[dim]]


def lock_reasons(record: ChannelRecord, roots: Ints) -> dict[int, str]:
    """Root -> the first reason why its channel cannot leave."""
    reasons: dict[int, str] = {}
    for ids, reason in record.locks:
        for root in distinct(rooted(ids, roots)).tolist():
            reasons.setdefault(root, reason)
    for fixed in record.fixed:
        for root in cut_roots(fixed.ids, fixed.dim, roots).tolist():
            reasons.setdefault(root, fixed.reason)
    made = [rooted(use.ids, roots) for use in record.uses if use.makes]
    alive = distinct(np.concatenate(made)) if made else np.zeros(0, np.int64)
    for root in np.setdiff1d(distinct(roots), alive, assume_unique=True).tolist():
        reasons.setdefault(root, MADE_BY_NONE)
    reasons.pop(-1, None)
    return reasons


def find_members(uses: list[Use], roots: Ints, reasons: dict[int, str]) -> list[Members]:
    """Channels that own positions in the same places, and are locked for the same reason, form a group."""
    owned = [rooted(use.ids, roots) for use in uses]
    labels, first = _partition(owned, len(roots), roots, reasons)
    present = np.flatnonzero(first[:, 0] >= 0)
    order = present[np.lexsort((first[present, 1], first[present, 0], labels[present]))]
    channel = np.full(len(roots), -1, np.int64)
    by_label: dict[int, Ints] = {}
    if len(order):
        starts = np.flatnonzero(np.diff(labels[order])) + 1
        by_label = {int(labels[part[0]]): part for part in np.split(order, starts)}
    for part in by_label.values():
        channel[part] = np.arange(len(part))
    parts: dict[int, list[tuple[int, tuple[tuple[int, ...], ...]]]] = {label: [] for label in by_label}
    for number, own in enumerate(owned):
        for label, positions in _by_label(own, labels, channel):
            parts[label].append((number, positions))
    groups = [_members(parts[label], members, reasons) for label, members in by_label.items()]
    return sorted(groups, key=lambda g: (g.uses, g.positions[0][0]))


def _members(parts: list[tuple[int, tuple[tuple[int, ...], ...]]], members: Ints, reasons: dict[int, str]) -> Members:
    return Members(tuple(n for n, _ in parts), tuple(p for _, p in parts), members, reasons.get(int(members[0])))


def _partition(owned: list[Ints], count: int, roots: Ints, reasons: dict[int, str]) -> tuple[Ints, Ints]:
    """Labels that differ where reasons or uses differ, and (number of the first use, first position in it)."""
    numbers = {reason: i + 1 for i, reason in enumerate(dict.fromkeys(reasons.values()))}
    labels = np.zeros(count, np.int64)
    labels[list(reasons)] = [numbers[reason] for reason in reasons.values()]
    first = np.full((count, 2), -1, np.int64)
    fresh = len(numbers) + 1
    for number, own in enumerate(owned):
        found, at = np.unique(own, return_index=True)
        found, at = (found[1:], at[1:]) if len(found) and found[0] < 0 else (found, at)
        _, again = np.unique(labels[found], return_inverse=True)
        labels[found] = fresh + again
        fresh += len(found)
        new = first[found, 0] < 0
        first[found[new], 0] = number
        first[found[new], 1] = at[new]
    return labels, first


def _by_label(own: Ints, labels: Ints, channel: Ints) -> list[tuple[int, tuple[tuple[int, ...], ...]]]:
    """(label, positions of each of its channels) in one use."""
    positions = np.flatnonzero(own >= 0)
    label, number = labels[own[positions]], channel[own[positions]]
    if not len(positions):
        return []
    order = np.lexsort((positions, number, label))
    label, number, positions = label[order], number[order], positions[order]
    result = []
    edges = np.r_[0, np.flatnonzero(np.diff(label)) + 1, len(label)]
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        each = np.bincount(number[start:stop])
        result.append((int(label[start]), _nested(positions[start:stop], each)))
    return result


def _nested(positions: Ints, each: Ints) -> tuple[tuple[int, ...], ...]:
    if len(each) == len(positions):
        return tuple(zip(positions.tolist()))
    if (each == each[0]).all():
        return tuple(map(tuple, positions.reshape(len(each), -1).tolist()))
    return tuple(tuple(part.tolist()) for part in np.split(positions, np.cumsum(each)[:-1]))
