"""Intervals that hold the elements of a tensor of the sparse model, for all inputs.

Arithmetic is done in float64 and widened outwards, so that an interval holds the real number. Zero stays
exactly zero. Tensors are taken to be finite: zero times any number is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Function: TypeAlias = Callable[[Array], Array]
SLACK = 2.0**-46
"""Relative; more than a few operations in float64 lose."""
LARGE = 1 << 20
"""Elements from which a constant is not kept in float64 as well."""
FIXED = 2.0**-30
"""Relative width of an interval up to which a number counts as known."""


@dataclass(frozen=True)
class Bounds:
    """Lower and upper bounds of the elements of a tensor.

    Attributes:
        low: Lower bounds, float64; an axis of length one stands for all elements along it.
        high: Upper bounds, of the same shape.
    """

    low: Array
    high: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both arrays."""
        return tuple(self.low.shape)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return self.low.ndim

    @property
    def zero(self) -> Array:
        """The elements that are zero."""
        return np.asarray((self.low == 0) & (self.high == 0))

    @property
    def fixed(self) -> Array:
        """The elements that are known numbers."""
        size = np.maximum(np.abs(self.low), np.abs(self.high))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.isfinite(size) & (self.high - self.low <= FIXED * size))

    @property
    def middle(self) -> Array:
        """The known numbers; zero where an element is none."""
        with np.errstate(invalid="ignore"):
            return np.where(self.fixed, (self.low + self.high) / 2, 0.0)

    @property
    def informative(self) -> bool:
        """Return true if any bound is finite."""
        return bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())

    def moved(self, move: Callable[[Array], Array]) -> Bounds:
        """Return the bounds after a change of places, the same for both arrays."""
        return Bounds(move(self.low), move(self.high))

    def lifted(self, rank: int) -> Bounds:
        """Return the bounds with axes of length one in front."""
        return self.moved(lambda v: lift(v, rank))

    def squashed(self, axis: int) -> Bounds:
        """Return bounds that hold for all elements along an axis."""
        if self.shape[axis] == 1:
            return self
        if self.shape[axis] == 0:
            return unbounded(self.rank)
        return Bounds(self.low.min(axis, keepdims=True), self.high.max(axis, keepdims=True))

    def or_zero(self) -> Bounds:
        """Return bounds of the same elements or zero, as behind padding."""
        return Bounds(np.minimum(self.low, 0.0), np.maximum(self.high, 0.0))


