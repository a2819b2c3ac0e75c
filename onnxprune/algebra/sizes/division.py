"""Divisions of sizes, exact or rounded.

A division by a number is the floor of a polynomial with fractions as coefficients. Floors inside of floors
merge, so a chain of strided convolutions stays one fraction.
"""

from __future__ import annotations

import math
from fractions import Fraction

from onnxprune.algebra.sizes.bounds import Interval
from onnxprune.algebra.sizes.polynomial import (
    Extent,
    Monomial,
    NotWholeError,
    Number,
    Size,
    Value,
    algebra_of,
    is_integral,
    single_atom,
)
from onnxprune.algebra.sizes.proofs import common_monomial, is_nonnegative, is_positive, without

_STEPS = 64
"""Limit of the steps of a division, and of the terms of its remainder; beyond it the division is given up."""


def floor_div(a: Value, b: Value) -> Extent:
    """Return floor(a / b).

    Raises:
        ZeroDivisionError: ``b`` is the number 0.
    """
    if not isinstance(b, Size):
        return _floor(a * Fraction(1, b))
    if (exact := exact_quotient(a, b)) is not None:
        return exact
    shared = common_monomial(a, b)
    if shared:
        return floor_div(_divided(a, shared), _divided(b, shared))
    whole, rest = _whole_part(a, b)
    return as_extent(whole + _quotient(rest, b))


def ceil_div(a: Value, b: Value) -> Extent:
    """Return the least integer that is not below a / b.

    Raises:
        ZeroDivisionError: ``b`` is the number 0.
    """
    return -floor_div(-a, b)


def trunc_div(a: Value, b: Value) -> Extent:
    """Return a / b rounded towards zero, as integer division of ONNX does.

    Raises:
        ZeroDivisionError: ``b`` is the number 0.
    """
    if not isinstance(b, Size):
        if b < 0:
            a, b = -a, -b
        if not isinstance(a, Size):
            return math.trunc(Fraction(a) / b)
    if (exact := exact_quotient(a, b)) is not None:
        return exact
    if is_nonnegative(b):
        if is_nonnegative(a):
            return floor_div(a, b)
        if is_nonnegative(-a):
            return -floor_div(-a, b)
    return algebra_of((a, b)).atom("truncated", (a, b), (None, None))


def exact_quotient(a: Value, b: Value) -> Extent | None:
    """Return a / b where it is proved to be an integer at all sizes, else ``None``."""
    if not isinstance(a, Size):
        exact = not isinstance(b, Size) and b != 0 and Fraction(a) / b
        if a == 0:
            return 0
        return exact.numerator if exact and exact.denominator == 1 else None
    if not isinstance(b, Size):
        if b == 0:
            return None
        quotient: Value = a * Fraction(1, b)
        return as_extent(quotient) if is_integral(quotient) else None
    return _divide(a, b)


def _divide(a: Size, b: Size) -> Extent | None:
    """Divide two polynomials; ``None`` where a remainder is left."""
    lead, head = b.terms[-1]
    quotient: Value = 0
    left: Value = a
    for _ in range(_STEPS):
        if not isinstance(left, Size):
            break
        part = next(
            (
                a.algebra.polynomial({without(m, lead): Fraction(c) / head})
                for m, c in reversed(left.terms)
                if _divides(lead, m)
            ),
            None,
        )
        if part is None or not is_integral(part) or len(left.terms) > _STEPS:
            return None
        quotient, left = quotient + part, left - part * b
    return as_extent(quotient) if not isinstance(left, Size) and left == 0 else None


def _divides(factor: Monomial, monomial: Monomial) -> bool:
    powers = dict(monomial)
    return all(powers.get(k, 0) >= p for k, p in factor)


def _divided(value: Value, factor: Monomial) -> Value:
    """Divide each term by a monomial that divides it."""
    if not isinstance(value, Size):
        return value
    return value.algebra.polynomial({without(m, factor): c for m, c in value.terms})


def common_divisor(a: Extent, b: Extent) -> Extent:
    """Return the largest number or monomial proved to divide both; the smaller of two where it does so."""
    for one, other in ((a, b), (b, a)):
        if one == other or (isinstance(one, Size) and exact_quotient(other, one) is not None):
            return one
    number = math.gcd(*(_content(x) for x in (a, b)))
    shared = common_monomial(a, b)
    if not shared:
        return number
    return as_extent(algebra_of((a, b)).polynomial({shared: number}))


def _content(value: Value) -> int:
    """Return a number that divides all coefficients."""
    if not isinstance(value, Size):
        return abs(int(value))
    known = [abs(Fraction(c) * value.algebra.divisor(m)) for m, c in value.terms]
    return math.gcd(*(k.numerator if k.denominator == 1 else 1 for k in known))


