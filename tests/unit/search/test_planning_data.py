"""Plans that are measured on data: corrected, searched for, bounded by a drop; statistics of data."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.masks import masked
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import PlanError, UsageError
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Session
from onnxprune.scoring.layerwise.batch_statistics import renewed
from onnxprune.search.evaluator import PlanEvaluator
from onnxprune.search.frontier import largest_reduction

pytestmark = pytest.mark.slow


@cache
def network(opset: int = 17, normalised: bool = True) -> Model:
    """A small classifier whose layers differ much in how many of their channels they need."""
    net = Net(opset=opset)
    x = net.input("x", ["N", 3, 8, 8])
    for width, useful in ((32, 28), (32, 6), (48, 20)):
        w = net.random.normal(size=(width, net.shape(x)[1], 3, 3)) / 4
        w[useful:] *= 0.05
        x = net.conv(x, width, bias=False, w=net.const(w.astype(np.float32)))
        x = net.relu(net.bn(x) if normalised else x)
    return net.model(net.head(x, 5))


@cache
def pictures() -> dict[str, Any]:
    return {"x": np.random.default_rng(0).normal(size=(48, 3, 8, 8)).astype(np.float32)}


@cache
def analysis() -> Any:
    return Ana(data=pictures(), metric="kl", ratios=(0.25, 0.5, 0.75))(network()).analysis


def widths(model: Model) -> dict[str, int]:
    plan = stored_plan(model)
    assert plan is not None
    return {name: plan.sizes[name] - len(gone) for name, gone in plan.removed.items()}


# --- measured plans ----------------------------------------------------------------------------------------


def test_measured_plans_are_no_worse_than_any_other_strategys() -> None:
    data: dict[str, Any] = {"data": pictures(), "metric": "kl", "round_to": 4, "reduce_macs": 0.5}
    data |= {"criterion": "l2", "recover": ()}
    drops = {
        strategy: Prune(strategy=strategy, **data)(network()).facts["drop"]
        for strategy in ("uniform", "global")
    }
    corrected = Prune(analysis=analysis(), evaluations=25, **data)(network())
    assert corrected.facts["drop"] <= min(drops.values()) + 1e-9
    assert corrected.facts["macs_reduction"] >= 0.499
    uncorrected = Prune(analysis=analysis(), evaluations=0, **data)(network())
    assert corrected.facts["drop"] <= uncorrected.facts["drop"] + 1e-9


def test_a_search_goes_on_where_it_was_stopped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "trials.json"
    options: dict[str, Any] = {"data": pictures(), "strategy": "search", "reduce_macs": 0.5, "round_to": 4}
    whole = Prune(evaluations=8, **options)(network())
    real, calls = PlanEvaluator.drop, []

    def failing(self: PlanEvaluator, removed: Any, **how: Any) -> float:
        calls.append(removed)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, removed, **how)

    monkeypatch.setattr(PlanEvaluator, "drop", failing)
    with pytest.raises(KeyboardInterrupt):
        Prune(evaluations=8, trials=file, **options)(network())
    assert len(json.loads(file.read_text())["trials"]) == 4
    resumed = Prune(evaluations=8, trials=file, **options)(network())
    assert widths(resumed.model) == widths(whole.model)
    assert len(calls) < 5 + 8  # four are known; one more judges the plan that was chosen
    changed = ({"criterion": "l1"}, {"seed": 1}, {"data": {"x": pictures()["x"][:9]}})
    for change in changed:
        with pytest.raises(PlanError, match="another model, other data or other options"):
            Prune(evaluations=8, trials=file, **(options | change))(network())
    file.write_text("[1]")
    with pytest.raises(PlanError, match="no list of trials"):
        Prune(evaluations=8, trials=file, **options)(network())


def test_searches_are_seeded() -> None:
    options: dict[str, Any] = {"data": pictures(), "strategy": "search", "reduce_macs": 0.5, "round_to": 4}
    one, again = (Prune(evaluations=5, seed=3, **options)(network()) for _ in range(2))
    assert widths(one.model) == widths(again.model)


def test_the_largest_reduction_that_keeps_the_metric() -> None:
    options: dict[str, Any] = {"data": pictures(), "metric": "kl", "round_to": 4, "analysis": analysis()}
    small = Prune(max_drop=0.02, evaluations=0, **options)(network()).facts
    large = Prune(max_drop=0.2, evaluations=0, **options)(network()).facts
    assert small["drop"] <= 0.02
    assert large["drop"] <= 0.2
    assert large["macs_reduction"] > small["macs_reduction"] > 0
    tried = small["reductions_tried"]
    assert all(a[0] < b[0] for a, b in pairwise(tried))
    assert any(drop > 0.02 for _, drop in tried)
    both = Prune(max_drop=0.2, reduce_params=0.2, evaluations=0, **options)(network()).facts
    assert both["params_reduction"] >= 0.199
    assert both["drop"] <= 0.2


def test_a_drop_that_is_always_exceeded() -> None:
    options: dict[str, Any] = {"data": pictures(), "metric": "kl", "round_to": 4}
    with pytest.raises(PlanError, match="more than the 0 that is allowed"):
        Prune(max_drop=0.0, reduce_macs=0.6, **options)(network())


def test_bisection() -> None:
    found = largest_reduction(lambda r: r, lambda r: r**2, most=0.9, allowed=0.25)
    assert found.reduction == pytest.approx(0.5, abs=0.005)
    assert found.drop <= 0.25
    assert largest_reduction(lambda r: r, lambda r: 0.0, most=0.9, allowed=0.0).reduction == 0.9


# --- statistics --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 18])
def test_statistics_are_those_of_the_operand(opset: int) -> None:
    """With new statistics every normalisation has mean zero and variance one on these samples."""
    model = network(opset)
    after = renewed(model, [pictures()])
    for before, node in zip(model.nodes, after.nodes, strict=True):
        if node.op_type == "BatchNormalization":
            seen = after.copy()
            seen.proto.graph.output.add(name=node.input[0])
            (values,) = Session(seen.proto).run(pictures(), [node.input[0]]).values()
            assert after.array(node.input[3]) == pytest.approx(values.mean((0, 2, 3)), abs=1e-4)
            assert after.array(node.input[4]) == pytest.approx(values.var((0, 2, 3)), rel=1e-3, abs=1e-4)
            assert not np.allclose(model.array(before.input[3]), after.array(node.input[3]))


def test_statistics_over_batches_are_those_of_all_samples() -> None:
    """Of the first normalisation: those behind it depend on the statistics of its batch."""
    halves = [{"x": pictures()["x"][:24]}, {"x": pictures()["x"][24:]}]
    first = next(n for n in network().nodes if n.op_type == "BatchNormalization")
    whole, parts = renewed(network(), [pictures()]), renewed(network(), halves)
    for name in first.input[3:5]:
        assert parts.array(name) == pytest.approx(whole.array(name), rel=1e-4, abs=1e-5)


def test_removed_channels_keep_their_statistics() -> None:
    channels = find_channels(network())
    removed = {channels.groups[0].name: [0, 5]}
    before = masked(channels, removed)
    after = renewed(before, [pictures()])
    first = next(n for n in before.nodes if n.op_type == "BatchNormalization")
    for name in first.input[3:5]:
        assert np.array_equal(after.array(name)[[0, 5]], before.array(name)[[0, 5]])


def test_networks_without_statistics_are_not_renewed() -> None:
    model = network(normalised=False)
    assert renewed(model, [pictures()]) is model


# --- criteria that look at data ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "global"])
def test_activations_rank_channels(strategy: str) -> None:
    result = Prune(reduce_macs=0.5, criterion="activation", strategy=strategy, data=pictures())(network())
    assert result.facts["macs_reduction"] >= 0.499
    assert result.facts["metric"] == "kl"
    with pytest.raises(UsageError, match="looks at samples"):
        Prune(reduce_macs=0.5, criterion="activation")(network())


@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
@pytest.mark.parametrize("labelled", [True, False])
def test_gradients_rank_channels(criterion: str, labelled: bool) -> None:
    data = pictures() | ({"labels": np.arange(48) % 5} if labelled else {})
    gone = stored_plan(Prune(reduce_channels=0.4, criterion=criterion, data=data)(network()).model)
    assert gone is not None
    assert all(len(channels) for channels in gone.removed.values())
