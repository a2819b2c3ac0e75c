"""Ranks of all layers together, under budgets of multiply-accumulates and parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.decisions.ranks.split_forms import RankOption
from onnxprune.decisions.ranks.splittable_layers import RankLayer
from onnxprune.errors import PlanError
from onnxprune.runtime import Array
from onnxprune.scoring.rank_scores import RankOffer
from onnxprune.search.choices import Offer, best_choices

COLUMNS = {"macs": 0, "params": 1}
"""Columns of the costs by the name of the cost."""
_WORDS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class RankChoice:
    """The splits of all layers, of which each layer takes one or none.

    Attributes:
        offers: The splits of each layer.
        totals: The costs of the whole network by name, ``macs`` and ``params``.
        forced: Names of the layers that are split in any case, by the first of their options.
    """

    offers: Sequence[RankOffer]
    totals: Mapping[str, float]
    forced: Collection[str] = ()

    def largest(self, cost: str) -> float:
        """Return the fraction of a cost, ``macs`` or ``params``, that the smallest splits remove."""
        column = COLUMNS[cost]
        least = sum(place.costs[:, column].min() for place in self._places)
        return float(self._own(cost) - least) / max(self.totals[cost], 1)

    def allotted(self, reductions: Mapping[str, float]) -> list[tuple[RankLayer, RankOption]]:
        """Choose one split of each layer, or none, with which the losses add up to least.

        Args:
            reductions: The fractions of the costs that are to be removed.

        Returns:
            The layers that are split, in their order, with the split.

        Raises:
            PlanError: The budgets cannot be met.
        """
        for name, reduction in reductions.items():
            reach = self.largest(name)
            if reach < reduction:
                raise PlanError(
                    f"lower ranks remove no more than {reach:.1%} of the {_WORDS[name]}, not {reduction:.1%}",
                    "ask for less, or prune channels, too",
                )
        limits = [self._own(name) - share * self.totals[name] for name, share in reductions.items()]
        columns = [COLUMNS[name] for name in reductions]
        levels = [0] * len(self.offers)
        if columns:
            levels = best_choices([Offer(p.costs[:, columns], p.losses) for p in self._places], limits)
        first = [0 if offer.layer.name in self.forced else 1 for offer in self.offers]
        chosen = zip(self.offers, levels, first, strict=True)
        return [(offer.layer, offer.options[level - n]) for offer, level, n in chosen if level >= n]

    @cached_property
    def _places(self) -> list[Offer]:
        return [_place(offer, offer.layer.name in self.forced) for offer in self.offers]

    def _own(self, cost: str) -> float:
        """Return the cost of all layers with splits."""
        return float(sum(_whole(offer.layer)[COLUMNS[cost]] for offer in self.offers))


def _place(offer: RankOffer, is_forced: bool) -> Offer:
    """Return the costs and the losses of the options of a layer, to stay whole being the first."""
    rows = [(option.macs, option.params) for option in offer.options]
    if is_forced:
        return Offer(np.asarray(rows[:1], np.float64), np.asarray(offer.losses()[:1]))
    return Offer(np.asarray([_whole(offer.layer), *rows], np.float64), np.asarray([0.0, *offer.losses()]))


def _whole(layer: RankLayer) -> Array:
    return np.asarray([layer.macs([layer.shape]), math.prod(layer.shape)])