class Constant(Bounds):
    """The bounds of a large constant that is finite: made of it when they are asked for, and not kept.

    Args:
        values: The constant.
    """

    def __init__(self, values: Array) -> None:
        object.__setattr__(self, "values", values)

    @property
    def low(self) -> Array:
        """The constant in float64."""
        found: Array = self.values.astype(np.float64)  # type: ignore[attr-defined]
        return found

    @property
    def high(self) -> Array:
        """The same."""
        return self.low

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the constant."""
        return tuple(self.values.shape)  # type: ignore[attr-defined]

    @property
    def rank(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    def moved(self, move: Callable[[Array], Array]) -> Bounds:
        """Return the bounds after a change of places."""
        return Constant(move(self.values))  # type: ignore[attr-defined]

    def squashed(self, axis: int) -> Bounds:
        """Return bounds that hold for all elements along an axis."""
        if self.shape[axis] == 1:
            return self
        values: Array = self.values  # type: ignore[attr-defined]
        ends = (values.min(axis, keepdims=True), values.max(axis, keepdims=True))
        return Bounds(*(end.astype(np.float64) for end in ends))


@dataclass(frozen=True)
class Centred:
    """Bounds of quantised elements minus their zero point.

    Attributes:
        zero_point: The name of the sparse zero point.
        bounds: Bounds of the differences, of which only those that are zero are known.
    """

    zero_point: str
    bounds: Bounds


def lift(values: Array, rank: int) -> Array:
    """Return an array with axes of length one in front."""
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def unbounded(rank: int) -> Bounds:
    """Return the bounds of a tensor of unknown elements."""
    return between(-np.inf, np.inf, rank)


def between(low: float, high: float, rank: int) -> Bounds:
    """Return the same bounds for all elements."""
    return Bounds(np.full([1] * rank, low), np.full([1] * rank, high))


def exactly(values: Array) -> Bounds:
    """Return the bounds of a constant."""
    if values.dtype.kind not in "fiub":
        return unbounded(values.ndim)
    if values.size > LARGE and all(np.isfinite(line).all() for line in values):
        return Constant(values)
    known = values.astype(np.float64)
    if not np.isfinite(known).all():
        return Bounds(np.where(np.isnan(known), -np.inf, known), np.where(np.isnan(known), np.inf, known))
    return Bounds(known, known)


def only_zero(bounds: Bounds) -> Bounds:
    """Return the bounds of a function of which only f(0) = 0 is known."""
    zero = bounds.zero
    return Bounds(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf))


def hull(bounds: Sequence[Bounds]) -> Bounds:
    """Return bounds that hold for an element of any of several tensors of one rank."""
    return Bounds(reduce(np.minimum, [b.low for b in bounds]), reduce(np.maximum, [b.high for b in bounds]))


def widened(low: Array, high: Array, slack: float = SLACK) -> Bounds:
    """Return bounds with room for rounding; not-a-number is unbounded."""
    with np.errstate(invalid="ignore", over="ignore"):
        low = np.where(np.isfinite(low), low - np.abs(low) * slack, np.where(low == np.inf, low, -np.inf))
        high = np.where(
            np.isfinite(high), high + np.abs(high) * slack, np.where(high == -np.inf, high, np.inf)
        )
    return Bounds(low, high)


def rising(function: Function, bounds: Bounds, slack: float = SLACK) -> Bounds:
    """Return the bounds of a function that nowhere falls."""
    with np.errstate(all="ignore"):
        return widened(function(bounds.low), function(bounds.high), slack)


def dipping(function: Function, bounds: Bounds) -> Bounds:
    """Return the bounds of a function that rises for positive numbers and lies in (−0.5, 0] for others.

    Its slope is less than 1.5 everywhere: Gelu, HardSwish, Mish, Swish.
    """
    with np.errstate(all="ignore"):
        ends = [np.asarray(np.nan_to_num(function(v), nan=0.0)) for v in (bounds.low, bounds.high)]
        width = np.where(bounds.fixed, 1.5 * (bounds.high - bounds.low), np.inf)
        low = np.where(bounds.low >= 0, ends[0], np.maximum(-0.5, np.minimum(*ends) - width))
        high = np.where(bounds.high > 0, ends[1], np.minimum(0.0, np.maximum(*ends) + width))
    return widened(low, high)


def plus(one: Bounds, other: Bounds) -> Bounds:
    """Return the bounds of a sum."""
    with np.errstate(invalid="ignore"):
        return widened(one.low + other.low, one.high + other.high)


def negated(bounds: Bounds) -> Bounds:
    """Return the bounds of the negative."""
    return Bounds(-bounds.high, -bounds.low)


def mul(one: Bounds, other: Bounds) -> Bounds:
    """Return the bounds of a product."""
    with np.errstate(invalid="ignore"):
        ends = [_product(a, b) for a in (one.low, one.high) for b in (other.low, other.high)]
    return widened(reduce(np.minimum, ends), reduce(np.maximum, ends))


def _product(one: Array, other: Array) -> Array:
    return np.where((one == 0) | (other == 0), 0.0, one * other)


def div(one: Bounds, other: Bounds) -> Bounds:
    """Return the bounds of a quotient that is finite."""
    away = (other.low > 0) | (other.high < 0)
    with np.errstate(all="ignore"):
        low, high = np.where(away, 1 / other.high, -np.inf), np.where(away, 1 / other.low, np.inf)
    positive = (other.low >= 0) & ~away  # which is then positive: the quotient is finite
    low, high = np.where(positive, 0.0, low), np.where(positive, np.inf, high)
    return mul(one, widened(low, high))


def power(base: Bounds, exponent: Bounds) -> Bounds:
    """Return the bounds of a power, where the exponent is one positive number; else only its sign."""
    known = exponent.low.ravel()[0] if exponent.low.size == 1 else 0.0
    if known != (exponent.high.ravel()[0] if exponent.high.size == 1 else 1.0) or known <= 0:
        natural = np.broadcast_to(base.low >= 0, np.broadcast_shapes(base.shape, exponent.shape))
        return Bounds(np.where(natural, 0.0, -np.inf), np.full(natural.shape, np.inf))
    if known % 2 == 0:
        base = magnitude(base)
    elif known % 1 and np.any(base.low < 0):
        base = Bounds(np.maximum(base.low, 0.0), np.maximum(base.high, 0.0))
    return rising(lambda v: np.power(v, known), base)


def magnitude(bounds: Bounds) -> Bounds:
    """Return the bounds of the absolute value."""
    ends = np.abs(bounds.low), np.abs(bounds.high)
    crossing = (bounds.low < 0) & (bounds.high > 0)
    return Bounds(np.where(crossing, 0.0, np.minimum(*ends)), np.maximum(*ends))


def summed(bounds: Bounds, axis: int, count: int | None) -> Bounds:
    """Return the bounds of the sum along an axis, which remains with one element.

    Args:
        bounds: Bounds of the terms.
        axis: The axis.
        count: Number of terms, none if it is not known.
    """
    if bounds.shape[axis] == 1:
        if count is None:
            zero = bounds.zero
            low = np.where(zero | (bounds.low >= 0), 0.0, -np.inf)
            return Bounds(low, np.where(zero | (bounds.high <= 0), 0.0, np.inf))
        with np.errstate(invalid="ignore"):
            ends = (
                _product(bounds.low, np.asarray(float(count))),
                _product(bounds.high, np.asarray(float(count))),
            )
        return widened(*ends)
    with np.errstate(invalid="ignore"):
        low, high = bounds.low.sum(axis, keepdims=True), bounds.high.sum(axis, keepdims=True)
        lost = SLACK * np.maximum(np.abs(bounds.low), np.abs(bounds.high)).sum(axis, keepdims=True)
        room = np.where(np.isfinite(lost), lost, 0.0)
    return widened(low - room, high + room)


erf = np.vectorize(math.erf, otypes=[float])
