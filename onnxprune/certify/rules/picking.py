"""Rules of operators that pick, order or replace elements at places that are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds, exactly, hull, only_zero, unbounded
from onnxprune.certify.relations.relation import Lists, Relation, combined, inserted
from onnxprune.certify.rules.node_pair import NodePair, rule
from onnxprune.certify.sizes.size_monomials import over

PICKED = "elements are picked along a cut axis"


@rule("TopK")
def largest(pair: NodePair) -> list[Relation]:
    """The largest or least elements along an axis that is whole, and their places."""
    pair.same_attributes()
    if len(pair.sparse.input) > 1:
        pair.whole(1)
    given = pair.relation(0).exact()
    axis = pair.axis(-1, given.rank)
    need(not given.touched(axis), PICKED)
    return [given.holding(given.bounds.squashed(axis)), given.holding(unbounded(given.rank))]


@rule("ReverseSequence")
def reversed_sequences(pair: NodePair) -> list[Relation]:
    """The first elements along an axis in reverse, another number of them in each sample."""
    pair.same_attributes()
    pair.whole(1)
    given = pair.relation(0).exact()
    time, batch = (pair.given.get(name, k) for name, k in (("time_axis", 0), ("batch_axis", 1)))
    need(not given.touched(time) and not given.touched(batch), PICKED)
    return [given.holding(given.bounds.squashed(time))]


@rule("Compress")
def compressed(pair: NodePair) -> list[Relation]:
    """Elements along an axis that is whole, by truth values."""
    pair.same_attributes()
    pair.whole(1)
    given = pair.relation(0).exact()
    need("axis" in pair.given, "elements are picked out of a flat tensor")
    axis = pair.axis(0, given.rank)
    need(not given.touched(axis), PICKED)
    one, two = pair.made()
    two[axis] = one[axis]  # as many are true in both
    return [given.holding(given.bounds.squashed(axis))]


@rule("OneHot")
def one_hot(pair: NodePair) -> list[Relation]:
    """A new axis, of which one element is the second of two numbers."""
    pair.same_attributes()
    pair.whole(1)
    pair.whole(2)
    given = pair.relation(0).exact()
    axis = pair.axis(-1, given.rank + 1)
    made = inserted(given.holding(unbounded(given.rank)), axis)
    if not pair.is_constant(2):
        return [made]
    held = exactly(pair.constant(2)[0])
    return [made.holding(held.squashed(0).lifted(made.rank))]


@rule("ScatterElements", "Scatter", "TensorScatter")
def scattered(pair: NodePair) -> list[Relation]:
    """Elements replaced along an axis that is whole, in each channel by itself."""
    pair.same_attributes()
    rank, caches = len(pair.sizes(0)[0]), pair.operator == "TensorScatter"
    axis = pair.axis(-2 if caches else 0, rank)
    if caches:
        pair.whole(2)
    places = (0, 1) if caches else (0, 2, 1)
    parts = _cut_alike(pair, places)
    need(
        not any(part.touched(a) for part in parts.values() for a in ({axis, 0} if caches else {axis})), PICKED
    )
    made = combined([(parts[k], pair.sizes(k)[0]) for k in places], lambda *_: unbounded(rank))
    held = [parts[k].bounds for k in places[:2]]
    for a in range(rank):
        if a == axis or not _same_sizes(pair, places, a):
            need(not made.touched(a), "fewer places than elements along a cut axis")
            held = [bounds.squashed(a) for bounds in held]
    return [made.holding(_replaced(pair, held))]


def _same_sizes(pair: NodePair, places: Sequence[int], axis: int) -> bool:
    """Return true if operands are of one size along an axis, in each graph."""
    return all(len({str(pair.sizes(k)[side][axis]) for k in places}) == 1 for side in (0, 1))


@rule("ScatterND")
def scattered_at(pair: NodePair) -> list[Relation]:
    """Slices replaced at places that the last axis of the numbers lists; their own axes may be cut."""
    pair.same_attributes()
    pair.whole(1)
    at = pair.sizes(1)[0]
    rank, count = len(pair.sizes(0)[0]), at[-1]
    need(isinstance(count, int), "places of unknown rank")
    assert isinstance(count, int)
    parts = _cut_alike(pair, [0, 2], {0: count, 2: len(at) - 1})
    tails = [(parts[k], pair.sizes(k)[0][first:]) for k, first in ((0, count), (2, len(at) - 1))]
    dense = [pair.sizes(k)[1][first:] for k, first in ((0, count), (2, len(at) - 1))]
    need(dense[0] == dense[1], "slices of another size")
    made = combined(tails, lambda *_: unbounded(rank - count)).lifted(rank)
    held = [part.bounds.lifted(rank) for part in parts.values()]
    return [made.holding(_replaced(pair, held))]


def _replaced(pair: NodePair, held: Sequence[Bounds]) -> Bounds:
    """Return the bounds of elements that others replace, or are combined with."""
    both = hull(held)
    return both if pair.given.get("reduction", b"none") == b"none" else only_zero(both)


def _cut_alike(
    pair: NodePair, places: Sequence[int], first: dict[int, int] | None = None
) -> dict[int, Relation]:
    """Return the relations of operands; constants are cut as those that are not.

    Args:
        pair: The nodes.
        places: Numbers of the operands.
        first: The number of axes in front, of each operand, which stay whole and are left out.
    """
    start = first or dict.fromkeys(places, 0)
    moving = {k: _tail(pair.relation(k).exact(), start[k]) for k in places if not pair.is_constant(k)}
    known: Lists = {a: m for r in moving.values() for a, m in r.lists.items()}
    found = {}
    for k in places:
        if k in moving:
            found[k] = moving[k]
            continue
        lifted = {a + start[k]: m.reshape((1,) * start[k] + m.shape) for a, m in known.items()}
        found[k] = _tail(pair.relation(k, lifted), start[k])
    return found


def _tail(given: Relation, first: int) -> Relation:
    """Return a relation without its first axes, which are whole, for any element of them."""
    bounds = given.bounds
    for axis in range(first):
        need(not given.touched(axis), PICKED)
        bounds = bounds.squashed(axis)

    lists = {a - first: m.reshape(m.shape[first:]) for a, m in given.lists.items()}
    return Relation(
        given.rank - first,
        bounds.moved(lambda v: v.reshape(v.shape[first:])),
        lists,
        frozenset(a - first for a in given.free),
    )


@rule("Col2Im")
def columns(pair: NodePair) -> list[Relation]:
    """Blocks laid out in a picture and added up, in each channel by itself."""
    pair.same_attributes()
    pair.whole(1)
    pair.whole(2)
    given = pair.relation(0).exact().only(1)
    need(not given.free, "channels that do not vary")
    one = pair.sizes(0)[0]
    block = math.prod(int(n) for n in pair.values(2)[0].ravel())
    channels = over(one[1], block)
    need(isinstance(channels, int), "channels of no blocks")
    assert isinstance(channels, int)
    rank = len(pair.made()[0])
    lists: dict[int, Array] = {}
    if 1 in given.lists:
        rows = given.lists[1].reshape(-1, block)
        whole = rows[:, :1] + np.arange(block)
        need(np.array_equal(rows, whole) and not (rows[:, 0] % block).any(), "parts of a block are cut")
        lists[1] = (rows[:, 0] // block).reshape([-1 if a == 1 else 1 for a in range(rank)])
    zero = np.broadcast_to(given.bounds.squashed(0).squashed(2).zero[0, :, 0], channels * block)
    flat = zero.reshape(channels, block).all(1).reshape([-1 if a == 1 else 1 for a in range(rank)])
    return [Relation(rank, Bounds(np.where(flat, 0.0, -np.inf), np.where(flat, 0.0, np.inf)), lists)]
