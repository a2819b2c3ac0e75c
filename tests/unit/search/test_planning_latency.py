"""Budgets of time: with a known clock, so that the right times are known; and with a real one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.cli.prune import _measured
from onnxprune.ir import Model
from onnxprune.passes import Prune
from onnxprune.runtime import Latency
from onnxprune.runtime.backends import local
from onnxprune.search import latency_model
from onnxprune.search.latency_model import Stopwatch, costs_by_kind


def network() -> Model:
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 16, 16]), 32))
    for width in (48, 64):
        x = net.relu(net.conv(net.relu(net.depthwise(x)), width, 1))
    return net.model(net.head(net.relu(net.conv(x, 48)), 5))


class Clock:
    """A machine on which a multiply-accumulate of a convolution in groups takes ten times as long.

    Args:
        noise: Relative standard deviation of the measured times.
    """

    def __init__(self, noise: float = 0.0) -> None:
        self.random, self.noise, self.timed = np.random.default_rng(0), noise, 0

    def __call__(self, models: Sequence[onnx.ModelProto], feeds: Any, **how: Any) -> list[Latency]:
        self.timed += len(models)
        return [self._latency(Model(m)) for m in models]

    def _latency(self, model: Model) -> Latency:
        total = 1e4
        typing = find_channels(model).typing
        for work in typing.work:
            grouped = any(a.name == "group" and a.i > 1 for a in model.nodes[work.node].attribute)
            total += np.prod([typing.shapes.number(d.size) for d in work.dims], dtype=float) * (
                10 if grouped else 1
            )
        ms = float(total * 1e-5 * (1 + self.noise * self.random.normal()))
        return Latency(ms, ms, ms, ms, 1)


@pytest.mark.parametrize(("reduction", "noise"), [(0.3, 0.0), (0.5, 0.02), (0.7, 0.0)])
def test_the_time_meets_the_budget(monkeypatch: pytest.MonkeyPatch, reduction: float, noise: float) -> None:
    clock = Clock(noise)
    monkeypatch.setattr(local, "measure_latency", clock)
    facts = Prune(reduce_latency=reduction, round_to=1)(network()).facts
    assert facts["latency_reduction"] == pytest.approx(reduction, abs=0.03 + 2 * noise)
    assert facts["latency_prediction_error"] <= 0.03 + 2 * noise
    assert facts["latency_ms"] < facts["latency_ms_before"]
    assert clock.timed < 25


def test_one_sample_is_timed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "measure_latency", Clock())
    facts = Prune(reduce_latency=0.3, round_to=1)(network()).facts
    assert facts["latency_input_shapes"] == {"x": [1, 3, 16, 16]}
    several = Prune(reduce_latency=0.3, round_to=1, input_shapes={"x": (4, 3, 16, 16)})(network()).facts
    assert several["latency_input_shapes"] == {"x": [4, 3, 16, 16]}


def test_a_missed_time_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan is measured at 0.9 of the original time, so that none comes near the budget."""
    monkeypatch.setattr(local, "measure_latency", Clock())
    reached = Prune(reduce_latency=0.3, round_to=1)(network()).facts
    assert not reached["latency_missed"]
    monkeypatch.setattr(Stopwatch, "correct", lambda *_: 0.9)
    missed = Prune(reduce_latency=0.3, round_to=1)(network()).facts
    assert missed["latency_missed"]
    assert "warning: the latency falls by 10.0%, less than the 30.0%" in "".join(_measured(missed))


def test_a_budget_of_time_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "measure_latency", Clock())
    facts = Prune(reduce_latency=0.3, reduce_params=0.6, round_to=1)(network()).facts
    assert facts["params_reduction"] >= 0.599
    assert facts["latency_reduction"] >= 0.27


def test_shares_are_found_and_never_negative() -> None:
    random = np.random.default_rng(1)
    costs = random.uniform(size=(30, 5))
    shares = np.array([0.1, 0.0, 0.5, 0.0, 0.4])
    found = latency_model._explained(costs, costs @ shares, [1.0] * 30)
    assert (found >= 0).all()
    assert costs @ found == pytest.approx(costs @ shares, rel=0.05)
    assert (latency_model._explained(costs, costs @ (shares - 0.1), [1.0] * 30) >= 0).all()


def test_all_work_is_of_one_kind_or_another() -> None:
    channels = find_channels(network())
    kinds = costs_by_kind(channels)
    batch = channels.typing.shapes.inputs["x"][0]
    work = sum(p.value() for kind, p in kinds.items() if kind not in ("one", "elements"))
    assert work == pytest.approx(cost_of(channels).macs.value() * batch)
    assert {"Conv 1×1", "Conv k×k", "Conv in groups", "Gemm"} <= set(kinds)


@pytest.mark.slow
def test_the_real_clock() -> None:
    """The prediction has to be made of times; its accuracy is a matter for a benchmark."""
    facts = Prune(reduce_latency=0.4, threads=1)(network()).facts
    watch = Stopwatch.here(find_channels(network()), threads=1)
    assert facts["latency_ms"] > 0
    assert 0 < facts["latency_ms_predicted"] < facts["latency_ms_before"]
    assert watch.time([]) == []


def test_noise_does_not_change_the_time_of_the_whole_network() -> None:
    """Samples that were all measured far too fast: the budget still begins at one."""
    watch = Stopwatch.here(find_channels(network()))
    groups = watch.channels.groups
    for share in (0.3, 0.5, 0.7, 0.9):
        counts = {g.factor: max(1, round(share * g.size)) for g in groups}
        watch.samples[("share", int(100 * share)),] = latency_model.Sample(counts, 0.2 * share, 1.0)
    assert watch.budget(0.5, {}, {}).value({}) == pytest.approx(1, abs=0.1)
