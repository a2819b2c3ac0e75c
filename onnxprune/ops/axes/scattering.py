"""Operators that put elements at places named by number.

Where the numbers are constants and run through a regular part of an axis, that part is cut out and replaced:
``x[:, :4] = y`` is a Concat of ``y`` and the rest of ``x``. Other axes stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, nested, split
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import Zeros, carriers, rule

Indices = np.ndarray[Any, np.dtype[np.int64]]

NOWHERE = -1
BY_NUMBER = "it puts elements on this axis by number"


def _data_and_updates(zeros: Zeros) -> bool:
    """Every element is one of the data or of the updates."""
    return carriers((zeros[0], zeros[2]))


@rule("ScatterND", zero=_data_and_updates)
def scatter_nd(c: Context) -> None:
    """Slices are put at places of the leading axes; within the slices, the trailing axes pass through."""
    data, indices, updates = c.axes(0), c.axes(1), c.axes(2)
    rank, depth = len(indices) - 1, len(data) - (len(updates) - len(indices) + 1)
    places = _numbers(c, 1)
    runs = _columns(places) if places is not None else [None] * depth
    replaced = set()
    for column, (dim, along) in enumerate(zip(data[:depth], runs, strict=True)):
        if along is not None and places is not None:
            update = updates[along] if along != NOWHERE else Factor(1)
            if _replaced(c, dim, update, _line(places, along, column)):
                c.follow_indices(1, dim, axis=max(along, 0), column=column)
                replaced.add(along)
                continue
        c.block(dim, BY_NUMBER)
    for k in {*range(rank)} - replaced:
        c.block(updates[k], BY_NUMBER)
    for dim in indices:
        c.block(dim, BY_NUMBER)
    for dim, other in zip(data[depth:], updates[rank:], strict=True):
        c.same(dim, other)
    c.define(0, data)


@rule("ScatterElements", "Scatter", zero=_data_and_updates)
def scatter_elements(c: Context) -> None:
    """Elements are put along one axis; the others pass through where the updates cover them whole."""
    data, indices, updates = c.axes(0), c.axes(1), c.axes(2)
    axis = int(c.attributes.get("axis", 0)) % len(data)
    places = _numbers(c, 1)
    for k, (dim, index, update) in enumerate(zip(data, indices, updates, strict=True)):
        if k != axis:
            c.same(index, update)
            c.same(dim, index)
    line = _same_everywhere(places, axis) if places is not None else None
    if line is not None and _replaced(c, data[axis], updates[axis], line):
        c.follow_indices(1, data[axis], axis=axis)
    else:
        c.block(data[axis], BY_NUMBER)
        c.block(updates[axis], BY_NUMBER)
    c.define(0, data)


def _numbers(c: Context, operand: int) -> Indices | None:
    """Return the places that a constant lists."""
    constants = c.typing.model.constants
    return c.typing.model.array(c.node.input[operand]) if c.node.input[operand] in constants else None


def _columns(places: Indices) -> list[int | None]:
    """Return for each number of a place the axis of the list along which alone it changes, or ``NOWHERE``.

    ``None`` where there are several, or where another number changes along it too.
    """
    found: list[int | None] = []
    for column in range(places.shape[-1]):
        along = [
            k for k, size in enumerate(places.shape[:-1]) if size > 1 and _changes(places[..., column], k)
        ]
        found.append(along[0] if len(along) == 1 else None if along else NOWHERE)
    return [along if along in (None, NOWHERE) or found.count(along) == 1 else None for along in found]


def _changes(numbers: Indices, axis: int) -> bool:
    return bool(np.any(numbers != numbers.take([0], axis)))


def _line(places: Indices, along: int, column: int) -> Indices:
    """Return one number of the places along one axis of the list."""
    if along == NOWHERE:
        return places[..., column].reshape(-1)[:1]
    return np.moveaxis(places[..., column], along, 0).reshape(places.shape[along], -1)[:, 0]


def _same_everywhere(places: Indices, axis: int) -> Indices | None:
    """Return the numbers along an axis, if they are the same at all places of the others."""
    lines = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
    return lines[:, 0] if lines.size and np.all(lines == lines[:, :1]) else None


def _replaced(c: Context, dim: Dim, update: Dim, places: Indices) -> bool:
    """State that an update replaces a part of an axis; return whether that part is regular.

    A part is regular if its elements lie side by side, or at the same place of every block.
    """
    size = dim.size
    if not len(places) or not isinstance(size, int):
        return False
    places = np.where(places < 0, places + size, places)
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    start, end = int(places[0]), int(places[-1]) + 1
    if step < 1 or not np.array_equal(places, np.arange(start, end, step)):
        return False
    if step == 1:
        c.same(_piece(c, dim, start, end), update)
        return True
    if size % step or len(places) != size // step or start >= step:
        return False
    blocks = Factor(len(places))
    c.same(dim, nested((blocks, c.fixed(step, "it puts elements at equal distances"))))
    c.same(blocks, update)
    return True


def _piece(c: Context, dim: Dim, start: int, end: int) -> Dim:
    why = c.why("it cuts within a block")
    if end < dim.count:
        dim, _ = split(dim, end, why)
    return split(dim, start, why)[1] if start else dim
