"""One option for each place: the program against the multipliers, and both against all choices."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest

from onnxprune.errors import PlanError
from onnxprune.search import choices
from onnxprune.search.choices import Offer, best_choices, by_multipliers


def random_offers(places: int, options: int, budgets: int, seed: int) -> list[Offer]:
    """Convex losses, as those of ranks are: the less an option costs, the more it loses."""
    random = np.random.default_rng(seed)
    offers = []
    for _ in range(places):
        parts = np.sort(random.uniform(0.1, 1, (options, budgets)), axis=0)[::-1]
        costs = random.uniform(1, 100) * np.concatenate([np.ones((1, budgets)), parts])
        losses = random.uniform(0.1, 10) * np.square(1 - costs.mean(1) / costs[0].mean())
        offers.append(Offer(costs, losses))
    return offers


def total(offers: list[Offer], levels: list[int]) -> tuple[np.ndarray, float]:
    chosen = list(zip(offers, levels, strict=True))
    return sum(o.costs[n] for o, n in chosen), sum(float(o.losses[n]) for o, n in chosen)  # type: ignore[return-value]


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_program_finds_the_best_of_all_choices(seed: int, budgets: int) -> None:
    offers = random_offers(4, 5, budgets, seed)
    most = (0.55 * sum(o.costs[0] for o in offers)).tolist()
    every = [total(offers, list(levels)) for levels in product(range(6), repeat=4)]
    best = min(loss for cost, loss in every if (cost <= most).all())
    cost, loss = total(offers, best_choices(offers, most))
    assert (cost <= np.asarray(most) * (1 + 1e-6)).all()
    assert loss <= best * 1.001 + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_multipliers_come_near_where_places_are_many(seed: int) -> None:
    offers = random_offers(60, 10, 1, seed)
    most = (0.5 * sum(o.costs[0] for o in offers)).tolist()
    levels = by_multipliers(offers, most)
    assert levels is not None
    cost, loss = total(offers, levels)
    assert (cost <= np.asarray(most) * (1 + 1e-6)).all()
    assert total(offers, best_choices(offers, most))[1] <= loss + 1e-9
    assert loss <= 1.1 * total(offers, best_choices(offers, most))[1]


def test_nothing_is_lost_where_nothing_is_asked_for() -> None:
    offers = random_offers(5, 4, 1, 0)
    assert best_choices(offers, [1e9]) == [0] * 5


def test_a_budget_below_the_cheapest_options_is_refused() -> None:
    offers = random_offers(5, 4, 1, 0)
    with pytest.raises(PlanError, match="exceed a budget"):
        best_choices(offers, [0.9 * sum(float(o.costs.min()) for o in offers)])


def test_a_choice_that_the_solver_does_not_improve_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = random_offers(12, 5, 1, 7)
    most = (0.5 * sum(o.costs[0] for o in offers)).tolist()
    worst = [int(o.losses.argmax()) for o in offers]
    monkeypatch.setattr(choices, "_within", lambda offers, most, options: worst)
    levels = by_multipliers(offers, most)
    assert levels is not None
    assert best_choices(offers, most) == levels
    monkeypatch.setattr(choices, "_within", lambda offers, most, options: None)
    assert best_choices(offers, most) == levels


def repeated(places: int, seed: int) -> tuple[list[Offer], list[float]]:
    """Places of two kinds with equal costs and losses of their own, as the layers of a residual network."""
    random = np.random.default_rng(seed)
    costs = [np.asarray(c, np.float64)[:, None] for c in ([512, 416, 384, 256], [176, 88, 62, 0])]
    offers = [
        Offer(costs[k % 7 == 0], np.concatenate([[0], np.sort(random.uniform(0.5, 1, 3))]))
        for k in range(places)
    ]
    return offers, [0.7 * sum(float(o.costs[0, 0]) for o in offers)]


@pytest.mark.parametrize("seed", range(3))
def test_the_best_choice_for_places_of_equal_costs_is_found(seed: int) -> None:
    """The dynamic program over all sums of costs is exact, and takes time in proportion to their number."""
    offers, most = repeated(40, seed)
    best = {0.0: 0.0}
    for offer in offers:
        options = list(zip(offer.costs[:, 0], offer.losses, strict=True))
        found: dict[float, float] = {}
        for cost, loss in best.items():
            for more, lost in options:
                if cost + more <= most[0]:
                    found[cost + more] = min(found.get(cost + more, np.inf), loss + lost)
        best = found
    cost, loss = total(offers, best_choices(offers, most))
    assert cost[0] <= most[0]
    assert loss <= min(best.values()) * (1 + choices._ENOUGH) + 1e-9


def test_shares_that_are_no_integers_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution within a face of the optimum is replaced by a vertex with the same numbers."""
    offers, most = repeated(40, 0)
    program = choices._Program.of(offers, most)
    expected = total(offers, program.solve() or [])
    monkeypatch.setattr(choices, "_INTEGRAL", -1.0)
    cost, loss = total(offers, program.solve() or [])
    assert (cost, loss) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.slow
def test_time_for_a_place_does_not_grow_with_their_number() -> None:
    times = []
    for places in (200, 1600):
        offers, most = repeated(places, 5)
        start = time.process_time()
        best_choices(offers, most)
        times.append(time.process_time() - start)
    assert times[1] < 12 * max(times[0], 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_the_core_holds_a_best_choice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = random_offers(60, 5, 1, seed)
    most = (0.6 * sum(o.costs[0] for o in offers)).tolist()
    loss = total(offers, best_choices(offers, most))[1]
    monkeypatch.setattr(choices, "_CORES", (10, 40))
    assert loss == pytest.approx(total(offers, best_choices(offers, most))[1], rel=choices._ENOUGH)
