"""Metrics that compare with labels or target values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data import LABELS, class_axis
from onnxprune.evaluate.metrics.metric import BatchOutputs, Scores, average, per_sample, per_token
from onnxprune.runtime import Array

_UNLABELLED = "kl, agreement and cosine need no labels: they compare with the baseline's own outputs"


def top(k: int, name: str, answer: BatchOutputs) -> Scores:
    """Score 1 where fewer than k classes come before the right one, else 0; averaged over positions.

    Of classes with equal scores the lower index comes first, as for argmax, so that a dead network is not
    taken for a good one. NaN comes before everything.

    Args:
        k: Number of classes that may be named.
        name: The output to judge; empty for the first that the labels fit.
        answer: Outputs ``[N, C]``, ``[N, C, …]`` or ``[N, …, C]``, labels ``[N]`` or ``[N, …]``; of the
            latter negative ones and those of padded tokens do not count.

    Returns:
        The share of positions that are right, for every sample.

    Raises:
        DataError: There are no labels, or they do not fit the output.
    """
    if LABELS not in answer.targets:
        raise DataError(
            f"top{k} needs labels, and the data has none", f"add an array {LABELS!r}; {_UNLABELLED}"
        )
    if name and name not in answer.outputs:
        raise DataError(f"top{k}: the model has no output {name!r}", f"it has: {', '.join(answer.outputs)}")
    labels = answer.targets[LABELS]
    judged = name or _judged(answer.outputs, labels)
    scores = _class_scores(answer.outputs[judged], labels, f"top{k}")
    counted = labels >= 0
    right = np.maximum(labels, 0)[..., np.newaxis]
    own = np.take_along_axis(scores, right, -1)
    own_or_later = (scores == own) & (np.arange(scores.shape[-1]) >= right)
    before = (~(scores < own)).sum(-1) - own_or_later.sum(-1)
    if labels.ndim == 1:
        return per_sample(before < k)
    mask = answer.tokens.mask_of(judged, answer.outputs[judged].shape)
    if mask is not None and labels.shape[:2] == mask.shape:
        counted = counted & (mask != 0).reshape(*mask.shape, *[1] * (labels.ndim - 2))
    rows = (x.reshape(len(labels), -1) for x in (before < k, counted.astype(np.float64)))
    return per_token(*rows)


def error(measure: Callable[[Array], Array], name: str, answer: BatchOutputs) -> Scores:
    """Average a measure of output − target over each output that has a target, then over those outputs.

    Args:
        measure: ``np.square`` or ``np.abs``.
        name: The metric's name, for messages.
        answer: Outputs and targets of the same names and shapes.

    Returns:
        The mean error of every sample, in the output's unit or its square.

    Raises:
        DataError: No output has a target, or shapes differ.
    """
    names = [n for n in answer.outputs if n in answer.targets]
    if not names:
        raise DataError(
            f"{name} needs target values, and the data has none",
            f"add an array named like one of the outputs ({', '.join(answer.outputs)}); {_UNLABELLED}",
        )
    scores = []
    for n in names:
        output, target = answer.outputs[n], answer.targets[n]
        if output.shape != target.shape:
            raise DataError(
                f"output {n!r} has shape {list(output.shape)}, its target {list(target.shape)}",
                "a target has the shape of its output",
            )
        mask = answer.tokens.mask_of(n, output.shape)
        scores.append(per_token(measure(output.astype(np.float64) - target), mask))
    return average(scores)


def _judged(outputs: Mapping[str, Array], labels: Array) -> str:
    """Return the first output with scores of classes for the labels; the first one where none has."""
    for name, output in outputs.items():
        axis = class_axis(output.shape, labels.shape)
        if output.dtype.kind == "f" and axis is not None and output.shape[axis] > 1:
            return name
    return next(iter(outputs))


def _fitting(output: Array, labels: Array, metric: str) -> str:
    """Return a hint for labels that do not fit an output."""
    if output.shape == labels.shape and ((labels == 0) | (labels == 1)).all():
        return "the labels are one-hot; class indices are wanted: labels.argmax(1)"
    if labels.shape == (len(output), 1):
        return "the labels have an axis too many: labels[:, 0]"
    return f"name another output with {metric}@OUTPUT, or give a metric of your own as module:callable"


def _class_scores(output: Array, labels: Array, metric: str) -> Array:
    """Bring an output to the shape of the labels with the classes as last axis, and check the labels."""
    axis = class_axis(output.shape, labels.shape)
    if axis is None or output.shape[axis] < 2:
        shapes = f"shape {list(output.shape)} by labels of shape {list(labels.shape)}"
        raise DataError(f"{metric} cannot judge an output of {shapes}", _fitting(output, labels, metric))
    classes = output.shape[axis]
    low = labels.min() if labels.ndim == 1 else 0
    if not 0 <= low <= labels.max() < classes:
        raise DataError(
            f"a label is not between 0 and {classes - 1}, the model's classes", "classes count from 0"
        )
    return np.moveaxis(output, axis, -1).reshape(*labels.shape, classes)
