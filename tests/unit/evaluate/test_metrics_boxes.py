"""Metrics of detectors: forms of outputs, agreement of boxes, average precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.metrics import Baseline, BatchOutputs, get_metric
from onnxprune.evaluate.metrics.boxes import Boxes, by_score, matches, overlaps, suppressed
from onnxprune.evaluate.metrics.detections import OVERLAPS, mean_average_precision
from onnxprune.evaluate.metrics.detector_outputs import recognised

Array = np.ndarray[Any, np.dtype[Any]]
CORNERS = np.array([[10.0, 10, 30, 40], [50, 20, 90, 60], [5, 5, 25, 20]])
CLASSES, SCORES = np.array([0, 2, 1]), np.array([0.9, 0.8, 0.6])


def centres(corners: Array) -> Array:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def scores_of(count: int, classes: int) -> Array:
    table = np.full((count, classes), 0.01)
    table[np.arange(3), CLASSES] = SCORES
    return table


def table_of(corners: Array, anchors: int = 20) -> Array:
    """Centres, sizes and class scores of three boxes among anchors without objects, ``[anchors, 7]``."""
    idle = np.tile([[3.0, 3, 2, 2, 0.01, 0.02, 0.01]], (anchors - 3, 1))
    return np.concatenate([np.concatenate([centres(corners), scores_of(3, 3)], 1), idle])


def forms(corners: Array) -> dict[str, dict[str, Array]]:
    """The same three boxes of one sample in every form that is read."""
    table = table_of(corners)
    rows = table.T[np.newaxis]
    objects = np.concatenate([table[:, :4], np.ones((20, 1)), table[:, 4:]], 1)[np.newaxis]
    finished = np.concatenate([corners, SCORES[:, np.newaxis], CLASSES[:, np.newaxis]], 1)[np.newaxis]
    padded = np.concatenate([finished, np.zeros((1, 4, 6))], axis=1)
    probabilities = np.concatenate([scores_of(3, 3), np.zeros((3, 1))], 1)
    probabilities[:, 3] = 1 - probabilities[:, :3].sum(1)
    empty = np.concatenate([np.eye(4)[3:]] * 20)
    every = np.concatenate([probabilities, empty])[np.newaxis]
    boxes = np.concatenate([corners, np.tile([[1.0, 1, 2, 2]], (20, 1))])[np.newaxis]
    return {
        "v8": {"out": rows},
        "v8-masks": {
            "out": np.concatenate([rows, np.full((1, 8, 20), -3.0)], 1),
            "prototypes": np.zeros((1, 8, 4, 4)),
        },
        "v5": {"out": objects},
        "v10": {"out": padded},
        "ssd": {"boxes": boxes, "scores": every},
        "turned": {"boxes": boxes.swapaxes(1, 2), "scores": every.swapaxes(1, 2)},
        "efficient": {
            "num": np.array([[3]]),
            "boxes": padded[..., :4],
            "scores": padded[..., 4],
            "classes": padded[..., 5].astype(np.int32),
        },
        "torchvision": {"boxes": corners, "labels": CLASSES, "scores": SCORES},
    }


FORMS = list(forms(CORNERS))


def judged(metric: str, after: dict[str, Array], before: dict[str, Array]) -> float:
    baseline = Baseline([before])
    return get_metric(metric).value([BatchOutputs(after, {}, {}).against(baseline, 0)])


class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_boxes_are_the_same_in_every_form(self, form: str) -> None:
        outputs = forms(CORNERS)[form]
        (found,) = recognised([outputs]).read(outputs, 0.25, 0.7)
        np.testing.assert_allclose(found.corners, CORNERS)
        np.testing.assert_allclose(found.scores, SCORES)
        assert found.classes.tolist() == CLASSES.tolist()

    @pytest.mark.parametrize("form", FORMS)
    def test_agreement_and_precision_of_every_form(self, form: str) -> None:
        before = forms(CORNERS)[form]
        assert judged("detections", before, before) == 1
        assert judged("map", before, before) == pytest.approx(1)
        moved = CORNERS.copy()
        moved[0] += 25  # without overlap with the first box, and with no other
        after = forms(moved)[form]
        assert judged("detections", after, before) == pytest.approx(2 / 3)
        assert judged("map50", after, before) == pytest.approx(2 / 3)

    @pytest.mark.parametrize(
        ("outputs", "words"),
        [
            ({"grid": np.zeros((1, 24, 8, 8), np.float32)}, r"grid float32\[1, 24, 8, 8\]"),
            ({"logits": np.full((1, 20, 80), -2.0), "boxes": np.zeros((1, 20, 4))}, "logits float64"),
            ({"hidden": np.random.default_rng(0).standard_normal((2, 12, 64))}, "hidden float64"),
            ({"frames": np.full((2, 6, 10), 0.1)}, "frames float64"),
        ],
    )
    def test_other_forms_are_named(self, outputs: dict[str, Array], words: str) -> None:
        with pytest.raises(DataError, match=f"cannot read boxes from the outputs.*{words}") as caught:
            judged("detections", outputs, outputs)
        assert "module:callable" in caught.value.hint

    def test_one_batch_does_not_decide_the_meaning_of_four_numbers(self) -> None:
        wide = {"boxes": np.array([[[2.0, 2, 4, 4]]]), "scores": np.full((1, 1, 2), 0.3)}
        narrow = {"boxes": np.array([[[20.0, 20, 4, 4]]]), "scores": np.full((1, 1, 2), 0.3)}
        assert recognised([wide, narrow]).centres
        assert not recognised([wide, wide]).centres


class TestBoxes:
    def test_overlap(self) -> None:
        one = np.array([[0.0, 0, 2, 2], [0, 0, 0, 0]])
        other = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
        np.testing.assert_allclose(overlaps(one, other), [[1 / 7, 1, 0], [0, 0, 0]])

    def test_duplicates_go_within_a_class(self) -> None:
        corners = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 20, 30, 30]])
        boxes = by_score(corners, np.array([0.5, 0.9, 0.4, 0.3]), np.array([0, 0, 1, 0]))
        kept = suppressed(boxes, 0.7, 300)
        assert kept.scores.tolist() == [0.9, 0.4, 0.3]
        assert suppressed(boxes, 0.7, 2).scores.tolist() == [0.9, 0.4]

    def test_a_reference_box_has_one_partner(self) -> None:
        wanted = by_score(CORNERS[:1], np.ones(1), np.zeros(1))
        twice = by_score(np.repeat(CORNERS[:1], 2, 0), np.array([0.9, 0.8]), np.zeros(2))
        assert matches(twice, wanted, 0.5).tolist() == [True, False]
        assert matches(twice._replace(classes=np.ones(2)), wanted, 0.5).tolist() == [False, False]

    def test_numbers_that_are_not_finite_are_no_boxes(self) -> None:
        found = by_score(np.full((2, 4), [[np.nan], [1.0]]), np.array([0.9, np.nan]), np.zeros(2))
        assert not len(found.scores)


def random_pairs(seed: int) -> list[tuple[Boxes, Boxes]]:
    """Twelve pictures with boxes of three classes, moved, lost, added and confused."""
    r, pairs = np.random.default_rng(seed), []
    for _ in range(12):
        n = int(r.integers(0, 7))
        low, size, kinds = r.uniform(0, 80, (n, 2)), r.uniform(8, 30, (n, 2)), r.integers(0, 3, n)
        wanted = np.concatenate([low, low + size], 1)
        keep = r.random(n) < 0.8
        moved = wanted[keep] + r.normal(0, 2.5, (keep.sum(), 4))
        seen = np.where(r.random(keep.sum()) < 0.9, kinds[keep], r.integers(0, 3, keep.sum()))
        m = int(r.integers(0, 4))
        corner = r.uniform(0, 80, (m, 2))
        extra = np.concatenate([corner, corner + r.uniform(8, 30, (m, 2))], 1)
        found, classes = np.concatenate([moved, extra]), np.concatenate([seen, r.integers(0, 3, m)])
        scores = r.uniform(0.05, 1, len(found))
        pairs.append((by_score(found, scores, classes), by_score(wanted, np.ones(n), kinds)))
    return pairs


class TestAveragePrecision:
    # By COCOeval of pycocotools 2.0 on the same boxes: the first two of its statistics.
    REFERENCE = (
        (0, 0.13524752475247523, 0.2974383152600974),
        (1, 0.08027412631373028, 0.27595932670190093),
        (2, 0.11576265227255327, 0.3404805224112155),
    )

    @pytest.mark.parametrize(("seed", "every", "half"), REFERENCE)
    def test_as_coco_computes_it(self, seed: int, every: float, half: float) -> None:
        pairs = random_pairs(seed)
        assert mean_average_precision((0.5,), [pairs[:5], pairs[5:]]) == pytest.approx(half, abs=1e-12)
        assert mean_average_precision(OVERLAPS, [pairs]) == pytest.approx(every, abs=1e-12)

    def test_without_reference_boxes(self) -> None:
        none = by_score(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
        some = by_score(CORNERS, SCORES, CLASSES)
        assert mean_average_precision((0.5,), [[(none, none)]]) == 1
        assert mean_average_precision((0.5,), [[(some, none)]]) == 0

    def test_options(self) -> None:
        before = forms(CORNERS)["v8"]
        moved = forms(CORNERS + 5)["v8"]
        assert judged("detections@iou=0.3,conf=0.5", moved, before) > judged("detections", moved, before)
        with pytest.raises(UsageError, match="'size=3' is no option of the metric 'map@size=3'") as caught:
            get_metric("map@size=3")
        assert "conf=0.5, nms=0.5" in caught.value.hint
        with pytest.raises(UsageError, match="conf is 2"):
            get_metric("detections@2")


def test_boxes_without_area_are_none() -> None:
    outputs = forms(CORNERS)["v8"]
    outputs["out"][0, 2:4, 0] = 0
    assert judged("detections", outputs, outputs) == 1
    (found,) = recognised([outputs]).read(outputs, 0.25, 0.7)
    assert len(found.scores) == 2
