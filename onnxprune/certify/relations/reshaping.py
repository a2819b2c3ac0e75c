"""Relations through Reshape: the axes of both shapes are cut into common factors."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import Array, Bounds
from onnxprune.certify.relations.relation import Relation, line, plainer
from onnxprune.certify.sizes.size_monomials import Size, over

Pair: TypeAlias = tuple[Size, Size]
"""The sizes of an axis, sparse and dense."""


@dataclass
class _Factors:
    """Common factors of two shapes.

    Attributes:
        sizes: Sizes of the factors, major to minor.
        before: The factors of each axis of the operand.
        after: The factors of each axis of the result.
        mixed: Axes of the operand without common factors: the result mixes their elements in the same way in
            both models, for all sizes from there on are the same.
        blended: Axes of the result made of them.
    """

    sizes: list[Pair]
    before: list[list[int]]
    after: list[list[int]]
    mixed: set[int] = field(default_factory=set)
    blended: set[int] = field(default_factory=set)

    def known(self, factors: Sequence[int]) -> bool:
        """Return true if the sparse and dense sizes of some factors are numbers."""
        return all(isinstance(s, int) for f in factors for s in self.sizes[f])

    def numbers(self, factors: Sequence[int], side: int) -> list[int]:
        return [int(s) for f in factors if isinstance(s := self.sizes[f][side], int)]


def _factored(operand: Sequence[Pair], result: Sequence[Pair]) -> _Factors:
    left, right = list(operand), list(result)
    found = _Factors([], [[] for _ in left], [[] for _ in right])
    i = j = 0
    while i < len(left) or j < len(right):
        if i < len(left) and left[i] == (1, 1):
            i += 1
            continue
        if j < len(right) and right[j] == (1, 1):
            j += 1
            continue
        need(i < len(left) and j < len(right), "the sizes of a Reshape do not fit")
        x, y = left[i], right[j]
        need(0 not in (*x, *y), "a Reshape of nothing")
        up, down = (over(y[0], x[0]), over(y[1], x[1])), (over(x[0], y[0]), over(x[1], y[1]))
        if None in up and None in down:
            rest = [*left[i:], *right[j:]]
            need(all(s == d for s, d in rest), f"sizes {x} and {y} have no common factor")
            found.mixed, found.blended = set(range(i, len(left))), set(range(j, len(right)))
            return found
        found.before[i].append(len(found.sizes))
        found.after[j].append(len(found.sizes))
        if up[0] is not None and up[1] is not None:
            found.sizes.append(x)
            left[i], right[j] = (1, 1), (up[0], up[1])
        else:
            assert down[0] is not None
            assert down[1] is not None
            found.sizes.append(y)
            left[i], right[j] = (down[0], down[1]), (1, 1)
    return found


def reshaped(given: Relation, operand: Sequence[Pair], result: Sequence[Pair]) -> Relation:
    """Return the relation of a tensor of another shape with the same elements in the same order.

    Args:
        given: The relation of the operand.
        operand: Its sizes.
        result: The sizes of the result.
    """
    given.exact()
    factors = _factored(operand, result)
    for axis in factors.mixed:
        need(not given.touched(axis), "a cut axis is mixed with others")
    lists = _split_lists(given, factors)
    free = {f for a in given.free for f in factors.before[a]}
    out: dict[int, Array] = {}
    alike: dict[int, Array] = {}
    merged_free = set()
    for axis, parts in enumerate(factors.after):
        if free.intersection(parts):
            need(axis not in factors.blended, "an axis merged with one that does not vary")
            if free.issuperset(parts):
                merged_free.add(axis)
                continue
            need(factors.known(parts), "a cut axis is merged with one of unknown size")
            out[axis] = _merged(lists, factors, parts, free)
            alike[axis] = _repeated(factors, parts, free)
        elif any(f in lists or any(m.shape[f] > 1 for m in lists.values()) for f in parts):
            need(axis not in factors.blended, "a cut axis is mixed with others")
            need(factors.known(parts), "a cut axis is merged with one of unknown size")
            out[axis] = _merged(lists, factors, parts)
    joined = {axis: _join(m, factors, 1) for axis, m in out.items()}
    bounds = _reshaped_bounds(given, factors)
    lists = plainer(joined, [s for s, _ in result])
    alike = {axis: number for axis, number in alike.items() if axis in lists}
    return Relation(len(result), bounds, lists, frozenset(merged_free), alike=alike)


def _split_lists(given: Relation, factors: _Factors) -> dict[int, Array]:
    """Return the index lists of the factors."""
    lists: dict[int, Array] = {}
    for axis, listed in given.lists.items():
        parts = factors.before[axis]
        need(factors.known(parts), "a cut axis of unknown size")
        if not parts:
            continue
        numbers = factors.numbers(parts, 0)
        for place, f in enumerate(parts):
            values = listed // math.prod(numbers[place + 1 :]) % numbers[place]
            lists[f] = values.reshape(_split_shape(values.shape, factors, 1))
    return plainer(lists, [s for s, _ in factors.sizes])


def _split_shape(shape: Sequence[int], factors: _Factors, side: int) -> list[int]:
    """Return the shape of an array with an axis for each factor."""
    found = [1] * len(factors.sizes)
    for axis, length in enumerate(shape):
        if length > 1:
            need(factors.known(factors.before[axis]), "a list that follows an axis of unknown size")
            for f in factors.before[axis]:
                found[f] = factors.numbers([f], side)[0]
    return found


def _merged(
    lists: dict[int, Array], factors: _Factors, parts: Sequence[int], free: Collection[int] = ()
) -> Array:
    """Return the index list of the product of some factors; along free ones, any elements will do."""
    rank = len(factors.sizes)
    total = np.zeros([1] * rank, np.int64)
    for f in parts:
        size, left = factors.numbers([f], 0)[0], factors.numbers([f], 1)[0]
        every = line(left, f, rank)
        total = total * size + (every % size if f in free else lists.get(f, every))
    return total


def _repeated(factors: _Factors, parts: Sequence[int], free: Collection[int]) -> Array:
    """Return a number for each element of a merged axis, which is the same along free factors."""
    sizes = factors.numbers(parts, 0)
    places = np.arange(math.prod(sizes)).reshape(sizes)
    for place, f in enumerate(parts):
        places = places.take([0], place) if f in free else places
    return np.broadcast_to(places, sizes).reshape(-1)


def _join(values: Array, factors: _Factors, side: int) -> Array:
    """Return an array with an axis for each axis of the result."""
    shape, wide = [], list(values.shape)
    for parts in factors.after:
        if any(values.shape[f] > 1 for f in parts):
            for f in parts:
                wide[f] = factors.numbers([f], side)[0]
        shape.append(int(np.prod([wide[f] for f in parts], dtype=np.int64)))
    return np.broadcast_to(values, wide).reshape(shape)


def _reshaped_bounds(given: Relation, factors: _Factors) -> Bounds:
    bounds = given.bounds
    for axis in range(given.rank):
        if axis in factors.mixed or not factors.known(factors.before[axis]):
            bounds = bounds.squashed(axis)
    shape = _split_shape(bounds.shape, factors, 0)
    bounds = bounds.moved(lambda v: v.reshape(shape))
    for axis, parts in enumerate(factors.after):
        if axis in factors.blended or not factors.known(parts):
            for f in parts:
                bounds = bounds.squashed(f)
    return bounds.moved(lambda v: _join(v, factors, 0))
