"""Plans tried out on data, as the predicted loss of a plan differs from the measured one.

Both searches draw weights for the groups, and let the planner find the best plan under those weights. So
every plan that is tried meets all budgets, and they differ in which groups pay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from onnxprune.errors import PlanError
from onnxprune.ir.output import write_text
from onnxprune.search.budgets import Balance
from onnxprune.search.candidates import Candidate, removed_by
from onnxprune.search.greedy import cheapest
from onnxprune.search.optimum import best_levels
from onnxprune.support.progress import task

Levels: TypeAlias = tuple[int, ...]
Drop: TypeAlias = Callable[[Mapping[str, Sequence[int]]], float]
_SPREAD = 0.7
"""Standard deviation of the logarithm of a group's weight in a random candidate."""
_MOST_REPEATS = 50
"""Draws in a row that give plans known already, after which a search ends."""
_POWERS = (1.0, 0.5, 2.0)
"""Powers to which measured losses are raised before they are added up: they weigh small ones differently."""


class Trials:
    """Evaluated plans and their losses, stored in a file for resumption.

    The loss of a plan does not depend on the budgets, so the file serves other reductions too.

    Attributes:
        tried: The plans that were requested, measured now or stored before.

    Args:
        offers: The groups.
        drop: From removed channels to the measured drop.
        digest: Digest that identifies this search.
        path: The file; ``None`` for nowhere.

    Raises:
        PlanError: The file is of another search, or damaged.
    """

    def __init__(self, offers: Sequence[Candidate], drop: Drop, digest: str = "", path: Path | None = None):
        self._offers, self._drop, self._digest, self._path = offers, drop, digest, path
        self._known: dict[Levels, float] = _stored(path, digest) if path else {}
        self.tried: set[Levels] = set()

    def drop(self, levels: Sequence[int]) -> float:
        """Return the drop of a plan, measuring it only once."""
        key = tuple(int(n) for n in levels)
        self.tried.add(key)
        if key not in self._known:
            self._known[key] = self._drop(removed_by(self._offers, key))
            if self._path is not None:
                self._save(self._path)
        return self._known[key]

    def _save(self, path: Path) -> None:
        lines = [{"levels": list(levels), "drop": drop} for levels, drop in self._known.items()]
        write_text(path, json.dumps({"format": 1, "digest": self._digest, "trials": lines}, indent=1) + "\n")


def one_step(balance: Balance, trials: Trials, evaluations: int, seed: int) -> Levels:
    """Try random plans at the budget and return the best.

    The strategy of Li et al., "EagleEye", ECCV 2020: the ratios of the groups are drawn at random, those
    plans kept that lie at the budget, each judged with new BatchNormalization statistics. Here the plans are
    drawn on the budget in the first place.

    Args:
        balance: Offers, priced uniformly, and budgets.
        trials: Evaluator of plans.
        evaluations: Number of plans that are tried; the uniform one is the first.
        seed: Seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    best: tuple[float, Levels] | None = None
    with task("search", evaluations) as progress:
        for trial in range(evaluations):
            weights = np.exp(random.normal(0, _SPREAD if trial else 0.0, len(balance.offers)))
            levels = tuple(cheapest(_weighted(balance, weights)))
            found = trials.drop(levels), levels
            best = min(best, found) if best else found
            progress.advance(note=f"drop {best[0]:.4g}")
    assert best is not None
    return best[1]


def improve(
    balance: Balance, trials: Trials, others: Sequence[Levels], evaluations: int, seed: int
) -> Levels:
    """Correct additive losses by the measured losses of whole plans.

    The plan of the measured losses competes with those of losses raised to a power and with other plans. Then
    the weights of the groups are varied at random around the best so far, the steps growing with success and
    shrinking without (Rechenberg's rule for evolution strategies, 1973). Small networks have few plans: the
    search ends when draws repeat known ones.

    Args:
        balance: Offers with measured losses, and budgets.
        trials: Evaluator of plans.
        others: Plans of other strategies that have to be beaten.
        evaluations: Number of plans that are tried, in all.
        seed: Seed of the random numbers.

    Returns:
        The best of all.
    """
    random, spread = np.random.default_rng(seed), 0.5
    best, weights, power = _best_of(balance, trials, others)
    with task("try plans", max(evaluations - len(trials.tried), 0)) as progress:
        repeats = 0
        while len(trials.tried) < evaluations and repeats < _MOST_REPEATS:
            before = len(trials.tried)
            tried = weights * np.exp(
                random.normal(0, spread, len(weights)) * (random.random(len(weights)) < 0.5)
            )
            levels = tuple(best_levels(_weighted(_bent(balance, power), tried), thorough=False))
            found = trials.drop(levels), levels
            repeats = 0 if len(trials.tried) > before else repeats + 1
            better = found < best
            spread = min(2.0, spread * 1.5) if better else max(0.05, spread * 0.9)
            best, weights = (found, tried) if better else (best, weights)
            progress.advance(len(trials.tried) - before, note=f"drop {best[0]:.4g}")
    return best[1]


def _best_of(
    balance: Balance, trials: Trials, others: Sequence[Levels]
) -> tuple[tuple[float, Levels], np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    """Return the best plan to start from, its weights, and how the losses are bent for it."""
    flat = np.ones(len(balance.offers))
    bent = [(tuple(best_levels(_bent(balance, power))), power) for power in _POWERS]
    found = [((trials.drop(levels), levels), power) for levels, power in bent]
    best, power = min(found)
    other = min(((trials.drop(levels), levels) for levels in others), default=best)
    return min(best, other), flat, power


def _bent(balance: Balance, power: float) -> Balance:
    offers = [replace(o, losses=tuple(float(x) ** power for x in o.losses)) for o in balance.offers]
    return balance.with_offers(offers)


def _weighted(balance: Balance, weights: Iterable[float]) -> Balance:
    pairs = zip(balance.offers, weights, strict=True)
    return balance.with_offers([_times(o, float(w)) for o, w in pairs])


def _times(offer: Candidate, weight: float) -> Candidate:
    return replace(
        offer,
        losses=tuple(x * weight for x in offer.losses),
        prices=tuple(x * weight for x in offer.prices),
    )


def _stored(path: Path, digest: str) -> dict[Levels, float]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        trials = {tuple(map(int, t["levels"])): float(t["drop"]) for t in content["trials"]}
        same = content["digest"] == digest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{path} is no list of trials: {error}", "name another file") from error
    if not same:
        raise PlanError(
            f"{path} holds trials of another model, other data or other options", "name another file"
        )
    return trials
