"""Costs as lists of monomials in the widths of groups, so that numpy can evaluate the change of one group."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.algebra.axes import Dim, Factor, Sum, resolve
from onnxprune.analysis.groups.cost import Counts, Polynomial

Widths = np.ndarray[Any, np.dtype[np.float64]]
Rows = np.ndarray[Any, np.dtype[np.intp]]
_Expanded = Mapping[tuple[int, ...], float]


@dataclass(frozen=True)
class Monomials:
    """A constant, and products of widths.

    Attributes:
        constant: Part of the cost that no width changes.
        coefficients: ``[monomials]``.
        indices: The groups each one multiplies, ``[monomials, degree]``; shorter ones are filled up with the
            number of groups, whose width counts as one.
        rows: For each group, by the power it has there, the monomials it is in.
    """

    constant: float
    coefficients: Widths
    indices: Rows
    rows: tuple[Mapping[int, Rows], ...]

    @classmethod
    def of(cls, polynomial: Polynomial, groups: Sequence[Factor], elsewhere: Counts) -> Monomials:
        """Expand a polynomial.

        Args:
            polynomial: The cost.
            groups: The factors whose counts are the widths, in their order.
            elsewhere: Number of channels that remain, of other factors that lost some.
        """
        number = {factor: k for k, factor in enumerate(groups)}
        found: dict[tuple[int, ...], float] = defaultdict(float)
        found[()] = polynomial.constant
        for term in polynomial.terms:
            product: _Expanded = {(): term.constant}
            for dim in term.dims:
                product = _times(product, _expanded(dim, number, elsewhere))
            for key, value in product.items():
                found[key] += value
        constant = found.pop(())
        degree = max(map(len, found), default=1)
        indices = [(*key, *[len(groups)] * (degree - len(key))) for key in found]
        rows: list[dict[int, list[int]]] = [defaultdict(list) for _ in groups]
        for row, key in enumerate(found):
            for k, power in Counter(key).items():
                rows[k][power].append(row)
        return cls(
            constant,
            np.asarray(list(found.values()), np.float64),
            np.asarray(indices, np.intp).reshape(-1, degree),
            tuple({power: np.asarray(r, np.intp) for power, r in by.items()} for by in rows),
        )

    def value(self, widths: Widths) -> float:
        """Return the cost."""
        products = np.append(widths, 1.0)[self.indices].prod(1)
        return self.constant + float(self.coefficients @ products)

    def along(self, k: int, widths: Widths, tried: Widths) -> Widths:
        """Return the part of the cost that group ``k`` has a share in, at each of some widths of it."""
        total = np.zeros(len(tried))
        others = np.append(widths, 1.0)
        others[k] = 1.0
        for power, rows in self.rows[k].items():
            share = self.coefficients[rows] @ others[self.indices[rows]].prod(1)
            total += float(share) * tried**power
        return total

    def coupled(self, k: int) -> set[int]:
        """Return the groups that a monomial multiplies by group ``k``, itself included if there is any."""
        rows = self.rows[k].values()
        return {int(n) for part in rows for n in np.unique(self.indices[part]) if n < len(self.rows)}


def _expanded(dim: Dim, number: Mapping[Factor, int], elsewhere: Counts) -> _Expanded:
    """Return a dim's size as monomials in the counts of its factors."""
    dim = resolve(dim)
    if isinstance(dim, Factor):
        return {(number[dim],): 1.0} if dim in number else {(): float(elsewhere.get(dim, dim.count))}
    parts = [_expanded(part, number, elsewhere) for part in dim.parts]
    if isinstance(dim, Sum):
        total: dict[tuple[int, ...], float] = defaultdict(float)
        for part in parts:
            for key, value in part.items():
                total[key] += value
        return total
    product: _Expanded = {(): 1.0}
    for part in parts:
        product = _times(product, part)
    return product


def _times(a: _Expanded, b: _Expanded) -> _Expanded:
    product: dict[tuple[int, ...], float] = defaultdict(float)
    for left, x in a.items():
        for right, y in b.items():
            product[tuple(sorted((*left, *right)))] += x * y
    return product
