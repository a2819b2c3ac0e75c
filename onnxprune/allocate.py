"""How many channels each group gives up so that the whole network meets a budget.

All strategies come down to an order: every group offers its channels in steps (whole blocks of the rounding,
the least important first), every step has a price, and steps are taken from the cheapest on until the budget
is met. What the price means is all they differ in.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.channels import Channels, Group
from onnxprune.cost import Counts, Polynomial
from onnxprune.dims import Factor, Product, factors, resolve
from onnxprune.errors import PlanError
from onnxprune.importance import Scores
from onnxprune.plan import Analysis, Curve

DEFAULT_ROUND_TO = 8
STRATEGIES = ("uniform", "global", "sensitivity")


@dataclass(frozen=True)
class Limits:
    """What no plan may go beyond.

    Attributes:
        round_to: What remains of a group is a multiple of this, where the group is large enough.
        max_ratio: Largest fraction of a group that may go; one channel always stays.
    """

    round_to: int = DEFAULT_ROUND_TO
    max_ratio: float = 0.9


@dataclass(frozen=True)
class Offer:
    """What one group has to give.

    Attributes:
        group: The group.
        order: Its channels, the least important first; those already gone come first of all.
        steps: How many channels are gone after each step, ascending.
        prices: The price of each step, never falling.
        gone: How many were gone before.
    """

    group: Group
    order: np.ndarray[Any, np.dtype[np.intp]]
    steps: tuple[int, ...]
    prices: tuple[float, ...]
    gone: int


def make_offer(
    channels: Channels,
    group: Group,
    scores: Scores,
    limits: Limits,
    strategy: str,
    curve: tuple[Curve, Analysis] | None = None,
    gone: Sequence[int] = (),
) -> Offer:
    """Price the steps of one group.

    Args:
        channels: The network.
        group: The group.
        scores: One number a channel.
        limits: Rounding and the largest ratio.
        strategy: ``uniform``: the fraction of the group that is gone, so all groups shrink alike. ``global``:
            the mean score of what goes, so the least important channels go wherever they are.
            ``sensitivity``: the metric's measured loss at that fraction.
        curve: For ``sensitivity``: the group's curve and the analysis it is from.
        gone: Channels removed by an earlier plan; they stay removed.
    """
    ranked = scores.copy()
    ranked[list(gone)] = -1.0
    order = np.argsort(ranked, kind="stable")
    steps = _steps(group, _block(channels, group, limits.round_to), limits.max_ratio, len(gone))
    if strategy == "uniform":
        prices = [s / group.size for s in steps]
    elif strategy == "global":
        starts = [len(gone), *steps][: len(steps)]
        prices = [float(scores[order[a:b]].mean()) for a, b in zip(starts, steps, strict=True)]
    else:
        assert curve is not None
        prices = [_loss(*curve, s / group.size) for s in steps]
    rising = tuple(float(p) for p in np.maximum.accumulate(prices)) if prices else ()
    return Offer(group, order, tuple(steps), rising, len(gone))


def _steps(group: Group, block: int, max_ratio: float, gone: int) -> list[int]:
    """Return how many channels may be gone: what remains is a multiple of ``block`` and never nothing."""
    fewest = max(1, int(np.ceil(group.size * (1 - max_ratio) - 1e-9)))
    kept = range((group.size - gone - 1) // block * block, 0, -block)
    return [group.size - k for k in kept if k >= fewest]


def _block(channels: Channels, group: Group, round_to: int) -> int:
    """Return the rounding for one group.

    An axis that nests the group with others is already a multiple of those; a small group is rounded more
    finely, or there would be nothing to choose from.
    """
    needed = 1
    for place in group.places:
        dim = resolve(channels.typing.axes[place.tensor][place.axis])
        multiple = dim.size // group.size if isinstance(dim, Product) and _once(dim, group.factor) else 1
        needed = max(needed, round_to // np.gcd(round_to, multiple))
    while needed > 1 and group.size < 4 * needed:
        needed //= 2
    return int(needed)


def _once(dim: Product, factor: Factor) -> bool:
    return factors(dim).count(factor) == 1


def _loss(curve: Curve, analysis: Analysis, ratio: float) -> float:
    """Return the measured loss at a ratio; the curve is made monotone, and ties are broken by the ratio."""
    losses = np.maximum.accumulate([0.0, *(analysis.drop(v) for v in curve.values)])
    loss = float(np.interp(ratio, [0.0, *curve.ratios], losses))
    return loss + 1e-4 * ratio * max(abs(analysis.baseline), 1e-9)


@dataclass(frozen=True)
class Budget:
    """How much of a cost is to go.

    Attributes:
        name: Of what: ``macs``, ``params`` or ``channels``.
        polynomial: The cost.
        baseline: The cost of the network before any pruning.
        reduction: The fraction of that to remove.
        elsewhere: Channels that remain in groups that offer nothing, but lost some before.
    """

    name: str
    polynomial: Polynomial
    baseline: float
    reduction: float
    elsewhere: Counts = field(default_factory=dict)

    @property
    def target(self) -> float:
        """What may remain."""
        return self.baseline * (1 - self.reduction)


def allocate(offers: Sequence[Offer], budget: Budget) -> dict[str, list[int]]:
    """Take the cheapest steps until the budget is met, as closely as the steps allow.

    Returns:
        Removed channels by group name, ascending; every group that loses any.

    Raises:
        PlanError: Even all steps together do not meet the budget.
    """
    _check_reachable(offers, budget)
    basket = _Basket(offers, budget)
    queue = [(o.prices[0], k) for k, o in enumerate(offers) if o.steps]
    heapq.heapify(queue)
    while queue and basket.cost > budget.target:
        _, k = heapq.heappop(queue)
        if basket.cost - basket.saving(k) >= budget.target:  # else too coarse: leave it to the others
            basket.take(k)
            if basket.has_next(k):
                heapq.heappush(queue, (offers[k].prices[basket.taken[k]], k))
    basket.fill()
    basket.take_closest()
    return basket.removed()


class _Basket:
    """The steps taken so far, and what the network costs then."""

    def __init__(self, offers: Sequence[Offer], budget: Budget) -> None:
        self.offers, self.budget = offers, budget
        self.taken = [0] * len(offers)
        offered = {o.group.factor: o.group.size - o.gone for o in offers}
        self.counts: dict[Factor, int] = {**budget.elsewhere, **offered}
        self.cost = budget.polynomial.value(self.counts)

    def has_next(self, k: int) -> bool:
        return self.taken[k] < len(self.offers[k].steps)

    def saving(self, k: int) -> float:
        """Return what the next step of offer ``k`` saves."""
        factor = self.offers[k].group.factor
        after = self.counts | {factor: self._next_count(k)}
        terms = self.budget.polynomial.of(factor)
        return sum(t.value(self.counts) - t.value(after) for t in terms)

    def take(self, k: int) -> None:
        self.cost -= self.saving(k)
        self.counts[self.offers[k].group.factor] = self._next_count(k)
        self.taken[k] += 1

    def fill(self) -> None:
        """Take the largest steps that fit into what is left, whatever their price: it is little by now."""
        while True:
            room = self.cost - self.budget.target
            left = {k: self.saving(k) for k in range(len(self.offers)) if self.has_next(k)}
            fitting = [k for k, saving in left.items() if 0 < saving <= room]
            if not fitting:
                return
            self.take(max(fitting, key=lambda k: left[k]))

    def take_closest(self) -> None:
        """Go one step beyond the target if that ends nearer to it."""
        left = [k for k in range(len(self.offers)) if self.has_next(k)]
        beyond = {k: self.budget.target - (self.cost - self.saving(k)) for k in left}
        best = min(beyond, key=lambda k: beyond[k], default=None)
        if best is not None and 0 <= beyond[best] < self.cost - self.budget.target:
            self.take(best)

    def removed(self) -> dict[str, list[int]]:
        gone = [o.steps[t - 1] if t else o.gone for o, t in zip(self.offers, self.taken, strict=True)]
        return {
            o.group.name: sorted(o.order[:n].tolist()) for o, n in zip(self.offers, gone, strict=True) if n
        }

    def _next_count(self, k: int) -> int:
        return self.offers[k].group.size - self.offers[k].steps[self.taken[k]]


def _check_reachable(offers: Sequence[Offer], budget: Budget) -> None:
    elsewhere = dict(budget.elsewhere)
    now = elsewhere | {o.group.factor: o.group.size - o.gone for o in offers}
    least = elsewhere | {o.group.factor: o.group.size - (o.steps[-1] if o.steps else o.gone) for o in offers}
    reach = 1 - budget.polynomial.value(least) / budget.baseline
    already = 1 - budget.polynomial.value(now) / budget.baseline
    wanted, name = budget.reduction, budget.name
    if reach < wanted - 0.005:
        raise PlanError(
            f"a reduction of {wanted:.1%} of {name} is out of reach: at most {reach:.1%} can go",
            "`inspect` shows what is blocked; a larger --max-ratio or a smaller --round-to reaches further",
        )
    if already >= wanted:
        raise PlanError(
            f"the model has already lost {already:.1%} of its {name}, not less than {wanted:.1%}",
            "reductions count from the model before any pruning; ask for a larger one",
        )
