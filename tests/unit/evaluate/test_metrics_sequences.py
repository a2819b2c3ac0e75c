"""Metrics of embeddings, recognisers and language models, and padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import Baseline, BatchOutputs, Tokens, baseline_outputs, evaluate, get_metric
from onnxprune.evaluate.metrics.transcripts import edit_distance
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]


def judged(metric: str, after: Any, before: Any, targets: Any = None, tokens: Tokens | None = None) -> float:
    """The value of a metric for one output named y, in one batch."""
    baseline = Baseline([{"y": np.asarray(before)}])
    answer = BatchOutputs({"y": np.asarray(after)}, targets or {}, {}, tokens or Tokens())
    return get_metric(metric).value([answer.against(baseline, 0)])


class TestRetrieval:
    def test_by_hand(self) -> None:
        before = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
        assert judged("retrieval@1", before, before) == 1
        after = before[[0, 2, 1, 3]]  # nearest of 0 is 2, of 2 is 0; of 1 is 3, of 3 is 1: none as before
        assert judged("retrieval@1", after, before) == 0
        assert judged("retrieval@3", after, before) == 1  # all others are among three

    def test_against_a_plain_loop(self) -> None:
        r = np.random.default_rng(0)
        before, noise = r.standard_normal((2, 40, 8))
        after = before + 0.5 * noise
        hits = []
        for i in range(40):
            near = []
            for x in (before, after):
                cosine = [float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])) for j in range(40)]
                near.append(set(sorted(set(range(40)) - {i}, key=lambda j: -cosine[j])[:5]))
            hits.append(len(near[0] & near[1]) / 5)
        assert judged("retrieval@5", after, before) == pytest.approx(np.mean(hits), abs=1e-12)

    def test_dead_embeddings_find_little(self) -> None:
        before = np.random.default_rng(0).standard_normal((50, 8))
        assert judged("retrieval@5", np.zeros((50, 8)), before) < 0.2
        assert judged("retrieval@5", np.full((50, 8), np.nan), before) < 0.2

    def test_tokens_are_averaged_by_the_mask(self) -> None:
        r = np.random.default_rng(0)
        mask = np.arange(6) < np.array([6, 3, 2, 5, 4, 1])[:, np.newaxis]
        before = r.standard_normal((6, 6, 4))
        after = np.where(mask[..., np.newaxis], before, 100 * r.standard_normal((6, 6, 4)))
        assert judged("retrieval@2", after, before, tokens=Tokens(mask=mask.astype(float))) == 1
        assert judged("retrieval@2", after, before) < 1

    def test_too_few_samples(self) -> None:
        with pytest.raises(DataError, match="10 neighbours of each sample, and there are 4 samples"):
            judged("retrieval", np.eye(4), np.eye(4))
        with pytest.raises(DataError, match="needs an output of embeddings"):
            judged("retrieval@1", np.zeros((4, 1, 1, 1)), np.zeros((4, 1, 1, 1)))


def frames(*texts: str, length: int = 12, blank: int = 0) -> Array:
    """One best class a frame: letters from class 1 on, `-` for the blank, and blanks to the end."""
    classes = 28
    found = np.zeros((len(texts), length, classes))
    for row, text in enumerate(texts):
        best = [blank if c == "-" else 27 if c == " " else ord(c) - 96 for c in text.ljust(length, "-")]
        found[row, np.arange(length), best] = 1
    return found


class TestRecognisers:
    @pytest.mark.parametrize(
        ("one", "other", "distance"),
        [("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("abc", "abc", 0)],
    )
    def test_edit_distance(self, one: str, other: str, distance: int) -> None:
        assert edit_distance(one, other) == edit_distance(other, one) == distance

    def test_characters(self) -> None:
        assert judged("cer", frames("kit-ten"), frames("sit-ting")) == pytest.approx(3 / 7)
        assert judged("cer", frames("aab-bb", "c"), frames("a-b-b", "c")) == 0

    def test_errors_are_summed_over_samples(self) -> None:
        assert judged("cer", frames("a", "abcdefghi"), frames("b", "abcdefghi")) == pytest.approx(1 / 10)

    def test_words(self) -> None:
        found, wanted = frames("the cat sat"), frames("the dog sat")
        assert judged("wer@space=27", found, wanted) == pytest.approx(1 / 3)
        assert judged("wer@space=27", frames(" the  cat"), frames("the cat")) == 0
        with pytest.raises(UsageError, match="needs the class of the space"):
            judged("wer", found, wanted)

    def test_labels_are_the_reference_where_there_are_any(self) -> None:
        labels = np.array([[1, 2, 3, -1, -1]])
        assert judged("cer", frames("abd"), frames("abd"), {"labels": labels}) == pytest.approx(1 / 3)

    def test_the_blank_is_the_first_or_the_last_class(self) -> None:
        last = np.roll(frames("kit-ten"), -1, axis=2), np.roll(frames("sit-ting"), -1, axis=2)
        assert judged("cer", *last) == pytest.approx(3 / 7)
        assert judged("cer@blank=27", *last) == pytest.approx(3 / 7)
        with pytest.raises(DataError, match="answers neither class 0 nor class 27") as caught:
            judged("cer", frames("abcdefghijkl"), frames("abcdefghijkl"))
        assert "cer@blank=N" in caught.value.hint

    def test_time_first(self) -> None:
        text = """<ir_version: 8, opset_import: ["" : 17]>
            g (float[T,N,28] x) => (float[T,N,28] y) { y = Identity(x) }"""
        session = Session(
            onnx.parser.parse_model(
                text.replace("[T,N,28] x", "[T,batch,28] x").replace("[T,N,28] y", "[T,batch,28] y")
            )
        )
        data = open_data(
            {"x": frames("kit-ten", "c").swapaxes(0, 1).astype(np.float32)}, session.inputs, session.outputs
        )
        metric = get_metric("cer")
        assert data.samples in (2, 12)
        assert evaluate(session, data, metric, baseline=baseline_outputs(session, data)) == 0


class TestPerplexity:
    def test_by_hand(self) -> None:
        ids = np.array([[3, 1, 2], [0, 0, 4]])
        uniform = np.zeros((2, 3, 5))
        assert judged("perplexity", uniform, uniform, tokens=Tokens(ids=ids)) == pytest.approx(5)
        sure = uniform.copy()
        for row, position in ((0, 0), (0, 1), (1, 0), (1, 1)):
            sure[row, position, ids[row, position + 1]] = math.log(12)  # 12 of 16
        assert judged("perplexity", sure, uniform, tokens=Tokens(ids=ids)) == pytest.approx(16 / 12)

    def test_padding_does_not_count(self) -> None:
        r = np.random.default_rng(0)
        logits, ids = r.standard_normal((2, 5, 7)), r.integers(0, 7, (2, 5))
        whole = [
            judged("perplexity", logits[k : k + 1, :n], 0, tokens=Tokens(ids=ids[k : k + 1, :n]))
            for k, n in ((0, 5), (1, 3))
        ]
        expected = math.exp((4 * math.log(whole[0]) + 2 * math.log(whole[1])) / 6)
        for mask in (np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),):
            found = judged("perplexity", logits, 0, tokens=Tokens(ids=ids, mask=mask.astype(float)))
            assert found == pytest.approx(expected)
        labels = np.where(np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]) == 1, ids, -100)
        assert judged("perplexity", logits, 0, {"labels": labels}) == pytest.approx(expected)

    def test_no_tokens(self) -> None:
        with pytest.raises(DataError, match="needs the tokens"):
            judged("perplexity", np.zeros((2, 3, 5)), 0)
        with pytest.raises(DataError, match="is not defined"):
            judged("perplexity", np.zeros((2, 1, 5)), 0, tokens=Tokens(ids=np.zeros((2, 1), int)))


# Hidden states of an embedding table: the inputs are ids and a mask, which does not change the output.
ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
encoder (int64[N,T] input_ids, int64[N,T] attention_mask, float[N,T,4] noise) => (float[N,T,4] y) {{
    kept = Cast<to = 1>(attention_mask)
    axes = Constant<value = int64[1] {{2}}>()
    wide = Unsqueeze(kept, axes)
    one = Constant<value = float[1] {{1}}>()
    padding = Sub(one, wide)
    added = Mul(noise, padding)
    scale = Constant<value = float[1] {{{scale}}}>()
    scaled = Mul(added, scale)
    number = Cast<to = 1>(input_ids)
    base = Unsqueeze(number, axes)
    span = Constant<value = float[4] {{1, 2, -1, 0.5}}>()
    state = Mul(base, span)
    y = Add(state, scaled)
}}
"""


