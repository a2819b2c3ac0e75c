"""Operators that take or put elements by their number."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, Mirror, concatenated, factors, nested, split
from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.constant_rules import moved
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.axes.table import first, rule
from onnxprune.ops.axes.variables import Indexing, Keys

Indices = np.ndarray[Any, np.dtype[np.int64]]

BY_NUMBER = "it picks elements of this axis by number"
KEEP_ROWS = " (--keep-rows shortens it)"
MAX_RUNS = 16


@rule("Gather", zero=first, constant=moved, parameters=(0,))
def gather(c: Context) -> None:
    """Pick elements of one axis; the others pass through (embedding tables).

    A list that is known, and regular enough to be read as cuts and transpositions, is renumbered. Otherwise
    the axis must stay.
    """
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", 0)) % len(dims)
    chosen = _chosen(c, dims[axis])
    if chosen is not None:
        c.follow_indices(1, dims[axis])
        c.define(0, [*dims[:axis], chosen, *dims[axis + 1 :]])
    else:
        if c.typing.rows is not None and c.node.output[0] in c.typing.lookups:
            c.same(dims[axis], c.typing.rows)
        else:
            hint = KEEP_ROWS if c.node.output[0] in c.typing.pickable else ""
            c.block(dims[axis], BY_NUMBER + hint)
        c.runs_along(_picked(dims, c.axes(1), axis))
        c.define(0, [*dims[:axis], *c.axes(1), *dims[axis + 1 :]])
    c.weights(0)


def _picked(dims: Axes, places: Axes, axis: int) -> Indexing:
    """Return the indices of a Gather: those of its places stand where the axis was."""
    names = [f"place {k}" for k in range(len(places))]
    before: list[Keys] = [(str(k),) for k in range(axis)]
    after: list[Keys] = [(str(k),) for k in range(axis + 1, len(dims))]
    inside: list[Keys] = [(name,) for name in names]
    return Indexing(
        {**{str(k): d for k, d in enumerate(dims)}, **dict(zip(names, places, strict=True))},
        {0: (*before, (), *after), 1: tuple(inside)},
        {0: (*before, *inside, *after)},
    )


def _chosen(c: Context, dim: Dim) -> Dim | None:
    """Return the part of an axis that a constant list picks, ``None`` where it has no regular description."""
    indices = c.value(1)
    if indices is None or indices.ndim != 1 or not any(f.free for f in factors(dim)):
        return None
    if not isinstance(dim.size, int):
        return None
    if c.node.input[1] not in c.typing.model.constants:
        return None
    indices = indices % dim.size
    if len(indices) == dim.count and np.array_equal(indices, np.arange(dim.count)[::-1]):
        return Mirror(dim)
    return _transposed(c, dim, indices) or _equidistant(c, dim, indices) or _cut_up(c, dim, indices)


def _transposed(c: Context, dim: Dim, indices: Indices) -> Dim | None:
    """Blocks become strides: a channel shuffle by list."""
    size = dim.count
    if len(indices) != size or size < 4 or indices[1] < 2 or size % indices[1]:
        return None
    width = int(indices[1])
    if not np.array_equal(indices, np.arange(size).reshape(-1, width).T.ravel()):
        return None
    major, minor = Factor(size // width), Factor(width)
    c.same(dim, nested((major, minor)))
    return nested((minor, major))


def _equidistant(c: Context, dim: Dim, indices: Indices) -> Dim | None:
    """The same place of every block."""
    size = dim.count
    step = size // max(len(indices), 1)
    if step < 2 or len(indices) < 2 or size % step or indices[0] >= step:
        return None
    if not np.array_equal(indices, np.arange(indices[0], size, step)):
        return None
    blocks = Factor(len(indices))
    c.same(dim, nested((blocks, c.fixed(step, "it picks elements at equal distances"))))
    return blocks


def _cut_up(c: Context, dim: Dim, indices: Indices) -> Dim | None:
    """A few pieces in any order, some perhaps more than once."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    if not len(indices) or len(runs) > min(MAX_RUNS, (len(indices) + 1) // 2):
        return None
    bounds = sorted({0, dim.count, *(int(r[0]) for r in runs), *(int(r[-1]) + 1 for r in runs)})
    pieces: dict[int, Dim] = {}
    rest = dim
    for start, end in pairwise(bounds[:-1]):
        pieces[start], rest = split(rest, end - start, c.why("it cuts within a block"))
    pieces[bounds[-2]] = rest
    return concatenated(pieces[b] for r in runs for b in bounds if r[0] <= b <= r[-1])


@rule("GatherElements")
def gather_elements(c: Context) -> None:
    """Each element of the result is picked along one axis; the other axes may be shorter than the data's."""
    data, indices = c.axes(0), c.axes(1)
    axis = int(c.attributes.get("axis", 0)) % len(data)
    c.block(data[axis], BY_NUMBER)
    for k, (dim, other) in enumerate(zip(data, indices, strict=True)):
        if k != axis:
            c.same(dim, other)
    c.define(0, indices)


@rule("GatherND", zero=first, constant=moved)
def gather_nd(c: Context) -> None:
    """Leading axes are picked from, the trailing ones pass through whole."""
    data, indices = c.axes(0), c.axes(1)
    batch = int(c.attributes.get("batch_dims", 0))
    depth = c.count(indices[-1].size)
    for dim, other in zip(data[:batch], indices[:batch], strict=True):
        c.same(dim, other)
    for dim in (*data[batch : batch + depth], indices[-1]):
        c.block(dim, BY_NUMBER)
    c.define(0, [*indices[:-1], *data[batch + depth :]])


@rule("TensorScatter")
def tensor_scatter(c: Context) -> None:
    """Rows are written into a cache along one axis."""
    cache, update = c.axes(0), c.axes(1)
    axis = int(c.attributes.get("axis", -2)) % len(cache)
    for k, (dim, other) in enumerate(zip(cache, update, strict=True)):
        if k == axis:
            c.block(dim, "it puts elements on this axis by number")
            c.block(other, "it puts elements on this axis by number")
        else:
            c.same(dim, other)
    if c.has(2):
        c.block(cache[0], "where it writes is another place for each sample")
    c.define(0, cache)


@rule("OneHot")
def one_hot(c: Context) -> None:
    """A new axis of the length fixed at export."""
    dims = list(c.axes(0))
    axis = int(c.attributes.get("axis", -1)) % (len(dims) + 1)
    dims.insert(axis, c.fixed(c.result_shape()[axis], "each element of this axis stands for a number"))
    c.define(0, dims)


@rule("Trilu", zero=first)
def trilu(c: Context) -> None:
    """The last two axes are a matrix, one half of which is zeroed."""
    dims = c.axes(0)
    for dim in dims[-2:]:
        c.block(dim, "it compares places on this axis with places on another")
    c.define(0, dims)


@rule("ReverseSequence", zero=first)
def reverse_sequence(c: Context) -> None:
    """Steps change places."""
    dims = c.axes(0)
    for name, default in (("time_axis", 0), ("batch_axis", 1)):
        c.block(dims[int(c.attributes.get(name, default))], "it reverses the order along this axis")
    c.define(0, dims)


@rule("Compress")
def compress(c: Context) -> None:
    """The number of remaining elements is known at run time only."""
    if "axis" not in c.attributes:
        raise UnknownOperandError("it picks elements of the flattened tensor by number")
    raise UnknownOperandError("the number of elements it picks is known at run time only")
