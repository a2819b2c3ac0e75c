"""Metrics: the quality of a model as one number.

``top1 top5 mse mae``              against the labels or target values of the data
``kl agreement cosine``            against the outputs of the baseline: no labels needed
``retrieval``                      nearest neighbours by the baseline's embeddings
``detections map map50``           boxes against the baseline's boxes
``cer wer``                        characters and words against labels, or against the baseline's texts
``perplexity``                     of the tokens that were fed
``module:callable``                a function of the user's own

metric                    kinds of metrics: means over samples, quotients, measures of all samples together
names                     metrics by name
evaluation                models measured by them
targets                   those that need labels or target values
baseline, paired_outputs  those that compare with the baseline, output by output
neighbours                retrieval
detections                boxes; `boxes` and `detector_outputs` read and compare them
transcripts               characters and words
language                  next tokens
tokens                    padding of token sequences
boxes                     boxes: overlap, suppression of duplicates, matching
detector_outputs          the forms in which detectors return boxes, and the boxes of a batch
"""

from onnxprune.evaluate.metrics.baseline import Baseline
from onnxprune.evaluate.metrics.evaluation import (
    answers,
    baseline_outputs,
    evaluate,
    sample_scores,
    without_filling,
)
from onnxprune.evaluate.metrics.metric import (
    BatchOutputs,
    MeanMetric,
    Metric,
    RatioMetric,
    UserMetric,
    WholeMetric,
)
from onnxprune.evaluate.metrics.names import MetricSpec, get_metric
from onnxprune.evaluate.metrics.tokens import Tokens, tokens_of

__all__ = [
    "Baseline",
    "BatchOutputs",
    "MeanMetric",
    "Metric",
    "MetricSpec",
    "RatioMetric",
    "Tokens",
    "UserMetric",
    "WholeMetric",
    "answers",
    "baseline_outputs",
    "evaluate",
    "get_metric",
    "sample_scores",
    "tokens_of",
    "without_filling",
]
