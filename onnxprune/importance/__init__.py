"""How much each channel of a group matters: by its weights, by what it sees on data, by its gradients."""

from onnxprune.importance.activations import observe
from onnxprune.importance.criteria import (
    CRITERIA,
    NEED_DATA,
    NEED_GRADIENTS,
    check_criterion,
    comparable,
    score,
)
from onnxprune.importance.evidence import Evidence
from onnxprune.importance.gather import gather

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
