"""The one form of relation: which elements of a sparse tensor a dense tensor holds.

    dense = scale · sparse[lists] − shift

An index list is an array for one axis that broadcasts against the dense tensor, as the arrays that numpy
indexes with: a list may be another one in each element of other axes. An axis without a list is the same in
both, and its size need not be known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds, lift, plus, summed, unbounded
from onnxprune.certify.sizes.size_monomials import Size

Lists: TypeAlias = Mapping[int, Array]


@dataclass(frozen=True)
class Relation:
    """The elements of a sparse tensor that a dense one holds.

    Attributes:
        rank: The number of axes of both.
        bounds: Bounds of the elements of the sparse tensor.
        lists: Index arrays by axis.
        free: Axes along which the sparse tensor does not vary: any list will do.
        scale: A factor.
        shift: Bounds of a constant that the dense tensor lacks, none for zero; it broadcasts against it.
        above: A number below which the two tensors may differ, none if they are equal throughout: the proof
            shows max(dense, above) = max(sparse[lists], above).
        alike: Axes along which elements of the sparse tensor are repeated: for each element a number that
            those equal to it for all inputs share. A list may then name any of them.
        shares: The axis along which the elements of the sparse tensor are not negative and add up to one.
    """

    rank: int
    bounds: Bounds
    lists: Lists = field(default_factory=dict)
    free: frozenset[int] = frozenset()
    scale: float = 1.0
    shift: Bounds | None = None
    above: float | None = None
    shares: int | None = None
    alike: Lists = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Return true if both tensors are the same."""
        alike = self.scale == 1 and self.shift is None and self.above is None
        return alike and not self.lists and not self.free

    def touched(self, axis: int) -> bool:
        """Return true unless an axis is the same in both tensors and no list depends on it."""
        return axis in self.lists or axis in self.free or any(m.shape[axis] > 1 for m in self.lists.values())

    def only(self, *axes: int) -> Relation:
        """Return itself if no other axes are touched."""
        need(
            all(a in axes or not self.touched(a) for a in range(self.rank)),
            "an axis is cut that has to stay whole",
        )
        return self

    def exact(self) -> Relation:
        """Return itself if there is no factor and no shift."""
        need(self.scale == 1, "the operand still lacks a factor")
        need(self.shift is None, "the operand still lacks a constant")
        need(self.above is None, "the largest element may be another where all are negative")
        return self

    def holding(self, bounds: Bounds) -> Relation:
        """Return the same relation of another tensor: nothing more is known of its elements than bounds."""
        return replace(self, bounds=bounds, shares=None, alike={})

    def same_elements(self, axis: int, listed: Array) -> bool:
        """Return true if a list names elements that are equal to those of the relation."""
        mine, number = self.lists[axis], self.alike.get(axis)
        return agree(mine, listed) if number is None else agree(number[mine], number[listed])

    def lifted(self, rank: int) -> Relation:
        """Return the relation with axes of length one in front."""
        more = rank - self.rank
        return Relation(
            rank,
            self.bounds.lifted(rank),
            {a + more: lift(m, rank) for a, m in self.lists.items()},
            frozenset(a + more for a in self.free),
            self.scale,
            None if self.shift is None else self.shift.lifted(rank),
            self.above,
            None if self.shares is None else self.shares + more,
            {a + more: number for a, number in self.alike.items()},
        )


def same(rank: int, bounds: Bounds | None = None) -> Relation:
    """Return the relation of two equal tensors."""
    return Relation(rank, bounds or unbounded(rank))


def line(size: int, axis: int, rank: int) -> Array:
    """Return 0, 1, … along one axis."""
    return np.arange(size).reshape([-1 if a == axis else 1 for a in range(rank)])


def agree(one: Array, other: Array) -> bool:
    """Return true if two arrays are equal where they broadcast."""
    one, other = np.broadcast_arrays(one, other)
    return bool(np.array_equal(one, other))


def plainer(lists: Lists, sizes: Sequence[Size]) -> dict[int, Array]:
    """Drop the axes that a list does not depend on, and the lists that name all elements in order.

    Args:
        lists: Index arrays by axis.
        sizes: Sizes of the sparse tensor.
    """
    found = {}
    for axis, listed in lists.items():
        for other in range(listed.ndim):
            if other != axis and listed.shape[other] > 1 and (listed == listed.take([0], other)).all():
                listed = listed.take([0], other)
        whole = listed.size == listed.shape[axis] == sizes[axis]
        if not (whole and agree(listed, line(listed.shape[axis], axis, listed.ndim))):
            found[axis] = listed
    return found


def transposed(given: Relation, order: Sequence[int]) -> Relation:
    """Return the relation with its axes in another order."""
    need(given.shift is None and given.above is None, "the operand of a transposition lacks something")
    place = {old: new for new, old in enumerate(order)}
    return replace(
        given,
        shares=None if given.shares is None else place[given.shares],
        bounds=given.bounds.moved(lambda v: v.transpose(order)),
        lists={place[a]: m.transpose(order) for a, m in given.lists.items()},
        free=frozenset(place[a] for a in given.free),
        alike={place[a]: number for a, number in given.alike.items()},
    )