class TestPadding:
    @pytest.mark.parametrize(
        ("metric", "perfect"), [("cosine", 1), ("kl", 0), ("agreement", 1), ("retrieval@2", 1)]
    )
    def test_values_at_padding_do_not_count(self, metric: str, perfect: float) -> None:
        r = np.random.default_rng(0)
        mask = (np.arange(6) < np.array([6, 2, 3, 5])[:, np.newaxis]).astype(np.int64)
        arrays = {
            "input_ids": r.integers(1, 9, (4, 6)),
            "attention_mask": mask,
            "noise": r.standard_normal((4, 6, 4)).astype(np.float32),
        }
        one, other = (Session(onnx.parser.parse_model(ENCODER.format(scale=s))) for s in (0, 50))
        data = open_data(arrays, one.inputs, one.outputs)
        judge = get_metric(metric)
        baseline = baseline_outputs(one, data)
        assert evaluate(other, data, judge, baseline=baseline) == pytest.approx(perfect, abs=1e-6)
        arrays["attention_mask"] = np.ones_like(mask)
        unpadded = open_data(arrays, one.inputs, one.outputs)
        assert evaluate(one, unpadded, judge, baseline=baseline_outputs(one, unpadded)) == pytest.approx(
            perfect, abs=1e-6
        )

    def test_a_table_of_classes_is_no_table_of_tokens(self) -> None:
        mask = np.array([[1.0, 1, 0]])
        tokens = Tokens(mask=mask, name="T", outputs={"classes": ("N", 3), "starts": ("N", "T")})
        assert tokens.mask_of("classes", (1, 3)) is None
        assert tokens.mask_of("starts", (1, 3)) is not None
        assert tokens.mask_of("states", (1, 3, 8)) is not None
        assert tokens.mask_of("states", (1, 4, 8)) is None
