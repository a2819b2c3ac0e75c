"""The curves of `ana` against the plain way: a masked copy of the network, run whole, for every point."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from curves import (
    GROUPS,
    SAMPLES,
    KilledError,
    Killer,
    NoNumber,
    analyse,
    best_class,
    elsewhere,
    naive,
    net,
    order,
    plain_ana,
    samples,
)
from onnx import numpy_helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.decisions.plan import PLAN_KEY, Analysis
from onnxprune.errors import DataError, ModelError, OutputError, PlanError, UsageError, WorkerError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import get_metric
from onnxprune.evaluate.sensitivity.sample_stages import MeasurementSetup, observe
from onnxprune.evaluate.sensitivity.variants import VariantEvaluator
from onnxprune.ir import Model, check
from onnxprune.passes import Ana, Prune
from onnxprune.runtime import Session
from onnxprune.support.progress import reporting

"""Curves of networks as they are."""

# Two outputs: that of the first two layers does not depend on the layers behind.


class TestCurves:
    @pytest.mark.parametrize("metric", ["top1@logits", "mse", "mae", "kl", "agreement", "cosine", best_class])
    def test_against_the_plain_way(self, metric: Any) -> None:
        model = net()
        data = samples(model)
        if metric in ("mse", "mae"):
            del data["labels"]
        analysis = analyse(model, data, metric=metric)
        channels = find_channels(model)
        assert list(analysis.curves) == GROUPS
        assert [c.size for c in analysis.curves.values()] == [8, 12, 16]
        plain = naive(model, data, metric, {}, batch_size=8)
        assert analysis.baseline == pytest.approx(plain, rel=1e-6, abs=1e-9)
        for name, curve in analysis.curves.items():
            for ratio, value in zip(curve.ratios, curve.values, strict=True):
                removed = {name: order(channels, name)[: round(ratio * curve.size)]}
                expected = naive(model, data, metric, removed, batch_size=8)
                assert value == pytest.approx(expected, rel=1e-6, abs=1e-7), (name, ratio)
        assert len({v for c in analysis.curves.values() for v in c.values}) > 5

    def test_ratios_are_those_of_whole_channels(self) -> None:
        model = net()
        curves = analyse(model, samples(model)).curves
        assert curves["stem"].ratios == tuple(n / 8 for n in range(1, 8))
        assert curves["first"].ratios == tuple(n / 12 for n in (1, 2, 4, 5, 6, 7, 8, 10, 11))
        assert curves["wide"].ratios == tuple(n / 16 for n in (2, 3, 5, 6, 8, 10, 11, 13, 14))

    def test_one_channel_always_stays(self) -> None:
        model = net()
        assert analyse(model, samples(model), ratios=(0.99,)).curves["stem"].ratios == (7 / 8,)

    def test_a_fixed_batch(self) -> None:
        data = samples(net())
        free, fixed = analyse(net(), data, metric="kl"), analyse(net("5"), data, metric="kl", batch_size=8)
        for name, curve in free.curves.items():
            assert fixed.curves[name].values == pytest.approx(curve.values, rel=1e-5, abs=1e-7)

    @pytest.mark.parametrize("cache", [0, 40_000])
    def test_the_memory_limit_changes_nothing(self, cache: int) -> None:
        data = samples(net())
        for metric in ("kl", best_class):
            limited = analyse(net(), data, metric=metric, cache_bytes=cache)
            assert limited == analyse(net(), data, metric=metric)

    def test_the_criterion_decides_the_order(self) -> None:
        data = samples(net())
        value = analyse(net(), data, metric="kl", criterion="random", ratios=(0.5,)).curves["wide"].values[0]
        removed = {"wide": order(find_channels(net()), "wide", "random")[:8]}
        assert value == pytest.approx(naive(net(), data, "kl", removed, batch_size=8), rel=1e-6)

    def test_variants_that_touch_different_weights(self) -> None:
        """A weight that one variant masks is whole again for the next."""
        model, channels = net(), find_channels(net())
        session = Session(model.proto)
        data = samples(model)
        del data["labels"]
        dataset = open_data(data, session.inputs, session.outputs)
        exam = observe(session, [dataset], MeasurementSetup(get_metric("mse"), batch_size=16))
        variants: list[dict[str, list[int]]] = [
            {"first": [0, 1, 2, 3, 4, 5]}, {"wide": [1, 2]}, {}, {"stem": [0, 7], "wide": [5]}
        ]  # fmt: skip
        found = VariantEvaluator(channels, exam, [GROUPS]).values(0, variants)
        assert found == pytest.approx(
            [naive(model, data, "mse", v, batch_size=16) for v in variants], rel=1e-6
        )


class TestChoice:
    def test_exclude_and_only(self) -> None:
        data = samples(net())
        assert list(analyse(net(), data, exclude=["early_*"]).curves) == ["first", "wide"]
        assert list(analyse(net(), data, only=["head"]).curves) == ["wide"]
        with pytest.raises(PlanError, match="matches no group"):
            analyse(net(), data, exclude=["nothing"])

    def test_only_the_first_samples(self) -> None:
        data = samples(net())
        few = {name: array[:9] for name, array in data.items()}
        assert analyse(net(), data, samples=9).curves == analyse(net(), few).curves

    def test_the_plan_of_prune_fits(self) -> None:
        """Curves written by `ana` are read by `prune`."""
        analysis = analyse(net(), samples(net()), metric="kl")
        pruned = Prune(reduce_macs=0.3, analysis=analysis, round_to=1)(net())
        assert pruned.facts["settings"]["strategy"] == "sensitivity"

    def test_facts(self) -> None:
        result = plain_ana(data=samples(net()), metric="kl")(net())
        facts, analysis = result.facts, result.analysis
        assert not result.modified
        assert analysis is not None
        json.dumps(facts)
        assert facts["baseline"] == 0 == analysis.baseline
        assert facts["evaluations"] == 7 + 9 + 9
        assert facts["samples"] == SAMPLES
        assert facts["groups"]["stem"]["values"] == list(analysis.curves["stem"].values)
        assert facts["groups"]["stem"]["drop_at_half"] == analysis.curves["stem"].values[3]
        drops = [facts["groups"][name]["drop_at_half"] for name in facts["most_fragile"]]
        assert drops == sorted(drops, reverse=True)
        assert facts["duration_s"] > 0


class TestAlreadyPruned:
    def test_removed_channels_stay_gone(self) -> None:
        pruned = Prune(reduce_channels=0.4, round_to=1)(net()).model
        plan = stored_plan(pruned)
        assert plan is not None
        data = samples(net())
        analysis = analyse(pruned, data, metric="mse" if data.pop("labels", None) is not None else "")
        assert analysis.baseline == naive(pruned, data, "mse", {}, batch_size=8)
        for name, curve in analysis.curves.items():
            gone = plan.removed.get(name, ())
            assert round(curve.ratios[0] * curve.size) >= max(len(gone), 1)
            ranked = [c for c in order(find_channels(pruned), name) if c not in gone]
            for ratio, value in zip(curve.ratios, curve.values, strict=True):
                removed = {name: [*gone, *ranked[: round(ratio * curve.size) - len(gone)]]}
                assert value == pytest.approx(naive(pruned, data, "mse", removed, batch_size=8), rel=1e-6)

    def test_ratios_below_the_removed_fraction_cost_no_evaluation(self) -> None:
        pruned = Prune(reduce_channels=0.4, round_to=1, strategy="uniform")(net()).model
        result = plain_ana(data=samples(net()), ratios=(0.1, 0.2))(pruned)
        assert result.facts["evaluations"] == 0
        assert result.analysis is not None
        assert {v for c in result.analysis.curves.values() for v in c.values} == {result.analysis.baseline}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "analysis.json"


class TestFile:
    def test_the_file_holds_the_analysis(self, file: Path) -> None:
        analysis = analyse(net(), samples(net()), file=file)
        assert Analysis.from_json(file.read_text()) == analysis
        assert analysis.settings["complete"]
        assert list(file.parent.iterdir()) == [file]

    @pytest.mark.parametrize("groups", [1, 2, 3])
    @pytest.mark.parametrize("metric", ["top1", "kl"])
    def test_a_killed_run_goes_on_to_the_same_bytes(self, file: Path, groups: int, metric: str) -> None:
        options: dict[str, Any] = {"data": samples(net()), "metric": metric}
        whole = file.with_name("whole.json")
        plain_ana(**options, file=whole)(net())
        with reporting(Killer(groups)), pytest.raises(KilledError):
            plain_ana(**options, file=file)(net())
        left = Analysis.from_json(file.read_text())
        assert list(left.curves) == GROUPS[:groups]
        assert left.settings["complete"] == (groups == 3)
        rest = plain_ana(**options, file=file, resume=True)(net())
        assert file.read_bytes() == whole.read_bytes()
        assert rest.facts["evaluations"] == {1: 18, 2: 9, 3: 0}[groups]

    def test_killed_again_and_again(self, file: Path) -> None:
        options: dict[str, Any] = {"data": samples(net()), "resume": True}
        for _ in range(3):
            with reporting(Killer(1)), pytest.raises(KilledError):
                plain_ana(**options, file=file)(net())
        plain_ana(**options, file=file)(net())
        plain_ana(**options, file=(whole := file.with_name("whole.json")))(net())
        assert file.read_bytes() == whole.read_bytes()

    def test_the_file_is_not_replaced_unasked(self, file: Path) -> None:
        analyse(net(), samples(net()), file=file)
        content = file.read_bytes()
        with pytest.raises(UsageError, match="there already") as caught:
            analyse(net(seed=1), samples(net()), file=file)
        assert "`resume`" in caught.value.hint
        assert "`force`" in caught.value.hint
        assert file.read_bytes() == content
        analyse(net(seed=1), samples(net()), file=file, force=True)
        assert file.read_bytes() != content

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"model": net(seed=1)}, "of another model"),
            ({"data": samples(net(), seed=1)}, "of other data"),
            ({"criterion": "l1"}, r"of other options \(criterion was 'l2'\)"),
            (
                {"ratios": (0.5,), "samples": 36},
                r"other data and other options \(ratios was .*, samples was None\)",
            ),
        ],
    )
    def test_another_run_is_refused(self, file: Path, change: dict[str, Any], reason: str) -> None:
        first: dict[str, Any] = {"model": net(), "data": samples(net()), "file": file, "resume": True}
        with reporting(Killer(2)), pytest.raises(KilledError):
            analyse(**first)
        content = file.read_bytes()
        with pytest.raises(PlanError, match=reason):
            analyse(**first | change)
        assert file.read_bytes() == content
        fresh = file.with_name("fresh.json")
        analyse(**first | change | {"file": fresh})
        analyse(**first | change | {"force": True})
        assert file.read_bytes() == fresh.read_bytes()

    def test_the_plan_a_model_carries_counts(self, file: Path) -> None:
        pruned = Prune(reduce_channels=0.4, round_to=1)(net()).model
        analyse(pruned, samples(net()), file=file)
        bare = pruned.copy()
        bare.set_metadata(PLAN_KEY, None)
        with pytest.raises(PlanError, match="of another model"):
            analyse(bare, samples(net()), file=file, resume=True)

    @pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 1, "digest": "x"}', "\udcff"])
    def test_a_damaged_file(self, file: Path, content: str) -> None:
        file.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(PlanError):
            analyse(net(), samples(net()), file=file, resume=True)
        analyse(net(), samples(net()), file=file, resume=True, force=True)
        assert Analysis.from_json(file.read_text()).settings["complete"]

    def test_an_unwritable_place_is_found_before_any_work(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError):
            analyse(net(), {"there is": np.zeros(1)}, file=tmp_path / "missing" / "analysis.json")


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"ratios": ()}, "no ratio"),
            ({"ratios": (0.5, 1.0)}, "`ratios` is 1"),
            ({"ratios": (0.0,)}, "`ratios` is 0"),
            ({"batch_size": 0}, "`batch_size` is 0"),
            ({"samples": 0}, "`samples` is 0"),
            ({"workers": 0}, "`workers` is 0"),
            ({"metric": "beauty"}, "no metric 'beauty'"),
            ({"criterion": "beauty"}, "unknown criterion"),
        ],
    )
    def test_options_that_make_no_sense(self, options: dict[str, Any], error: str, file: Path) -> None:
        with pytest.raises(UsageError, match=error):
            analyse(net(), samples(net()), file=file, **options)
        assert not file.exists()

    def test_data_errors_come_before_any_curve(self, file: Path) -> None:
        """No evaluation is reported before the first batch and the values of all others have been seen."""
        data = samples(net())
        broken: list[dict[str, Any]] = [
            {"image": data["image"]},
            data | {"image": data["image"][:, :, :4]},
            data | {"labels": data["labels"] + 4},
            data | {"image": np.where(np.arange(SAMPLES)[:, None, None, None] < 36, data["image"], np.nan)},
        ]
        for arrays in broken:
            with reporting(Killer(1)), pytest.raises(DataError):
                analyse(net(), arrays, file=file)
        assert not file.exists()

    def test_a_shape_error_within_the_network(self) -> None:
        """Symbolic sizes that the layers behind a Reshape cannot take are found by the first batch."""
        text = """
        <ir_version: 8, opset_import: ["" : 17]>
        strict (float[N,3,L] x) => (float[N,2] y)
        <float[6,3,1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[2] to = {-1, 24},
         float[24,2] v> { [conv] a = Conv(x, w) [flat] b = Reshape(a, to) [head] y = MatMul(b, v) }
        """
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.ones((24, 2), np.float32), "v"))
        data = {"x": np.ones((6, 3, 5), np.float32)}
        with pytest.raises(ModelError, match="flat"):
            plain_ana(data=data, metric="cosine", input_shapes={"x": (1, 3, 4)})(check(Model(proto)))

    def test_a_metric_that_is_no_number(self, file: Path) -> None:
        data = samples(net())
        with pytest.raises(DataError, match="no_number is nan for the model without 4 channels of 'first'"):
            analyse(net(), data, metric=NoNumber(1 + 7 + 2), file=file)
        assert list(Analysis.from_json(file.read_text()).curves) == ["stem"]

    @pytest.mark.slow
    def test_data_that_raises_midway(self, file: Path) -> None:
        """Finished curves are kept, and the run goes on when the data is there again."""
        calls = iter(range(100))
        sound = {"from": 1000}

        def shaky() -> Iterator[tuple[Any, Any]]:
            images, call = samples(net())["image"], next(calls)
            yield images[:20], None
            if call >= sound["from"]:
                raise OSError("the disk is gone")
            yield images[20:], None

        options: dict[str, Any] = {"metric": "kl", "cache_bytes": 0, "resume": True}
        whole = file.with_name("whole.json")
        analyse(net(), shaky, **options, file=whole)
        sound["from"] = (
            2 * next(calls) - 1
        )  # the data is gone through again for every group: now for the last
        with pytest.raises(DataError, match="the disk is gone"):
            analyse(net(), shaky, **options, file=file)
        assert list(Analysis.from_json(file.read_text()).curves) == GROUPS[:2]
        sound["from"] = 1000
        analyse(net(), shaky, **options, file=file)
        assert file.read_bytes() == whole.read_bytes()

    def test_data_that_changes(self) -> None:
        calls = iter(range(100))

        def growing() -> Iterator[tuple[Any, Any]]:
            count = 40 + 8 * next(calls)
            yield samples(net(), count=count)["image"], None

        with pytest.raises(DataError, match="as many batches as when the baseline ran"):
            analyse(net(), growing, metric="kl")


class TestWorkers:
    @pytest.mark.slow
    def test_two_workers_find_the_curves_of_one(self, file: Path) -> None:
        pytest.importorskip("joblib")
        for metric in ("kl", best_class):
            one, two = (file.with_name(f"{n}.json") for n in (1, 2))
            for workers, path in ((1, one), (2, two)):
                plain_ana(data=samples(net()), metric=metric, workers=workers, file=path, force=True)(net())
            assert one.read_bytes() == two.read_bytes()

    @pytest.mark.slow
    def test_errors_arrive_as_they_are(self) -> None:
        pytest.importorskip("joblib")
        with pytest.raises(DataError) as caught:
            analyse(net(), samples(net()), metric=partial(elsewhere, os.getpid(), "raises"), workers=2)
        assert "RuntimeError: not here" in caught.value.message
        assert "curves.py" in caught.value.hint

    @pytest.mark.slow
    def test_a_worker_that_dies(self, file: Path) -> None:
        pytest.importorskip("joblib")
        with pytest.raises(WorkerError, match="worker process died") as caught:
            analyse(
                net(), samples(net()), metric=partial(elsewhere, os.getpid(), "dies"), workers=2, file=file
            )
        assert "`resume`" in caught.value.hint
        assert Analysis.from_json(file.read_text()).baseline == 1.0

    def test_joblib_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "joblib", None)
        with pytest.raises(UsageError, match="joblib") as caught:
            analyse(net(), samples(net()), workers=2)
        assert "onnxprune[parallel]" in caught.value.hint


class TestDefaultMetric:
    def test_labels_are_compared_with(self) -> None:
        found = Ana(data=samples(net()), ratios=(0.5,), batch_size=8)(net()).analysis
        assert found is not None
        assert found.metric == "top1"

    def test_without_labels_it_suits_the_outputs(self) -> None:
        """The same curves as with the metric by its name; the file goes on under it."""
        data = {"image": samples(net())["image"]}
        found = Ana(data=data, ratios=(0.5,), batch_size=8)(net()).analysis
        assert found is not None
        assert found.metric in ("kl", "cosine")
        again = Ana(data=data, ratios=(0.5,), batch_size=8, metric=found.metric)(net())
        assert again.analysis == found
