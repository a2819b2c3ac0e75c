"""A plan by ranking: of all steps of all groups the cheapest are taken until the budgets are met."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from onnxprune.search.budgets import REACHED, Balance, Budget
from onnxprune.search.candidates import Candidate, removed_by

_NOTHING = 1e-12
"""Excess that counts as rounding."""


def allocate(offers: Sequence[Candidate], budgets: Sequence[Budget]) -> dict[str, list[int]]:
    """Take the cheapest steps until all budgets are met, as closely as the steps allow.

    Returns:
        Removed channels by group name, ascending; every group that loses any.

    Raises:
        PlanError: Even all steps together do not meet them, or they are met already.
    """
    balance = Balance(offers, budgets)
    balance.check()
    return removed_by(offers, cheapest(balance))


def cheapest(balance: Balance) -> list[int]:
    """Return how many steps each offer gives."""
    basket = _Selected(balance)
    offers = balance.offers
    queue = [(o.prices[0], k) for k, o in enumerate(offers) if o.steps]
    heapq.heapify(queue)
    while queue and basket.excess > _NOTHING:
        _, k = heapq.heappop(queue)
        if basket.excess_after(k) >= -_NOTHING:  # else too coarse: leave it to the others
            basket.take(k)
            if basket.has_next(k):
                heapq.heappush(queue, (offers[k].prices[basket.levels[k]], k))
    basket.fill()
    basket.finish()
    basket.give_back()
    basket.restore()
    return basket.levels


class _Selected:
    """The steps taken so far, and how far the worst budget is from being met."""

    def __init__(self, balance: Balance) -> None:
        self.balance = balance
        self.levels = [0] * len(balance.offers)
        self.widths = balance.widths(self.levels)
        self._excess = balance.excess(self.widths)

    @property
    def excess(self) -> float:
        """The excess over the most violated budget."""
        return float(self._excess.max())

    def has_next(self, k: int) -> bool:
        """Return whether offer ``k`` has a step left."""
        return self.levels[k] < len(self.balance.offers[k].steps)

    def excess_after(self, k: int) -> float:
        """Return the excess after the next step of offer ``k``."""
        return float((self._excess + self._change(k)).max())

    def take(self, k: int, steps: int = 1) -> None:
        """Take the next step of offer ``k``, or put back its last with −1."""
        self._excess = self._excess + self._change(k, steps)
        self.levels[k] += steps
        self.widths[k] = self.balance.offers[k].widths[self.levels[k]]

    def fill(self) -> None:
        """Take the largest steps that fit into the remaining excess; prices decide only between equals."""
        while (left := self._after()) and self.excess > _NOTHING:
            fitting = {k: after for k, after in left.items() if -_NOTHING <= after < self.excess}
            if not fitting:
                return
            self.take(min(fitting, key=lambda k: (round(fitting[k], 9), self._price(k))))

    def finish(self) -> None:
        """Go beyond the target where that ends nearer to it, or where a budget is not met otherwise."""
        while (left := self._after()) and self.excess > _NOTHING:
            best = min(left, key=lambda k: (round(abs(left[k]), 9), self._price(k)))
            if self.excess <= REACHED and abs(left[best]) >= self.excess:
                return
            self.take(best)

    def give_back(self) -> None:
        """Put back the dearest steps that the budgets do not need: the last step may have been large."""
        while self.excess < -REACHED:
            after = {
                k: float((self._excess + self._change(k, -1)).max()) for k, n in enumerate(self.levels) if n
            }
            spare = [k for k in after if after[k] <= REACHED]
            if not spare:
                return
            self.take(max(spare, key=lambda k: self._price(k, -1)), -1)

    def restore(self) -> None:
        """Put back steps that save nothing: widths between two steps of a device cost the same."""
        if not any(budget.steps for budget in self.balance.budgets):
            return
        for k in range(len(self.levels)):
            while self.levels[k] and (self._change(k, -1) <= _NOTHING).all():
                self.take(k, -1)

    def _after(self) -> dict[int, float]:
        return {k: self.excess_after(k) for k in range(len(self.levels)) if self.has_next(k)}

    def _price(self, k: int, steps: int = 1) -> float:
        return self.balance.offers[k].prices[self.levels[k] + min(steps, 0)]

    def _change(self, k: int, steps: int = 1) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        offer = self.balance.offers[k]
        tried = np.asarray([offer.widths[self.levels[k] + steps]], np.float64)
        return np.asarray(self.balance.change(k, self.widths, tried)[:, 0])
