"""Elementwise operators: sums are linear, products by numbers of their own scale, some activations too."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import Effect, Symmetry, permutation
from onnxprune.ops.symmetry.table import symmetry_rule

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@symmetry_rule("Add", "Sub", "Sum")
def additive(p: Passage) -> Effect:
    """Every operand carries the axis, constants in the same basis; others are zero."""
    for name in filter(None, p.node.input):
        if not p.carries(name) and not p.is_zero(name):
            return permutation("it adds one number to all of the axis")
    if len(p.flows) < 1:
        return permutation("it adds constants")
    shifts = tuple(p.shift(name) for name in dict.fromkeys(p.inputs) if p.is_constant(name))
    return Effect(Symmetry.LINEAR, shifts)


@symmetry_rule("Mul", "Div")
def multiplied(p: Passage) -> Effect:
    """A number for each channel leaves scalings, one number for all of them every map."""
    first, second = p.node.input[:2]
    if p.node.op_type == "Div" and p.carries(second) and not p.is_constant(second):
        return permutation("it divides by the axis")
    if len(p.flows) != 1 or first == second:
        return permutation("it multiplies activations channel by channel")
    own = [name for name in p.inputs if p.is_constant(name) and not p.is_uniform(name)]
    if p.node.op_type == "Div" and p.is_constant(first):
        return permutation("it divides by the axis")
    return (
        Effect(Symmetry.SCALING, (), "it multiplies each channel by a number of its own")
        if own
        else Effect(Symmetry.LINEAR)
    )


@symmetry_rule("Neg", "Identity")
def linear(p: Passage) -> Effect:
    """The same for all numbers."""
    return Effect(Symmetry.LINEAR) if p.flows and p.outputs else permutation("it reads a constant")


@symmetry_rule("Cast")
def cast(p: Passage) -> Effect:
    """Conversion from one type of real numbers to another."""
    types = p.typing.shapes.types
    if types.get(p.node.input[0]) not in FLOATS or p.attributes.get("to") not in FLOATS:
        return permutation("it rounds to integers")
    return linear(p)


@symmetry_rule("Dropout")
def dropout(p: Passage) -> Effect:
    """Identity at inference."""
    if p.has(2) or len(p.outputs) > 1:
        return permutation("it may drop elements")
    return linear(p)


@symmetry_rule("Relu", "LeakyRelu", "PRelu", "Abs")
def homogeneous(p: Passage) -> Effect:
    """``f(s·x) = s·f(x)`` for positive ``s``; the slopes of PRelu stay as they are."""
    if p.flows != [p.node.input[0]]:
        return permutation("it is not linear")
    return Effect(Symmetry.SCALING, (), "it is not linear")


@symmetry_rule("Clip")
def clip(p: Passage) -> Effect:
    """Homogeneous where both bounds are single numbers, zero or infinite, or none."""
    for key, operand in (("min", 1), ("max", 2)):
        bound = p.attributes.get(key, p.value(operand) if p.has(operand) else 0)
        number = np.asarray(np.nan if bound is None else bound)
        if number.size != 1 or (number.any() and not abs(number.item()) > 3e38):
            return permutation("it is not linear")
    return homogeneous(p)
