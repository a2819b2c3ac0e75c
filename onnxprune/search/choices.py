"""One option for each of many places, whose costs and losses add up, such that budgets are met.

Exactly, that is a multiple-choice knapsack: a mixed-integer linear program, solved by HiGHS (Q. Huangfu and
J. A. J. Hall, "Parallelizing the dual revised simplex method", 2018) through scipy. The prices of its linear
relaxation prove for most options that no best choice contains them. The program covers the other ones, the
core (D. Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", 1995): it stays small for a
network of any depth. The first choice, and the only one where options are very many, is that of Lagrange
multipliers, which price the costs (H. Everett, "Generalized Lagrange multiplier method", 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.runtime import Array
from onnxprune.support.native_output import discard_native_output

MOST_VARIABLES = 20_000
"""Options beyond which no integer program is solved."""
_ENOUGH = 5e-4
"""Excess of a loss over its lower bound, in parts of the bound, that needs no second core."""
_GAP = 1e-5
_INTEGRAL = 1e-6
"""Largest distance of a share from an integer by rounding alone."""
_NODES = 200
"""Nodes of the search tree after which the best choice so far is taken."""
SECONDS = 60.0
"""Time after which the solver returns the best choice so far."""
_HALVINGS = 60
_CORES = 50, 150
"""Places with more than one option in the first and in the second core."""


@dataclass(frozen=True)
class Offer:
    """The options of one place; the first one is no change.

    Attributes:
        costs: ``[options, budgets]``.
        losses: ``[options]``.
    """

    costs: Array
    losses: Array


def best_choices(offers: Sequence[Offer], most: Sequence[float]) -> list[int]:
    """Return the option of each place with which the losses add up to least.

    Args:
        offers: The places.
        most: Largest sum of the costs, for each budget.

    Raises:
        PlanError: No choice meets the budgets.
    """
    least = sum((offer.costs.min(0) for offer in offers), np.zeros(len(most)))
    if (least > np.asarray(most) * (1 + 1e-9)).any():
        raise PlanError("even the cheapest options together exceed a budget", "ask for less")
    found = by_multipliers(offers, most)
    if sum(len(offer.losses) for offer in offers) <= MOST_VARIABLES:
        found = _improved(found, offers, most)
    if found is None:
        raise PlanError("no choice meets all budgets together", "ask for less of one of them")
    return found


def _loss(offers: Sequence[Offer], levels: Sequence[int]) -> float:
    return float(sum(offer.losses[n] for offer, n in zip(offers, levels, strict=True)))


def by_multipliers(offers: Sequence[Offer], most: Sequence[float]) -> list[int] | None:
    """Return a choice on the convex hull that meets the budgets, ``None`` where none is found."""
    scale = np.asarray([max(float(limit), 1e-12) for limit in most])
    costs = [offer.costs / scale for offer in offers]

    def chosen(price: float) -> list[int]:
        totals = zip(offers, costs, strict=True)
        return [int((offer.losses + price * cost.max(1)).argmin()) for offer, cost in totals]

    def fits(levels: Sequence[int]) -> bool:
        total = sum((cost[n] for cost, n in zip(costs, levels, strict=True)), np.zeros(len(scale)))
        return bool((total <= 1 + 1e-9).all())

    if fits(free := chosen(0.0)):
        return free
    low, high = 1e-12, 1e12
    best = chosen(high) if fits(chosen(high)) else None
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        levels = chosen(middle)
        low, high, best = (low, middle, levels) if fits(levels) else (middle, high, best)
    return best


def _improved(best: list[int] | None, offers: Sequence[Offer], most: Sequence[float]) -> list[int] | None:
    """Return the best choice of two cores, or the given one where neither has less loss.

    An option with a regret above the difference between a known choice and the lower bound is in no better
    choice. So a core that holds all options up to that difference holds a best choice.
    """
    regrets, bound = _regrets(offers, most)
    seconds = np.sort([np.partition(regret, 1)[1] for regret in regrets if len(regret) > 1])
    limit = 0.0
    for places in _CORES:
        excess = np.inf if best is None else _loss(offers, best) - bound
        if excess <= max(limit, _ENOUGH * abs(bound)):
            break
        limit = max(0.0, min(excess, float(seconds[places]) if len(seconds) > places else np.inf))
        found = _within(offers, most, [np.flatnonzero(regret <= limit) for regret in regrets])
        choices = [levels for levels in (found, best) if levels is not None]
        best = min(choices, key=lambda levels: _loss(offers, levels), default=None)
    return best


def _regrets(offers: Sequence[Offer], most: Sequence[float]) -> tuple[list[Array], float]:
    """Return a lower bound of the loss, and by how much each option raises it at least, by linear relaxation.

    Returns:
        Non-negative increases, ``[options]`` for each place, and the bound. Without a solution of the
        relaxation all increases are zero, and the bound is minus infinity.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    sizes = [len(offer.losses) for offer in offers]
    losses = np.concatenate([offer.losses for offer in offers])
    costs = _in_parts(np.concatenate([offer.costs for offer in offers]), most)
    starts = np.cumsum([0, *sizes[:-1]])
    scale = max(float(losses.max()), 1e-30)
    owner, each = np.repeat(np.arange(len(sizes)), sizes), np.arange(len(losses))
    with discard_native_output():
        relaxed = linprog(
            losses / scale,
            A_ub=costs.T,
            b_ub=np.ones(len(most)),
            A_eq=csr_array((np.ones(len(losses)), (owner, each))),
            b_eq=np.ones(len(sizes)),
            bounds=(0, 1),
        )
    if relaxed.x is None:
        return [np.zeros(size) for size in sizes], -np.inf
    prices = np.maximum(-relaxed.ineqlin.marginals * scale, 0)
    priced = losses + costs @ prices
    least = np.minimum.reduceat(priced, starts)
    regrets = np.split(priced - np.repeat(least, sizes), starts[1:])
    return regrets, float(least.sum() - prices.sum())


