"""Sizes that hold for every input: an integer times unknowns.

The name of an unknown is its expression alone. Two unknowns of one name are therefore
equal in both models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

INPUT = "input "
"""Start of the names of sizes of input axes."""
SIZE = "size "
"""Start of the names of other sizes. Neither these nor those of input axes are negative."""

_LONG = 400
"""Characters of a name up to which it is the whole expression."""
_NATURAL = ("Add", "Div", "Mod", "Min", "Max")
"""Operators whose results are not negative where no operand is."""


class Unknown(str):
    """The name of an unknown, which is its expression.

    Attributes:
        operator: The operator of integer arithmetic that makes it; empty for another.
        operands: Its operands.
    """

    operator: str
    operands: tuple[Any, ...]

    def __new__(cls, name: str, operator: str = "", *operands: Any) -> Unknown:
        """Return the name; two names are equal if their texts are."""
        made = super().__new__(cls, name)
        made.operator, made.operands = operator, operands
        return made


@dataclass(frozen=True)
class Monomial:
    """An integer times unknowns.

    Attributes:
        factor: The integer.
        unknowns: Names, sorted; one that occurs twice is squared. At least one.
    """

    factor: int
    unknowns: tuple[str, ...]

    def __repr__(self) -> str:
        return "*".join([str(self.factor), *self.unknowns])

    @property
    def natural(self) -> bool:
        """Return true if it cannot be negative."""
        return self.factor >= 0 and all(name.startswith((INPUT, SIZE)) for name in self.unknowns)


Size: TypeAlias = "int | Monomial"


def unknown(name: str) -> Monomial:
    """Return the unknown of a name."""
    return Monomial(1, (_shortened(name),))


def _shortened(name: str) -> str:
    """Return a name, or its SHA-256 where it is long: an expression may hold the one before it twice."""
    if len(name) <= _LONG:
        return name
    start = next((kind for kind in (INPUT, SIZE) if name.startswith(kind)), "")
    short = f"{start}#{hashlib.sha256(name.encode()).hexdigest()}"
    return Unknown(short, name.operator, *name.operands) if isinstance(name, Unknown) else short


def size_of(name: str) -> Monomial:
    """Return the unknown of a name that is the size of a tensor, and therefore not negative."""
    return unknown(SIZE + name)


def is_natural(value: Any) -> bool:
    """Return true if a number or size is an integer and cannot be negative."""
    return value.natural if isinstance(value, Monomial) else is_number(value) and value >= 0


def is_number(value: Any) -> bool:
    """Return true for an integer, truth values aside."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)


def times(one: Size, other: Size) -> Size:
    """Return a product."""
    (a, p), (b, q) = _parts(one), _parts(other)
    return _size(a * b, sorted(p + q))


def over(one: Size, other: Size) -> Size | None:
    """Return a quotient if there is no remainder, else none."""
    (a, p), (b, q) = _parts(one), _parts(other)
    left = list(p)
    for name in q:
        if name not in left:
            return None
        left.remove(name)
    return _size(a // b, left) if b and a % b == 0 else None


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes."""
    total: Size = 1
    for size in sizes:
        total = times(total, size)
    return total


def computed(operator: str, one: Any, other: Any) -> Any:
    """Return the result of integer arithmetic on numbers and sizes, an unknown where it has no closed form.

    Args:
        operator: ``Add``, ``Sub``, ``Mul``, ``Div``, ``Mod``, ``Min`` or ``Max``, as ONNX defines them.
        one: The first operand, an integer or a size.
        other: The second operand.
    """
    if operator == "Mul":
        return times(one, other)
    if operator == "Div" and (quotient := over(one, other)) is not None:
        return quotient
    found = _closed(operator, one, other)
    if found is not None:
        return found
    if operator in ("Add", "Min", "Max"):
        one, other = sorted((one, other), key=_order)
    natural = operator in _NATURAL and is_natural(one) and is_natural(other)
    name = f"{SIZE if natural else ''}{operator}({one}, {other})"
    return unknown(Unknown(name, operator, one, other))


def _closed(operator: str, one: Any, other: Any) -> Any:
    """Return the result of integer arithmetic that is a number or an operand; none where it is another."""
    (a, p), (b, q) = _parts(one), _parts(other)
    if not p and not q and (b or operator not in ("Div", "Mod")):
        sign = 1 if a * b >= 0 else -1
        return {
            "Add": lambda: a + b,
            "Sub": lambda: a - b,
            "Div": lambda: sign * (abs(a) // abs(b)),
            "Mod": lambda: a % b,
            "Min": lambda: min(a, b),
            "Max": lambda: max(a, b),
        }[operator]()
    if operator in ("Min", "Max"):
        return one if one == other else None
    if operator not in ("Add", "Sub"):
        return None
    if p == q:
        return _size(a + b if operator == "Add" else a - b, list(p))
    if not b:
        return one
    return other if operator == "Add" and not a else _cancelled(operator, one, other)


def _cancelled(operator: str, one: Any, other: Any) -> Any:
    """Return ``a`` of ``(a + b) − b`` and ``(a − b) + b``, none for other sums."""
    pairs = [(one, other), (other, one)] if operator == "Add" else [(one, other)]
    for inside, left in pairs:
        made_by, operands = _expression(inside)
        if operator == "Sub" and made_by == "Add" and left in operands:
            return operands[1] if left == operands[0] else operands[0]
        if operator == "Add" and made_by == "Sub" and left == operands[1]:
            return operands[0]
    return None


def _expression(size: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the operator and the operands of an unknown alone; an empty operator for another size."""
    alone = isinstance(size, Monomial) and size.factor == len(size.unknowns) == 1
    name = size.unknowns[0] if alone else ""
    return (name.operator, name.operands) if isinstance(name, Unknown) else ("", ())


def is_clipped(size: Size, whole: Size) -> bool:
    """Return true if a size is the least of another and of a number that is not zero."""
    operator, operands = _expression(size)
    clipped = operator == "Min" and whole in operands and isinstance(whole, Monomial) and whole.natural
    return clipped and any(is_number(n) and n > 0 for n in operands)


def _order(value: Any) -> tuple[bool, str]:
    return isinstance(value, Monomial), str(value)


def _parts(size: Size) -> tuple[int, tuple[str, ...]]:
    return (size.factor, size.unknowns) if isinstance(size, Monomial) else (int(size), ())


def _size(factor: int, unknowns: list[str]) -> Size:
    return Monomial(factor, tuple(unknowns)) if unknowns and factor else factor
