"""The allocation as a mixed-integer linear program, solved by HiGHS where it is small.

Each group takes one of its widths: a binary variable for each width, one of which is 1. A cost is a sum of
products of widths. The product of several groups becomes a table over their combined widths, with a variable
for each entry; the sums of these variables along an axis are the variables of that group. With binary widths
exactly one entry is 1, so costs are exact (the extended formulation of products of multiple choices, Adams
and Sherali, 1986). Losses are linear.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.search.budgets import REACHED, Balance
from onnxprune.search.choices import SECONDS
from onnxprune.search.monomials import Monomials, Widths
from onnxprune.support.native_output import discard_native_output

LARGEST = 3000
"""Variables up to which a program is solved."""
_NODES = 500
"""Nodes of the search tree after which the best plan so far is taken."""


def solved(balance: Balance) -> list[int] | None:
    """Return the number of steps of each offer in the plan of least loss.

    Returns:
        The plan; ``None`` where the program is too large, a loss is infinite, a cost counts in steps of a
        device, or no plan is found.
    """
    costs = balance.monomials
    program = None if costs is None else _Program.of(balance, costs)
    return None if program is None else program.solve()


@dataclass(frozen=True)
class _Program:
    """Variables and constraints.

    Attributes:
        starts: First variable of each offer, ``[offers + 1]``: one for each width.
        losses: Loss of each variable, ``[variables]``.
        costs: Cost of each variable in baselines, ``[budgets, variables]``.
        room: Largest sum of costs, ``[budgets]``.
        links: Rows of equations: variables and coefficients.
        sides: Right sides of the equations.
    """

    starts: list[int]
    losses: Widths
    costs: Widths
    room: Widths
    links: list[dict[int, float]]
    sides: list[float]

    @classmethod
    def of(cls, balance: Balance, costs: Sequence[Monomials]) -> _Program | None:
        """Write a balance as a program; ``None`` where it is too large, or a loss is infinite."""
        widths = [np.asarray(o.widths, np.float64) for o in balance.offers]
        starts = np.cumsum([0, *map(len, widths)]).tolist()
        tables = [_tables(monomials, widths) for monomials in costs]
        products = sorted({key for table in tables for key in table if len(key) > 1})
        places, count = {}, starts[-1]
        for key in products:
            places[key] = count
            count += int(np.prod([len(widths[k]) for k in key]))
            if count > LARGEST:
                return None
        losses = np.concatenate([*([0.0, *o.losses] for o in balance.offers), np.zeros(count - starts[-1])])
        if not np.isfinite(losses).all():
            return None
        matrix, room = np.zeros((len(costs), count)), np.zeros(len(costs))
        for row, (budget, table) in enumerate(zip(balance.budgets, tables, strict=True)):
            room[row] = budget.target / budget.baseline + REACHED
            for key, values in table.items():
                if not key:
                    room[row] -= float(values) / budget.baseline
                    continue
                start = starts[key[0]] if len(key) == 1 else places[key]
                matrix[row, start : start + values.size] += values.ravel() / budget.baseline
        links = [dict.fromkeys(range(a, b), 1.0) for a, b in itertools.pairwise(starts)]
        sides = [1.0] * len(links)
        for key in products:
            for link in _marginals(key, places[key], widths, starts):
                links.append(link)
                sides.append(0.0)
        return cls(starts, losses, matrix, room, links, sides)

    def solve(self) -> list[int] | None:
        """Return the widths of the best plan found, by number."""
        optimize, sparse = _scipy()
        count, binaries = len(self.losses), self.starts[-1]
        rows = [k for k, link in enumerate(self.links) for _ in link]
        columns = [column for link in self.links for column in link]
        values = [value for link in self.links for value in link.values()]
        equations = sparse.csr_array((values, (rows, columns)), shape=(len(self.links), count))
        found: Any
        with discard_native_output():
            found = optimize.milp(
                self.losses,
                integrality=np.arange(count) < binaries,
                bounds=optimize.Bounds(0, 1),
                constraints=[
                    optimize.LinearConstraint(self.costs, -np.inf, self.room),
                    optimize.LinearConstraint(equations, self.sides, self.sides),
                ],
                options={"node_limit": _NODES, "mip_rel_gap": 0.0, "time_limit": SECONDS},
            )
        if found.x is None:
            return None
        return [int(np.argmax(found.x[a:b])) for a, b in itertools.pairwise(self.starts)]


def _tables(monomials: Monomials, widths: Sequence[Widths]) -> dict[tuple[int, ...], Widths]:
    """Return a cost as tables over the widths of the groups that multiply, by the numbers of these groups.

    Groups of one width are no axis of a table. The constant has the empty key.
    """
    found: dict[tuple[int, ...], Widths] = {(): np.asarray(monomials.constant)}
    for coefficient, indices in zip(monomials.coefficients, monomials.indices, strict=True):
        powers = Counter(int(k) for k in indices if k < len(widths))
        key = tuple(sorted(k for k in powers if len(widths[k]) > 1))
        table = np.full([len(widths[k]) for k in key], float(coefficient))
        for k, power in powers.items():
            values = widths[k] ** power
            table *= values[0] if k not in key else _along(values, key.index(k), len(key))
        found[key] = found.get(key, np.zeros(table.shape)) + table
    return found


def _marginals(
    key: tuple[int, ...], place: int, widths: Sequence[Widths], starts: Sequence[int]
) -> Iterator[dict[int, float]]:
    """Yield equations: the entries of a table at one width of a group sum to the variable of that width."""
    shape = [len(widths[k]) for k in key]
    numbers = place + np.arange(int(np.prod(shape))).reshape(shape)
    for axis, k in enumerate(key):
        for level in range(shape[axis]):
            entries = numbers.take(level, axis).ravel().tolist()
            yield {**dict.fromkeys(entries, 1.0), starts[k] + level: -1.0}


def _along(values: Widths, axis: int, rank: int) -> Widths:
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def _scipy() -> tuple[Any, Any]:
    """Import scipy's solvers; commands that solve nothing do not load them."""
    import scipy.optimize
    import scipy.sparse

    return scipy.optimize, scipy.sparse
