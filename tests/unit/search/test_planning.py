"""Budgets are met by any strategy, criterion and rounding; removed channels stay removed."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ideas import IDEAS

from onnxprune.algebra.axes import factors
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Analysis, Curve, Plan
from onnxprune.errors import NothingToDoError, OutOfReachError, PlanError, UsageError
from onnxprune.ir import Model, check
from onnxprune.passes import Prune
from onnxprune.scoring.criteria import CRITERIA, NEED_DATA, score
from onnxprune.search import Budget, Candidate, Limits, allocate, globally, make_offer

FINE = ("residual", "mobilenet_v2", "densenet", "inception", "unet_resize", "swiglu", "cross_stage_partial")
"""Ideas whose groups are large: a channel is less than a percent of any cost."""


@cache
def network(name: str) -> Model:
    return check(Model(IDEAS[name].build()))


@cache
def groups(name: str) -> Channels:
    return find_channels(network(name))


def plan_of(model: Model) -> Plan:
    plan = stored_plan(model)
    assert plan is not None
    return plan


def counts(channels: Channels, plan: Plan) -> dict[str, int]:
    return {g.name: g.size - len(plan.removed.get(g.name, ())) for g in channels.groups}


# --- budgets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("of", ["macs", "params", "channels"])
@pytest.mark.parametrize("reduction", [0.1, 0.45, 0.7])
def test_budgets_are_met_within_a_percent(name: str, of: str, reduction: float) -> None:
    facts = Prune(round_to=1, **{f"reduce_{of}": reduction})(network(name)).facts
    assert abs(facts[f"{of}_reduction"] - reduction) <= 0.01
    assert facts[of] == pytest.approx(facts[f"{of}_before"] * (1 - facts[f"{of}_reduction"]))


@pytest.mark.parametrize("strategy", ["uniform", "global"])
@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c not in NEED_DATA])
def test_strategies_and_criteria(strategy: str, criterion: str) -> None:
    prune = Prune(reduce_macs=0.5, round_to=1, strategy=strategy, criterion=criterion)
    sparse = prune(network("residual"))
    assert abs(sparse.facts["macs_reduction"] - 0.5) <= 0.01
    plan = plan_of(sparse.model)
    assert plan.settings["strategy"] == strategy
    assert plan.settings["criterion"] == criterion
    kept = counts(groups("residual"), plan)
    assert all(k >= 1 for k in kept.values())
    if strategy == "uniform":
        fractions = [kept[g.name] / g.size for g in groups("residual").groups]
        assert max(fractions) - min(fractions) <= 1 / 16


def test_the_least_important_go_first() -> None:
    channels = groups("residual")
    plan = plan_of(Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(network("residual")).model)
    for group in channels.groups:
        scores, gone = score(channels, group, "l2"), list(plan.removed[group.name])
        assert scores[gone].max() <= np.delete(scores, gone).min()


def test_global_removes_the_least_important_channels_of_all_groups() -> None:
    """A layer of tiny weights goes before any other."""
    model = network("plain").copy()
    channels = find_channels(model)
    group = channels.groups[1]
    for place in group.places:
        if place.weight:
            values = model.array(place.tensor).copy()
            line = np.moveaxis(values, place.axis, 0)
            line[: group.size // 2] *= 1e-3
            model.set_array(place.tensor, values)
    plan = plan_of(Prune(reduce_channels=0.1, strategy="global", round_to=1)(model).model)
    assert set(plan.removed) == {group.name}
    assert max(plan.removed[group.name]) < group.size // 2


def test_global_empties_no_layer_because_its_weights_are_small() -> None:
    """Half the score buys a channel's place until half of the channels are left."""
    group = groups("plain").groups[1]
    offer = make_offer(groups("plain"), group, np.ones(group.size), Limits(round_to=1))
    first, small = (np.asarray(globally(offer, np.full(group.size, s)).prices) for s in (1.0, 0.5))
    assert (np.diff(first) > 0).all()
    assert abs(int((small < first[0]).sum()) - group.size // 2) <= 1


def curves(**drops: float) -> Analysis:
    """An analysis in which the drop of each group is proportional to its removed fraction."""
    ratios = (0.25, 0.5, 0.75)
    sizes = {g.name: g.size for g in groups("plain").groups}
    found = {n: Curve(sizes[n], ratios, tuple(0.9 - drops[n] * r for r in ratios)) for n in sizes}
    return Analysis("digest", "top1", True, 0.9, found)


def test_sensitive_groups_keep_their_channels() -> None:
    first, second, third = (g.name for g in groups("plain").groups)
    analysis = curves(**{first: 0.0, second: 0.8, third: 0.001})
    plan = plan_of(Prune(reduce_channels=0.4, analysis=analysis, round_to=1)(network("plain")).model)
    assert plan.settings["strategy"] == "sensitivity"
    assert len(plan.removed[first]) >= 16  # hardly more than of the third: losses rise when both shrink
    assert len(plan.removed.get(second, ())) == 0
    assert len(plan.removed[third]) > 16


def test_an_analysis_of_another_model() -> None:
    first, second, third = (g.name for g in groups("plain").groups)
    analysis = curves(**{first: 0.1, second: 0.1, third: 0.1})
    with pytest.raises(PlanError, match="no curve for group"):
        Prune(reduce_macs=0.3, analysis=analysis)(network("residual"))


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [2, 4, 8])
@pytest.mark.parametrize("name", ["residual", "unet_resize", "resnext", "swiglu"])
def test_rounding(name: str, round_to: int) -> None:
    """The remaining size of an axis is a multiple, unless a group on it is too small to have a choice."""
    sparse = Prune(reduce_macs=0.5, round_to=round_to)(network(name))
    channels = groups(name)
    small = {g.factor for g in channels.groups if g.size < 4 * round_to}
    for tensor, axes in channels.cuts(channels.kept(plan_of(sparse.model).removed)).items():
        for axis, kept in axes.items():
            if not small.intersection(factors(channels.typing.axes[tensor][axis])):
                assert len(kept) % round_to == 0


