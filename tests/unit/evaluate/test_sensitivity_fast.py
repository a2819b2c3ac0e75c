"""Curves estimated from one pass through the samples, beside measured ones."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curves import GROUPS, analyse, net, samples

import onnxprune.evaluate.sensitivity.fast as fast
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import PlanError, TrainingError, UsageError
from onnxprune.passes import Ana, Prune

plain_ana = partial(Ana, criterion="l2", repair=False)
"""Curves of networks as they are."""


def no_runtime(*args: Any, **options: Any) -> Any:
    raise TrainingError("there is no training runtime here")


@pytest.fixture
def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "gradients_of", no_runtime)


class TestGradients:
    @pytest.mark.slow
    def test_the_divergence_is_foreseen(self) -> None:
        """One channel of little weight: half the Fisher information is the divergence that is measured."""
        model, data = net(), samples(net(), count=800)
        array = model.array("wide_w").copy()
        array[:8] *= 0.05
        model.set_array("wide_w", array)
        model.set_array("wide_b", np.where(np.arange(16) < 8, 0, model.array("wide_b")).astype(np.float32))
        options: dict[str, Any] = {"metric": "kl", "ratios": (0.125, 0.25, 0.5), "only": ["wide"]}
        measured = analyse(model, data, **options).curves["wide"]
        found = plain_ana(data=data, method="fast", **options)(model).analysis
        assert found is not None
        ratio = np.divide(found.curves["wide"].values, measured.values)
        assert np.all(ratio > 0.5)
        assert np.all(ratio < 2)

    @pytest.mark.slow
    def test_estimates_rank_as_the_measurement_does(self) -> None:
        facts = plain_ana(data=samples(net(), count=400), metric="kl", method="fast", check=True)(net()).facts
        assert facts["estimated_by"] == "fisher"
        assert facts["no_gradients"] == ""
        assert facts["rank_correlation_points"] > 0.6


@pytest.mark.usefixtures("without_runtime")
class TestForward:
    def test_the_energy_lost(self) -> None:
        result = plain_ana(data=samples(net()), metric="top1", method="fast", check=True)(net())
        assert result.facts["estimated_by"] == "energy"
        assert "no training runtime" in result.facts["no_gradients"]
        assert -1 <= result.facts["rank_correlation"] <= 1
        assert result.analysis is not None
        assert list(result.analysis.curves) == GROUPS
        for curve in result.analysis.curves.values():
            assert 0 < curve.values[0] < curve.values[-1] < 1
            assert list(curve.values) == sorted(curve.values)

    def test_prune_reads_it(self) -> None:
        analysis = plain_ana(data=samples(net()), method="fast")(net()).analysis
        facts = Prune(reduce_macs=0.3, analysis=analysis, round_to=1)(net()).facts
        assert facts["settings"]["strategy"] == "sensitivity"

    def test_against_measured_curves(self, tmp_path: Path) -> None:
        exact = analyse(net(), samples(net()), metric="kl")
        file = tmp_path / "analysis.json"
        facts = plain_ana(data=samples(net()), method="fast", against=exact, file=file)(net()).facts
        assert -1 <= facts["rank_correlation"] <= 1
        stored = Analysis.from_json(file.read_text())
        assert stored.settings["method"] == "fast"
        assert stored.settings["complete"]
        with pytest.raises(PlanError, match="of other options"):
            analyse(net(), samples(net()), file=file, resume=True)


class TestAgreement:
    def test_the_same_order(self) -> None:
        curves = {n: Curve(8, (0.5,), (v,)) for n, v in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
        exact = Analysis("", "kl", False, 0.0, curves)
        turned = {n: Curve(8, (0.5,), (10 - c.values[0],)) for n, c in curves.items()}
        assert fast.agreement(exact, exact)["rank_correlation"] == pytest.approx(1)
        assert fast.agreement(Analysis("", "kl", False, 0.0, turned), exact)[
            "rank_correlation"
        ] == pytest.approx(-1)

    def test_analyses_without_two_common_groups_are_refused(self) -> None:
        analyses = [Analysis("", "kl", False, 0.0, {n: Curve(8, (0.5,), (1.0,))}) for n in "ab"]
        with pytest.raises(UsageError, match="fewer than two groups in common"):
            fast.agreement(*analyses)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "guess"}, "`method` is 'guess'"),
        ({"check": True}, "no estimate"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        analyse(net(), samples(net()), **options)
