"""Sizes as people write them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.algebra.sizes.polynomial import Atom, Monomial, Number, Size, Terms, Value


def text(size: Size) -> str:
    """Return a polynomial, positive terms first and the constant last: ``(h - 2)//32 + 1``."""
    return _sum(size, size.terms)


def _sum(size: Size, terms: Terms) -> str:
    ordered: list[tuple[Monomial, Number]] = sorted(terms, key=lambda term: (term[1] < 0, not term[0]))
    written = ""
    for monomial, c in ordered:
        term = _term(size, Fraction(c if c > 0 else -c), monomial)
        if written:
            written += f" {'-' if c < 0 else '+'} {term}"
        else:
            written = term if c > 0 else f"-({term})" if "//" in term else f"-{term}"
    return written or "0"


def _term(size: Size, c: Fraction, monomial: Monomial) -> str:
    alone = len(monomial) == 1 and monomial[0][1] == 1 and c == 1
    factors = [str(c.numerator)] if c.numerator != 1 or not monomial else []
    for number, power in monomial:
        written = atom_text(size.algebra.atoms[number])
        if "//" in written and not alone and written[0] + written[-1] != "()":
            written = f"({written})"
        factors.append(written if power == 1 else f"{written}**{power}")
    return "*".join(factors) + (f"/{c.denominator}" if c.denominator != 1 else "")


def atom_text(atom: Atom) -> str:
    """Return an atom in words."""
    kind, operands = atom.kind, atom.operands
    if kind == "symbol":
        return atom.name
    if kind == "floor":
        return _floor(operands[0])
    if kind in ("equal", "less"):
        return _comparison(operands[0], "==" if kind == "equal" else "<")
    if kind == "quotient":
        return f"({_wrapped(operands[0])}//{_wrapped(operands[1])})"
    if kind == "rounded":
        over = "" if operands[1] == 1 else f"/{_wrapped(operands[1])}"
        return f"float{operands[2]}({_wrapped(operands[0]) if over else operands[0]}{over})"
    names = {"maximum": "max", "minimum": "min", "truncated": "trunc", "stretched": "broadcast"}
    return f"{names[kind]}({', '.join(map(str, operands))})"


def _floor(fraction: Value) -> str:
    if isinstance(fraction, int | Fraction):
        return str(math.floor(fraction))
    scale = math.lcm(*(Fraction(c).denominator for _, c in fraction.terms))
    top = fraction * scale
    return f"{_wrapped(top)}//{scale}"


def _comparison(difference: Value, sign: str) -> str:
    if isinstance(difference, int | Fraction):
        return f"({difference} {sign} 0)"
    left = tuple((m, c) for m, c in difference.terms if c > 0)
    right = tuple((m, -c) for m, c in difference.terms if c < 0)
    return f"({_sum(difference, left)} {sign} {_sum(difference, right)})"


def _wrapped(value: Value) -> str:
    written = str(value)
    return written if written.replace("_", "").replace(".", "").isalnum() else f"({written})"
