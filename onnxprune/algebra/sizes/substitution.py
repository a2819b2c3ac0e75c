"""Sizes at given numbers, and with other sizes in place of their atoms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from onnxprune.algebra.sizes import division, functions
from onnxprune.algebra.sizes.polynomial import Algebra, Atom, Extent, NotWholeError, Number, Size, Value


def evaluate(extent: Extent, numbers: Mapping[str, int]) -> int:
    """Return a size for given sizes of the inputs.

    Args:
        extent: The size.
        numbers: A number for each symbol in it, by name.

    Raises:
        KeyError: A symbol has no number.
        NotWholeError: The size is no integer for these: the network does not run with them.
    """
    found = number_of(extent, numbers)
    if found.denominator != 1:
        raise NotWholeError(f"{extent} is no whole number for {dict(numbers)}")
    return found.numerator


def number_of(value: Value, numbers: Mapping[str, int], memo: dict[Atom, Number] | None = None) -> Number:
    """Return a value for given sizes of the inputs; ``memo`` keeps atoms between calls."""
    if not isinstance(value, Size):
        return value
    memo = {} if memo is None else memo
    atoms = value.algebra.atoms
    total: Number = 0
    for monomial, c in value.terms:
        product = c
        for number, power in monomial:
            product *= _number_of_atom(atoms[number], numbers, memo) ** power
        total += product
    return total


def _number_of_atom(atom: Atom, numbers: Mapping[str, int], memo: dict[Atom, Number]) -> Number:
    found = memo.get(atom)
    if found is None:
        if atom.kind == "symbol":
            found = numbers[atom.name]
        else:
            found = _computed(atom.kind, [number_of(x, numbers, memo) for x in atom.operands])
        memo[atom] = found
    return found


def _computed(kind: str, operands: list[Number]) -> Number:
    a = operands[0]
    if kind == "floor":
        return math.floor(a)
    if kind == "maximum":
        return max(operands)
    if kind == "minimum":
        return min(operands)
    if kind == "equal":
        return int(a == 0)
    if kind == "less":
        return int(a < 0)
    b = operands[1]
    if kind == "stretched":
        return b if a == 1 else a
    if b == 0:
        return 0
    if kind == "quotient":
        return math.floor(Fraction(a) / b)
    if kind == "truncated":
        return math.trunc(Fraction(a) / b)
    return functions.rounded_number(Fraction(a) / b, int(operands[2]))


def substitute(value: Value, known: Mapping[str, Value]) -> Value:
    """Put values in the place of symbols, by name."""
    if not isinstance(value, Size):
        return value
    atoms = value.algebra.atoms
    places = {k: known[atoms[k].name] for k in value.inside if atoms[k].name in known}
    return replaced(value, places)


def replaced(value: Value, known: Mapping[int, Value], memo: dict[int, Value] | None = None) -> Value:
    """Put values in the place of atoms, by number, until none of them is left.

    Args:
        value: Value to rewrite.
        known: Replacements of atoms, by number; none may lead back to its own atom.
        memo: Atoms already replaced, kept between calls with the same ``known``.
    """
    if not isinstance(value, Size) or value.inside.isdisjoint(known):
        return value
    memo = {} if memo is None else memo
    total: Value = 0
    for monomial, c in value.terms:
        product: Value = c
        for number, power in monomial:
            part = _replaced_atom(value.algebra, number, known, memo)
            for _ in range(power):
                product = product * part
        total = total + product
    return total


def _replaced_atom(
    algebra: Algebra, number: int, known: Mapping[int, Value], memo: dict[int, Value]
) -> Value:
    found = memo.get(number)
    atom = algebra.atoms[number]
    if found is None:
        if number in known:
            found = replaced(known[number], known, memo)
        elif atom.inside.isdisjoint(known):
            found = algebra.polynomial({((number, 1),): 1})
        else:
            found = _rebuilt(atom.kind, [replaced(x, known, memo) for x in atom.operands])
        memo[number] = found
    return found


def _rebuilt(kind: str, operands: list[Value]) -> Value:
    a, b = operands[0], operands[-1]
    if kind == "floor":
        return division.floor_div(a, 1)
    if kind == "maximum":
        return functions.maximum(*operands)
    if kind == "minimum":
        return functions.minimum(*operands)
    if kind == "equal":
        return functions.equals(a, 0)
    if kind == "less":
        return functions.less(a, 0)
    if kind == "stretched":
        return functions.stretched(_whole(a), _whole(b))
    if kind == "rounded":
        bits, below = int(operands[2]), operands[1]  # type: ignore[arg-type]
        return functions.rounded(a, bits, below) if isinstance(below, Size) or below else 0
    if not isinstance(b, Size) and b == 0:
        return 0
    return division.floor_div(a, b) if kind == "quotient" else division.trunc_div(a, b)


def _whole(value: Value) -> Extent:
    return value.numerator if isinstance(value, Fraction) else value
