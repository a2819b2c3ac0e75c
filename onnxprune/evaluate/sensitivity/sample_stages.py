"""The samples that variants of a network are measured on, with the scores of the network itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxprune.errors import DataError
from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.metrics import Baseline, BatchOutputs, MeanMetric, Metric, answers
from onnxprune.runtime import Session

DEFAULT_CACHE_BYTES = 1 << 30

Scores = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class SampleStage:
    """Some of the samples.

    Attributes:
        dataset: The samples.
        first: Number of batches before it, in other stages.
        batches: Number of its batches.
        scores: Scores of the network, one a sample, ``[N]``; ``None`` for metrics that score no samples.
    """

    dataset: Dataset
    first: int
    batches: int
    scores: Scores | None


@dataclass(frozen=True)
class MeasurementSetup:
    """The metric, samples and baseline for the measurement of variants.

    Attributes:
        metric: The measure.
        stages: The samples, in parts; most often in one.
        value: The measure of the network itself.
        baseline: Outputs of the network before, if the metric compares with them.
        batch_size: Samples a batch.
        whole_batches: True if the network takes no smaller batch: a short one is filled up.
        threads: Threads of a session.
        cache_bytes: Most that is kept of the tensors between both parts of the network.
        samples: Number of samples.
    """

    metric: Metric
    stages: tuple[SampleStage, ...] = ()
    value: float = 0.0
    baseline: Baseline | None = None
    batch_size: int = 64
    whole_batches: bool = False
    threads: int = 1
    cache_bytes: int = DEFAULT_CACHE_BYTES
    samples: int = 0


class MetricAccumulator:
    """A metric over answers that come one at a time."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._scores: list[Scores] = []
        self._answers: list[BatchOutputs] = []

    def add(self, answer: BatchOutputs) -> None:
        """Score the outputs of a batch, or keep them for a metric over all batches."""
        if isinstance(self._metric, MeanMetric):
            self._scores.append(self._metric.scores(answer))
        else:
            self._answers.append(answer)

    @property
    def scores(self) -> Scores | None:
        """One score a sample; ``None`` for metrics that score no samples."""
        return np.concatenate(self._scores) if self._scores else None

    def value(self) -> float:
        """Return the metric over everything added."""
        if not self._scores:
            return self._metric.value(self._answers)
        total = sum(float(scores.sum()) for scores in self._scores)  # in the order of the metric itself
        return total / sum(map(len, self._scores))


def observe(session: Session, datasets: Sequence[Dataset], examination: MeasurementSetup) -> MeasurementSetup:
    """Run the network itself over all samples, once.

    Args:
        session: The network.
        datasets: The samples, stage by stage.
        examination: Setup of the measurement so far.

    Returns:
        The examination with the stages, and the network's own value and outputs.

    Raises:
        DataError: The data does not fit, or the metric is no number.
        ModelError: The network fails.
    """
    metric, made = examination.metric, list[BatchOutputs]()
    whole, tallies, counts = (
        MetricAccumulator(metric),
        [MetricAccumulator(metric) for _ in datasets],
        list[int](),
    )
    for dataset, tally in zip(datasets, tallies, strict=True):
        counts.append(0)
        for answer in answers(session, dataset, examination.batch_size):
            counts[-1] += 1
            if metric.uses_baseline:
                made.append(answer)
            else:
                whole.add(answer)
                tally.add(answer)
    baseline = Baseline([answer.outputs for answer in made]) if metric.uses_baseline else None
    first = np.cumsum([0, *counts]).tolist()
    if baseline is not None:
        for index, answer in enumerate(made):
            compared = answer.against(baseline, index)
            whole.add(compared)
            tallies[int(np.searchsorted(first, index, "right")) - 1].add(compared)
    value = whole.value()
    check_number(metric, value, f"{session.name} on {datasets[0].name}")
    stages = [SampleStage(*parts) for parts in zip(datasets, first, counts, [t.scores for t in tallies])]  # noqa: B905
    return replace(examination, stages=tuple(stages), value=value, baseline=baseline)


def check_number(metric: Metric, value: float, subject: str) -> None:
    """Refuse a measure that is NaN or infinite: no curve could be drawn.

    Raises:
        DataError: Naming the metric, and the measured network.
    """
    if not np.isfinite(value):
        raise DataError(
            f"{metric.name} is {value} for {subject}",
            "look for NaN or infinity among the model's outputs, or use another metric",
        )
