"""Metrics that compare with the outputs of the baseline, so that no labels are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.metrics.metric import BatchOutputs, Outputs, Scores, average, per_sample, per_token
from onnxprune.evaluate.metrics.paired_outputs import paired
from onnxprune.runtime import Array

_SMALLEST = 1e-12  # a probability below this counts as this, so that one underflow does not decide a metric


@dataclass(frozen=True)
class Reading:
    """The interpretation of an output as class probabilities.

    Attributes:
        axis: The axis that counts the classes; if it has one entry, that is the yes of a yes or no.
        logits: True if the values are logits; otherwise they are probabilities already.
    """

    axis: int
    logits: bool

    def probabilities(self, values: Array) -> Array:
        """Return probabilities in ``float64`` with the classes as last axis, two of them for a yes or no."""
        scores = np.moveaxis(values.astype(np.float64), self.axis, -1)
        if scores.shape[-1] > 1:
            return _softmax(scores) if self.logits else scores
        if self.logits:
            return _softmax(np.concatenate([np.zeros_like(scores), scores], axis=-1))
        return np.concatenate([1 - scores, scores], axis=-1)


class BaselineOutput(NamedTuple):
    """The baseline's output for one batch.

    Attributes:
        values: Its output.
        reading: Reading of the values as classes; ``None`` if they have none.
    """

    values: Array
    reading: Reading | None


class Baseline:
    """The baseline's outputs over a whole data set.

    Args:
        batches: The outputs of every batch, in order.
    """

    def __init__(self, batches: Sequence[Outputs]) -> None:
        self.batches = batches
        self._facts: dict[str, Any] = {}

    def fact(self, key: str, find: Callable[[Sequence[Outputs]], Any]) -> Any:
        """Return a fact about all outputs, computed once.

        Args:
            key: Its name.
            find: Function of the outputs of every batch.
        """
        if key not in self._facts:
            self._facts[key] = find(self.batches)
        return self._facts[key]

    def __len__(self) -> int:
        return len(self.batches)

    def remembered(self, index: int) -> dict[str, BaselineOutput]:
        """Return the outputs of the baseline for a batch."""
        return {name: BaselineOutput(v, self._readings[name]) for name, v in self.batches[index].items()}

    @cached_property
    def _readings(self) -> dict[str, Reading | None]:
        return {name: read([b[name] for b in self.batches]) for name in self.batches[0]}


def read(batches: Sequence[Array]) -> Reading | None:
    """Return the reading of an output as classes, from all batches of the baseline.

    Classes are on the axis along which the values sum to one, if they do: then they are probabilities
    already. Otherwise they are logits, with the classes on axis 1 (``[N, C]``, ``[N, C, H, W]``) or on the
    last of three (``[N, T, C]``). A single class is a yes or no: a probability if all values are within
    0 … 1, else a logit.

    Args:
        batches: One output, batch by batch.

    Returns:
        The reading; ``None`` for an output without a class axis or not of a floating type.
    """
    rank = batches[0].ndim
    if rank < 2 or batches[0].dtype.kind != "f":
        return None
    axis = 2 if rank == 3 else 1
    if batches[0].shape[axis] == 1:
        return Reading(axis, logits=not all(((b >= 0) & (b <= 1)).all() for b in batches))
    for candidate in (1, rank - 1):
        if batches[0].shape[candidate] > 1 and all(_sums_to_one(b, candidate) for b in batches):
            return Reading(candidate, logits=False)
    return Reading(axis, logits=True)


def divergence(answer: BatchOutputs) -> Scores:
    """Return KL(baseline ‖ model) in nats, averaged over positions and outputs.

    Padded tokens do not count.

    The divergence of S. Kullback and R. Leibler, "On information and sufficiency", 1951.

    Args:
        answer: Outputs, at least one of which can be read as classes.

    Returns:
        The divergence of every sample, 0 or more.

    Raises:
        DataError: No output can be read as classes.
    """
    scores = []
    for _, before, after, reading, mask in paired(answer):
        if reading is not None:
            p, q = reading.probabilities(before), reading.probabilities(after)
            logarithm = np.log(np.maximum(p, _SMALLEST)) - np.log(np.maximum(q, _SMALLEST))
            scores.append(per_token((p * logarithm).sum(-1), _of_positions(mask, reading)))
    if not scores:
        raise DataError("kl needs an output with a class axis, and the model has none", "use cosine")
    return average(scores)


def agreement(answer: BatchOutputs) -> Scores:
    """Return the share of positions where the model decides as the baseline did, averaged over outputs.

    Outputs read as classes decide by their largest value; integers, booleans and strings must be equal.

    Args:
        answer: Outputs, at least one of which has decisions.

    Returns:
        The share of every sample, 0 to 1.

    Raises:
        DataError: No output has decisions.
    """
    scores = []
    for _, before, after, reading, mask in paired(answer):
        if reading is not None:
            p, q = reading.probabilities(before), reading.probabilities(after)
            same = (p.argmax(-1) == q.argmax(-1)) & ~np.isnan(q).any(-1)
            scores.append(per_token(same, _of_positions(mask, reading)))
        elif before.ndim and before.dtype.kind not in "fc":
            scores.append(per_sample(before == after))
    if not scores:
        raise DataError("agreement needs an output of classes, and the model has none", "use cosine")
    return average(scores)


def cosine(answer: BatchOutputs) -> Scores:
    """Return the cosine of the angle between the flattened outputs of a sample, averaged over outputs.

    Two zero vectors are alike (1); a zero vector and another one are not (0).

    Args:
        answer: Outputs, at least one of which is numeric.

    Returns:
        The cosine of every sample, −1 to 1.

    Raises:
        DataError: No output is numeric with an axis of samples.
    """
    scores = []
    for _, before, after, _, mask in paired(answer):
        if before.ndim and before.dtype.kind in "fiub":
            a, b = (_flat(x, mask) for x in (before, after))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            both_zero = (a == 0).all(1) & (b == 0).all(1)
            scores.append(np.where(both_zero, 1, (a * b).sum(1) / np.where(norms == 0, 1, norms)))
    if not scores:
        raise DataError(
            "cosine needs an output of numbers for each sample, and the model has none",
            "give a metric of your own as module:callable",
        )
    return average(scores)


def _of_positions(mask: Array | None, reading: Reading) -> Array | None:
    """Return the mask of tokens, ``None`` where the second axis counts classes."""
    return None if reading.axis == 1 else mask


def _flat(values: Array, mask: Array | None) -> Array:
    """Return one row a sample, with zeros at tokens that do not count."""
    numbers = values.astype(np.float64)
    if mask is not None:
        numbers = np.where(mask.reshape(*mask.shape, *[1] * (numbers.ndim - 2)) != 0, numbers, 0)
    return numbers.reshape(len(numbers), -1)


def _sums_to_one(values: Array, axis: int) -> bool:
    return bool((values >= 0).all()) and np.allclose(values.sum(axis, dtype=np.float64), 1, atol=1e-3)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))
