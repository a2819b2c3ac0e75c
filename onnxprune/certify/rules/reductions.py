"""Rules of operators that take an axis together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from onnxprune.certify.refusal import need
from onnxprune.certify.relations.element_bounds import (
    Array,
    Bounds,
    exactly,
    magnitude,
    mul,
    only_zero,
    summed,
    unbounded,
)
from onnxprune.certify.relations.relation import Relation, at_kept, contracted, dropped, removed
from onnxprune.certify.rules.node_pair import NodePair, rule
from onnxprune.certify.sizes.size_monomials import Size
from onnxprune.certify.sizes.size_rules import REDUCTIONS, reduced_axes

_SUMS = {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
_LINEAR = {"ReduceSum", "ReduceMean"}
_EXTREMES = {"ReduceMax": 1, "ReduceMin": -1}


@rule(*REDUCTIONS, "ArgMax", "ArgMin")
def reduction(pair: NodePair) -> list[Relation]:
    """Sums, means, norms and extremes over axes."""
    pair.same_attributes("axes")
    axes = reduced_axes(pair.graphs[0], pair.sparse)
    need(axes == reduced_axes(pair.graphs[1], pair.dense), "other axes")
    given = pair.relation(0)
    need(given.shift is None, "the operand lacks a constant")
    made = reduced(given, pair.operator, axes, *pair.sizes(0))
    if not pair.given.get("keepdims", 1):
        for axis in sorted(axes, reverse=True):
            made = dropped(made, axis)
    return [made]


def reduced(
    given: Relation, kind: str, axes: Iterable[int], sparse: Sequence[Size], dense: Sequence[Size]
) -> Relation:
    """Return the relation of a reduction, whose axes remain with one element.

    Args:
        given: The relation of the operand.
        kind: The operator.
        axes: Axes that are reduced.
        sparse: Sizes of the sparse operand.
        dense: Sizes of the dense operand.
    """
    axes = sorted(axes)
    scale, above = given.scale, given.above
    need(above is None, "the operand may differ below a number")
    need(scale == 1 or kind in ("ReduceSum", "ReduceMean"), "the operand lacks a factor")
    made = Relation(given.rank, given.bounds, given.lists, given.free)
    for axis in axes:
        cut = made.touched(axis)
        if kind in _SUMS and cut:
            made = _summed(made, kind, axis, sparse[axis])
            need(made.shift is None or (len(axes) == 1 and kind in _LINEAR), "constants are lost")
            scale *= _shrinkage(sparse[axis], dense[axis]) if kind == "ReduceMean" else 1.0
        elif kind in _EXTREMES and cut:
            above = _largest_removed(made, axis, sparse[axis], _EXTREMES[kind], axes)
            lists = {a: m for a, m in made.lists.items() if a != axis}
            need(all(m.shape[axis] == 1 for m in lists.values()), "axes that are cut together")
            made = Relation(made.rank, _extreme(made.bounds, axis, _EXTREMES[kind]), lists, made.free)
        else:
            need(not cut, "a cut axis is taken together")
            made = made.holding(_bounds(made.bounds, kind, axis, sparse[axis]))
    if kind in _SUMS - _LINEAR:
        made = made.holding(Bounds(np.zeros(made.bounds.shape), np.where(made.bounds.zero, 0.0, np.inf)))
    shift = made.shift
    if shift is not None:  # dense = scale · (sparse − shift)
        shift = mul(shift, exactly(np.full([1] * given.rank, scale)))
    return Relation(given.rank, made.bounds, made.lists, made.free, scale, shift, above)


def _summed(given: Relation, kind: str, axis: int, size: Size) -> Relation:
    """Return the relation of a sum, a mean or a norm along a cut axis."""
    need(isinstance(size, int), "a cut axis of unknown size")
    assert isinstance(size, int)
    made = contracted(given if kind in _LINEAR else given.holding(only_zero(given.bounds)), axis, size)
    return _divided(made, size) if kind == "ReduceMean" else made


def _shrinkage(before: Size, after: Size) -> float:
    need(isinstance(before, int) and isinstance(after, int), "a cut axis of unknown size")
    assert isinstance(before, int)
    assert isinstance(after, int)
    return before / after


def _bounds(bounds: Bounds, kind: str, axis: int, size: Size) -> Bounds:
    """Return the bounds of a reduction along an axis that is whole."""
    if kind == "ReduceMean":
        return bounds.squashed(axis)
    if kind in _SUMS:
        terms = bounds if kind == "ReduceSum" else magnitude(bounds)
        return summed(terms, axis, size if isinstance(size, int) else None)
    return _extreme(bounds, axis, _EXTREMES[kind]) if kind in _EXTREMES else unbounded(bounds.rank)


def _divided(given: Relation, count: int) -> Relation:
    factor = exactly(np.full([1] * given.rank, 1 / count))
    shift = None if given.shift is None else mul(given.shift, factor)
    return Relation(given.rank, mul(given.bounds, factor), given.lists, given.free, shift=shift)


def _extreme(bounds: Bounds, axis: int, sign: int) -> Bounds:
    """Return the bounds of the largest (sign 1) or smallest element along an axis."""
    if bounds.shape[axis] < 2:
        return bounds
    take = np.max if sign > 0 else np.min
    return bounds.moved(lambda v: take(v, axis, keepdims=True))


def _largest_removed(given: Relation, axis: int, size: Size, sign: int, axes: Sequence[int]) -> float | None:
    """Return the number below which maxima may differ for the removed elements; none where they never do.

    Raises:
        Refusal: A removed element may be the largest (sign 1) or smallest along the axis.
    """
    need(
        axis in given.lists and axis not in given.free and isinstance(size, int), "a cut axis of unknown size"
    )
    assert isinstance(size, int)
    gone = removed(given.lists[axis], axis, size)
    held = at_kept(given, axis)
    worst = held.high if sign > 0 else -held.low
    sure = held.low if sign > 0 else -held.high
    worst, sure = (np.broadcast_to(v, np.broadcast_shapes(v.shape, gone.shape)) for v in (worst, sure))
    threat = _over(np.where(gone, worst, -np.inf), axis)
    safe = _over(np.where(gone, -np.inf, sure), axis)
    if (threat <= safe).all():
        return None
    largest = float(threat.max())
    need(sign > 0 and len(axes) == 1 and np.isfinite(largest), "a removed channel may be the extreme one")
    return largest


def _over(values: Array, axis: int) -> Array:
    return np.asarray(values.max(axis))