def inserted(given: Relation, axis: int) -> Relation:
    """Return the relation with a new axis of length one."""
    need(given.shift is None, "a constant is lacking in front of a change of rank")
    return replace(
        given,
        shares=None if given.shares is None else given.shares + (given.shares >= axis),
        rank=given.rank + 1,
        bounds=given.bounds.moved(lambda v: np.expand_dims(v, axis)),
        lists={a + (a >= axis): np.expand_dims(m, axis) for a, m in given.lists.items()},
        free=frozenset(a + (a >= axis) for a in given.free),
        alike={a + (a >= axis): number for a, number in given.alike.items()},
    )


def dropped(given: Relation, axis: int) -> Relation:
    """Return the relation without an axis of length one, or of one element of an axis that is not cut."""
    need(not given.touched(axis), "an axis that is cut is dropped")
    shift = given.shift
    return replace(
        given,
        shares=None,
        rank=given.rank - 1,
        bounds=given.bounds.squashed(axis).moved(lambda v: v.squeeze(axis)),
        lists={a - (a > axis): m.squeeze(axis) for a, m in given.lists.items()},
        free=frozenset(a - (a > axis) for a in given.free),
        alike={a - (a > axis): number for a, number in given.alike.items()},
        shift=shift if shift is None else shift.moved(lambda v: v.squeeze(axis)),
    )


def combined(parts: Sequence[tuple[Relation, Sequence[Size]]], function: Callable[..., Bounds]) -> Relation:
    """Return the relation of an elementwise function of operands that broadcast.

    Args:
        parts: The relation of each operand, and the sizes of the sparse one.
        function: Function from the bounds of the operands to those of the result.
    """
    rank = max(r.exact().rank for r, _ in parts)
    lists: dict[int, Array] = {}
    free = set()
    for axis in range(rank):
        mine = [(r, s[b], b) for r, s in parts if (b := axis - rank + r.rank) >= 0]
        cut = [r.lifted(rank) for r, _, b in mine if b in r.lists]
        whole = [r for r, s, b in mine if b not in r.lists and b not in r.free and s != 1]
        need(not (cut and whole), "an axis is cut in one operand and whole in another")
        if cut:
            found = [r.lists[axis] for r in cut if axis not in r.alike] or [r.lists[axis] for r in cut]
            lists[axis] = max(found, key=lambda m: m.size)
            need(all(r.same_elements(axis, lists[axis]) for r in cut), "the operands keep other channels")
        elif not whole and any(b in r.free for r, _, b in mine):
            free.add(axis)
    bounds = function(*(r.bounds.lifted(rank) for r, _ in parts))
    return Relation(rank, bounds, lists, frozenset(free))


def taken(given: Relation, axis: int, sparse: Sequence[int], dense: Sequence[int]) -> Relation:
    """Return the relation of elements of an axis.

    Args:
        given: The relation.
        axis: The axis, of known size.
        sparse: Indices of the elements of the sparse tensor that are taken.
        dense: Indices of those of the dense one.
    """
    lists = {a: m.take(dense, axis) if m.shape[axis] > 1 else m for a, m in given.lists.items()}
    if axis not in given.free:
        old = lists.get(axis, line(0, axis, given.rank) if not len(dense) else _at(dense, axis, given.rank))
        place = {old_: new for new, old_ in reversed(list(enumerate(sparse)))}
        need(all(k in place for k in old.ravel().tolist()), "other channels are picked")
        lists[axis] = np.asarray([place[k] for k in old.ravel().tolist()], np.int64).reshape(old.shape)
    bounds = given.bounds
    if bounds.shape[axis] > 1:
        bounds = bounds.moved(lambda v: v.take(sparse, axis)) if len(sparse) else unbounded(given.rank)
    sizes: list[Size] = [-1] * given.rank
    sizes[axis] = len(sparse)
    alike = {a: number.take(sparse) if a == axis else number for a, number in given.alike.items()}
    return replace(given.exact(), bounds=bounds, lists=plainer(lists, sizes), alike=alike, shares=None)


def _at(indices: Sequence[int], axis: int, rank: int) -> Array:
    return np.asarray(indices, np.int64).reshape([-1 if a == axis else 1 for a in range(rank)])


