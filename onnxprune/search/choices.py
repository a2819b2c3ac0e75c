"""One option for each of many places, whose costs and losses add up, such that budgets are met.

Exactly, that is a multiple-choice knapsack: a mixed-integer linear program, solved by HiGHS (Q. Huangfu and
J. A. J. Hall, "Parallelizing the dual revised simplex method", 2018) through scipy. Where there are very many
options, Lagrange multipliers price the costs (H. Everett, "Generalized Lagrange multiplier method", 1963).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.runtime import Array

MOST_VARIABLES = 20_000
"""Options beyond which no integer program is solved."""
_GAP = 1e-4
_NODES = 2_000
"""Nodes of the search tree after which the best choice so far is taken."""
_WORK = 250_000
"""Largest product of options and nodes of the search tree: the time for a node grows with the options."""
SECONDS = 60.0
"""Time after which the solver returns the best choice so far."""
_HALVINGS = 60


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
        choices = [levels for levels in (_by_program(offers, most), found) if levels is not None]
        found = min(choices, key=lambda levels: _loss(offers, levels), default=None)
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


def _by_program(offers: Sequence[Offer], most: Sequence[float]) -> list[int] | None:
    """Return the best choice, ``None`` where the solver finds none within its bounds."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_matrix

    sizes = [len(offer.losses) for offer in offers]
    losses = np.concatenate([offer.losses for offer in offers])
    limits = np.asarray(most, np.float64)
    costs = np.concatenate([offer.costs for offer in offers]) / np.maximum(limits, 1e-12)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    one = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    solved = milp(
        losses / max(float(losses.max()), 1e-30),
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(costs.T, -np.inf, 1.0)],
        options={
            "mip_rel_gap": _GAP,
            "node_limit": min(_NODES, max(1, _WORK // len(losses))),
            "time_limit": SECONDS,
        },
    )
    if solved.x is None:
        return None
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return [int(solved.x[a:b].argmax()) for a, b in pairwise(starts)]
