"""Channels numbered anew within each element of other factors.

A channel that is free within ``g`` (see `freedom`) may be another one in each ``g``. The whole program
counts in *slots*: slot ``s`` of a group is removed everywhere at once. An *order* ``[outer, size]`` holds
the channel in each slot, row by row for every element of the outer factors, and a tensor is put into
that order before it is cut. Slots are numbered by the channels of the first row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, Mirror, Product, Sum, factors, resolve
from onnxprune.algebra.kept_axes import channel_of
from onnxprune.analysis.groups.freedom import Outer

Array = np.ndarray[Any, np.dtype[Any]]
Indices = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The channel in each slot.

    Attributes:
        factor: The channels.
        outer: Factors they are free within, major to minor.
        order: The channel in each slot, ``[elements of the outer factors, channels]``.
    """

    factor: Factor
    outer: Outer
    order: Indices

    def applied(self, dims: Sequence[Dim], values: Array) -> Array:
        """Return a tensor whose slots hold the channels that belong there."""
        return _taken(dims, values, self.factor, self.outer, self.order)

    def undone(self, dims: Sequence[Dim], values: Array) -> Array:
        """Return the tensor of which this one is the arranged form."""
        return _taken(dims, values, self.factor, self.outer, np.argsort(self.order, axis=1))


def members(dims: Sequence[Dim], axis: int, factor: Factor, outer: Outer) -> Indices:
    """Number the elements of a tensor by the outer factors' elements and the channel they belong to.

    Args:
        dims: The axes of the tensor.
        axis: The one the channels lie on.
        factor: The channels.
        outer: Factors they are counted within, major to minor.

    Returns:
        ``outer element · channels + channel``, −1 where there is none; it broadcasts against the tensor.
    """
    channel = _along(dims, axis, channel_of(dims[axis], factor))
    place: Indices = np.zeros([1] * len(dims), np.intp)
    for beside in outer:
        index = _along(dims, axis, channel_of(dims[axis], beside))
        for other, dim in enumerate(dims):
            if other != axis and beside in factors(dim):
                index = np.where(index >= 0, index, _along(dims, other, channel_of(dim, beside)))
        place = place * beside.count + index
    return np.where(channel >= 0, place * factor.count + channel, -1)


def order_of(rows: Sequence[Sequence[int]], size: int) -> Indices:
    """Return an order that has some channels of each row in the slots of the first row's.

    Args:
        rows: The channels, as many in each row.
        size: Number of channels in all.
    """
    slots = np.sort(np.asarray(rows[0], np.intp))
    others = np.setdiff1d(np.arange(size), slots)
    order = np.empty((len(rows), size), np.intp)
    for line, row in zip(order, rows, strict=True):
        line[slots] = np.sort(np.asarray(row, np.intp))
        line[others] = np.setdiff1d(np.arange(size), row)
    return order


def _taken(dims: Sequence[Dim], values: Array, factor: Factor, outer: Outer, order: Indices) -> Array:
    """Take each element of a tensor from where its slot's channel lies."""
    axis = next(k for k, dim in enumerate(dims) if factor in factors(dim))
    member = members(dims, axis, factor, outer)
    channel = member % factor.count
    moved = order.ravel()[np.maximum(member, 0)] - channel
    stride = _along(dims, axis, _strides(dims[axis], factor))
    source = _along(dims, axis, np.arange(dims[axis].count)) + np.where(member >= 0, moved * stride, 0)
    if source.size == values.shape[axis]:
        return np.take(values, source.ravel(), axis)
    return np.take_along_axis(values, np.broadcast_to(source, values.shape), axis)


def _along(dims: Sequence[Dim], axis: int, line: Indices) -> Indices:
    """Lay a line along one axis of a tensor, so that it broadcasts against it."""
    return line.reshape([-1 if k == axis else 1 for k in range(len(dims))])


def _strides(dim: Dim, factor: Factor) -> Indices:
    """Return, for each element of an axis, how far its neighbouring channel is, 0 where it has none."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return np.full(dim.count, int(dim is factor))
    if isinstance(dim, Sum):
        return np.concatenate([_strides(part, factor) for part in dim.parts])
    if isinstance(dim, Mirror):  # a mirrored axis keeps its order
        return np.zeros(dim.count, np.intp)
    assert isinstance(dim, Product)
    strides = np.zeros(1, np.intp)
    for part in dim.parts:
        inner = _strides(part, factor)[None, :]
        strides = np.where(inner > 0, inner, strides[:, None] * part.count).ravel()
    return strides