def contracted(given: Relation, axis: int, size: Size) -> Relation:
    """Return the relation of the sum along an axis, which remains with one element.

    Args:
        given: The relation of the terms.
        axis: The axis.
        size: Size of the axis in the sparse tensor.
    """
    need(axis not in given.free and given.above is None, "a sum over an axis that does not vary")
    lists = dict(given.lists)
    kept = lists.pop(axis, None)
    need(
        all(m.shape[axis] == 1 for m in lists.values()),
        "other axes are cut differently along the one summed over",
    )
    shift = None
    if kept is not None:
        need(isinstance(size, int), "a sum over a cut axis of unknown size")
        assert isinstance(size, int)
        shift = lost(given, axis, kept, size)
    total = summed(given.bounds, axis, size if isinstance(size, int) else None)
    return Relation(given.rank, total, lists, given.free, shift=shift)


def lost(given: Relation, axis: int, kept: Array, size: int) -> Bounds | None:
    """Return the bounds of the sum over the removed elements along an axis, none for zero."""
    gone = removed(kept, axis, size)
    held = at_kept(given, axis)
    low, high = np.where(gone, held.low, 0.0), np.where(gone, held.high, 0.0)
    need(np.isfinite(low).all() and np.isfinite(high).all(), "removed channels are not known to add nothing")
    if not low.any() and not high.any():
        return None
    return summed(Bounds(low, high), axis, size)


def removed(kept: Array, axis: int, size: int) -> Array:
    """Return which elements along a sparse axis an index list leaves out; no element is named twice."""
    shape = list(kept.shape)
    shape[axis] = size
    gone = np.ones(shape, bool)
    np.put_along_axis(gone, kept, False, axis)
    need((gone.sum(axis) == size - kept.shape[axis]).all(), "a channel is kept twice")
    return gone


def at_kept(given: Relation, axis: int) -> Bounds:
    """Return the bounds at the elements that are kept along all axes but one, which stays sparse."""
    bounds = given.bounds
    if not any(bounds.shape[a] > 1 for a in given.lists if a != axis):
        return bounds
    places = []
    for a, size in enumerate(bounds.shape):
        whole = np.zeros([1] * given.rank, np.int64) if size == 1 else line(size, a, given.rank)
        places.append(given.lists[a] if a != axis and size > 1 and a in given.lists else whole)
    where = tuple(np.broadcast_arrays(*places))
    return bounds.moved(lambda v: v[where])


def concatenated(parts: Sequence[Relation], axis: int, sizes: Sequence[tuple[Size, Size]]) -> Relation:
    """Return the relation of tensors behind each other.

    Args:
        parts: Their relations.
        axis: The axis they lie along.
        sizes: Their sizes along it, sparse and dense.
    """
    rank = parts[0].rank
    numbers = [(s, d) for s, d in sizes if isinstance(s, int) and isinstance(d, int)]
    known = len(numbers) == len(sizes)
    lists: dict[int, Array] = {}
    for other in {a for r in parts for a in r.lists} - {axis}:
        found = [r.lists[other] for r in parts if other in r.lists]
        need(len(found) == len(parts), "an axis is cut in one part and whole in another")
        if all(m.shape[axis] == 1 and agree(m, found[0]) for m in found):
            lists[other] = found[0]
        else:
            need(known, "parts of unknown size")
            lists[other] = _joined(found, axis, [d for _, d in numbers])
    need(not any(r.free for r in parts), "a part that does not vary")
    if any(r.touched(axis) for r in parts):
        need(known, "a part of unknown size")
        starts = np.cumsum([0, *(s for s, _ in numbers)])
        found = [
            r.lists.get(axis, line(d, axis, rank)) + start
            for r, (_, d), start in zip(parts, numbers, starts, strict=False)
        ]
        lists[axis] = _joined(found, axis, [d for _, d in numbers])
    whole: list[Size] = [-1] * rank
    whole[axis] = sum(s for s, _ in numbers) if known else -1
    return Relation(
        rank, _bounds_of_all(parts, axis, [s for s, _ in numbers] if known else None), plainer(lists, whole)
    )


def _joined(arrays: Sequence[Array], axis: int, lengths: Sequence[int]) -> Array:
    shape = list(np.broadcast_shapes(*((*m.shape[:axis], 1, *m.shape[axis + 1 :]) for m in arrays)))
    wide = [
        np.broadcast_to(m, [*shape[:axis], n, *shape[axis + 1 :]])
        for m, n in zip(arrays, lengths, strict=True)
    ]
    return np.concatenate(wide, axis)


def _bounds_of_all(parts: Sequence[Relation], axis: int, lengths: Sequence[int] | None) -> Bounds:
    if lengths is not None:
        return Bounds(
            _joined([r.bounds.low for r in parts], axis, lengths),
            _joined([r.bounds.high for r in parts], axis, lengths),
        )
    squashed = [r.bounds.squashed(axis) for r in parts]
    low, high = squashed[0].low, squashed[0].high
    for other in squashed[1:]:
        low, high = np.minimum(low, other.low), np.maximum(high, other.high)
    return Bounds(low, high)


def shifted_sum(one: Bounds | None, other: Bounds | None) -> Bounds | None:
    """Return the bounds of a sum of shifts."""
    if one is None or other is None:
        return other if one is None else one
    return plus(one, other)
