"""Operators that pick elements, or write some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.algebra.sizes.algebra import (
    Extent,
    Size,
    Value,
    as_extent,
    ceil_div,
    is_nonnegative,
    less,
    maximum,
    minimum,
)
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import INT64, Shape, Values, filled, plain
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule

_FAR = 2**31 - 1
"""An end from here on means all."""


@size_rule("Gather")
def gather(node: SizedNode) -> None:
    """The indices' axes in the place of one."""
    shape, indices = node.shape(), node.shape(1)
    if shape is None or indices is None:
        node.put(0, None)
        return
    axis = node.axis(node.attribute("axis", 0), len(shape))
    value, at = node.known(0), node.numbers(1)
    count = shape[axis]
    if at is not None and isinstance(count, int) and (wrong := [k for k in at if not -count <= k < count]):
        raise ContradictionError(f"index {wrong[0]} is not on an axis of {count} elements")
    if value is not None and at is not None:
        places = np.array(at, int).reshape(tuple(plain(indices) or ()))
        value = np.asarray(np.take(value, places, axis=axis), object)
    else:
        value = None
    node.put(0, [*shape[:axis], *indices, *shape[axis + 1 :]], None, value)


@size_rule("GatherElements")
def gather_elements(node: SizedNode) -> None:
    """The indices' shape."""
    node.put(0, node.shape(1))


@size_rule("GatherND")
@size_rule("GatherND", domain=MICROSOFT)
def gather_nd(node: SizedNode) -> None:
    """The indices' axes but the last, and the axes of the operand behind those that one index selects."""
    shape, indices = node.shape(), node.shape(1)
    if shape is None or indices is None or not isinstance(indices[-1], int):
        node.put(0, None)
        return
    batch = int(node.attribute("batch_dims", 0))
    node.put(0, [*indices[:-1], *shape[batch + indices[-1] :]])


@size_rule("ScatterND", "ScatterElements", "Scatter")
def scatter(node: SizedNode) -> None:
    """The operand's shape."""
    node.put(0, node.shape(), None, _scattered(node) if node.operator == "ScatterND" else None)


def _scattered(node: SizedNode) -> Values | None:
    value, at, updates = node.known(0), node.numbers(1), node.known(2)
    shape = plain(node.shape(1))
    if (
        value is None
        or at is None
        or updates is None
        or not shape
        or node.attribute("reduction", "none") != "none"
    ):
        return None
    if shape[-1] != value.ndim:
        return None
    found: Values = value.copy()
    places = np.array(at, int).reshape(shape)
    for k in np.ndindex(*shape[:-1]):
        found[tuple(places[k])] = updates[k]
    return found


