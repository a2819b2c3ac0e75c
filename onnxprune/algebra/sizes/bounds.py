"""Limits of sizes, by interval arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from onnxprune.algebra.sizes.polynomial import Size

Limit: TypeAlias = "int | Fraction | None"
Interval: TypeAlias = "tuple[Limit, Limit]"
"""The least and the greatest value; ``None`` for no limit."""


def interval(size: Size) -> Interval:
    """Return limits of a polynomial, the monomials taken one by one."""
    low: Limit = 0
    high: Limit = 0
    atoms = size.algebra.atoms
    for monomial, c in size.terms:
        part: Interval = (1, 1)
        for number, exponent in monomial:
            part = times(part, power(atoms[number].bounds, exponent))
        a, b = part if c > 0 else (part[1], part[0])
        low = None if low is None or a is None else low + a * c
        high = None if high is None or b is None else high + b * c
        if low is None and high is None:
            break
    return low, high


def times(a: Interval, b: Interval) -> Interval:
    """Return limits of a product."""
    if a == (1, 1):
        return b
    if a[0] is not None and b[0] is not None and a[0] >= 0 and b[0] >= 0:
        return a[0] * b[0], None if a[1] is None or b[1] is None else a[1] * b[1]
    ends = [x * y for x in a if x is not None for y in b if y is not None]
    return (min(ends), max(ends)) if len(ends) == 4 else (None, None)


def power(a: Interval, exponent: int) -> Interval:
    """Return limits of a power."""
    if exponent == 1:
        return a
    low, high = a
    if low is not None and low >= 0:
        return low**exponent, None if high is None else high**exponent
    if exponent % 2:
        return None if low is None else low**exponent, None if high is None else high**exponent
    return 0, None if low is None or high is None else max(low**exponent, high**exponent)


def larger(intervals: list[Interval]) -> Interval:
    """Return limits of the largest of some values."""
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals]
    top = [high for high in highs if high is not None]
    return max(lows, default=None), max(top) if len(top) == len(highs) else None


def negative(a: Interval) -> Interval:
    """Return limits of the opposite."""
    low, high = a
    return None if high is None else -high, None if low is None else -low
