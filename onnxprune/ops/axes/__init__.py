"""Axis rules: the effect of each operator on the axes of its tensors, in one table."""

from onnxprune.ops.axes import (
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
    plugins,
    pointwise,
    pooling,
    quantization,
    recurrent,
    reduction,
    sampling,
    scattering,
)
from onnxprune.ops.axes.context import (
    RESULT,
    Contraction,
    Divisor,
    Ghost,
    Quantised,
    SizeUse,
    Typing,
    Work,
)
from onnxprune.ops.axes.table import infer_axes

__all__ = [
    "RESULT",
    "Contraction",
    "Divisor",
    "Ghost",
    "Quantised",
    "SizeUse",
    "Typing",
    "Work",
    "infer_axes",
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
    plugins,
    pointwise,
    pooling,
    quantization,
    recurrent,
    reduction,
    sampling,
    scattering,
)
"""The modules whose import fills the table."""
