"""Budgets: how much of which cost is to go, and how far a plan is from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from onnxprune.algebra.axes import Factor
from onnxprune.analysis.groups.cost import Counts, Polynomial
from onnxprune.errors import OutOfReachError, PlanError
from onnxprune.search.candidates import Candidate
from onnxprune.search.monomials import Monomials, Widths

REACHED = 1e-3
"""A budget that is missed by less than this part of the baseline counts as met."""
_ALMOST = 5e-3
"""Shortfall, as a part of the baseline, up to which a budget out of reach is met as far as possible."""


@dataclass(frozen=True)
class Budget:
    """The reduction of one cost.

    Attributes:
        name: Kind of the cost: ``macs``, ``params``, ``size``, ``latency`` or ``channels``.
        polynomial: The cost.
        baseline: The cost of the network before any pruning.
        reduction: The fraction of that to remove.
        elsewhere: Channels that remain in groups that offer nothing, but lost some before.
        in_steps: A further cost, of widths rounded up to the steps of a device.
        steps: Those steps, by the factor of a group.

    Raises:
        PlanError: There is nothing to reduce.
    """

    name: str
    polynomial: Polynomial
    baseline: float
    reduction: float
    elsewhere: Counts = field(default_factory=dict)
    in_steps: Polynomial | None = None
    steps: Counts = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a baseline of zero."""
        if self.baseline <= 0:
            raise PlanError(
                f"the {self.name} cannot be reduced: the model had none of them before any pruning",
                "choose another budget, or start from the original of a model that was pruned before",
            )

    def value(self, counts: Counts) -> float:
        """Return the cost of a network with some factors cut to ``counts``."""
        if self.in_steps is None:
            return self.polynomial.value(counts)
        return self.polynomial.value(counts) + self.in_steps.value(in_whole_steps(counts, self.steps))

    @property
    def target(self) -> float:
        """The allowed cost."""
        return self.baseline * (1 - self.reduction)


def in_whole_steps(counts: Counts, steps: Counts) -> Counts:
    """Return widths rounded up to whole steps, those of whole groups included.

    Args:
        counts: Channels that remain, by factor.
        steps: Steps by factor, of every group that has one.
    """
    up = {factor: math.ceil(counts.get(factor, factor.count) / step) * step for factor, step in steps.items()}
    return {**counts, **up}


class _Evaluated:
    """A cost over the widths of some groups, in numpy; see `Monomials`."""

    def __init__(self, budget: Budget, groups: Sequence[Factor]) -> None:
        self._plain = Monomials.of(budget.polynomial, groups, budget.elsewhere)
        self._steps = np.asarray([budget.steps.get(factor, 1) for factor in groups], np.float64)
        self._in_steps: Monomials | None = None
        if budget.in_steps is not None:
            elsewhere = in_whole_steps(budget.elsewhere, budget.steps)
            self._in_steps = Monomials.of(budget.in_steps, groups, elsewhere)

    @property
    def monomials(self) -> Monomials | None:
        """The cost as monomials; ``None`` where a part of it counts in steps of a device."""
        return self._plain if self._in_steps is None else None

    def value(self, widths: Widths) -> float:
        """Return the cost."""
        value = self._plain.value(widths)
        return value if self._in_steps is None else value + self._in_steps.value(self._up(widths))

    def along(self, k: int, widths: Widths, tried: Widths) -> Widths:
        """Return the part of the cost that group ``k`` has a share in, at each of some widths of it."""
        value = self._plain.along(k, widths, tried)
        if self._in_steps is None:
            return value
        step = self._steps[k]
        return value + self._in_steps.along(k, self._up(widths), np.ceil(tried / step) * step)

    def coupled(self, k: int) -> set[int]:
        """Return the groups whose widths count in the part of the cost that group ``k`` has a share in."""
        further = self._in_steps.coupled(k) if self._in_steps is not None else set()
        return self._plain.coupled(k) | further

    def _up(self, widths: Widths) -> Widths:
        return np.asarray(np.ceil(widths / self._steps) * self._steps)


class Balance:
    """The excess over each budget at given widths of the groups.

    The *excess* is counted in baselines: 0 meets the budget, 0.01 is one percent too much.

    Args:
        offers: The groups, in the order of the widths.
        budgets: One or more.
    """

    def __init__(self, offers: Sequence[Candidate], budgets: Sequence[Budget]) -> None:
        self.offers, self.budgets = offers, budgets
        groups = [o.group.factor for o in offers]
        self._costs = [_Evaluated(b, groups) for b in budgets]

    @property
    def monomials(self) -> list[Monomials] | None:
        """The cost of each budget as monomials; ``None`` where one counts in steps of a device."""
        found = [cost.monomials for cost in self._costs]
        known = [monomials for monomials in found if monomials is not None]
        return known if len(known) == len(found) else None

    def with_offers(self, offers: Sequence[Candidate]) -> Balance:
        """Return the same budgets over the same groups with other candidates."""
        other = copy(self)
        other.offers = offers
        return other

    def widths(self, levels: Sequence[int]) -> Widths:
        """Return how many channels remain of each group after so many steps."""
        return np.asarray([o.widths[n] for o, n in zip(self.offers, levels, strict=True)], np.float64)

    def excess(self, widths: Widths) -> Widths:
        """Return the excess over each budget, ``[budgets]``."""
        pairs = zip(self.budgets, self._costs, strict=True)
        return np.asarray([(cost.value(widths) - b.target) / b.baseline for b, cost in pairs])

    @property
    def is_met(self) -> bool:
        """Return whether all budgets are met before the first step."""
        return bool((self.excess(self.widths([0] * len(self.offers))) <= 0).all())

    def change(self, k: int, widths: Widths, tried: Widths) -> Widths:
        """Return how the excess changes when one group gets another width.

        Args:
            k: Number of the group.
            widths: The widths of all, ``[groups]``.
            tried: Widths of that group, ``[n]``.

        Returns:
            ``[budgets, n]``.
        """
        tried = np.append(tried, widths[k])
        pairs = zip(self.budgets, self._costs, strict=True)
        lines = np.asarray([cost.along(k, widths, tried) / b.baseline for b, cost in pairs])
        return np.asarray(lines[:, :-1] - lines[:, -1:])

    def coupled(self, k: int) -> set[int]:
        """Return the groups whose changes of the excess depend on the width of group ``k``, and itself."""
        return {k}.union(*(cost.coupled(k) for cost in self._costs))

    def check(self) -> None:
        """Refuse budgets that are out of reach, or met already.

        Raises:
            PlanError: The message has the largest possible reduction, or the present one.
        """
        least = self.excess(self.widths([len(o.steps) for o in self.offers]))
        for budget, beyond in zip(self.budgets, least, strict=True):
            if beyond > _ALMOST:
                raise OutOfReachError(
                    f"a reduction of {budget.reduction:.1%} of {budget.name} is out of reach:"
                    f" at most {max(0.0, budget.reduction - beyond):.1%} can go",
                    "`inspect` lists blocked axes; a larger `max_ratio` or a smaller `round_to`"
                    " reaches further",
                )
        now = self.excess(self.widths([0] * len(self.offers)))
        if (now <= 0).all() and not any(o.forced for o in self.offers):
            demanded = self.budgets[0].reduction
            raise PlanError(
                f"the model has already lost {demanded - float(now[0]):.1%} of its {self.budgets[0].name},"
                f" not less than {demanded:.1%}",
                "reductions count from the model before any pruning; ask for a larger one",
            )
