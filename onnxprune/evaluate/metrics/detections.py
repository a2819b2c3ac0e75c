"""Detectors: the boxes of a model against the boxes of the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.evaluate.metrics.boxes import Boxes, matches
from onnxprune.evaluate.metrics.detector_outputs import BoxForm, recognised
from onnxprune.evaluate.metrics.metric import BatchOutputs, Scores
from onnxprune.runtime import Array

_RECALLS = np.linspace(0, 1, 101)
OVERLAPS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2))
"""The thresholds of the mean average precision of COCO."""
_LEAST = 0.001
"""Smallest score of a box that a precision-recall curve contains."""
_MOST = 100
"""Boxes of a class in a sample that count."""

Pairs = list[tuple[Boxes, Boxes]]


@dataclass(frozen=True)
class Thresholds:
    """Settings of the comparison.

    Attributes:
        conf: Smallest score of a reference box, and of a box that `agreement` counts.
        iou: Smallest intersection over union of two equal boxes.
        nms: Intersection over union above which one of two boxes of a class is a duplicate.
    """

    conf: float = 0.25
    iou: float = 0.5
    nms: float = 0.7

    def __post_init__(self) -> None:
        """Refuse numbers outside of 0 to 1."""
        for name in ("conf", "iou", "nms"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name):g}, not within 0 and 1", "give a fraction")


def box_agreement(thresholds: Thresholds, answer: BatchOutputs) -> Scores:
    """Return the F1 of a model's boxes against those of the baseline.

    Args:
        thresholds: Settings of the comparison.
        answer: Outputs in one of the forms of `detector_outputs`.

    Returns:
        Twice the pairs over all boxes of both, for each sample, ``[N]``; 1 where neither has a box.

    Raises:
        DataError: The form of the outputs is not known.
    """
    scores = []
    for found, expected in box_pairs(thresholds, thresholds.conf, answer):
        total = len(found.scores) + len(expected.scores)
        pairs = int(matches(found, expected, thresholds.iou).sum())
        scores.append(2 * pairs / total if total else 1.0)
    return np.asarray(scores, np.float64)


def box_pairs(thresholds: Thresholds, least: float, answer: BatchOutputs) -> Pairs:
    """Return the boxes of the model and of the baseline, sample by sample.

    Args:
        thresholds: Settings of the comparison.
        least: Smallest score of the model's boxes.
        answer: Outputs.

    Raises:
        DataError: The form of the outputs is not known.
    """
    assert answer.baseline is not None
    form: BoxForm = answer.baseline.fact("boxes", recognised)
    before = {name: output.values for name, output in answer.remembered.items()}
    expected = form.read(before, thresholds.conf, thresholds.nms)
    return list(zip(form.read(answer.outputs, least, thresholds.nms), expected, strict=True))


def pairs_for_precision(thresholds: Thresholds, answer: BatchOutputs) -> Pairs:
    """Return the boxes of both models, those of the model down to the lowest scores."""
    return box_pairs(thresholds, _LEAST, answer)


def mean_average_precision(overlaps: Sequence[float], parts: Sequence[Pairs]) -> float:
    """Return the mean of the average precision over the classes of the reference, and over thresholds.

    The precision is interpolated at 101 recalls as by COCO's evaluation (T.-Y. Lin et al., "Microsoft COCO",
    2014), with 100 boxes of a class a sample at most.

    Args:
        overlaps: Thresholds of the intersection over union.
        parts: Boxes of the model and reference boxes of every sample, batch by batch.

    Returns:
        The mean, 0 to 1. Without any reference box: 1 if the model has none above its threshold, else 0.
    """
    pairs = [pair for part in parts for pair in part]
    classes = np.unique(np.concatenate([expected.classes for _, expected in pairs]))
    if not len(classes):
        return float(not any((found.scores >= Thresholds.conf).any() for found, _ in pairs))
    return float(np.mean([_average_precision(pairs, c, limit) for c in classes for limit in overlaps]))


def _average_precision(pairs: Pairs, kind: int, overlap: float) -> float:
    """Return the average precision of one class at one threshold."""
    scores, right, total = [], [], 0
    for found, expected in pairs:
        own = found.chosen(np.flatnonzero(found.classes == kind)[:_MOST])
        reference = expected.chosen(expected.classes == kind)
        scores.append(own.scores)
        right.append(matches(own, reference, overlap))
        total += len(reference.scores)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _area(np.concatenate(right)[order], total)


def _area(right: Array, total: int) -> float:
    """Return the area below the interpolated precision-recall curve of ranked boxes."""
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / total, _RECALLS)
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
