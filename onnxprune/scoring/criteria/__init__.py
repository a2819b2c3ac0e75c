"""Saliency of channels: by weights, by activations, by gradients."""

from onnxprune.scoring.criteria.activations import observe
from onnxprune.scoring.criteria.calibration import Evidence
from onnxprune.scoring.criteria.criteria import (
    CRITERIA,
    NEED_DATA,
    NEED_GRADIENTS,
    check_criterion,
    comparable,
    score,
)
from onnxprune.scoring.criteria.gather import gather

__all__ = [
    "CRITERIA",
    "NEED_DATA",
    "NEED_GRADIENTS",
    "Evidence",
    "check_criterion",
    "comparable",
    "gather",
    "observe",
    "score",
]
