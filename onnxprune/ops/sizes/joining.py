"""Concat and Split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.algebra.sizes.algebra import (
    Extent,
    Value,
    atoms_of,
    ceil_div,
    exact_quotient,
    floor_div,
    is_positive,
)
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import INTEGERS, Shape, Values, plain
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("Concat")
def concat(node: SizedNode) -> None:
    """The sum along an axis, the other axes being the same."""
    places = range(len(node.inputs))
    shapes = [node.shape(k) for k in places]
    kind = next((t for k in places if (t := node.kind(k)) is not None), None)
    known = [s for s in shapes if s is not None]
    if not known:
        node.put(0, None, kind)
        return
    rank = max(map(len, known))
    if any(len(s) not in (1, rank) for s in known):
        raise ContradictionError(f"tensors of {' and '.join(str(len(s)) for s in known)} axes are joined")
    axis = node.axis(node.attribute("axis", 1), rank)
    sizes = joined(node, [s for s in known if len(s) == rank], axis)
    if len(known) < len(shapes):
        sizes[axis] = node.fresh(0, axis)
    node.put(0, sizes, kind, _joined_values(node, kind, axis))


def joined(node: SizedNode, shapes: Sequence[Shape], axis: int) -> list[Value]:
    """Return the sizes of tensors laid end to end.

    onnxruntime passes over empty ones: a tensor that may be cut to no elements implies no other size. One
    that is empty along another axis has to fit: its part of the result would hold no numbers.
    """
    full = [s for s in shapes if 0 not in s or s[axis] != 0] or list(shapes)
    certain = [s for s in full if not _may_be_cut_away(s)] or full
    sizes: list[Value] = list(certain[0])
    whole: Value = sum((s[axis] for s in shapes), 0)
    for shape in certain:
        for k, size in enumerate(shape):
            if k != axis:
                sizes[k] = node.same(sizes[k], size, f"axis {k} of the joined inputs")
    for shape in full:
        for k, size in enumerate(shape):
            if k != axis and not node.could_be(sizes[k], size, f"axis {k} of the joined inputs"):
                whole = node.fresh(0, axis)  # it runs only where this one is empty
    sizes[axis] = whole
    return sizes


def _may_be_cut_away(shape: Shape) -> bool:
    """Return whether a tensor may be empty because of how it was sliced."""
    return any(
        not is_positive(size) and any(atom.kind == "maximum" for atom in atoms_of(size)) for size in shape
    )


def _joined_values(node: SizedNode, kind: int | None, axis: int) -> Values | None:
    places = range(len(node.inputs))
    known = [node.known(k) for k in places]
    missing = sum(x is None for x in known)
    if missing == len(known) or (missing and kind not in INTEGERS):
        return None
    parts = [x for k in places if (x := node.value(k)) is not None]
    if len(parts) < len(known) or any(x.ndim != parts[0].ndim for x in parts):
        return None
    return np.concatenate(parts, axis=axis)


@size_rule("Split")
def split(node: SizedNode) -> None:
    """Listed parts, or equal ones."""
    shape = node.shape()
    if shape is None:
        node.put_all(None)
        return
    axis = node.axis(node.attribute("axis", 0), len(shape))
    parts = _parts(node, shape[axis], axis)
    values = _split_values(node, plain(parts), axis)
    for place, (part, value) in enumerate(zip(parts, values, strict=True)):
        node.put(place, [*shape[:axis], part, *shape[axis + 1 :]], None, value)


def _parts(node: SizedNode, size: Extent, axis: int) -> Sequence[Value]:
    count = len(node.outputs)
    listed: Sequence[Value] | None = node.attribute("split")
    if listed is None and node.has(1):
        listed = node.target(1)
        if listed is None:
            listed = [node.fresh(k, axis) for k in range(count)]
    if listed is not None:
        node.same(sum(listed, 0), size, f"the parts of axis {axis} are all of it")
        return [node.walk.facts.now(x) for x in listed]
    if node.opset < 18:
        part = floor_div(size, count)
        node.same(part * count, size, f"axis {axis} in {count} equal parts")
        return [node.walk.facts.now(part)] * count
    even = exact_quotient(size, count)
    if even is not None:
        return [even] * count
    part = ceil_div(size, count)
    last: Value = size - part * (count - 1)
    node.need_nonnegative(last, f"the last of {count} parts of axis {axis}")
    return [part] * (count - 1) + [last]


def _split_values(node: SizedNode, parts: list[int] | None, axis: int) -> list[Values | None]:
    value, count = node.known(0), len(node.outputs)
    if value is None or parts is None or sum(parts) != value.shape[axis]:
        return [None] * count
    ends = np.cumsum(parts)[:-1]
    return list(np.split(value, ends, axis=axis))
