"""How much each channel of a group matters: by its weights, by what it sees on data, by its gradients."""

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
