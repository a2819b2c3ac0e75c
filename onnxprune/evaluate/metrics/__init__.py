"""Metrics: the quality of a model as one number.

    top1 top5 mse mae          against what the data says the model should answer
    kl agreement cosine        against what the baseline answered: no labels needed
    module:callable            a function of the user's own

Except for the user's own, every metric is the mean of one score a sample.

    metric      what a metric is
    targets     those that need labels or target values
    baseline    those that compare with the baseline
    evaluation  metrics by name, and models measured by them
"""

from onnxprune.evaluate.metrics.baseline import Baseline
from onnxprune.evaluate.metrics.evaluation import (
    MetricSpec,
    answers,
    baseline_outputs,
    evaluate,
    get_metric,
    sample_scores,
    without_filling,
)
from onnxprune.evaluate.metrics.metric import BatchOutputs, MeanMetric, Metric, UserMetric

__all__ = [
    "Baseline",
    "BatchOutputs",
    "MeanMetric",
    "Metric",
    "MetricSpec",
    "UserMetric",
    "answers",
    "baseline_outputs",
    "evaluate",
    "get_metric",
    "sample_scores",
    "without_filling",
]
