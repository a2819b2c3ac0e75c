from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import Dataset, open_data
from onnxprune.evaluate.metrics import (
    Baseline,
    BatchOutputs,
    MeanMetric,
    baseline_outputs,
    evaluate,
    get_metric,
)
from onnxprune.runtime import Session, WeightSession

Array = np.ndarray[Any, np.dtype[Any]]

# The identity: a test decides the model's outputs.
ECHO = (
    '<ir_version: 8, opset_import: ["" : 17]> echo (float[{n},4] x) => (float[{n},4] y) {{ y = Identity(x) }}'
)
SCALED = """
<ir_version: 8, opset_import: ["" : 17]>
scaled (float[N,4] x) => (float[N,4] y) <float[4] w = {1, 1, 1, 1}> { y = Mul(x, w) }
"""


def session(text: str = ECHO.format(n="N")) -> Session:
    return Session(onnx.parser.parse_model(text))


def data(on: Session, **arrays: Any) -> Dataset:
    return open_data({k: np.asarray(v) for k, v in arrays.items()}, on.inputs, on.outputs)


def random_data(on: Session, count: int = 23) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 4)).astype(np.float32)
    return data(on, x=x, labels=rng.integers(0, 4, count), y=rng.standard_normal((count, 4)))


def scores(name: str, output: Any, target: Any = None, before: Any = None) -> list[float]:
    """The per-sample scores of a metric for one output named y."""
    metric = get_metric(name)
    assert isinstance(metric, MeanMetric)
    targets = (
        {} if target is None else {"y" if metric.name in ("mse", "mae") else "labels": np.asarray(target)}
    )
    remembered = {} if before is None else Baseline([{"y": np.asarray(before)}]).remembered(0)
    return metric.scores(BatchOutputs({"y": np.asarray(output)}, targets, remembered)).tolist()


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


