"""Decisions on single elements of weights: N of every M, or a share, with no change of shapes.

element_weights  the weights of linear operators, laid out as rows with their inputs last
masks            the zeros of a noted pattern, and that they stay
check            the pattern in a finished file, and the demands of sparse kernels
"""

from onnxprune.decisions.elements.check import PatternCheck, WeightCheck, check_pattern, demand_pattern
from onnxprune.decisions.elements.element_weights import ElementWeight, Unfit, find_weights
from onnxprune.decisions.elements.masks import (
    carry_note,
    check_kept,
    dense_masks,
    element_masks,
    pattern_note,
    whole_numbers,
)

__all__ = [
    "ElementWeight",
    "PatternCheck",
    "Unfit",
    "WeightCheck",
    "carry_note",
    "check_kept",
    "check_pattern",
    "demand_pattern",
    "dense_masks",
    "element_masks",
    "find_weights",
    "pattern_note",
    "whole_numbers",
]