def _floor(value: Value) -> Extent:
    """Return floor(value)."""
    if not isinstance(value, Size):
        return math.floor(value)
    if value.integral:
        return value
    plain = _unrounded(value)
    if plain is not value:
        return _floor(plain)
    atoms = value.algebra.atoms
    if not all(atoms[k].integral for m, _ in value.terms for k, _ in m):
        return _floor_of_real(value)
    scale = denominator(value)
    if next(c for m, c in value.terms if m) < 0:  # floor(-x) is -ceil(x)
        return -_floor(-value + Fraction(scale - 1, scale))
    whole: dict[Monomial, Number] = {}
    rest: dict[Monomial, Number] = {}
    for monomial, c in value.terms:
        divisor = value.algebra.divisor(monomial)
        whole[monomial] = Fraction(math.floor(c * divisor), divisor)
        rest[monomial] = c - whole[monomial]
    if () in rest:  # the other terms are multiples of 1 / scale
        others = math.lcm(*(Fraction(c).denominator for m, c in rest.items() if m))
        rest[()] = Fraction(math.floor(rest[()] * others), others)
    outside = value.algebra.polynomial(whole)
    return as_extent(outside + _floor_of_fractions(value.algebra.polynomial(rest)))


def _floor_of_fractions(rest: Value) -> Extent:
    """Return the floor of terms between 0 and 1 each: an atom, or with a floor inside of it dissolved."""
    if not isinstance(rest, Size):
        return math.floor(rest)
    for monomial, c in rest.terms:
        atom = single_atom(rest.algebra.polynomial({monomial: 1}))
        if atom is not None and atom.kind == "floor" and Fraction(c).numerator == 1:
            others = rest - rest.algebra.polynomial({monomial: c})
            if is_integral(others * Fraction(1, c)):  # floor((floor(s) + t) / n) is floor((s + t) / n)
                return _floor(others + atom.operands[0] * c)
    low, high = rest.bounds
    if low is not None and high is not None and math.floor(low) == math.floor(high):
        return math.floor(low)
    limits = tuple(None if x is None else math.floor(x) for x in (low, high))
    return rest.algebra.atom("floor", (rest,), (limits[0], limits[1]))


def _floor_of_real(value: Size) -> Extent:
    """Return the floor of a polynomial with terms that are not integers."""
    atoms = value.algebra.atoms
    whole = {m: c for m, c in value.terms if isinstance(c, int) and all(atoms[k].integral for k, _ in m)}
    outside = value.algebra.polynomial(whole)
    rest = value - outside
    low, high = rest.bounds if isinstance(rest, Size) else (rest, rest)
    limits = tuple(None if x is None else math.floor(x) for x in (low, high))
    return as_extent(outside + value.algebra.atom("floor", (rest,), (limits[0], limits[1])))


def _unrounded(value: Size) -> Value:
    """Drop the rounding that a floor is not changed by: that of integers over a small one.

    Such a fraction is an integer, or farther from the next than its rounding, up to 2**17 in 32 bits.
    """
    for monomial, c in value.terms:
        atom = single_atom(value.algebra.polynomial({monomial: 1}))
        if atom is None or atom.kind != "rounded" or not isinstance(c, int) or abs(c) > 64:
            continue
        inner = atom.operands[0]
        others = value - value.algebra.polynomial({monomial: c})
        if atom.operands[1] == 1 and atom.operands[2] != 16 and _over_small(inner) and _over_small(others):
            return _unrounded_again(others + inner * c)
    return value


def _unrounded_again(value: Value) -> Value:
    return _unrounded(value) if isinstance(value, Size) else value


def _over_small(value: Value) -> bool:
    """Return whether a value is an integer over one of up to 64, roundings inside of it aside."""
    if not isinstance(value, Size):
        return value.denominator <= 64
    atoms = value.algebra.atoms
    return denominator(value) <= 64 and all(
        atoms[k].integral or (atoms[k].kind == "rounded" and p == 1) for m, _ in value.terms for k, p in m
    )


def as_extent(value: Value) -> Extent:
    """Return a value as the size of an axis.

    Raises:
        NotWholeError: It is a fraction.
    """
    if isinstance(value, Fraction):
        if value.denominator != 1:
            raise NotWholeError(f"{value} is no size")
        return value.numerator
    return value


def denominator(value: Size) -> int:
    """Return the least number that makes all coefficients integers."""
    return math.lcm(*(Fraction(c).denominator for _, c in value.terms))


def _whole_part(a: Value, b: Size) -> tuple[Extent, Value]:
    """Take the terms out of a numerator that a denominator of one term divides."""
    if not isinstance(a, Size) or len(b.terms) != 1:
        return 0, a
    lead, head = b.terms[0]
    parts = {m: Fraction(c) / head for m, c in a.terms if _divides(lead, m)}
    whole = a.algebra.polynomial({without(m, lead): c for m, c in parts.items() if c.denominator == 1})
    if not is_integral(whole):
        return 0, a
    return as_extent(whole), a - whole * b


def _quotient(a: Value, b: Size) -> Extent:
    if not isinstance(a, Size) and a == 0:
        return 0
    low, high = a.bounds if isinstance(a, Size) else (a, a)
    limits: Interval = (None, None)
    if low is not None and low >= 0 and is_positive(b):
        if is_nonnegative(b - a - 1):
            return 0
        least, most = b.bounds
        limits = (
            math.floor(low / Fraction(most)) if most else 0,
            None if high is None or not least else math.floor(high / Fraction(least)),
        )
    return b.algebra.atom("quotient", (a, b), limits)
