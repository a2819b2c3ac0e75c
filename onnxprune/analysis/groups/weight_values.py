"""The numbers of a weight: those in the file, or, where it is quantised, their real values.

The real value of a quantised weight ``q`` is ``(q − zero point) · scale``: a zero of the network is the zero
point in the file. Zero point and scale are one number, one for each place on an axis, or one for each block
of neighbours there.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType
from typing import Any

import numpy as np

from onnxprune.ops.axes import Quantised, Typing
from onnxprune.support.mapped import placed

Array = np.ndarray[Any, np.dtype[Any]]


def zero_value(typing: Typing, name: str) -> Array:
    """Return the zero of a constant, of its type and broadcast against it."""
    if name in typing.absent:
        return np.asarray(typing.absent[name], typing.model.dtype(name))
    zero = _parameter(typing, name, "zero")
    return np.zeros((), typing.model.dtype(name)) if zero is None else zero


def real_values(typing: Typing, name: str) -> Array:
    """Return the values of a constant: zero exactly where its real value is zero."""
    values = typing.model.array(name)
    if name in typing.absent:
        return np.where(values == zero_value(typing, name), values.dtype.type(0), values)
    if name not in typing.quantised:
        return values
    scale = _parameter(typing, name, "scale")
    centred = values.astype(np.float64) - zero_value(typing, name).astype(np.float64)
    return np.asarray(centred if scale is None else centred * scale.astype(np.float64))


def mask_values(typing: Typing, name: str) -> Array:
    """Return numbers that are zero exactly where masking has written into a constant."""
    if name in typing.absent:
        return np.asarray(typing.model.array(name) != zero_value(typing, name), np.float64)
    return real_values(typing, name)


def mask_blocks(typing: Typing, name: str) -> Iterator[tuple[slice | EllipsisType, Array]]:
    """Yield the places of `onnxprune.support.mapped.parts` in a constant, and its `mask_values` there."""
    if is_plain(typing, name):
        yield from typing.model.blocks(name)
    else:
        yield from placed(mask_values(typing, name))


def finite_values(typing: Typing, name: str) -> Array:
    """Return the values of a constant, in float64; −∞, which forbids places in masks, as 0."""
    return without_infinity(real_values(typing, name))


def is_plain(typing: Typing, name: str) -> bool:
    """Return whether a constant's values are those in the file."""
    return name not in typing.absent and name not in typing.quantised


def without_infinity(values: Array) -> Array:
    """Return values in float64, −∞ as 0."""
    values = values.astype(np.float64)
    forbidden = np.isneginf(values)
    return np.where(forbidden, 0.0, values) if forbidden.any() else values


def _parameter(typing: Typing, name: str, which: str) -> Array | None:
    """Return a scale or zero point, shaped to broadcast against the constant."""
    how = typing.quantised.get(name, Quantised())
    source = how.zero if which == "zero" else how.scale
    if source is None:
        return None
    values = typing.model.array(source)
    dims = typing.model.constants[name].dims
    if how.block:
        return np.repeat(values, how.block, how.axis).take(range(dims[how.axis]), how.axis)
    shape = [1] * len(dims)
    if values.size > 1:
        shape[how.axis] = values.size
    return values.reshape(shape)
