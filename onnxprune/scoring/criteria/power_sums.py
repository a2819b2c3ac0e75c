"""Sums of the powers of a tensor's elements along each of its axes, from one reading of the tensor.

A matrix lies in two groups, its rows in one and its columns in the other, and a plan scores each group more
than once. All of these scores need the sums of |w| or w² over the other axes, which are small.

Large tensors are added up in the precision of their own, in blocks that fit into the cache, and the sums of
the blocks in float64 (Higham, "The accuracy of floating point summation", SIAM J. Sci. Comput. 14, 1993).
Blocks whose powers leave the range of float32 are computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxprune.analysis.groups.weight_values import without_infinity
from onnxprune.ir import Model
from onnxprune.ir.analyses import analysis
from onnxprune.support.mapped import HALF_INFINITY, magnitude_bits

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1 << 18
"""Elements of a tensor that are added up at a time."""
_SMALLEST_SUM = 1e-30
"""Sum of float32 numbers below which an underflow of its terms may matter."""
_ROWS = 256
"""Numbers that are added one after another in float32, at most."""
_SINGLE = (np.dtype(np.float16), np.dtype(np.float32))
"""Element types that are added up in float32; all others in float64."""


@analysis("power sums", sized=False)
def power_sums(model: Model, tensor: str, power: int) -> tuple[Array, ...]:
    """Return the sum of |w|ᵖ over all other axes, for each axis of a constant.

    −∞, which forbids places in masks, counts as 0.

    Args:
        model: The network.
        tensor: Name of the constant, whose values are those in the file.
        power: The exponent, 1 or 2.

    Returns:
        One float64 array for each axis, ``[size of the axis]``.
    """
    values = model.array(tensor)
    if values.size <= BLOCK or not values.ndim:
        return tuple(_sums(_powers(without_infinity(values), power)))
    step = max(1, BLOCK * len(values) // values.size)
    first, rest = [], [np.zeros(size) for size in values.shape[1:]]
    for start in range(0, len(values), step):
        found = _block_sums(values[start : start + step], power)
        first.append(found[0])
        for total, part in zip(rest, found[1:], strict=True):
            total += part
    return np.concatenate(first), *rest


def _block_sums(block: Array, power: int) -> Sequence[Array]:
    """Return the sums of a block, in float32 where that is exact enough."""
    if block.dtype in _SINGLE:
        with np.errstate(over="ignore", invalid="ignore"):
            single = _magnitudes(block) if block.dtype == np.float16 else block
            found = _sums(_powers(single, power))
        if power == 1 or block.dtype == np.float16:
            if all(np.isfinite(f).all() for f in found):
                return found
        elif _is_in_range(single, found):
            return found
    return _sums(_powers(without_infinity(block), power))


def _magnitudes(block: Array) -> Array:
    """Return the absolute values of float16 numbers in float32, exactly, which signs do not change.

    Exponent and mantissa move to their places in a float32, whose exponent counts from 112 lower. numpy
    converts infinity and NaN, more slowly.
    """
    bits = magnitude_bits(block)
    if int(bits.max(initial=0)) >= HALF_INFINITY:
        return np.abs(block.astype(np.float32))
    return np.left_shift(bits, 13, dtype=np.uint32).view(np.float32) * np.float32(2.0**112)


def _is_in_range(block: Array, found: Sequence[Array]) -> bool:
    """Return whether no sum of squares has met an overflow, and none an underflow that matters."""
    for axis, sums in enumerate(found):
        if not np.isfinite(sums).all():
            return False
        small = np.flatnonzero(sums < _SMALLEST_SUM)
        if len(small) and block.take(small, axis).any():
            return False
    return True


def _powers(values: Array, power: int) -> Array:
    return np.abs(values) if power == 1 else np.square(values)


def _sums(values: Array) -> list[Array]:
    """Return the float64 sums over all axes but one, for each axis."""
    found = []
    while values.ndim:
        found.append(values.reshape(len(values), -1).sum(axis=1).astype(np.float64))
        values = values.sum(axis=0, dtype=np.float64 if len(values) > _ROWS else None)
    return found
