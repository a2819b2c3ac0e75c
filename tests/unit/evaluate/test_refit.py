"""Curves of `ana` whose readers are fitted anew: their bounds, and their equality with a repair's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from recipes import network
from training_networks import stripes

from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.evaluate.sensitivity import Executor, SensitivityRequest, SensitivityRun
from onnxprune.evaluate.sensitivity.remote_task import RemoteTask
from onnxprune.ir import Model
from onnxprune.passes import Ana, Prune
from onnxprune.search.candidates import Candidate, sensitively

SAMPLES = {"image": stripes(96, 1)[0]}


def redundant() -> Model:
    """A network in which a channel of ``c1`` repeats another one: who reads both can do without it."""
    model = Model(network())
    for name in ("w1", "b1"):
        values = model.array(name).copy()
        values[7] = values[0]
        model.set_array(name, values)
    return model


def curves(model: Model, **options) -> Analysis:
    return Ana(SAMPLES, metric="kl", ratios=(1 / 8, 0.5), threads=1, **options)(model).analysis


def test_channels_that_others_replace_cost_nothing():
    repaired, bare = (curves(redundant(), repair=r).curves["c1"].values for r in (True, False))
    assert repaired[0] < 1e-4 < bare[0]
    assert all(a < b for a, b in zip(repaired, bare, strict=True))


def test_a_curve_is_the_divergence_of_the_repaired_model():
    """One group loses channels, and `recover` fits the layer behind it as `ana` has."""
    model = Model(network())
    analysis = curves(model)
    pruned = Prune(reduce_channels=0.28, only=["c1"], round_to=1, data=SAMPLES, metric="kl", threads=1)(model)
    assert pruned.facts["groups"]["c1"]["after"] == 4
    found, recovery = analysis.curves["c1"].values[1], pruned.facts["recovery"]
    assert recovery["score"] / 3 < found < 3 * recovery["score"]  # of another ridge
    assert found < recovery["score_before"] / 10


def test_a_worker_refits_as_the_run_itself():
    model = Model(network())
    request = SensitivityRequest(SAMPLES, metric="kl", ratios=(0.5,))
    alone = SensitivityRun.open(request, model, Executor(threads=1), 1 << 20).observed()
    many = SensitivityRun.open(request, model, Executor(workers=2, threads=1), 1 << 20).observed()
    todo = ("c1", alone.schedules["c1"].steps)
    task = many._work()
    assert isinstance(task, RemoteTask)
    found = pickle.loads(pickle.dumps(task))(todo)
    np.testing.assert_allclose(found.values, alone._work()(todo).values, rtol=1e-5)


def test_repaired_losses_are_added_up_as_they_are():
    curve = Curve(8, (0.5,), (0.2,))
    group = type("Group", (), {"size": 8, "name": "c"})()
    offer = Candidate(group, np.arange(8), (4,))  # type: ignore[arg-type]
    bare = Analysis("", "kl", False, 0.0, {"c": curve}, {})
    repaired = Analysis("", "kl", False, 0.0, {"c": curve}, {"repair": True})
    reserve = 0.04 * np.log(2)
    assert sensitively(offer, curve, bare).losses[0] == pytest.approx(0.2**0.8 * (1 + reserve))
    assert sensitively(offer, curve, repaired).losses[0] == pytest.approx(0.2 * (1 + reserve))


def test_a_plan_by_repaired_curves_is_not_changed_by_unrepaired_measurements():
    model = Model(network())
    analysis = curves(model)
    how = {"reduce_macs": 0.5, "round_to": 1, "data": SAMPLES, "analysis": analysis, "threads": 1}
    once, often = (Prune(evaluations=n, **how)(model) for n in (0, 20))
    assert once.facts["groups"] == often.facts["groups"]
    assert once.facts["settings"]["criterion"] == "obs"