class TestTop:
    def test_top1_is_argmax(self) -> None:
        assert scores("top1", [[1, 3, 2.0], [5, 1, 2]], [1, 2]) == [1, 0]
        assert scores("top5", [[1, 2, 3, 4, 5, 6.0]] * 3, [5, 1, 0]) == [1, 1, 0]

    def test_a_dead_network_is_not_a_good_one(self) -> None:
        assert scores("top1", np.zeros((10, 10)), np.arange(10)) == [1] + [0] * 9

    def test_nan_is_wrong(self) -> None:
        assert scores("top1", [[np.nan, 1.0], [np.nan, 1.0], [np.nan, np.nan]], [0, 1, 0]) == [0, 0, 0]

    @given(
        hnp.arrays(np.float32, (6, 5), elements=st.integers(-2, 2)),
        hnp.arrays(np.int64, 6, elements=st.integers(0, 4)),
    )
    @settings(max_examples=60, deadline=None)
    def test_against_a_stable_sort(self, output: Array, labels: Array) -> None:
        order = np.argsort(-output, axis=1, kind="stable")
        assert scores("top1", output, labels) == (order[:, 0] == labels).tolist()
        metric = get_metric("top5")
        assert scores(metric.name, output, labels) == [1] * 6

    @pytest.mark.parametrize(("shape", "axis"), [((2, 3, 4, 5), 1), ((2, 4, 5, 3), 3), ((2, 3, 1, 1), 1)])
    def test_positions_are_averaged(self, shape: tuple[int, ...], axis: int) -> None:
        output = np.random.default_rng(0).standard_normal(shape)
        right = output.argmax(axis)
        labels = np.where(np.random.default_rng(1).random(right.shape) < 0.5, right, (right + 1) % 3)
        expected = (labels == right).reshape(2, -1).mean(1).tolist()
        assert (
            scores("top1", output, labels.reshape(2) if axis == 1 and shape[2:] == (1, 1) else labels)
            == expected
        )

    def test_another_output_than_the_first(self) -> None:
        metric = get_metric("top1@b")
        assert isinstance(metric, MeanMetric)
        answer = BatchOutputs(
            {"a": np.zeros((1, 3)), "b": np.array([[0, 0, 1.0]])}, {"labels": np.array([2])}, {}
        )
        assert metric.scores(answer).tolist() == [1]
        with pytest.raises(DataError, match="top1: the model has no output 'c'") as caught:
            get_metric("top1@c").value([answer])
        assert caught.value.hint == "it has: a, b"

    @pytest.mark.parametrize(
        ("output", "labels", "words"),
        [
            (np.zeros((2, 3)), [0, 3], "not between 0 and 2"),
            (np.zeros((2, 3)), [0, -1], "not between 0 and 2"),
            (np.zeros((2, 3, 7)), [0, 1], r"shape \[2, 3, 7\] by labels of shape \[2\]"),
            (np.zeros((2, 1)), [0, 0], r"shape \[2, 1\]"),
        ],
    )
    def test_labels_that_do_not_fit(self, output: Array, labels: list[int], words: str) -> None:
        with pytest.raises(DataError, match=words):
            scores("top1", output, labels)

    @pytest.mark.parametrize(
        ("labels", "hint"),
        [([[0, 1, 0], [1, 0, 0]], "argmax"), ([[1], [0]], "[:, 0]"), ([[7, 8]], "@OUTPUT")],
    )
    def test_labels_in_another_form_are_answered_with_the_way_out(
        self, labels: list[list[int]], hint: str
    ) -> None:
        with pytest.raises(DataError) as caught:
            scores("top1", np.zeros((len(labels), 3)), labels)
        assert hint in caught.value.hint

    def test_the_first_output_that_the_labels_fit_is_judged(self) -> None:
        outputs = {"label": np.array([2, 0]), "probabilities": np.array([[0, 1, 0], [0, 0, 1.0]])}
        metric = get_metric("top1")
        assert isinstance(metric, MeanMetric)
        answer = BatchOutputs(outputs, {"labels": np.array([1, 0])}, {})
        assert metric.scores(answer).tolist() == [1, 0]

    @pytest.mark.parametrize("name", ["top1", "top5", "mse", "mae"])
    def test_without_labels_the_hint_names_metrics_that_need_none(self, name: str) -> None:
        with pytest.raises(DataError, match=f"{name} needs .*the data has none") as caught:
            scores(name, np.zeros((2, 3)))
        assert "kl, agreement and cosine" in caught.value.hint


class TestErrors:
    def test_mse_and_mae(self) -> None:
        assert scores("mse", [[1.0, 2], [0, 0]], [[1.0, 4], [1, 1]]) == [2, 1]
        assert scores("mae", [[1.0, 2], [0, 0]], [[1.0, 4], [1, 1]]) == [1, 1]

    def test_outputs_of_all_sizes_count_alike(self) -> None:
        metric = get_metric("mse")
        outputs = {"a": np.zeros((1, 100)), "b": np.zeros((1, 1)), "free": np.ones((1, 1))}
        assert (
            metric.value([BatchOutputs(outputs, {"a": np.ones((1, 100)), "b": np.zeros((1, 1))}, {})]) == 0.5
        )

    def test_shapes_must_be_equal(self) -> None:
        with pytest.raises(DataError, match=r"output 'y' has shape \[2, 3\], its target \[2, 1\]"):
            scores("mse", np.zeros((2, 3)), np.zeros((2, 1)))


