"""Proofs that a size is never negative."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from onnxprune.algebra.sizes.polynomial import Algebra, Atom, Monomial, Number, Size, Value, is_integral

_DEPTH = 4
_STEPS = 48
"""Limit of the polynomials in one proof."""
_TERMS = 16
"""Limit of terms; longer polynomials are compared by their bounds alone."""


def is_nonnegative(value: Value) -> bool:
    """Prove that a value is never below 0. ``False`` means that no proof was found."""
    if not isinstance(value, Size):
        return value >= 0
    if value._nonnegative is None:
        value._nonnegative = _proved(value, _DEPTH, iter(range(_STEPS)))
    return value._nonnegative


def is_positive(value: Value) -> bool:
    """Prove that a value is never 0 or below."""
    if is_integral(value):
        return is_nonnegative(value - 1)
    low = value.bounds[0] if isinstance(value, Size) else value
    return low is not None and low > 0


def common_monomial(*values: Value) -> Monomial:
    """Return the largest product of atoms that divides all terms of some values."""
    common: dict[int, int] | None = None
    for value in values:
        if not isinstance(value, Size):
            return ()
        for monomial, _ in value.terms:
            powers = dict(monomial)
            if common is None:
                common = powers
            else:
                common = {k: min(p, powers[k]) for k, p in common.items() if k in powers}
            if not common:
                return ()
    return tuple(sorted((common or {}).items()))


def without(monomial: Monomial, factor: Monomial) -> Monomial:
    """Divide a monomial by one that divides it."""
    if not factor:
        return monomial
    taken = dict(factor)
    return tuple((k, p - taken.get(k, 0)) for k, p in monomial if p > taken.get(k, 0))


def _proved(value: Value, depth: int, steps: Iterator[int]) -> bool:
    if not isinstance(value, Size):
        return value >= 0
    if value._nonnegative is not None:
        return value._nonnegative
    low, high = value.bounds
    if low is not None and low >= 0:
        return True
    if (
        depth == 0
        or next(steps, None) is None
        or len(value.terms) > _TERMS
        or (high is not None and high < 0)
    ):
        return False
    atoms = value.algebra.atoms
    shared = common_monomial(value)
    if shared:
        positive = all((low := atoms[k].bounds[0]) is not None and low >= 0 for k, _ in shared)
        rest = value.algebra.polynomial({without(m, shared): c for m, c in value.terms})
        return positive and _proved(rest, depth - 1, steps)
    return _proved_from_lowest(value) or any(
        all(_proved(case, depth - 1, steps) for case in cases) for cases in _replacements(value)
    )


def _proved_from_lowest(size: Size) -> bool:
    """Write each atom as its lower bound plus a nonnegative rest: then no term may be negative."""
    algebra = size.algebra
    lows = {k: algebra.atoms[k].bounds[0] for m, _ in size.terms for k, _ in m}
    if any(low is None or low < 0 for low in lows.values()) or not any(lows.values()):
        return False
    total: dict[Monomial, Number] = {}
    for monomial, c in size.terms:
        for part, d in _expanded(algebra, monomial, lows):
            total[part] = total.get(part, 0) + c * d
    return all(c >= 0 for c in total.values())


def _expanded(
    algebra: Algebra, monomial: Monomial, lows: dict[int, int | Fraction | None]
) -> Iterator[tuple[Monomial, Number]]:
    """Multiply out (low + rest)^power for each factor of a monomial."""
    found: list[tuple[Monomial, Number]] = [((), 1)]
    for number, power in monomial:
        low = lows[number] or 0
        factor = [
            (((number, k),) if k else (), math.comb(power, k) * low ** (power - k))
            for k in range(power + 1)
            if low or k == power
        ]
        found = [(m + part, c * d) for m, c in found for part, d in factor]
    yield from found


def _replacements(size: Size) -> Iterator[list[Value]]:
    """Yield lists of simpler values: if all of one list are never negative, nor is the size."""
    atoms = size.algebra.atoms
    booleans = dict.fromkeys(k for m, _ in size.terms for k, _ in m if atoms[k].boolean)
    for number in booleans:
        yield [_with_boolean(size, number, truth) for truth in (0, 1)]
    for monomial, c in size.terms:
        if len(monomial) == 1 and monomial[0][1] == 1:
            atom = atoms[monomial[0][0]]
            if atom.operands and not atom.boolean:
                rest = size - size.algebra.polynomial({monomial: c})
                yield from _without_atom(atom, c, rest)


def _with_boolean(size: Size, number: int, truth: int) -> Value:
    """Return a polynomial at one of the two values of an atom."""
    total: dict[Monomial, Number] = {}
    for monomial, c in size.terms:
        rest = tuple((k, p) for k, p in monomial if k != number)
        if rest == monomial or truth:
            total[rest] = total.get(rest, 0) + c
    return size.algebra.polynomial(total)


def _without_atom(atom: Atom, c: Number, rest: Value) -> Iterator[list[Value]]:
    """Replace ``c * atom`` in ``c * atom + rest`` by its lower bounds."""
    operands, up = atom.operands, c > 0
    if atom.kind in ("maximum", "minimum"):
        if (atom.kind == "maximum") == up:
            yield from ([rest + x * c] for x in operands)
        else:
            yield [rest + x * c for x in operands]
    elif atom.kind == "stretched":
        yield [rest + x * c for x in operands]
    elif atom.kind == "floor":
        yield [rest + (operands[0] - _largest_remainder(operands[0]) if up else operands[0]) * c]
    elif atom.kind == "quotient" and is_nonnegative(operands[1] - 1):
        top, below = operands
        yield [rest * below + (top - below + 1 if up else top) * c]


def _largest_remainder(fraction: Value) -> Number:
    """Return the largest difference of a fraction from its floor."""
    if not isinstance(fraction, Size) or not all(
        fraction.algebra.atoms[k].integral for m, _ in fraction.terms for k, _ in m
    ):
        return 1
    scale = math.lcm(*(Fraction(c).denominator for _, c in fraction.terms))
    return Fraction(scale - 1, scale)
