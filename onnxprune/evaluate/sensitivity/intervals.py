"""Confidence intervals of a mean over a part of the samples."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from onnxprune.evaluate.sensitivity.sample_stages import Scores


def half_width(differences: Scores, total: int, confidence: float, span: float) -> float:
    """Return half the width of a confidence interval around the mean of some differences.

    The normal interval for a sample drawn without replacement (Cochran, "Sampling Techniques", 1977, ch. 2):
    its width goes to zero as the sample becomes the whole. Before, one difference each way is added, half a
    count each, so that a few samples which all agree do not make an interval of zero (Agresti and Min,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24,
    2005).

    Args:
        differences: One number a sample, ``[n]``, drawn at random.
        total: Number of samples in all.
        confidence: Confidence level, such as 0.95.
        span: The largest difference a sample may show.
    """
    count = len(differences)
    if count >= total:
        return 0.0
    counted = count + 2
    squares = float(np.square(differences).sum()) + span**2
    variance = (squares - float(differences.sum()) ** 2 / counted) / counted**2
    quantile = NormalDist().inv_cdf((1 + confidence) / 2)
    return float(quantile * np.sqrt(max(variance, 0.0) * (1 - count / total)))


def span_of(*scores: Scores) -> float:
    """Return the largest difference of two scores of a sample: 1 for scores of 0 and 1, else as observed."""
    if all(np.isin(s, (0.0, 1.0)).all() for s in scores):
        return 1.0
    return float(np.abs(np.subtract(*scores)).max())