class TestBaselineMetrics:
    LOGITS = np.random.default_rng(0).standard_normal((5, 7)) * 3
    OTHER = np.random.default_rng(1).standard_normal((5, 7)) * 3

    def test_kl_of_logits(self) -> None:
        p, q = softmax(self.LOGITS), softmax(self.OTHER)
        expected = (p * np.log(p / q)).sum(1)
        np.testing.assert_allclose(scores("kl", self.OTHER, before=self.LOGITS), expected, rtol=1e-9)

    @pytest.mark.parametrize("axis", [1, 2, 3])
    def test_kl_of_probabilities_finds_their_axis(self, axis: int) -> None:
        x, y = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5))
        if axis == 2:
            x, y = x[..., 0], y[..., 0]
        p, q = softmax(x, axis), softmax(y, axis)
        expected = (p * np.log(p / q)).sum(axis).reshape(2, -1).mean(1)
        np.testing.assert_allclose(scores("kl", q, before=p), expected, rtol=1e-9)

    @pytest.mark.parametrize(("shape", "axis"), [((2, 6, 5), 2), ((2, 6, 5, 4), 1)])
    def test_kl_of_logits_at_many_positions(self, shape: tuple[int, ...], axis: int) -> None:
        x, y = np.random.default_rng(0).standard_normal((2, *shape))
        p, q = softmax(x, axis), softmax(y, axis)
        expected = (p * np.log(p / q)).sum(axis).reshape(2, -1).mean(1)
        np.testing.assert_allclose(scores("kl", y, before=x), expected, rtol=1e-9)

    @pytest.mark.parametrize("logits", [True, False])
    def test_a_single_class_is_a_yes_or_no(self, logits: bool) -> None:
        x, y = np.array([[3.0], [-2], [40]]), np.array([[1.0], [1], [-1]])
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
        near = np.log(np.maximum(1 - p, 1e-12) / (1 - q))
        expected = (p * np.log(p / q) + (1 - p) * near).ravel()
        found = scores("kl", y, before=x) if logits else scores("kl", q, before=p)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert (scores("agreement", y, before=x) if logits else scores("agreement", q, before=p)) == [1, 0, 0]

    def test_the_whole_baseline_decides_the_reading_of_an_output(self) -> None:
        logits = np.array([[0.2], [7.0]])
        baseline = Baseline([{"y": logits[:1]}, {"y": logits[1:]}])
        readings = [baseline.remembered(i)["y"].reading for i in range(2)]
        assert [r and r.logits for r in readings] == [True, True]

    @given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)), st.floats(-20, 20))
    @settings(max_examples=50, deadline=None)
    def test_kl_is_zero_only_for_equals_and_never_negative(self, x: Array, shift: float) -> None:
        np.testing.assert_allclose(
            scores("kl", x.astype(float) + shift, before=x.astype(float)), 0, atol=1e-9
        )
        assert min(scores("kl", x[:, ::-1], before=x)) >= -1e-9

    def test_one_underflow_does_not_make_it_infinite(self) -> None:
        assert scores("kl", [[0.0, 1.0]], before=[[0.5, 0.5]])[0] < 14

    def test_agreement(self) -> None:
        assert scores("agreement", [[1, 3.0], [3, 1]], before=[[0, 1.0], [0, 1]]) == [1, 0]
        assert scores("agreement", [[np.nan, 3.0]], before=[[0, 1.0]]) == [0]
        assert scores("agreement", [[1, 2, 3, 4]], before=[[1, 2, 3, 5]]) == [0.75]
        assert scores("agreement", [1, 2], before=[1, 3]) == [1, 0]

    def test_cosine(self) -> None:
        before = [[1.0, 0], [1, 0], [1, 0], [0, 0], [1, 0], [0, 0]]
        after = [[5.0, 0], [0, 1], [-2, 0], [0, 0], [0, 0], [1, 0]]
        assert scores("cosine", after, before=before) == [1, 0, -1, 1, 0, 0]
        x, y = np.random.default_rng(0).standard_normal((2, 3, 2, 4))
        expected = [np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(scores("cosine", y, before=x), expected, rtol=1e-12)

    @pytest.mark.parametrize("name", ["kl", "agreement", "cosine"])
    def test_outputs_are_averaged(self, name: str) -> None:
        metric = get_metric(name)
        a, b = self.LOGITS, self.OTHER
        remembered = Baseline([{"one": a, "two": a}]).remembered(0)
        both = metric.value([BatchOutputs({"one": a, "two": b}, {}, remembered)])
        single = [np.mean(scores(name, x, before=a)) for x in (a, b)]
        assert both == pytest.approx(np.mean(single), rel=1e-12)

    @pytest.mark.parametrize(
        ("name", "value"),
        [("kl", [1.0]), ("kl", [[1, 2]]), ("agreement", [1.0]), ("cosine", ["text"]), ("cosine", 1.0)],
    )
    def test_outputs_that_cannot_be_compared(self, name: str, value: Any) -> None:
        with pytest.raises(DataError, match=f"{name} needs an output"):
            scores(name, value, before=value)

    def test_outputs_whose_shape_changes(self) -> None:
        with pytest.raises(DataError, match=r"output 'y' has shape \[1, 3\], the baseline's shape \[1, 2\]"):
            scores("kl", np.zeros((1, 3)), before=np.zeros((1, 2)))
        with pytest.raises(DataError, match="the baseline's nothing"):
            get_metric("kl").value([BatchOutputs({"y": np.zeros((1, 3))}, {}, {})])


class TestGetMetric:
    def test_directions(self) -> None:
        better = {
            n: get_metric(n).higher_is_better for n in "top1 top5 mse mae kl agreement cosine top1@y".split()
        }
        assert {n for n, higher in better.items() if not higher} == {"mse", "mae", "kl"}
        used = {n for n in better if get_metric(n).uses_baseline}
        assert used == {"kl", "agreement", "cosine"}

    @pytest.mark.parametrize("name", ["accuracy", "top3", "top1@", "mse@y", "", "TOP1"])
    def test_unknown_names(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"no metric '{name}'") as caught:
            get_metric(name)
        assert "top1, top5, mse, mae, kl, agreement, cosine, retrieval, " in caught.value.hint
        assert ", or module:callable" in caught.value.hint

    def test_a_metric_is_a_metric(self) -> None:
        metric = get_metric("kl")
        assert get_metric(metric) is metric


class TestEvaluate:
    def test_every_sample_counts_once_at_any_batch_size(self) -> None:
        on = session()
        dataset = random_data(on)
        x = next(dataset.batches(99)).inputs["x"]
        right = next(dataset.batches(99)).targets["labels"]
        expected = float((x.argmax(1) == right).mean())
        for size in (1, 4, 23, 64):
            assert evaluate(on, dataset, get_metric("top1"), batch_size=size) == pytest.approx(
                expected, rel=1e-12
            )

    @pytest.mark.parametrize("name", ["top1", "mse", "mae"])
    @pytest.mark.parametrize("fixed", [1, 5, 64])
    def test_a_fixed_batch_changes_nothing(self, fixed: int, name: str) -> None:
        metric, free, bound = get_metric(name), session(), session(ECHO.format(n=fixed))
        expected = evaluate(free, random_data(free), metric)
        assert evaluate(bound, random_data(bound), metric) == pytest.approx(expected, rel=1e-12)

    def test_fed_weights_are_judged_against_the_baseline(self) -> None:
        weighted = WeightSession(onnx.parser.parse_model(SCALED), ["w"])
        dataset = random_data(weighted)
        baseline = baseline_outputs(weighted, dataset, batch_size=8)
        assert len(baseline) == 3
        for name, perfect in (("kl", 0), ("agreement", 1), ("cosine", 1)):
            metric = get_metric(name)
            same = evaluate(weighted, dataset, metric, batch_size=8, baseline=baseline)
            assert same == pytest.approx(perfect, abs=1e-7)
            masked = {"w": np.float32([0, 1, 1, 1])}
            pruned = evaluate(weighted, dataset, metric, batch_size=8, baseline=baseline, overrides=masked)
            assert abs(pruned - perfect) > 0.02

    def test_the_baseline_must_be_there_and_fit(self) -> None:
        on = session()
        dataset = random_data(on)
        with pytest.raises(UsageError, match="kl compares with the baseline"):
            evaluate(on, dataset, get_metric("kl"))
        for size, taken in ((8, dataset.take(8)), (8, dataset.take(9)), (4, dataset)):
            baseline = baseline_outputs(on, taken, batch_size=size)
            with pytest.raises(DataError, match=r"as many batches|the baseline's shape"):
                evaluate(on, dataset, get_metric("kl"), batch_size=8, baseline=baseline)

    @pytest.mark.parametrize("name", ["mse", "kl", "cosine"])
    def test_nan_is_an_error(self, name: str) -> None:
        logarithm = session(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Sqrt(x) }'
        )
        good = data(logarithm, x=np.ones((3, 4)), y=np.ones((3, 4)))
        bad = data(logarithm, x=-np.ones((3, 4)), y=np.ones((3, 4)))
        baseline = baseline_outputs(logarithm, good)
        with pytest.raises(DataError, match=f"{name} is nan for model 'g' on the arrays"):
            evaluate(logarithm, bad, get_metric(name), baseline=baseline)