def test_small_groups_are_rounded_more_finely() -> None:
    channels = groups("densenet")
    small = next(g for g in channels.groups if g.size == 16)
    offer = make_offer(channels, small, np.ones(16), Limits(round_to=8))
    assert [16 - s for s in offer.steps] == [12, 8, 4]


def test_no_layer_is_emptied() -> None:
    prune = Prune(reduce_channels=0.95, round_to=1, max_ratio=0.99)
    kept = counts(groups("inception"), plan_of(prune(network("inception")).model))
    assert min(kept.values()) >= 1


def test_the_largest_ratio() -> None:
    plan = plan_of(Prune(reduce_channels=0.5, round_to=1, max_ratio=0.6)(network("residual")).model)
    for group in groups("residual").groups:
        assert len(plan.removed.get(group.name, ())) <= 0.6 * group.size


def test_out_of_reach() -> None:
    with pytest.raises(PlanError, match=r"a reduction of 99\.0% of macs is out of reach: at most 9\d\.\d%"):
        Prune(reduce_macs=0.99)(network("residual"))
    with pytest.raises(PlanError, match="out of reach"):
        Prune(reduce_params=0.9, only=["Conv_3"])(network("residual"))


@pytest.mark.parametrize(("options", "opens"), [({}, True), ({"allow_inexact": True}, False)])
def test_out_of_reach_names_the_options_that_open_more(options: dict[str, bool], opens: bool) -> None:
    """A transformer block has normalised axes and residual blocks; without a group 0 % can go, not −0 %."""
    with pytest.raises(OutOfReachError) as refused:
        Prune(reduce_macs=0.97, **options)(network("vit"))
    assert "residual blocks are candidates" in refused.value.hint
    assert ("--allow-inexact: " in refused.value.hint) == opens


def test_reach_is_never_negative() -> None:
    cost = cost_of(groups("plain")).macs
    offers = [
        make_offer(groups("plain"), g, np.ones(g.size), Limits(max_ratio=1e-9))
        for g in groups("plain").groups
    ]
    with pytest.raises(OutOfReachError, match=r"at most 0\.0% can go"):
        allocate(offers, [Budget("macs", cost, cost.value(), 0.3)])


