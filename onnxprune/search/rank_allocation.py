"""Ranks of all layers together, under budgets of multiply-accumulates and parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

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


def allotted(
    offers: Sequence[RankOffer],
    totals: Mapping[str, float],
    reductions: Mapping[str, float],
    forced: Collection[str] = (),
) -> list[tuple[RankLayer, RankOption]]:
    """Choose one split of each layer, or none, with which the losses add up to least.

    Args:
        offers: The splits of each layer.
        totals: The costs of the whole network by name, ``macs`` and ``params``.
        reductions: The fractions of them that are to be removed.
        forced: Names of the layers that are split in any case, by the first of their options.

    Returns:
        The layers that are split, in their order, with the split.

    Raises:
        PlanError: The budgets cannot be met.
    """
    places = [_place(offer, offer.layer.name in forced) for offer in offers]
    wholes = [_whole(offer.layer) for offer in offers]
    limits = []
    for name, reduction in reductions.items():
        own = sum(whole[COLUMNS[name]] for whole in wholes)
        reach = (own - sum(p.costs[:, COLUMNS[name]].min() for p in places)) / max(totals[name], 1)
        if reach < reduction:
            raise PlanError(
                f"lower ranks remove no more than {reach:.1%} of the {_WORDS[name]}, not {reduction:.1%}",
                "ask for less, or prune channels, too",
            )
        limits.append(own - reduction * totals[name])
    columns = [COLUMNS[name] for name in reductions]
    levels = [0] * len(places)
    if columns:
        levels = best_choices([Offer(p.costs[:, columns], p.losses) for p in places], limits)
    first = [0 if offer.layer.name in forced else 1 for offer in offers]
    chosen = zip(offers, levels, first, strict=True)
    return [(offer.layer, offer.options[level - n]) for offer, level, n in chosen if level >= n]


def _place(offer: RankOffer, is_forced: bool) -> Offer:
    """Return the costs and the losses of the options of a layer, to stay whole being the first."""
    rows = [(option.macs, option.params) for option in offer.options]
    if is_forced:
        return Offer(np.asarray(rows[:1], np.float64), np.asarray(offer.losses()[:1]))
    return Offer(np.asarray([_whole(offer.layer), *rows], np.float64), np.asarray([0.0, *offer.losses()]))


def _whole(layer: RankLayer) -> Array:
    return np.asarray([layer.macs([layer.shape]), math.prod(layer.shape)])
