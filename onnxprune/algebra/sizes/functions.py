"""Functions of sizes that are more than sums and products.

Each has one constructor that simplifies, and is an atom where no simplification applies:

floor       floor(r), for a polynomial r with fractions as coefficients
quotient    floor(a / b) for a size b; 0 where b is 0
truncated   a / b towards zero
maximum, minimum
equal       1 where d is 0, else 0
less        1 where d is below 0, else 0
stretched   the size that two axes broadcast to: the other one where one is 1
rounded     a / b in floating point numbers of a given number of bits

Booleans are 0 and 1. A value chosen by one is ``b + c*(a - b)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from onnxprune.algebra.sizes.bounds import Interval, larger, negative
from onnxprune.algebra.sizes.division import as_extent, denominator
from onnxprune.algebra.sizes.polynomial import (
    Extent,
    Number,
    Size,
    Value,
    algebra_of,
    is_integral,
    single_atom,
)
from onnxprune.algebra.sizes.proofs import is_nonnegative, is_positive


def maximum(*values: Value) -> Value:
    """Return the largest of some values."""
    return _extreme("maximum", values)


def minimum(*values: Value) -> Value:
    """Return the smallest of some values."""
    return _extreme("minimum", values)


def _extreme(kind: str, values: tuple[Value, ...]) -> Value:
    sign = 1 if kind == "maximum" else -1
    kept: list[Value] = []
    for x in dict.fromkeys(y for value in values for y in _opened(kind, value)):
        if not any(is_nonnegative((y - x) * sign) for y in kept):
            kept = [y for y in kept if not is_nonnegative((x - y) * sign)] + [x]
    if len(kept) == 1:
        return kept[0]
    kept.sort(key=_order)
    limits = [x.bounds if isinstance(x, Size) else (x, x) for x in kept]
    bounds = larger(limits) if sign > 0 else negative(larger([negative(x) for x in limits]))
    integral = all(map(is_integral, kept))
    return algebra_of(kept).atom(kind, tuple(kept), bounds, integral=integral)


def _opened(kind: str, value: Value) -> Iterator[Value]:
    """Yield the operands of an extreme that a value holds: max(max(a, b) + r, c) is max(a + r, b + r, c)."""
    if isinstance(value, Size):
        for monomial, c in value.terms:
            atom = single_atom(value.algebra.polynomial({monomial: c}))
            if atom is not None and atom.kind == kind:
                rest = value - value.algebra.polynomial({monomial: c})
                yield from (x + rest for x in atom.operands)
                return
    yield value


def _order(value: Value) -> tuple[int, object]:
    return (1, value.terms) if isinstance(value, Size) else (0, value)


def equals(a: Value, b: Value) -> Extent:
    """Return 1 where two values are the same, 0 where they are not; an expression where sizes decide."""
    d = a - b
    if not isinstance(d, Size):
        return int(d == 0)
    if is_positive(d) or is_positive(-d):
        return 0
    truth = d + 1
    if (atom := single_atom(truth)) is not None and atom.boolean:
        return as_extent(truth)
    if d.terms[-1][1] < 0:
        d = -d
    return d.algebra.atom("equal", (d,), (0, 1))


def less(a: Value, b: Value) -> Extent:
    """Return 1 where ``a`` is below ``b``, 0 where it is not; an expression where sizes decide."""
    d = a - b
    if not isinstance(d, Size):
        return int(d < 0)
    if is_nonnegative(d):
        return 0
    return 1 if is_positive(-d) else d.algebra.atom("less", (d,), (0, 1))


def choose(condition: Value, a: Value, b: Value) -> Value:
    """Return ``a`` where a condition is 1, ``b`` where it is 0."""
    if not isinstance(condition, Size):
        return a if condition else b
    chosen: Value = b + condition * (a - b)
    return chosen


def stretched(a: Extent, b: Extent) -> Extent:
    """Return the size that two axes broadcast to: both the same, or one of them 1."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for x in (a, b):  # the other is 1 or the same
        if not isinstance(x, Size) or is_nonnegative(x - 2):
            return x
    for x, y in ((a, b), (b, a)):  # a table of 512 rows, cut to the length of the other operand
        atom = single_atom(y)
        cut = atom.operands if atom is not None and atom.kind == "minimum" else ()
        if x in cut and all(s == x or is_nonnegative(s - 2) for s in cut):
            return x
    for x, y in ((a, b), (b, a)):
        if (atom := single_atom(y)) is not None and atom.kind == "stretched" and x in atom.operands:
            return y
    pair = sorted((a, b), key=_order)
    lows = [x.bounds[0] for x in pair if isinstance(x, Size)]
    least = None if None in lows else min(low for low in lows if low is not None)
    return algebra_of(pair).atom("stretched", tuple(pair), (least, None))


def rounded(a: Value, bits: int, b: Value = 1) -> Value:
    """Return a / b as floating point numbers have it.

    Small multiples of powers of two are exact; so they are up to 2**13 in 32 bits.

    Args:
        a: Dividend.
        bits: The length of the numbers: 16, 32 or 64.
        b: Divisor.

    Raises:
        ZeroDivisionError: ``b`` is the number 0.
    """
    if not isinstance(b, Size):
        a, b = a * Fraction(1, b), 1
        if not isinstance(a, Size):
            return rounded_number(a, bits)
        scale = denominator(a)
        if bits > 16 and scale <= 1024 and not scale & (scale - 1) and not _has_rounded(a):
            return a
    limits: Interval = (None, None)
    if is_nonnegative(a) and is_nonnegative(b):
        limits = (0, None)
    return algebra_of((a, b)).atom("rounded", (a, b, bits), limits, integral=False)


def _has_rounded(a: Size) -> bool:
    atoms = a.algebra.atoms
    return not all(atoms[k].integral for m, _ in a.terms for k, _ in m)


def rounded_number(number: Number, bits: int) -> Number:
    """Return the floating point number next to a number.

    Raises:
        OverflowError: It is beyond the range of numbers of that length.
    """
    kind = np.dtype(f"f{bits // 8}").type
    with np.errstate(over="ignore"):
        return Fraction(float(kind(float(number))))  # which refuses infinity
