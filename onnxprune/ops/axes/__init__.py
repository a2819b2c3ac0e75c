"""Axis rules: the effect of each operator on the axes of its tensors, in one table."""

from onnxprune.ops.axes.axis_typing import Typing
from onnxprune.ops.axes.statements import (
    RESULT,
    Contraction,
    Divisor,
    Ghost,
    Inexact,
    Quantised,
    SizeUse,
    Work,
)
from onnxprune.ops.axes.table import infer_axes

__all__ = [
    "RESULT",
    "Contraction",
    "Divisor",
    "Ghost",
    "Inexact",
    "Quantised",
    "SizeUse",
    "Typing",
    "Work",
    "infer_axes",
]
