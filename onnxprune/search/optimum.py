"""The best plan there is for additive losses: a multiple-choice knapsack whose weights depend on one another.

Each group is to be given one of its widths, so that the sum of the losses is least and no budget is exceeded.
The cost of a width depends on the widths of others, as multiply-accumulates are products of two of them. So
the costs are taken at the plan there is, and Lagrange multipliers price them (Everett, "Generalized Lagrange
multiplier method", Operations Research 1963): with a price on every cost the choice of each group is
independent. Groups are minimised one after the other until no width changes, and the multipliers are raised
until the budgets are met. That leaves out plans off the convex hull; moves of one group, and exchanges
between two, find those, and make rounding part of the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.analysis.groups.channels import Group
from onnxprune.errors import PlanError
from onnxprune.search.budgets import REACHED, Balance, Budget
from onnxprune.search.candidates import Candidate, removed_by
from onnxprune.search.greedy import cheapest
from onnxprune.search.integer_program import solved
from onnxprune.search.monomials import Widths

_SWEEPS = 6
"""Number of sweeps over the groups at one multiplier."""
_HALVINGS = 24
_EXCHANGES = 400
_FEW = 12
"""Number of groups up to which a better optimum is looked for everywhere."""
_NEAREST = 64
"""Of the moves that make room, so many of the most profitable are combined with others."""

Levels = np.ndarray[Any, np.dtype[np.intp]]


def optimise(offers: Sequence[Candidate], budgets: Sequence[Budget]) -> dict[str, list[int]]:
    """Find the steps whose losses add up to least.

    Returns:
        Removed channels by group name, ascending; every group that loses any.

    Raises:
        PlanError: Even all steps together do not meet the budgets, or they are met already.
    """
    balance = Balance(offers, budgets)
    balance.check()
    return removed_by(offers, best_levels(balance, starts=_by_channels(offers, budgets)))


def _by_channels(offers: Sequence[Candidate], budgets: Sequence[Budget]) -> list[list[int]]:
    """Return the best plan that removes no block, if blocks are offered and there is such a plan."""
    kept = [o if isinstance(o.group, Group) else replace(o, steps=(), losses=(), prices=()) for o in offers]
    if all(own is given for own, given in zip(kept, offers, strict=True)):
        return []
    balance = Balance(kept, budgets)
    try:
        balance.check()
    except PlanError:
        return []
    return [best_levels(balance)]


def best_levels(
    balance: Balance, *, thorough: bool = True, starts: Sequence[Sequence[int]] = ()
) -> list[int]:
    """Return how many steps each offer gives.

    Args:
        balance: Offers and budgets.
        thorough: True to try, where the groups are few, every other width of each for a way out of a
            local optimum.
        starts: Further plans to improve.
    """
    found = [*starts, cheapest(balance), *_by_multipliers(balance)]
    best = min((_Search(balance, levels).run() for levels in found), key=_Search.rank)
    if not thorough:
        return [int(n) for n in best.levels]
    if len(balance.offers) <= _FEW:
        best = _restarted(best)
    if (program := solved(balance)) is not None:
        best = min(best, _Search(balance, program), key=_Search.rank)
    return [int(n) for n in best.levels]


def _restarted(best: _Search) -> _Search:
    """Give each group each of its widths in turn, improve from there, and keep the best levels."""
    for k, offer in enumerate(best.balance.offers):
        for level in range(len(offer.widths)):
            levels = best.levels.copy()
            levels[k] = level
            best = min(best, _Search(best.balance, levels.tolist()).run(), key=_Search.rank)
    return best


def _by_multipliers(balance: Balance) -> list[list[int]]:
    """Return plans of the smallest multipliers at which all budgets are met; one for each mix of budgets."""
    mixes = np.eye(len(balance.budgets)).tolist()
    if len(mixes) > 1:
        mixes.append([1.0] * len(mixes))
    return [_by_multiplier(balance, np.asarray(mix)) for mix in mixes]


def _by_multiplier(balance: Balance, mix: Widths) -> list[int]:
    scale = max((o.losses[-1] for o in balance.offers if o.losses), default=1.0) or 1.0
    low, high = 1e-6 * scale, 1e6 * scale
    levels = chosen = np.asarray([len(o.steps) for o in balance.offers], np.intp)
    for _ in range(_HALVINGS):
        middle = float(np.sqrt(low * high))
        levels = _minimised(balance, chosen, middle * mix)
        if balance.excess(balance.widths(levels.tolist())).max() <= REACHED:
            chosen, high = levels, middle
        else:
            low = middle
    return [int(n) for n in chosen]


def _minimised(balance: Balance, start: Levels, multipliers: Widths) -> Levels:
    """Minimise the Lagrangian over one group after the other, until no level changes."""
    levels: Levels = start.copy()
    widths = balance.widths(levels.tolist())
    for _ in range(_SWEEPS):
        before = levels.copy()
        for k, offer in enumerate(balance.offers):
            tried = np.asarray(offer.widths, np.float64)
            totals = np.asarray([0.0, *offer.losses]) + multipliers @ balance.change(k, widths, tried)
            levels[k] = int(totals.argmin())
            widths[k] = tried[levels[k]]
        if (levels == before).all():
            break
    return levels


@dataclass(frozen=True)
class _Moves:
    """Moves of single groups.

    Attributes:
        groups: Number of the group, ``[moves]``.
        levels: Number of steps it would take, ``[moves]``.
        gains: Change of the sum of losses, ``[moves]``; negative is better.
        changes: Change of the excess, ``[budgets, moves]``.
    """

    groups: Levels
    levels: Levels
    gains: Widths
    changes: Widths


class _Search:
    """A plan that is improved move by move, with the costs as they are.

    The moves of a group are computed again only after a group has moved whose width they depend on.

    Args:
        balance: The budgets.
        levels: The plan to start from.
    """

    def __init__(self, balance: Balance, levels: Sequence[int]) -> None:
        self.balance = balance
        self.levels = np.asarray(levels, np.intp)
        self._losses = [np.asarray([0.0, *o.losses]) for o in balance.offers]
        self._widths = balance.widths(self.levels.tolist())
        sizes = [len(line) for line in self._losses]
        self._ends = np.cumsum([0, *sizes])
        self._known = _Moves(
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate([np.arange(n) for n in (0, *sizes)]),
            np.empty(sum(sizes)),
            np.empty((len(balance.budgets), sum(sizes))),
        )
        self._stale = set(range(len(sizes)))

    @property
    def loss(self) -> float:
        """The sum of losses."""
        return float(sum(line[n] for line, n in zip(self._losses, self.levels, strict=True)))

    @property
    def excess(self) -> float:
        """The excess over the most violated budget."""
        return float(self._excess().max())

    def rank(self) -> tuple[float, float]:
        """The order of plans: by excess over the budgets, then by loss."""
        return max(self.excess, REACHED), self.loss

    def run(self) -> _Search:
        """Improve until no move or exchange does, by at most `_EXCHANGES` of them."""
        for _ in range(_EXCHANGES):
            moves = self._moves()
            if not (self._single(moves) or self._exchange(moves)):
                break
        return self

    def _excess(self) -> Widths:
        return self.balance.excess(self._widths)

    def _moves(self) -> _Moves:
        """Return all moves; that of a group to its present level never pays."""
        known = self._known
        for k in sorted(self._stale):
            here, line, start = int(self.levels[k]), self._losses[k], self._ends[k]
            others = np.delete(np.arange(len(line)), here)
            tried = np.asarray(self.balance.offers[k].widths, np.float64)[others]
            known.gains[start + others] = line[others] - line[here]
            known.changes[:, start + others] = self.balance.change(k, self._widths, tried)
            known.gains[start + here], known.changes[:, start + here] = np.inf, 0.0
        self._stale.clear()
        return known

    def _single(self, moves: _Moves) -> bool:
        """Take the best move of one group: the one that costs least where a budget is exceeded."""
        after = (self._excess()[:, None] + moves.changes).max(0)
        if self.excess > REACHED:
            saved = self.excess - np.maximum(after, 0)
            useful = saved > 1e-12
            rates = np.where(useful, np.maximum(moves.gains, 0) / np.where(useful, saved, 1), np.inf)
            return bool(useful.any()) and self._take(moves, [int(rates.argmin())])
        allowed = np.where(after <= REACHED, moves.gains, np.inf)
        best = int(allowed.argmin())
        return bool(allowed[best] < -1e-12) and self._take(moves, [best])

    def _exchange(self, moves: _Moves) -> bool:
        """Let one group have more and another less, if the sum of the losses falls."""
        excess = self._excess()[:, None]
        wishes = np.argsort(moves.gains, kind="stable")[:_NEAREST]
        found: list[tuple[float, list[int]]] = []
        for wish in wishes[moves.gains[wishes] < 0]:
            after = (excess + moves.changes + moves.changes[:, [wish]]).max(0)
            fits = (after <= REACHED) & (moves.groups != moves.groups[wish])
            totals = np.where(fits, moves.gains + moves.gains[wish], np.inf)
            other = int(totals.argmin())
            found.append((float(totals[other]), [int(wish), other]))
        better = sorted(pair for pair in found if pair[0] < -1e-12)
        return any(self._take(moves, chosen) for _, chosen in better)

    def _take(self, moves: _Moves, chosen: Sequence[int]) -> bool:
        """Make moves, unless they exceed a budget after all: their costs are not quite independent."""
        groups, was = moves.groups[list(chosen)], self.excess
        before = self.levels[groups], self._widths[groups]
        self.levels[groups] = moves.levels[list(chosen)]
        self._widths[groups] = [self.balance.offers[k].widths[self.levels[k]] for k in groups]
        if self.excess > max(was, REACHED):
            self.levels[groups], self._widths[groups] = before
            return False
        self._stale.update(*(self.balance.coupled(int(k)) for k in groups))
        return True
