"""Sizes that hold for every input: an integer times unknowns.

The name of an unknown is its expression alone. Two unknowns of one name are therefore
equal in both models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

INPUT = "input "
"""Start of the names of sizes of input axes, which are not negative."""


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
        return self.factor >= 0 and all(name.startswith(INPUT) for name in self.unknowns)


Size: TypeAlias = "int | Monomial"


def unknown(name: str) -> Monomial:
    """Return the unknown of a name."""
    return Monomial(1, (name,))


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
    if operator in ("Add", "Sub"):
        if p == q:
            return _size(a + b if operator == "Add" else a - b, list(p))
        if not b:
            return one
        if operator == "Add" and not a:
            return other
    if operator in ("Min", "Max") and one == other:
        return one
    return unknown(f"{operator}({one}, {other})")


def _parts(size: Size) -> tuple[int, tuple[str, ...]]:
    return (size.factor, size.unknowns) if isinstance(size, Monomial) else (int(size), ())


def _size(factor: int, unknowns: list[str]) -> Size:
    return Monomial(factor, tuple(unknowns)) if unknowns and factor else factor