@pytest.mark.parametrize("reduction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_reductions_that_make_no_sense(reduction: float) -> None:
    with pytest.raises(UsageError, match="is no fraction"):
        Prune(reduce_macs=reduction)(network("plain"))


# --- one after the other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["residual", "densenet", "shufflenet_v2_split"])
def test_removed_channels_stay_removed(name: str) -> None:
    first = Prune(reduce_macs=0.3)(network(name))
    second = Prune(reduce_macs=0.6, criterion="l1", strategy="uniform", round_to=1)(first.model)
    earlier, later = plan_of(first.model), plan_of(second.model)
    for group, gone in earlier.removed.items():
        assert set(gone) <= set(later.removed[group])
    assert later.baseline == earlier.baseline
    assert abs(second.facts["macs_reduction"] - 0.6) <= 0.01
    assert second.facts["macs_before"] == first.facts["macs_before"]


def test_less_than_was_removed_before() -> None:
    first = Prune(reduce_macs=0.49, round_to=1)(network("residual"))
    with pytest.raises(PlanError, match=r"has already lost 4[89]\.\d% of its macs"):
        Prune(reduce_macs=0.4)(first.model)


def test_groups_left_alone_the_second_time_count_with_their_earlier_loss() -> None:
    model = network("residual")
    first_group = groups("residual").groups[0].name
    first = Prune(reduce_channels=0.05, round_to=1, only=[own_tensor("residual", 0)])(model)
    second = Prune(reduce_macs=0.6, round_to=1, exclude=[first_group])(first.model)
    assert abs(second.facts["macs_reduction"] - 0.6) <= 0.01
    assert plan_of(second.model).removed[first_group] == plan_of(first.model).removed[first_group]


def own_tensor(name: str, group: int) -> str:
    """A tensor that has no channels but a group's."""
    channels = groups(name)
    lines = [p.tensor for p in channels.groups[group].places if len(channels.typing.axes[p.tensor]) == 1]
    return lines[0]


# --- selection of groups -----------------------------------------------------------------------------------


def test_exclude_and_only() -> None:
    model, names = network("residual"), [g.name for g in groups("residual").groups]
    plan = plan_of(Prune(reduce_macs=0.2, round_to=1, exclude=[names[0]])(model).model)
    assert names[0] not in plan.removed
    tensor = own_tensor("residual", 1)
    plan = plan_of(Prune(reduce_macs=0.1, round_to=1, only=[tensor])(model).model)
    assert set(plan.removed) == {names[1]}
    plan = plan_of(Prune(reduce_macs=0.2, round_to=1, exclude=[tensor])(model).model)
    assert names[1] not in plan.removed
    with pytest.raises(PlanError, match="matches no group, node or tensor"):
        Prune(reduce_macs=0.2, exclude=["no_such_*"])(model)
    with pytest.raises(NothingToDoError, match="nothing to prune"):
        Prune(reduce_macs=0.2, exclude=["*"])(model)


def test_optional_groups_are_pruned_where_they_are_named() -> None:
    channels = groups("resnext")
    optional = [g.name for g in channels.groups if g.optional]
    assert optional
    plan = plan_of(Prune(reduce_channels=0.5, round_to=1)(network("resnext")).model)
    assert not set(optional) & set(plan.removed)
    named = Prune(reduce_macs=0.5, round_to=1, strategy="uniform", only=optional)
    assert set(optional) <= set(plan_of(named(network("resnext")).model).removed)


# --- any offers --------------------------------------------------------------------------------------------


@given(st.integers(0, 999), st.floats(0.02, 1.0), st.sampled_from(["macs", "params", "channels"]))
@settings(max_examples=60, deadline=None)
def test_any_prices(seed: int, share: float, of: str) -> None:
    """With any scores the cost of the plan is the budget, or one step away from it."""
    channels = groups("cross_stage_partial")
    random = np.random.default_rng(seed)
    limits = Limits(int(random.choice([1, 2, 8])), 0.95)
    drawn = {g.name: random.uniform(size=g.size) for g in channels.groups}
    offers = [
        globally(make_offer(channels, g, drawn[g.name], limits), drawn[g.name]) for g in channels.groups
    ]
    polynomial = getattr(cost_of(channels), of)
    least = {o.group.factor: o.group.size - o.steps[-1] for o in offers}
    reduction = share * (1 - polynomial.value(least) / polynomial.value())
    removed = allocate(offers, [Budget(of, polynomial, polynomial.value(), reduction)])
    after = polynomial.value(remaining(offers, removed))
    gap = abs(1 - after / polynomial.value() - reduction)
    assert gap <= max(0.005, largest_step(offers, polynomial, removed) / polynomial.value())
    for offer in offers:
        gone = len(removed.get(offer.group.name, ()))
        assert gone in (0, *offer.steps)
        assert removed.get(offer.group.name, []) == sorted(offer.order[:gone].tolist())


def remaining(offers: list[Candidate], removed: dict[str, list[int]]) -> dict[object, int]:
    return {o.group.factor: o.group.size - len(removed.get(o.group.name, ())) for o in offers}


def largest_step(offers: list[Candidate], polynomial: object, removed: dict[str, list[int]]) -> float:
    """The most that one step more, or one less, changes the cost."""
    now = remaining(offers, removed)
    value = polynomial.value  # type: ignore[attr-defined]
    steps = [0.0]
    for offer in offers:
        gone = len(removed.get(offer.group.name, ()))
        known = (0, *offer.steps)
        for k in (known.index(gone) - 1, known.index(gone) + 1):
            if 0 <= k < len(known):
                other = now | {offer.group.factor: offer.group.size - known[k]}
                steps.append(abs(value(now) - value(other)))
    return max(steps)
