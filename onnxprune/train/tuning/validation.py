"""Validation during training: the score of every epoch, and the best weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import Dataset
from onnxprune.evaluate.metrics import Baseline, Metric, baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model
from onnxprune.runtime import Array, Session
from onnxprune.train.checkpoint import Checkpoints
from onnxprune.train.settings import Meaning, parse_loss

DEFAULT_METRIC: Mapping[str, str] = {
    "cross-entropy": "top1",
    "mse": "mse",
    "l1": "mae",
    "distill": "kl",
    "cosine": "cosine",
    "features": "cosine",
}
_OF_CLASSES = ("top1", "top5", "kl", "agreement", "cer", "wer", "perplexity")
_OF_NUMBERS = ("mse", "mae", "cosine", "retrieval")


@dataclass
class Validation:
    """Held-back data, a metric on it, and the scores of all epochs.

    Attributes:
        student: The model in training; it is given the weights that are judged.
        data: The samples.
        metric: Metric that is measured.
        baseline: Outputs of the baseline that the metric compares with, if any.
        threads: Threads to compute with.
        patience: Epochs without a better score after which it is enough; None for no such end.
        checkpoints: Checkpoints that keep scores and best weights, too.
        before: The score before training; it is a candidate like those of the epochs.
        scores: The score of every epoch.
        best: The weights of the best epoch; none where no epoch is better than the given weights.
    """

    student: Model
    data: Dataset
    metric: Metric
    baseline: Baseline | None = None
    threads: int | None = None
    patience: int | None = None
    checkpoints: Checkpoints | None = None
    before: float = math.nan
    scores: list[float] = field(default_factory=list)
    best: dict[str, Array] = field(default_factory=dict)

    def judge_given(self, model: Model) -> None:
        """Judge the model before its training."""
        self.before = self._score(model)

    def __call__(self, epoch: int, weights: Mapping[str, Array]) -> bool:
        """Judge the weights of an epoch; return whether to stop.

        Args:
            epoch: Counted from 0.
            weights: The tensors trained so far.
        """
        if self.checkpoints is not None and not self.scores:
            self.scores = list(self.checkpoints.own_fields.get("scores", []))
            self.best = dict(self.checkpoints.own_arrays)
        for name, values in weights.items():
            self.student.set_array(name, values)
        self.scores.append(self._score(self.student))
        if self.best_epoch == len(self.scores):
            self.best = {name: np.array(values) for name, values in weights.items()}
        if self.checkpoints is not None:
            self.checkpoints.own_fields = {"scores": self.scores}
            self.checkpoints.own_arrays = dict(self.best)
        ranks = self._ranks(self.scores)
        return self.patience is not None and len(ranks) - 1 - ranks.index(max(ranks)) >= self.patience

    @property
    def best_epoch(self) -> int:
        """The first epoch with the best score, counted from 1; 0 if none is better than the given weights."""
        ranks = self._ranks([self.before, *self.scores])
        return ranks.index(max(ranks))

    def facts(self) -> dict[str, Any]:
        """Return the facts to report, ready for JSON."""
        best = [self.before, *self.scores][self.best_epoch]
        facts = {"metric": self.metric.name, "score_before": self.before, "scores": self.scores}
        return {**facts, "best_epoch": self.best_epoch, "best_score": best}

    def _score(self, model: Model) -> float:
        session = Session(model.proto, threads=self.threads)
        return evaluate(session, self.data, self.metric, baseline=self.baseline)

    def _ranks(self, scores: Sequence[float]) -> list[float]:
        """Return scores so that more is better."""
        return [self.metric.rank(score) for score in scores]


def metric_for(loss: str, chosen: str | None) -> Metric:
    """Return the metric chosen, or the one that is usual for a loss.

    Raises:
        UsageError: None is usual for it.
    """
    name = chosen or DEFAULT_METRIC.get(parse_loss(loss)[0].name)
    if name is None:
        raise UsageError(f"no metric is usual for the loss '{loss}'", "name one with `metric`")
    return get_metric(name)


def meaning_of(metric: str | None) -> Meaning:
    """Return the meaning that a metric gives to outputs without a final activation."""
    name = (metric or "").partition("@")[0]
    return "classes" if name in _OF_CLASSES else "numbers" if name in _OF_NUMBERS else "auto"


def baseline_for(metric: Metric, teacher: Session | None, data: Dataset) -> Baseline | None:
    """Return the outputs that a metric compares with.

    Raises:
        DataError: It needs a teacher or the original, and there is none.
    """
    if not metric.uses_baseline:
        return None
    if teacher is None:
        raise DataError(
            f"{metric.name} compares with the original, and there is none",
            "give `original`, or choose a metric on labels",
        )
    return baseline_outputs(teacher, data)
