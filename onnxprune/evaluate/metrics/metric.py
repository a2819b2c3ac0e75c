"""Metrics over the outputs of a model, batch by batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.metrics.tokens import Tokens
from onnxprune.runtime import Array
from onnxprune.support.callables import user_code

if TYPE_CHECKING:
    from onnxprune.evaluate.metrics.baseline import Baseline, BaselineOutput

Outputs: TypeAlias = dict[str, Array]
Scores: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
UserFunction: TypeAlias = Callable[[Outputs, "dict[str, Array] | None"], float]


@dataclass(frozen=True)
class BatchOutputs:
    """The outputs of a model for one batch, with targets.

    Attributes:
        outputs: The model's outputs by name, in its order; samples on the first axis, even if the model has
            them on another.
        targets: The batch's targets: ``labels``, or arrays named like outputs, likewise.
        remembered: Outputs of the baseline, one for each output; empty for metrics that do not need them.
        tokens: Tokens that were fed, where the model reads token sequences.
        baseline: The outputs of the baseline for all batches, for metrics that compare with it.
    """

    outputs: Outputs
    targets: Mapping[str, Array]
    remembered: Mapping[str, BaselineOutput]
    tokens: Tokens = field(default_factory=Tokens)
    baseline: Baseline | None = None

    def against(self, baseline: Baseline | None, index: int) -> BatchOutputs:
        """Return the batch with the outputs of the baseline for the batch of that number."""
        remembered = baseline.remembered(index) if baseline is not None else {}
        return replace(self, remembered=remembered, baseline=baseline)


class Metric(ABC):
    """A measure of quality.

    Attributes:
        name: Name on the command line.
        higher_is_better: True if larger values are better.
        uses_baseline: True if it compares with the baseline's outputs, not with targets.
    """

    name: str
    higher_is_better: bool
    uses_baseline: bool

    @abstractmethod
    def value(self, answers: Iterable[BatchOutputs]) -> float:
        """Return the metric over all batches, which are taken one at a time."""

    def rank(self, score: float) -> float:
        """Return a score so that more is better; one that is no number is the worst."""
        if math.isnan(score):
            return -math.inf
        return score if self.higher_is_better else -score


@dataclass(frozen=True)
class MeanMetric(Metric):
    """The mean of one score a sample.

    Attributes:
        name: As for `Metric`.
        higher_is_better: As for `Metric`.
        uses_baseline: As for `Metric`.
        scores: From an answer for N samples to their scores, ``[N]``.
    """

    name: str
    higher_is_better: bool
    uses_baseline: bool
    scores: Callable[[BatchOutputs], Scores]

    def value(self, answers: Iterable[BatchOutputs]) -> float:
        """Return the mean over all samples."""
        total, count = 0.0, 0
        for answer in answers:
            scores = self.scores(answer)
            total, count = total + float(scores.sum()), count + len(scores)
        return total / count


@dataclass(frozen=True)
class RatioMetric(Metric):
    """A quotient of two sums over all samples, such as errors over characters.

    Attributes:
        name: As for `Metric`.
        higher_is_better: As for `Metric`.
        uses_baseline: As for `Metric`.
        parts: From an answer for N samples to numerators and denominators, ``[N]`` each.
        finish: Function of the quotient that is the metric.
        undefined: Explanation for samples whose denominators are all zero.
    """

    name: str
    higher_is_better: bool
    uses_baseline: bool
    parts: Callable[[BatchOutputs], tuple[Scores, Scores]]
    finish: Callable[[float], float]
    undefined: str

    def value(self, answers: Iterable[BatchOutputs]) -> float:
        """Return the metric over all samples.

        Raises:
            DataError: All denominators are zero.
        """
        above, below = 0.0, 0.0
        for answer in answers:
            numerators, denominators = self.parts(answer)
            above, below = above + float(numerators.sum()), below + float(denominators.sum())
        if not below:
            raise DataError(f"{self.name} is not defined: {self.undefined}", "give other data")
        return self.finish(above / below)


@dataclass(frozen=True)
class WholeMetric(Metric):
    """A measure of all samples together, such as the ranking of neighbours.

    Attributes:
        name: As for `Metric`.
        higher_is_better: As for `Metric`.
        uses_baseline: As for `Metric`.
        reduce: From an answer to the part of it that is kept until all samples are there.
        measure: From the parts of all batches to the metric.
    """

    name: str
    higher_is_better: bool
    uses_baseline: bool
    reduce: Callable[[BatchOutputs], Any]
    measure: Callable[[Sequence[Any]], float]

    def value(self, answers: Iterable[BatchOutputs]) -> float:
        """Return the metric over all samples."""
        return float(self.measure([self.reduce(answer) for answer in answers]))


@dataclass(frozen=True)
class UserMetric(Metric):
    """A function ``(outputs, targets) -> number``, called once with the whole data set.

    Both are dicts of arrays, all batches joined along the first axis; targets are ``None`` where the data has
    none. More is better unless the function has an attribute ``higher_is_better`` that is false.

    Attributes:
        name: As for `Metric`.
        function: The function.
        higher_is_better: As for `Metric`.
        uses_baseline: Never.
    """

    name: str
    function: UserFunction
    higher_is_better: bool = True
    uses_baseline: bool = False

    def value(self, answers: Iterable[BatchOutputs]) -> float:
        """Return the value of the function over all samples."""
        outputs, targets = [], []
        for answer in answers:
            outputs.append(answer.outputs)
            targets.append(answer.targets)
        with user_code(f"metric {self.name}"):
            return float(self.function(_joined(outputs), _joined(targets) or None))


def per_sample(values: Array) -> Scores:
    """Average over everything but the first axis: from ``[N, …]`` to ``[N]``."""
    means: Scores = values.reshape(len(values), -1).mean(1, dtype=np.float64)
    return means


def per_token(values: Array, mask: Array | None) -> Scores:
    """Average over everything but the first axis, with a weight for each token.

    Args:
        values: ``[N, T, …]``.
        mask: Weights, ``[N, T]``; ``None`` for equal ones.

    Returns:
        The mean of each sample, ``[N]``; 0 for a sample without a token of weight.
    """
    if mask is None:
        return per_sample(values)
    tokens = values.reshape(*mask.shape, -1).mean(-1, dtype=np.float64)
    total = mask.sum(1, dtype=np.float64)
    means: Scores = (tokens * mask).sum(1) / np.where(total, total, 1)
    return means


def average(scores: Sequence[Scores]) -> Scores:
    """Average several outputs' scores, each ``[N]``, sample by sample."""
    mean: Scores = np.mean(scores, axis=0)
    return mean


def _joined(batches: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    try:
        return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    except (ValueError, KeyError) as error:
        raise DataError(
            f"the batches cannot be joined for a metric of your own: {error}",
            "outputs and targets must have the same form in every batch",
        ) from error