def _within(offers: Sequence[Offer], most: Sequence[float], options: Sequence[Array]) -> list[int] | None:
    """Return the best choice among some options of each place, by number; ``None`` where there is none."""
    levels = [int(numbers[0]) for numbers in options]
    free = [k for k, numbers in enumerate(options) if len(numbers) > 1]
    spent = sum(
        (o.costs[n] for o, n, numbers in zip(offers, levels, options, strict=True) if len(numbers) == 1),
        np.zeros(len(most)),
    )
    room = np.asarray(most, np.float64) - spent
    if not free or (room < 0).any():
        return levels if not free and (room >= 0).all() else None
    part = [Offer(offers[k].costs[options[k]], offers[k].losses[options[k]]) for k in free]
    solved = _Program.of(part, room).solve()
    if solved is None:
        return None
    for k, level in zip(free, solved, strict=True):
        levels[k] = int(options[k][level])
    return levels


def _in_parts(costs: Array, most: Sequence[float] | Array) -> Array:
    """Return costs in parts of their limits, ``[options, budgets]``."""
    return costs / np.maximum(np.asarray(most, np.float64), 1e-12)


@dataclass(frozen=True)
class _Program:
    """A program: shares of the options of each place, numbers of places of a kind with each option.

    Places whose options have equal costs form a kind. Costs depend on the numbers of places of a kind with
    each option alone. For given whole numbers the best shares are the vertex of an assignment problem, which
    is integral (the constraint matrix is totally unimodular). So only the numbers have to be integers: their
    count is that of the kinds, which a network of repeated layers has few of.

    Attributes:
        sizes: Number of options of each place, ``[places]``.
        losses: Losses of all options, in proportion to the largest, ``[shares]``.
        counts: For each share the index of the number that it adds to, ``[shares]``.
        costs: Costs of one place in parts of the limits, ``[numbers, budgets]``.
    """

    sizes: Array
    losses: Array
    counts: Array
    costs: Array

    @classmethod
    def of(cls, offers: Sequence[Offer], most: Array) -> _Program:
        """Write offers under limits as a program."""
        menus: dict[tuple[bytes, int], Array] = {}
        starts: dict[tuple[bytes, int], int] = {}
        counts, total = [], 0
        for offer in offers:
            kind = offer.costs.tobytes(), len(offer.losses)
            if kind not in menus:
                menus[kind], starts[kind] = offer.costs, total
                total += len(offer.losses)
            counts.append(starts[kind] + np.arange(len(offer.losses)))
        losses = np.concatenate([offer.losses for offer in offers])
        return cls(
            np.asarray([len(offer.losses) for offer in offers]),
            losses / max(float(losses.max()), 1e-30),
            np.concatenate(counts),
            _in_parts(np.concatenate(list(menus.values())), most),
        )

    def solve(self) -> list[int] | None:
        """Return the option of each place, ``None`` where the solver finds none within its bounds."""
        from scipy.optimize import Bounds, LinearConstraint, linprog, milp

        shares, numbers = len(self.losses), len(self.costs)
        integrality = np.repeat([0, 1], [shares, numbers])
        objective = np.concatenate([self.losses, np.zeros(numbers)])
        whole, sides = self._equations()
        budgets = np.concatenate([np.zeros((shares, self.costs.shape[1])), self.costs]).T
        with discard_native_output():
            solved = milp(
                objective,
                integrality=integrality,
                bounds=Bounds(0, np.where(integrality, len(self.sizes), 1)),
                constraints=[LinearConstraint(whole, sides, sides), LinearConstraint(budgets, -np.inf, 1.0)],
                options={
                    "mip_rel_gap": _GAP,
                    "node_limit": _NODES,
                    "time_limit": SECONDS,
                },
            )
        if solved.x is None:
            return None
        chosen = solved.x[:shares]
        if np.abs(chosen - chosen.round()).max() > _INTEGRAL:
            fixed = solved.x[shares:].round()
            bounds = [(0, 1)] * shares + [(n, n) for n in fixed]
            equal = {"A_eq": whole, "b_eq": sides}
            with discard_native_output():
                chosen = linprog(objective, **equal, bounds=bounds, method="highs-ds").x[:shares]
        parts = np.split(chosen, np.cumsum(self.sizes)[:-1])
        return [int(part.argmax()) for part in parts]

    def _equations(self) -> tuple[Any, Array]:
        """Return the equations: shares of a place sum to 1, those of an option of a kind to its number."""
        from scipy.sparse import coo_array

        shares, numbers, places = len(self.losses), len(self.costs), len(self.sizes)
        each = np.arange(shares)
        rows = np.concatenate([np.repeat(np.arange(places), self.sizes), places + self.counts])
        rows = np.concatenate([rows, places + np.arange(numbers)])
        columns = np.concatenate([each, each, shares + np.arange(numbers)])
        values = np.repeat([1.0, -1.0], [2 * shares, numbers])
        matrix = coo_array((values, (rows, columns)), shape=(places + numbers, shares + numbers))
        return matrix.tocsr(), np.repeat([1.0, 0.0], [places, numbers])