@size_rule("Slice")
def slice_(node: SizedNode) -> None:
    """Slices from starts to ends in steps, along some axes."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        return
    starts, ends, axes, steps = _limits(node, len(shape))
    if starts is None or ends is None or axes is None or steps is None:
        touched = range(len(shape)) if axes is None else {node.axis(k, len(shape)) for k in axes}
        node.put(0, [node.fresh(0, k) if k in touched else size for k, size in enumerate(shape)])
        return
    sizes: list[Value] = list(shape)
    cuts: list[slice | None] = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = node.axis(axis, len(shape))
        sizes[at] = slice_size(shape[at], start, end, step)
        cuts[at] = _cut(shape[at], start, end, step)
    value = node.known(0)
    whole = value is not None and all(cut is not None for cut in cuts)
    node.put(0, sizes, None, value[tuple(cuts)] if value is not None and whole else None)


def _limits(
    node: SizedNode, rank: int
) -> tuple[list[Value] | None, list[Value] | None, list[int] | None, list[int] | None]:
    if node.opset < 10:
        starts, ends = list(node.attribute("starts", ())), list(node.attribute("ends", ()))
        return starts, ends, list(node.attribute("axes", range(len(starts)))), [1] * len(starts)
    first, last = node.target(1), node.target(2)
    count = next((len(x) for x in (first, last) if x is not None), node.length(1))
    axes = node.numbers(3) if node.has(3) else None if count is None else list(range(count))
    steps = node.numbers(4) if node.has(4) else None if count is None else [1] * count
    if steps is not None and 0 in steps:
        steps = None
    return first, last, axes, steps


def _cut(size: Extent, start: Value, end: Value, step: int) -> slice | None:
    """Return the elements that a Slice takes of an axis, ``None`` where they are not known."""
    count = slice_size(size, start, end, step)
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(count, int)):
        return None
    first = min(max(start + size if start < 0 else start, 0), size - (step < 0))
    last = first + step * count
    return slice(first, last if last >= 0 else None, step)


def slice_size(size: Extent, start: Value, end: Value, step: int) -> Value:
    """Return the number of elements of ``x[start:end:step]`` along an axis."""

    def placed(limit: Value) -> Value:
        """Count from the front; a limit that counts from the end is added to the size."""
        if is_nonnegative(limit):
            return limit
        found: Value = limit + size if is_nonnegative(-limit - 1) else limit + size * less(limit, 0)
        return found

    if step > 0:
        end = size if isinstance(end, int) and end >= _FAR else minimum(placed(end), size)
        return maximum(ceil_div(end - maximum(placed(start), 0), step), 0)
    far = isinstance(start, int) and start >= _FAR
    start = size - 1 if far else maximum(minimum(placed(start), size - 1), 0)
    all_of_it = isinstance(end, int) and (end <= -_FAR or end in (_FAR, 2**63 - 1))  # as onnxruntime reads it
    end = -1 if all_of_it else maximum(placed(end), -1)
    return minimum(maximum(ceil_div(end - start, step), 0), size)


@size_rule("TopK")
def top_k(node: SizedNode) -> None:
    """Some elements of an axis, and where they were."""
    shape = node.shape()
    if shape is None:
        node.put(0, None)
        node.put(1, None, INT64)
        return
    axis = node.axis(node.attribute("axis", -1), len(shape))
    listed = [node.attribute("k")] if node.attribute("k") is not None else node.target(1)
    count: Extent = node.fresh(0, axis) if not listed else node.nonnegative(listed[0], 0, axis)
    if not is_unknown(count):
        node.need_nonnegative(shape[axis] - count, f"as many elements along axis {axis} as are taken")
    sizes = [*shape[:axis], count, *shape[axis + 1 :]]
    node.put(0, sizes)
    node.put(1, sizes, INT64)


def is_unknown(size: Extent) -> bool:
    """Return whether a size has parts that are not known before the run."""
    return isinstance(size, Size) and any(size.algebra.atoms[k].fresh for k in size.inside)


@size_rule("OneHot")
def one_hot(node: SizedNode) -> None:
    """A new axis as long as the depth."""
    shape, depth = node.shape(), node.elements(1)
    if depth is None and node.known(1) is not None:
        depth = list(node.known(1).ravel())  # type: ignore[union-attr]
    kind = node.kind(2)
    if shape is None:
        node.put(0, None, kind)
        return
    axis = node.axis(node.attribute("axis", -1), len(shape) + 1)
    size = node.fresh(0, axis) if not depth else node.nonnegative(depth[0], 0, axis)
    node.put(0, [*shape[:axis], size, *shape[axis:]], kind)


@size_rule("NonZero")
def non_zero(node: SizedNode) -> None:
    """An index for each axis; their number depends on the data."""
    shape, value = node.shape(), node.known(0)
    rank: Extent = node.fresh(0, 0) if shape is None else max(len(shape), 1)
    numbers = None if value is None else plain(value.ravel())
    if value is not None and numbers is not None and isinstance(rank, int):
        found = np.array(np.nonzero(np.array(numbers).reshape(value.shape or (1,))))
        node.put(0, found.shape, INT64, filled(found.shape, map(int, found.ravel())))
        return
    node.put(0, [rank, node.fresh(0, 1)], INT64)


@size_rule("Compress")
def compress(node: SizedNode) -> None:
    """The chosen elements; their number depends on the data."""
    shape, axis, chosen = node.shape(), node.attribute("axis"), node.numbers(1)
    count: Extent = node.fresh(0, 0 if axis is None else axis) if chosen is None else sum(map(bool, chosen))
    if axis is None:
        node.put(0, [count])
    elif shape is None:
        node.put(0, None)
    else:
        at = node.axis(axis, len(shape))
        node.put(0, [*shape[:at], count, *shape[at + 1 :]])


@size_rule("Unique")
def unique(node: SizedNode) -> None:
    """Different elements; their number depends on the data."""
    shape, axis = node.shape(), node.attribute("axis")
    count = node.fresh(0, 0 if axis is None else axis)
    whole: Sequence[Value] | None = [count]
    if axis is not None:
        at = None if shape is None else node.axis(axis, len(shape))
        whole = None if shape is None or at is None else [*shape[:at], count, *shape[at + 1 :]]
    node.put(0, whole)
    everything = node.fresh(2, 0) if shape is None else _elements(shape, axis)
    for place, size in ((1, count), (2, everything), (3, count)):
        node.put(place, [size], INT64)


def _elements(shape: Shape, axis: int | None) -> Extent:
    if axis is not None:
        return shape[axis]
    found: Value = 1
    for size in shape:
        found = found * size
    return as_extent(found)


@size_rule("ArrayFeatureExtractor", domain="ai.onnx.ml")
def feature_extractor(node: SizedNode) -> None:
    """Chosen elements of the last axis."""
    shape, indices = node.shape(), node.shape(1)
    if shape is None or indices is None:
        node.put(0, None)
        return
    node.put(0, [*(shape[:-1] if len(shape) > 1 else (1,)), _elements(indices, None)])
