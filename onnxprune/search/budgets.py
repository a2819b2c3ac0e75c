"""Budgets: how much of which cost is to go, and how far a plan is from them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from onnxprune.analysis.groups.cost import Counts, Polynomial
from onnxprune.errors import PlanError
from onnxprune.search.candidates import Candidate
from onnxprune.search.monomials import Monomials, Widths

REACHED = 1e-3
"""A budget that is missed by less than this part of the baseline counts as met."""
_ALMOST = 5e-3
"""What cannot be reached by less than this is reached as far as possible."""


@dataclass(frozen=True)
class Budget:
    """The reduction of one cost.

    Attributes:
        name: Of what: ``macs``, ``params``, ``size``, ``latency`` or ``channels``.
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
        """The allowed cost."""
        return self.baseline * (1 - self.reduction)


class Balance:
    """The excess over each budget at given widths of the groups.

    The *excess* is counted in baselines: 0 is what was asked for, 0.01 one percent too much.

    Args:
        offers: The groups, in the order of the widths.
        budgets: One or more.
    """

    def __init__(self, offers: Sequence[Candidate], budgets: Sequence[Budget]) -> None:
        self.offers, self.budgets = offers, budgets
        groups = [o.group.factor for o in offers]
        self._costs = [Monomials.of(b.polynomial, groups, b.elsewhere) for b in budgets]

    def with_offers(self, offers: Sequence[Candidate]) -> Balance:
        """Return the same budgets over the same groups, which ask for something else."""
        other = copy(self)
        other.offers = offers
        return other

    def widths(self, levels: Sequence[int]) -> Widths:
        """Return how many channels remain of each group after so many steps."""
        return np.asarray([o.widths[n] for o, n in zip(self.offers, levels, strict=True)], np.float64)

    def excess(self, widths: Widths) -> Widths:
        """Return what is too much of each budget, ``[budgets]``."""
        pairs = zip(self.budgets, self._costs, strict=True)
        return np.asarray([(cost.value(widths) - b.target) / b.baseline for b, cost in pairs])

    def change(self, k: int, widths: Widths, tried: Widths) -> Widths:
        """Return how the excess changes when one group gets another width.

        Args:
            k: Which group.
            widths: The widths of all, ``[groups]``.
            tried: Widths of that group, ``[n]``.

        Returns:
            ``[budgets, n]``.
        """
        tried = np.append(tried, widths[k])
        pairs = zip(self.budgets, self._costs, strict=True)
        lines = np.asarray([cost.along(k, widths, tried) / b.baseline for b, cost in pairs])
        return np.asarray(lines[:, :-1] - lines[:, -1:])

    def check(self) -> None:
        """Refuse budgets that are out of reach, or met already.

        Raises:
            PlanError: Saying how far one can go.
        """
        least = self.excess(self.widths([len(o.steps) for o in self.offers]))
        for budget, beyond in zip(self.budgets, least, strict=True):
            if beyond > _ALMOST:
                raise PlanError(
                    f"a reduction of {budget.reduction:.1%} of {budget.name} is out of reach:"
                    f" at most {budget.reduction - beyond:.1%} can go",
                    "`inspect` shows what is blocked; a larger `max_ratio` or a smaller `round_to`"
                    " reaches further",
                )
        now = self.excess(self.widths([0] * len(self.offers)))
        if (now <= 0).all() and not any(o.forced for o in self.offers):
            wanted = self.budgets[0].reduction
            raise PlanError(
                f"the model has already lost {wanted - float(now[0]):.1%} of its {self.budgets[0].name},"
                f" not less than {wanted:.1%}",
                "reductions count from the model before any pruning; ask for a larger one",
            )
