"""What each operator does to the axes of its tensors: one entry an operator, in one table."""

from onnxprune.rules import (
    attention,
    blocking,
    control,
    convolution,
    einsum,
    experts,
    fused,
    indexing,
    joining,
    layout,
    linear,
    normalization,
    pointwise,
    pooling,
    quantization,
    recurrent,
    reduction,
    sampling,
    scattering,
)
from onnxprune.rules.context import (
    RESULT,
    Contraction,
    Divisor,
    Ghost,
    Linear,
    Quantised,
    SizeUse,
    Typing,
    Work,
)
from onnxprune.rules.table import RULES, Rule, infer_axes, lookup

__all__ = [
    "RESULT",
    "RULES",
    "Contraction",
    "Divisor",
    "Ghost",
    "Linear",
    "Quantised",
    "Rule",
    "SizeUse",
    "Typing",
    "Work",
    "infer_axes",
    "lookup",
]

FAMILIES = (
    attention,
    blocking,
    control,
    convolution,
    einsum,
    experts,
    fused,
    indexing,
    joining,
    layout,
    linear,
    normalization,
    pointwise,
    pooling,
    quantization,
    recurrent,
    reduction,
    sampling,
    scattering,
)
"""The modules whose import fills the table."""
