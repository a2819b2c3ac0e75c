"""Saliency of channels: by weights, by activations, by gradients."""

from onnxprune.scoring.criteria.activations import observe
from onnxprune.scoring.criteria.calibration import CalibrationStatistics
from onnxprune.scoring.criteria.calibration_pass import gather
from onnxprune.scoring.criteria.criteria import (
    CRITERIA,
    NEED_DATA,
    NEED_GRADIENTS,
    Criterion,
    CriterionName,
    check_criterion,
    comparable,
    looks_at_data,
    score,
)
from onnxprune.scoring.criteria.readers import reading_places
from onnxprune.scoring.criteria.shares import matrices, share

__all__ = [
    "CRITERIA",
    "NEED_DATA",
    "NEED_GRADIENTS",
    "CalibrationStatistics",
    "Criterion",
    "CriterionName",
    "check_criterion",
    "comparable",
    "gather",
    "looks_at_data",
    "matrices",
    "observe",
    "reading_places",
    "score",
    "share",
]
