"""Facts about symbols: derived equations, and conditions that remain undecided."""

from __future__ import annotations

import math
from fractions import Fraction

from onnxprune.algebra.sizes.algebra import (
    Algebra,
    Atom,
    Extent,
    Number,
    Size,
    Value,
    as_extent,
    floor_div,
    is_integral,
    is_nonnegative,
    is_positive,
    maximum,
    replaced,
    single_atom,
)
from onnxprune.algebra.sizes.conditions import Condition, Kind
from onnxprune.algebra.sizes.proofs import common_monomial, without
from onnxprune.algebra.sizes.tensors import exact
from onnxprune.errors import ModelError

HEAVIEST = 200
"""Limit of terms in a size; a longer one gets a symbol of its own."""
DEEPEST = 24
"""Functions nested in a size that is reasoned about."""
MOST_UNSOLVED = 64
"""Limit of the equations that are solved again when a further fact is known."""


class ContradictionError(ModelError):
    """Sizes that do not fit each other."""


class SizeFacts:
    """Facts shared by a graph and its bodies.

    Attributes:
        algebra: The tables of the analysis.
        known: Values of atoms that are determined, by number.
        solved: Those of them that are symbols.
        equations: Equations found, in words.
        assumptions: Assumptions, in words.
        conditions: Further conditions.
        possible: Conditions of nodes that may not run.
        undecided: Axes whose size is one of two, in words.
        sure: True if the nodes at hand certainly run: only then facts are derived from them.
    """

    def __init__(self) -> None:
        self.algebra = Algebra()
        self.known: dict[int, Value] = {}
        self.solved: dict[int, Value] = {}
        self.equations: dict[str, None] = {}
        self.assumptions: dict[str, None] = {}
        self.conditions: dict[Condition, None] = {}
        self.possible: dict[Condition, None] = {}
        self.undecided: dict[str, None] = {}
        self.sure = True
        self._aliases: dict[Size, Extent] = {}
        self._names: dict[str, int] = {}
        self._occurring: set[Value] = set()
        self._now: dict[Size, Value] = {}
        self._renamed: dict[Size, Size] = {}
        self._parts: dict[int, Value] = {}
        self._demanded: dict[Size, None] = {}
        self._read = 0
        self._unsolved: dict[Size, tuple[str, str]] = {}
        self._solving = False

    @property
    def learnt(self) -> bool:
        """Return whether any fact about a size is known."""
        return bool(self.known or self._aliases)

    def now(self, value: Value) -> Value:
        """Return a value with all that is known put in."""
        if not isinstance(value, Size):
            return value
        if self._demanded and self._read < len(self.algebra.atoms):
            self._round_down()
        if not self.learnt:
            return value
        found = self._now.get(value)
        if found is None:
            found = replaced(value, self.known, self._parts)
            while isinstance(found, Size) and found in self._aliases:
                found = self.now(self._aliases[found])
            self._now[value] = found
        return found

    def size_now(self, extent: Extent) -> Extent:
        """Return a size with all that is known put in.

        Raises:
            ContradictionError: It is no whole number then.
        """
        found = self.now(extent)
        if isinstance(found, Fraction) and found.denominator != 1:
            raise ContradictionError(f"{extent} is {found}, which is no whole number")
        return as_extent(found)

    def fresh(self, name: str, lower: int | None = 0, upper: int | None = None) -> Size:
        """Return a new symbol for an unknown size."""
        count = self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 1 else f"{name}~{count}"
        return self.algebra.symbol(unique, lower, upper, fresh=True)

    def manageable(self, value: Value, name: str) -> Value:
        """Return a value, or a symbol for one that has grown too long to reason about."""
        if not isinstance(value, Size) or (value.weight <= HEAVIEST and value.depth <= DEEPEST):
            return value
        if value not in self._renamed:
            self._renamed[value] = self.fresh(name, 0 if is_nonnegative(value) else None)
        return self._renamed[value]

    def need(self, kind: Kind, size: Extent, options: tuple[Extent, ...], node: str, reason: str) -> None:
        """Note a demand; one of a node that may not run apart."""
        noted = self.conditions if self.sure else self.possible
        noted[Condition(kind, size, options, node, reason)] = None
        if kind == "nonnegative" and self.sure and isinstance(size, Size) and size not in self._demanded:
            self._demanded[size] = None
            self._read = 0

    def same(self, a: Extent, b: Extent, node: str, reason: str) -> Extent:
        """Take two sizes for equal, and derive facts from it.

        Returns:
            The simpler of the two.

        Raises:
            ContradictionError: They never are; the message holds both.
        """
        a, b = self.size_now(a), self.size_now(b)
        if a == b:
            return a
        d = a - b
        if not isinstance(d, Size) or _never_zero(d):
            raise ContradictionError(f"{reason}: {a} is not {b}")
        simpler = a if not isinstance(a, Size) else b if not isinstance(b, Size) else min(a, b, key=_weight)
        if _always_zero(d):
            return simpler
        if not self.sure:
            self.need("equal", a, (b,), node, reason)
            return simpler
        d = _without_positive_factors(d)
        if self._solve_symbol(d, node, reason):
            return self.size_now(a)
        self._note_equation(a, b, d, node, reason)
        if self._solve_function(d) or self._solve_symbol(d, node, reason, multiples=True):
            return self.size_now(a)
        if len(self._unsolved) < MOST_UNSOLVED:
            self._unsolved[d] = (node, reason)
        heavier = b if simpler is a else a
        if isinstance(heavier, Size):
            self._aliases[heavier] = simpler
            self._now.clear()
        return simpler

    def settle(self, condition: Value, *, truth: bool, node: str, reason: str) -> None:
        """Record that a condition always holds, or never does."""
        condition = self.now(condition)
        if not isinstance(condition, Size):
            return
        atom = single_atom(condition)
        if atom is None:
            atom, truth = single_atom(1 - condition), not truth
        if truth and atom is not None and atom.kind == "equal":
            self.same(as_extent(atom.operands[0]), 0, node, reason)
        elif atom is not None:
            self.same(as_extent(self.algebra.polynomial({((atom.number, 1),): 1})), int(truth), node, reason)

    def could_be(self, a: Extent, b: Extent, node: str, reason: str) -> bool:
        """Return whether two sizes are equal anywhere; record the demand, without deriving facts from it."""
        a, b = self.size_now(a), self.size_now(b)
        d = a - b
        if not isinstance(d, Size):
            return d == 0
        if _never_zero(d):
            return False
        if not _always_zero(d):
            self.need("equal", a, (b,), node, reason)
        return True

    def _note_equation(self, a: Extent, b: Extent, d: Size, node: str, reason: str) -> None:
        """Note a demand that no symbol can be solved for."""
        self.equations[f"{a} = {b} (node '{node}': {reason})"] = None
        parts = [x for x in (a, b) if isinstance(x, Size)]
        for x in parts:
            scale = math.gcd(*(c for _, c in x.terms if isinstance(c, int))) or 1
            multiple = scale > 1 and is_integral(x) and floor_div(b if x is a else a, scale) * scale is x
            if multiple:
                self.need("multiple", b if x is a else a, (scale,), node, reason)
                return
        self.need("equal", a, (b,), node, reason)

    def occurs(self, size: Size) -> None:
        """Record that a tensor has an axis of some size: the size is never negative in a run."""
        if not self.sure or size in self._occurring or is_nonnegative(size):
            return
        self._occurring.add(size)
        larger = maximum(size, 0)
        if (
            isinstance(larger, Size)
            and (atom := single_atom(larger)) is not None
            and atom.number not in self.known
        ):
            self._learn(atom.number, size)

    def is_nonnegative(self, value: Value) -> bool:
        """Return whether a value is never negative in a run."""
        return is_nonnegative(value) or value in self._occurring

    def bind(self, symbol: Size, value: Value) -> None:
        """Put a value in the place of a symbol."""
        self._learn(symbol.terms[0][0][0][0], value)

    def _solve_symbol(self, d: Size, node: str, reason: str, *, multiples: bool = False) -> bool:
        """Solve ``d = 0`` for a symbol: an unknown one (see `fresh`) if there is any, then the latest.

        Args:
            d: The difference that is zero.
            node: The node that demands it.
            reason: The demand.
            multiples: Solve for a symbol with any coefficient, where the quotient is proved to be whole.
        """
        found: list[tuple[bool, int, Atom, Number]] = []
        for monomial, c in d.terms:
            if len(monomial) == 1 and monomial[0][1] == 1 and (multiples or c in (1, -1)):
                atom = self.algebra.atoms[monomial[0][0]]
                if atom.kind == "symbol":
                    found.append((not atom.fresh, -atom.number, atom, c))
        for _, _, atom, c in sorted(found, key=lambda entry: entry[:2]):
            own = self.algebra.polynomial({((atom.number, 1),): c})
            rest = (d - own) * Fraction(-1, c)
            rest = exact(rest) if isinstance(rest, Fraction) else rest
            if isinstance(rest, Size) and atom.number in rest.inside:
                continue
            if not is_integral(rest):
                continue
            self._learn(atom.number, rest)
            self.equations[f"{atom.name} = {rest} (node '{node}': {reason})"] = None
            if atom.bounds[0] is not None and not is_nonnegative(rest - atom.bounds[0]):
                self.need("nonnegative", as_extent(rest - atom.bounds[0]), (), node, reason)
            return True
        return False

    def _solve_function(self, d: Size) -> bool:
        """Solve ``d = 0`` for a floor, a minimum or the like: the heaviest that the rest does not hold."""
        found = [
            (self.algebra.atoms[m[0][0]], c)
            for m, c in d.terms
            if len(m) == 1 and m[0][1] == 1 and self.algebra.atoms[m[0][0]].operands
        ]
        for atom, c in sorted(found, key=lambda entry: -entry[0].weight):
            rest = (d - self.algebra.polynomial({((atom.number, 1),): c})) * Fraction(-1, c)
            if isinstance(rest, Size) and atom.number in rest.inside:
                continue
            if atom.kind == "floor" and rest == atom.operands[0]:
                self._divides(rest)
            elif not is_integral(rest):
                continue
            self._learn(atom.number, exact(rest) if isinstance(rest, Fraction) else rest)
            return True
        return False

    def _round_down(self) -> None:
        """Read divisions towards zero as divisions downwards where a demand keeps the dividend from below 0.

        Demands hold in every run of the network.
        """
        first, self._read = self._read, len(self.algebra.atoms)
        for atom in self.algebra.atoms[first : self._read]:
            if atom.kind != "truncated" or atom.number in self.known:
                continue
            dividend, divisor = atom.operands
            if is_positive(divisor) and any(is_nonnegative(dividend - size) for size in self._demanded):
                self._learn(atom.number, floor_div(dividend, divisor))

    def _divides(self, fraction: Value) -> None:
        """Record that a fraction of one monomial is an integer."""
        if isinstance(fraction, Size) and len(fraction.terms) == 1:
            monomial, c = fraction.terms[0]
            below = Fraction(c).denominator
            self.algebra.divisors[monomial] = math.lcm(self.algebra.divisor(monomial), below)

    def _learn(self, number: int, value: Value) -> None:
        self.known[number] = value
        if self.algebra.atoms[number].kind == "symbol":
            self.solved[number] = value
        self._now.clear()
        self._parts = {}
        self._solve_again()

    def _solve_again(self) -> None:
        """Solve the equations that a new fact has changed."""
        if self._solving:
            return
        self._solving = True
        try:
            while any(self._solved_now(d, *sides) for d, sides in list(self._unsolved.items())):
                pass
        finally:
            self._solving = False

    def _solved_now(self, d: Size, node: str, reason: str) -> bool:
        """Return true if an equation ``d = 0`` has given a further fact by all that is known now."""
        found = replaced(d, self.known, self._parts)
        if found == d:
            return False
        del self._unsolved[d]
        if not isinstance(found, Size):
            if found != 0:
                raise ContradictionError(f"{reason}: {d} is not 0")
            return False
        left = _without_positive_factors(found)
        if self._solve_symbol(left, node, reason) or self._solve_function(left):
            return True
        if self._solve_symbol(left, node, reason, multiples=True):
            return True
        self._unsolved[left] = (node, reason)
        return False