class TestUserMetrics:
    def test_a_metric_gets_the_whole_set(self) -> None:
        seen: list[tuple[Any, Any]] = []

        def spread(outputs: dict[str, Array], targets: dict[str, Array] | None) -> float:
            seen.append(({n: o.shape for n, o in outputs.items()}, targets and sorted(targets)))
            return float(outputs["y"].std())

        on = session()
        dataset = random_data(on)
        expected = next(dataset.batches(99)).inputs["x"].std()
        metric = get_metric(spread)
        assert (metric.name, metric.higher_is_better, metric.uses_baseline) == ("spread", True, False)
        assert evaluate(on, dataset, metric, batch_size=4) == pytest.approx(expected)
        evaluate(on, data(on, x=np.zeros((2, 4), np.float32)), metric)
        assert seen == [({"y": (23, 4)}, ["labels", "y"]), ({"y": (2, 4)}, None)]

    def test_metric_of_a_module_with_a_direction(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "my_metrics_x.py").write_text(
            "def loss(outputs, targets): return outputs['y'].max()\nloss.higher_is_better = False\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        metric = get_metric("my_metrics_x:loss")
        assert (metric.name, metric.higher_is_better) == ("my_metrics_x:loss", False)
        on = session()
        assert evaluate(on, data(on, x=np.eye(4)), metric) == 1

    @pytest.mark.parametrize(
        ("result", "words"),
        [
            (None, "metric user raised TypeError"),
            ("text", "metric user raised ValueError"),
            (float("nan"), "user is nan"),
        ],
    )
    def test_results_that_are_no_numbers_are_refused(self, result: Any, words: str) -> None:
        def user(outputs: object, targets: object) -> Any:
            return result

        on = session()
        with pytest.raises(DataError, match=words):
            evaluate(on, random_data(on), get_metric(user))

    def test_an_error_names_the_place(self) -> None:
        def user(outputs: dict[str, Array], targets: object) -> float:
            return float(outputs["no such"][0])

        on = session()
        with pytest.raises(DataError, match="metric user raised KeyError: 'no such'") as caught:
            evaluate(on, random_data(on), get_metric(user))
        assert "test_metrics.py, line" in caught.value.hint

    def test_batches_that_cannot_be_joined(self) -> None:
        def user(outputs: object, targets: object) -> float:
            return 0.0

        batches: Sequence[Array] = [np.zeros((1, 2)), np.zeros((1, 3))]
        with pytest.raises(DataError, match="cannot be joined"):
            get_metric(user).value(BatchOutputs({"y": b}, {}, {}) for b in batches)


class TestPositions:
    def test_positions_that_do_not_count(self) -> None:
        output = np.zeros((2, 3, 4))
        output[..., 1] = 1
        assert scores("top1", output, [[1, 1, -100], [1, 0, 0]]) == [1, pytest.approx(1 / 3)]
        assert scores("top1", output, [[-1, -1, -1], [1, 1, 1]]) == [0, 1]

    def test_own_arrays_reach_a_function(self) -> None:
        on = session()
        texts = np.array([["a", "b"], ["c", "d"], ["e", "f"]])
        dataset = data(on, x=np.eye(3, 4, dtype=np.float32), texts=texts)
        seen: list[Any] = []

        def user(outputs: dict[str, Array], targets: dict[str, Array] | None) -> float:
            seen.append(targets)
            return 1.0

        assert evaluate(on, dataset, get_metric(user), batch_size=2) == 1
        assert seen[0]["texts"].tolist() == texts.tolist()
