"""Polynomials with interned terms: two sizes that are equal as polynomials are one object.

A `Size` is a sum of monomials over *atoms*. An atom is a symbol (an open axis), or a function that
polynomials are not closed under: a floor, a minimum, a comparison. A polynomial that is a number is a plain
``int`` or ``Fraction``, never a `Size`.

The tables belong to an `Algebra`, one an analysis. Its sizes hold it, and it is freed with the last of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from fractions import Fraction
from numbers import Integral
from typing import Any, TypeAlias

from onnxprune.algebra.sizes.bounds import Interval, interval
from onnxprune.algebra.sizes.size_text import atom_text, text

Number: TypeAlias = "int | Fraction"
Extent: TypeAlias = "int | Size"
"""The size of an axis."""
Value: TypeAlias = "int | Fraction | Size"
"""A number known before the run."""
Monomial: TypeAlias = "tuple[tuple[int, int], ...]"
"""The numbers of atoms, ascending, and their powers; empty for the constant term."""
Terms: TypeAlias = "tuple[tuple[Monomial, Number], ...]"


class NotWholeError(ValueError):
    """A size that is no whole number."""


class Atom:
    """An indivisible part of a size.

    Attributes:
        number: Its place in the table of its algebra.
        kind: ``symbol``, ``floor``, ``quotient``, ``truncated``, ``maximum``, ``minimum``, ``equal``,
            ``less``, ``stretched`` or ``rounded``: see `onnxprune.algebra.sizes.functions`.
        name: The name of a symbol, else empty.
        operands: Operands of the function.
        bounds: The smallest and the largest value, ``None`` where there is none.
        integral: True if its values are integers.
        fresh: True if it is a symbol of an unknown value, rather than of an open input axis.
        inside: The numbers of all atoms in it, its own included.
        weight: The number of terms in it, those of its operands included.
        depth: Depth of nested functions in it.
    """

    __slots__ = (
        "bounds", "depth", "fresh", "inside", "integral", "kind", "name", "number", "operands", "weight"
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        kind: str,
        name: str,
        operands: tuple[Value, ...],
        bounds: Interval,
        *,
        integral: bool,
        fresh: bool,
    ) -> None:
        self.number, self.kind, self.name, self.operands = number, kind, name, operands
        self.bounds, self.integral, self.fresh = bounds, integral, fresh
        parts = [x for x in operands if isinstance(x, Size)]
        self.inside: frozenset[int] = frozenset((number,)).union(*(x.inside for x in parts))
        self.weight: int = 1 + sum(x.weight for x in parts)
        self.depth: int = 1 + max((x.depth for x in parts), default=0)

    @property
    def boolean(self) -> bool:
        """Return whether it is always 0 or 1."""
        return self.integral and self.bounds == (0, 1)

    def __str__(self) -> str:
        return atom_text(self)


class Algebra:
    """The atoms and sizes of one analysis.

    Attributes:
        atoms: All atoms, by number.
        divisors: Monomials known to be multiples of a number, a condition of every run of the network.
    """

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self.divisors: dict[Monomial, int] = {}
        self._atoms: dict[tuple[Any, ...], Size] = {}
        self._sizes: dict[Terms, Size] = {}

    def symbol(
        self, name: str, lower: int | None = 1, upper: int | None = None, *, fresh: bool = False
    ) -> Size:
        """Return the symbol of a name; the bounds are those it was given first."""
        return self.atom("symbol", (), (lower, upper), name=name, fresh=fresh)

    def atom(
        self,
        kind: str,
        operands: tuple[Value, ...],
        bounds: Interval,
        *,
        name: str = "",
        integral: bool = True,
        fresh: bool = False,
    ) -> Size:
        """Return an atom as a size."""
        key = (kind, name, operands)
        size = self._atoms.get(key)
        if size is None:
            number = len(self.atoms)
            made = Atom(number, kind, name, operands, bounds, integral=integral, fresh=fresh)
            self.atoms.append(made)
            size = self._intern(((((number, 1),), 1),))
            self._atoms[key] = size
        return size

    def polynomial(self, terms: Mapping[Monomial, Number]) -> Value:
        """Return the polynomial of some terms; a plain number where it has no atoms."""
        kept = [(m, _plain(c)) for m, c in terms.items() if c]
        if not kept:
            return 0
        if len(kept) == 1 and not kept[0][0]:
            return kept[0][1]
        kept.sort()
        return self._intern(tuple(kept))

    def product(self, a: Monomial, b: Monomial) -> Monomial:
        """Multiply two monomials; a factor that is 0 or 1 is its own square."""
        if not a or not b:
            return a or b
        powers = dict(a)
        for number, power in b:
            powers[number] = 1 if self.atoms[number].boolean else powers.get(number, 0) + power
        return tuple(sorted(powers.items()))

    def divisor(self, monomial: Monomial) -> int:
        """Return a number that divides all values of a monomial."""
        if not self.divisors:
            return 1
        whole = self.divisors.get(monomial, 1)
        parts = 1
        for number, power in monomial:
            parts *= self.divisors.get(((number, 1),), 1) ** power
        return max(whole, parts)

    def _intern(self, terms: Terms) -> Size:
        size = self._sizes.get(terms)
        if size is None:
            size = self._sizes[terms] = Size(self, terms)
        return size

    def __getstate__(self) -> dict[str, Any]:
        """Return the atoms alone, their operands as terms: no recursion, however deep they are."""
        return {
            "divisors": self.divisors,
            "atoms": [
                (a.kind, tuple(map(_bare, a.operands)), a.bounds, a.name, a.integral, a.fresh)
                for a in self.atoms
            ],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        Algebra.__init__(self)
        self.divisors = state["divisors"]
        for kind, operands, bounds, name, integral, fresh in state["atoms"]:
            parts = tuple(self._intern(x[0]) if isinstance(x, tuple) else x for x in operands)
            self.atom(kind, parts, bounds, name=name, integral=integral, fresh=fresh)


class Size:
    """A polynomial that is no constant.

    Equality is identity: an algebra holds each polynomial once. Sizes have no order; `less` compares them.

    Attributes:
        algebra: The tables it is in.
        terms: Monomials and their coefficients, in ascending order.
        inside: The numbers of all atoms in it.
        weight: The number of terms in it, those inside of functions included.
        depth: Depth of nested functions in it.
    """

    __slots__ = ("_interval", "_nonnegative", "algebra", "depth", "inside", "terms", "weight")

    def __init__(self, algebra: Algebra, terms: Terms) -> None:
        self.algebra, self.terms = algebra, terms
        parts = [algebra.atoms[number] for monomial, _ in terms for number, _ in monomial]
        self.inside: frozenset[int] = parts[0].inside.union(*(a.inside for a in parts[1:]))
        self.weight: int = len(terms) + sum(a.weight for a in parts if a.operands)
        self.depth: int = max(a.depth for a in parts)
        self._interval: Interval | None = None
        self._nonnegative: bool | None = None

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the symbols it is made of."""
        atoms = self.algebra.atoms
        return frozenset(atoms[k].name for k in self.inside if atoms[k].kind == "symbol")

    @property
    def bounds(self) -> Interval:
        """The least and the greatest value it can have as far as is easily seen; ``None`` for no limit."""
        if self._interval is None:
            self._interval = interval(self)
        return self._interval

    @property
    def lower(self) -> int | None:
        """An integer it is never below, ``None`` where none is known."""
        low = self.bounds[0]
        return None if low is None else low.__floor__()

    @property
    def upper(self) -> int | None:
        """An integer it is never above, ``None`` where none is known."""
        high = self.bounds[1]
        return None if high is None else high.__ceil__()

    @property
    def integral(self) -> bool:
        """Return whether it is known to have integer values alone."""
        atoms, divisor = self.algebra.atoms, self.algebra.divisor
        return all(
            (isinstance(c, int) or (c * divisor(m)).denominator == 1) and all(atoms[k].integral for k, _ in m)
            for m, c in self.terms
        )

    def __add__(self, other: Value) -> Any:
        if type(other) is Size:
            _same_tables(self, other)
            total = dict(self.terms)
            for monomial, c in other.terms:
                total[monomial] = total.get(monomial, 0) + c
            return self.algebra.polynomial(total)
        number = _number(other)
        if number is None:
            return NotImplemented
        if not number:
            return self
        total = dict(self.terms)
        total[()] = total.get((), 0) + number
        return self.algebra.polynomial(total)

    __radd__ = __add__

    def __neg__(self) -> Size:
        return self.algebra._intern(tuple((m, -c) for m, c in self.terms))

    def __sub__(self, other: Value) -> Any:
        if type(other) is Size:
            return 0 if other is self else self + -other
        number = _number(other)
        return NotImplemented if number is None else self + -number

    def __rsub__(self, other: Number) -> Any:
        return -self + other

    def __mul__(self, other: Value) -> Any:
        if type(other) is Size:
            return self._times(other)
        number = _number(other)
        if number is None:
            return NotImplemented
        if number == 1:
            return self
        return self.algebra.polynomial({m: c * number for m, c in self.terms})

    __rmul__ = __mul__

    def _times(self, other: Size) -> Value:
        _same_tables(self, other)
        total: dict[Monomial, Number] = {}
        for a, c in self.terms:
            for b, d in other.terms:
                monomial = self.algebra.product(a, b)
                total[monomial] = total.get(monomial, 0) + c * d
        return self.algebra.polynomial(total)

    def __str__(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        return f"Size({self})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.algebra, self.terms)

    def __copy__(self) -> Size:
        return self

    def __deepcopy__(self, _: Any) -> Size:
        return self


_loose: weakref.ref[Algebra] | None = None


def symbol(
    name: str,
    lower: int | None = 1,
    upper: int | None = None,
    fresh: bool = False,
    *,
    algebra: Algebra | None = None,
) -> Size:
    """Return the symbol of a name.

    Args:
        name: Name by which it is printed and given numbers.
        lower: An integer it is never below, ``None`` for none.
        upper: An integer it is never above, ``None`` for none.
        fresh: True for an unknown value.
        algebra: The tables; by default some that all such symbols share while any of them is in use.
    """
    global _loose
    if algebra is None:
        algebra = _loose() if _loose is not None else None
        if algebra is None:
            algebra = Algebra()
            _loose = weakref.ref(algebra)
    return algebra.symbol(name, lower, upper, fresh=fresh)


def algebra_of(values: Iterable[Value]) -> Algebra:
    """Return the tables that the sizes among some values are in."""
    return next(v.algebra for v in values if isinstance(v, Size))


def atoms_of(value: Value) -> Iterable[Atom]:
    """Return the atoms of the monomials of a value, those inside of others left out."""
    if not isinstance(value, Size):
        return ()
    numbers = dict.fromkeys(k for m, _ in value.terms for k, _ in m)
    return [value.algebra.atoms[k] for k in numbers]


def single_atom(value: Value) -> Atom | None:
    """Return the atom that a value consists of, ``None`` for any other polynomial."""
    if not isinstance(value, Size) or len(value.terms) != 1:
        return None
    monomial, c = value.terms[0]
    if c != 1 or len(monomial) != 1 or monomial[0][1] != 1:
        return None
    return value.algebra.atoms[monomial[0][0]]


def is_integral(value: Value) -> bool:
    """Return whether all values are known to be integers."""
    return value.integral if isinstance(value, Size) else value.denominator == 1


def _plain(c: Number) -> Number:
    return c.numerator if type(c) is Fraction and c.denominator == 1 else c


def _number(value: object) -> Number | None:
    if isinstance(value, int | Fraction):
        return value
    return int(value) if isinstance(value, Integral) else None


def _bare(value: Value) -> Any:
    return (value.terms,) if isinstance(value, Size) else value


def _restored(algebra: Algebra, terms: Terms) -> Size:
    return algebra._intern(terms)


def _same_tables(a: Size, b: Size) -> None:
    if a.algebra is not b.algebra:
        raise ValueError(f"{a} and {b} are sizes of two analyses")