def _weight(size: Size) -> tuple[int, object]:
    return size.weight, size.terms


def _without_positive_factors(d: Size) -> Size:
    """Divide by common factors that are never 0: the rest is 0 wherever ``d`` is, and nowhere else."""
    atoms = d.algebra.atoms
    positive = tuple((k, p) for k, p in common_monomial(d) if (atoms[k].bounds[0] or 0) >= 1)
    left = d.algebra.polynomial({without(m, positive): c for m, c in d.terms}) if positive else d
    return left if isinstance(left, Size) else d


def _never_zero(d: Size) -> bool:
    """Return whether a difference is proved not to be 0 at any size."""
    if is_positive(d) or is_positive(-d):
        return True
    if not all(isinstance(c, int) for _, c in d.terms) or not is_integral(d):
        return False
    moving = math.gcd(*(c for m, c in d.terms if m and isinstance(c, int)))
    return any(c % moving != 0 for m, c in d.terms if not m)


def _always_zero(d: Size) -> bool:
    """Return whether a difference vanishes: n is n//2 + (n + 1)//2."""
    atoms = d.algebra.atoms
    for monomial, _ in d.terms:
        atom = atoms[monomial[0][0]] if len(monomial) == 1 and monomial[0][1] == 1 else None
        if atom is not None and atom.kind == "floor":
            half = atom.operands[0]
            if isinstance(half, Size) and any(not m and c == Fraction(1, 2) for m, c in half.terms):
                whole = half * 2 - 1
                if is_integral(whole) and replaced(d, {atom.number: whole - floor_div(whole, 2)}) == 0:
                    return True
    return False
