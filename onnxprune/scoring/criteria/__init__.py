"""Saliency of channels: by weights, by activations, by gradients.

criteria    the criteria by name, and scores made of them
shares      saliency of a group's channels in each tensor, and the sum over tensors
weights, power_sums    criteria of the weights alone
calibration, calibration_pass    statistics of samples, gathered in one pass
activations, axis_moments    norms and second moments of activations
readers, eliminations    columns that read a channel; the error without it, the others compensating
pair_costs  channels that two activations are summed over: queries and keys
gradients   criteria of the gradient of a loss
"""

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
