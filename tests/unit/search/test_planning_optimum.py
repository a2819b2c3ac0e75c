"""The best plan: against all plans there are, against Lagrange's bound, and with several budgets at once."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ideas import IDEAS

from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import Polynomial, cost_of
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Transform
from onnxprune.search import (
    Balance,
    Budget,
    Candidate,
    Limits,
    make_offer,
    optimise,
    plan_trials,
    sensitively,
)
from onnxprune.search.budgets import REACHED
from onnxprune.search.candidates import loss_at
from onnxprune.search.greedy import cheapest
from onnxprune.search.optimum import _Search, best_levels

RATIOS = (0.25, 0.5, 0.75, 0.9)


@cache
def network(name: str) -> Model:
    return check(Model(IDEAS[name].build()))


@cache
def groups(name: str) -> Channels:
    return find_channels(network(name))


def drawn(name: str, seed: int, round_to: int) -> list[Candidate]:
    """Offers with random curves, rising as measured ones do, not always convex."""
    random, found = np.random.default_rng(seed), []
    analysis = Analysis("", "kl", False, 0.0, {})
    for group in groups(name).groups:
        values = np.cumsum(random.exponential(np.exp(random.normal(0, 1)), len(RATIOS)))
        curve = Curve(group.size, RATIOS, tuple(values.tolist()))
        offer = make_offer(groups(name), group, random.uniform(size=group.size), Limits(round_to=round_to))
        found.append(sensitively(offer, curve, analysis))
    return found


def loss(offers: list[Candidate], levels: tuple[int, ...] | list[int]) -> float:
    return sum((0.0, *o.losses)[n] for o, n in zip(offers, levels, strict=True))


def budget(name: str, of: str, reduction: float) -> Budget:
    polynomial: Polynomial = getattr(cost_of(groups(name)), of)
    return Budget(of, polynomial, polynomial.value(), reduction)


@pytest.mark.slow
@given(st.integers(0, 999), st.floats(0.1, 0.7), st.sampled_from(["macs", "params", "channels"]))
@settings(max_examples=25, deadline=None)
def test_hardly_any_plan_is_better(seed: int, reduction: float, of: str) -> None:
    """All plans of a small network: the one found is within a few percent of the best."""
    offers = drawn("plain", seed, round_to=8)
    balance = Balance(offers, [budget("plain", of, reduction)])
    plans = itertools.product(*(range(len(o.steps) + 1) for o in offers))
    met = [p for p in plans if balance.excess(balance.widths(p)).max() <= REACHED]
    found = best_levels(balance)
    assert balance.excess(balance.widths(found)).max() <= REACHED
    assert loss(offers, found) <= 1.03 * min(loss(offers, p) for p in met) + 1e-9


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["densenet", "unet_resize", "inception"])
def test_never_worse_than_a_ranking(name: str, seed: int) -> None:
    offers = drawn(name, seed, round_to=4)
    balance = Balance(offers, [budget(name, "macs", 0.5)])
    assert loss(offers, best_levels(balance)) <= loss(offers, cheapest(balance)) + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "cross_stage_partial"])
def test_several_budgets_hold_at_once(name: str) -> None:
    wanted = {"macs": 0.4, "params": 0.55, "channels": 0.3}
    budgets = [budget(name, of, r) for of, r in wanted.items()]
    offers = drawn(name, 0, round_to=1)
    balance = Balance(offers, budgets)
    found = balance.excess(balance.widths(best_levels(balance)))
    assert found.max() <= REACHED
    assert found.max() > -0.02  # one of them decides, and is not overshot
    facts = Prune(reduce_macs=0.4, reduce_params=0.55, reduce_channels=0.3, round_to=1)(network(name)).facts
    assert all(facts[f"{of}_reduction"] >= r - REACHED for of, r in wanted.items())


def test_the_cost_of_one_group_is_found_without_the_others() -> None:
    """DenseNet sums axes, ResNeXt nests them: the change of one group is the difference of whole costs."""
    for name in ("densenet", "resnext", "vit_exact", "lstm"):
        offers = drawn(name, 1, round_to=1)
        balance = Balance(offers, [budget(name, "macs", 0.5), budget(name, "params", 0.5)])
        random = np.random.default_rng(2)
        widths = balance.widths([int(random.integers(len(o.widths))) for o in offers])
        for k, offer in enumerate(offers):
            tried = np.asarray(offer.widths, np.float64)
            changes = balance.change(k, widths, tried)
            for width, change in zip(tried, changes.T, strict=True):
                other = widths.copy()
                other[k] = width
                assert change == pytest.approx(balance.excess(other) - balance.excess(widths), abs=1e-9)


def test_the_polynomial_is_the_same_in_monomials() -> None:
    for name in ("densenet", "resnext", "vit_exact", "lstm", "residual"):
        channels, offers = groups(name), drawn(name, 1, round_to=1)
        levels = [len(o.steps) // 2 for o in offers]
        counts = {o.group.factor: o.widths[n] for o, n in zip(offers, levels, strict=True)}
        wanted = budget(name, "macs", 0.0)
        excess = Balance(offers, [wanted]).excess(np.asarray(list(counts.values()), np.float64))
        value = cost_of(channels).macs.value(counts)
        assert float(excess[0]) == pytest.approx(value / wanted.baseline - 1, abs=1e-9)


def test_curves_are_made_monotone_and_go_on_rising() -> None:
    analysis = Analysis("", "top1", True, 0.9, {})
    curve = Curve(10, (0.2, 0.4, 0.6), (0.85, 0.95, 0.65))
    found = loss_at(curve, analysis, np.asarray([0.0, 0.1, 0.2, 0.4, 0.6, 0.8]))
    assert found == pytest.approx([0.0, 0.025, 0.05, 0.05, 0.25, 0.45])


# --- limits, size ------------------------------------------------------------------------------------------


def test_channels_that_stay_and_channels_that_go() -> None:
    model, names = network("residual"), [g.name for g in groups("residual").groups]
    limits = {"keep_at_least": {names[0]: 61}, "keep_at_most": {names[1]: 7}}
    result = Prune(reduce_macs=0.5, **limits)(model)
    plan = stored_plan(result.model)
    assert plan is not None
    kept = {g.name: g.size - len(plan.removed.get(g.name, ())) for g in groups("residual").groups}
    assert kept[names[0]] >= min(61, groups("residual").groups[0].size)
    assert kept[names[1]] <= 7
    assert abs(result.facts["macs_reduction"] - 0.5) < 0.06
    with pytest.raises(PlanError, match=r"at least \d+ of its \d+ channels and at most 2"):
        Prune(reduce_macs=0.5, keep_at_least={names[0]: 20}, keep_at_most={"*": 2})(model)
    with pytest.raises(PlanError, match="names no group"):
        Prune(reduce_macs=0.5, keep_at_least={"nothing*": 2})(model)


def test_locked_groups_stay_whole() -> None:
    model, group = network("residual"), groups("residual").groups[0]
    plan = stored_plan(Prune(reduce_macs=0.3, keep_at_least={group.name: group.size})(model).model)
    assert plan is not None
    assert group.name not in plan.removed


@pytest.mark.parametrize("reduction", [0.3, 0.6])
def test_the_size_of_the_file(reduction: float) -> None:
    model = network("residual")
    sparse = Prune(reduce_size=reduction, round_to=1)(model)
    dense = Transform()(sparse).model
    found = 1 - dense.proto.ByteSize() / model.proto.ByteSize()
    assert found == pytest.approx(reduction, abs=0.015)
    assert dense.proto.ByteSize() == pytest.approx(sparse.facts["dense_size_bytes"], rel=0.02)


def test_prune_without_a_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="no reduction is given"):
        Prune()(network("plain"))
    with pytest.raises(UsageError, match="`max_drop` is measured on samples"):
        Prune(max_drop=0.1)(network("plain"))


def test_optimise_returns_the_least_important_channels() -> None:
    offers = drawn("plain", 3, round_to=8)
    removed = optimise(offers, [budget("plain", "macs", 0.4)])
    for offer in offers:
        gone = removed.get(offer.group.name, [])
        assert gone == sorted(offer.order[: len(gone)].tolist())


def test_a_search_among_few_plans_ends_without_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network with coarse steps has fewer plans than the number to be tried; all are soon known."""
    offers, drawn_plans = drawn("plain", 0, round_to=16), []

    def counted(balance: Balance, *, thorough: bool = True) -> list[int]:
        drawn_plans.append(balance)
        return best_levels(balance, thorough=thorough)

    monkeypatch.setattr(plan_trials, "best_levels", counted)
    balance = Balance(offers, [budget("plain", "macs", 0.5)])
    trials = plan_trials.Trials(offers, lambda removed: float(sum(map(len, removed.values()))))
    found = plan_trials.improve(balance, trials, [], 100, 0)
    assert len(trials.tried) < 100
    assert len(drawn_plans) < 60 * len(trials.tried)
    assert trials.drop(found) == min(map(trials.drop, set(trials.tried)))


@pytest.mark.parametrize("of", ["macs", "params"])
def test_moves_stay_those_of_the_plan_there_is(of: str) -> None:
    """After moves only the groups that depend on them are computed again; the others still hold."""
    offers = drawn("bottleneck", 3, 1)
    balance = Balance(offers, [budget("bottleneck", of, 0.4)])
    search = _Search(balance, [0] * len(offers))
    search.run()
    fresh = _Search(balance, search.levels.tolist())
    assert search.levels.any()
    assert search.excess == fresh.excess
    for kept, computed in zip(vars(search._moves()).values(), vars(fresh._moves()).values(), strict=True):
        np.testing.assert_array_equal(kept, computed)
