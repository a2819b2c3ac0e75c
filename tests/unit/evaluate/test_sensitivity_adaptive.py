"""Curves measured only as far as it takes: intervals that hold, and all else as in an exact run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curves import KilledError, Killer, analyse, best_class, naive, net, samples
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import Analysis, Curve
from onnxprune.errors import UsageError
from onnxprune.evaluate.sensitivity.adaptive_search import Search
from onnxprune.evaluate.sensitivity.intervals import half_width, span_of
from onnxprune.passes import Ana, Prune
from onnxprune.support.progress import reporting

pytestmark = pytest.mark.slow


plain_ana = partial(Ana, criterion="l2", repair=False)
"""Curves of networks as they are."""

COUNT = 1500


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return samples(net(), count=COUNT)


@pytest.fixture(scope="module")
def exact(data: dict[str, Any]) -> Analysis:
    return analyse(net(), data, metric="kl", batch_size=64)


class TestCurves:
    def test_the_values_lie_within_their_intervals(self, data: dict[str, Any], exact: Analysis) -> None:
        """19 of 20 intervals hold the value of the exact run; here, of several seeds, at least that many."""
        held = []
        for seed in range(5):
            found = analyse(net(), data, metric="kl", mode="adaptive", batch_size=64, seed=seed)
            assert found.baseline == pytest.approx(exact.baseline, abs=1e-9)
            for name, curve in found.curves.items():
                known = dict(zip(exact.curves[name].ratios, exact.curves[name].values, strict=True))
                assert set(curve.ratios) <= set(known)
                for ratio, value, error in zip(curve.ratios, curve.values, curve.uncertainties, strict=True):
                    held.append(abs(value - known[ratio]) <= error + 1e-6)
        assert np.mean(held) >= 0.95

    def test_adaptive_runs_measure_fewer_samples(self, data: dict[str, Any], exact: Analysis) -> None:
        found = analyse(net(), data, metric="kl", mode="adaptive", batch_size=64)
        looked = sum(n for curve in found.curves.values() for n in curve.samples)
        assert looked < COUNT * sum(len(c.values) for c in exact.curves.values()) / 3
        assert all(c.ratios[-1] == exact.curves[n].ratios[-1] for n, c in found.curves.items())

    def test_the_seed_decides(self, data: dict[str, Any]) -> None:
        runs = [analyse(net(), data, metric="kl", mode="adaptive", seed=seed).curves for seed in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]

    def test_few_samples_are_all_looked_at(self) -> None:
        few = samples(net(), count=40)
        whole = analyse(net(), few)
        for name, curve in analyse(net(), few, mode="adaptive").curves.items():
            known = dict(zip(whole.curves[name].ratios, whole.curves[name].values, strict=True))
            assert set(curve.samples) == {40}
            assert set(curve.uncertainties) == {0.0}
            assert all(known[r] == pytest.approx(v) for r, v in zip(curve.ratios, curve.values, strict=True))

    def test_a_metric_that_scores_no_samples(self) -> None:
        """Ratios can be left out, samples cannot."""
        some = samples(net(), count=200)
        found = analyse(net(), some, metric=best_class, mode="adaptive")
        whole = analyse(net(), some, metric=best_class)
        for name, curve in found.curves.items():
            assert set(curve.samples) == {200}
            known = dict(zip(whole.curves[name].ratios, whole.curves[name].values, strict=True))
            assert all(known[r] == v for r, v in zip(curve.ratios, curve.values, strict=True))

    @pytest.mark.parametrize("cache", [0, 200_000])
    def test_the_memory_limit_changes_nothing(self, data: dict[str, Any], cache: int) -> None:
        options: dict[str, Any] = {"metric": "kl", "mode": "adaptive"}
        few = {name: array[:300] for name, array in data.items()}
        assert analyse(net(), few, cache_bytes=cache, **options) == analyse(net(), few, **options)

    def test_all_points_of_a_group_see_the_same_samples(self, data: dict[str, Any]) -> None:
        """Peculiar samples move all points alike, and hardly change the choice between them."""
        found = analyse(net(), data, metric="kl", mode="adaptive", batch_size=64)
        assert all(len(set(curve.samples)) == 1 for curve in found.curves.values())

    def test_a_stricter_precision_takes_more_samples(self, data: dict[str, Any]) -> None:
        looked = []
        for precision in (0.5, 0.1, 0.02):
            found = analyse(net(), data, metric="kl", mode="adaptive", batch_size=64, precision=precision)
            looked.append(sum(n for curve in found.curves.values() for n in curve.samples))
        assert looked[0] < looked[2]
        assert looked == sorted(looked)

    @pytest.mark.parametrize("seed", range(3))
    def test_prune_reads_it(self, data: dict[str, Any], exact: Analysis, seed: int) -> None:
        """A plan from it costs about as much as a plan from the exact analysis."""
        found = analyse(net(), data, metric="kl", mode="adaptive", batch_size=64, seed=seed)
        costs = []
        for analysis in (exact, found):
            pruned = Prune(reduce_macs=0.3, analysis=analysis, round_to=1)(net()).model
            plan = stored_plan(pruned)
            assert plan is not None
            removed = {name: list(gone) for name, gone in plan.removed.items()}
            costs.append(naive(net(), data, "kl", removed, batch_size=64))
        assert costs[1] <= 1.25 * costs[0] + 0.01


class TestFile:
    def test_workers_find_the_same(self, tmp_path: Path) -> None:
        pytest.importorskip("joblib")
        few = samples(net(), count=200)
        one, two = tmp_path / "1.json", tmp_path / "2.json"
        for workers, path in ((1, one), (2, two)):
            plain_ana(data=few, metric="kl", mode="adaptive", workers=workers, file=path, threads=1)(net())
        assert one.read_bytes() == two.read_bytes()

    @pytest.mark.parametrize("groups", [1, 2])
    def test_a_killed_run_goes_on_to_the_same_bytes(self, tmp_path: Path, groups: int) -> None:
        options: dict[str, Any] = {"data": samples(net(), count=300), "metric": "kl", "mode": "adaptive"}
        whole, file = tmp_path / "whole.json", tmp_path / "killed.json"
        plain_ana(**options, file=whole)(net())
        with reporting(Killer(groups)), pytest.raises(KilledError):
            plain_ana(**options, file=file)(net())
        plain_ana(**options, file=file, resume=True)(net())
        assert file.read_bytes() == whole.read_bytes()

    def test_an_earlier_file_has_no_uncertainties(self) -> None:
        text = """{"format": 1, "digest": "d", "metric": "kl", "higher_is_better": false, "baseline": 0,
        "settings": {}, "curves": {"a": {"size": 8, "ratios": [0.5], "values": [1]}}}"""
        assert Analysis.from_json(text).curves == {"a": Curve(8, (0.5,), (1.0,))}

    def test_an_exact_file_is_not_gone_on_with(self, tmp_path: Path) -> None:
        from onnxprune.errors import PlanError

        few, file = samples(net()), tmp_path / "analysis.json"
        analyse(net(), few, file=file)
        with pytest.raises(PlanError, match="of other options"):
            analyse(net(), few, file=file, mode="adaptive", resume=True)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"mode": "quick"}, "`mode` is 'quick'"),
            ({"confidence": 1.0}, "`confidence` is 1"),
            ({"precision": 0.0}, "`precision` is 0"),
            ({"cache_bytes": -1}, "`cache_bytes` is -1"),
            ({"threads": 0}, "`threads` is 0"),
        ],
    )
    def test_options_that_make_no_sense(self, options: dict[str, Any], error: str) -> None:
        with pytest.raises(UsageError, match=error):
            analyse(net(), samples(net()), **options)


class TestIntervals:
    @given(st.integers(10, 400), st.integers(0, 1000))
    def test_nothing_is_open_when_all_were_looked_at(self, total: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        drops = rng.normal(size=total)
        widths = [half_width(drops[:n], total, 0.95, 1.0) for n in (total // 2, total - 1, total)]
        assert widths[0] > widths[1] > widths[2] == 0

    def test_samples_that_agree_prove_little(self) -> None:
        """None wrong of n: the upper bound of "rule of three" kind is about 3 / n."""
        found = half_width(np.zeros(100), 100_000, 0.95, 1.0)
        assert 0.01 < found < 0.04

    def test_coverage(self) -> None:
        """Of rare differences, too, 95 of 100 intervals hold the mean."""
        rng = np.random.default_rng(0)
        drops = (rng.random(2000) < 0.03).astype(float)
        held = 0
        for _ in range(400):
            part = rng.choice(drops, 128, replace=False)
            held += abs(part.mean() - drops.mean()) <= half_width(part, len(drops), 0.95, 1.0)
        assert held / 400 >= 0.93

    def test_span(self) -> None:
        assert span_of(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 1
        assert span_of(np.array([0.0, 2.0]), np.array([0.5, 1.0])) == 1
        assert span_of(np.array([0.0, 0.2]), np.array([0.1, 0.2])) == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("drops", "kept"),
        [
            ([1, 2, 3, 4], [3]),  # straight
            ([1, 2, 6, 10], [1, 3]),  # a kink
            ([0, 0, 0, 0], [3]),
            ([1, 4, 9, 16], [0, 1, 2, 3]),  # bent throughout
            ([1, 2.0001, 3, 4], [3]),  # as good as straight
        ],
    )
    def test_points_on_a_straight_line_are_left_out(self, drops: list[float], kept: list[int]) -> None:
        assert Search("adaptive", scale=1)._bends([0.2, 0.4, 0.6, 0.8], drops) == kept

    @given(st.integers(1, 100_000))
    def test_stages_end_with_all_samples(self, total: int) -> None:
        stages = Search("adaptive").stages(total)
        assert stages[-1] == total
        assert stages == sorted(set(stages))
        assert Search().stages(total) == [total]
