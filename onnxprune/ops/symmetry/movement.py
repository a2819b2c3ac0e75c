"""Operators that move elements, or average over other axes: each vector along the axis moves as a whole."""

from __future__ import annotations

import numpy as np

from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import Effect, Symmetry, permutation
from onnxprune.ops.symmetry.table import symmetry_rule

COUNTS = "it counts elements of the axis"


@symmetry_rule(*"Transpose Reshape Flatten Squeeze Unsqueeze Split Expand Tile".split())
@symmetry_rule("DepthToSpace", "SpaceToDepth")
def moved(p: Passage) -> Effect:
    """The first operand in another place; a constant is in the basis of the result."""
    data = p.node.input[0]
    if [n for n in p.inputs if n != data] or not p.carries(data) or not p.outputs:
        return permutation(COUNTS)
    if p.is_constant(data):
        if len(p.node.output) > 1:
            return permutation("it cuts up a constant")
        return Effect(Symmetry.LINEAR, (p.shift(data),))
    return Effect(Symmetry.LINEAR)


@symmetry_rule("Gather", "Slice")
def picked(p: Passage) -> Effect:
    """Rows of a table, or elements of other axes; or all but a part of an axis that is cut off as a whole."""
    data = p.node.input[0]
    if p.inputs == [data] and not p.outputs and not p.is_constant(data):
        return Effect(Symmetry.LINEAR)
    return moved(p)


@symmetry_rule("Concat")
def joined(p: Passage) -> Effect:
    """Operands end to end, constants in the same basis."""
    if not p.flows or not p.outputs:
        return permutation("it joins constants")
    constants = tuple(p.shift(n) for n in dict.fromkeys(p.inputs) if p.is_constant(n))
    return Effect(Symmetry.LINEAR, constants)


@symmetry_rule("Pad")
def padded(p: Passage) -> Effect:
    """Zeros, or copies, along other axes."""
    if p.attributes.get("mode", "constant") == "constant":
        value = p.value(2) if p.has(2) else np.asarray(p.attributes.get("value", 0.0))
        if value is None or np.any(value):
            return permutation("it pads with a number that is not zero")
    return averaged(p)


@symmetry_rule("GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum", "CumSum")
def averaged(p: Passage) -> Effect:
    """Sums along other axes."""
    data = p.node.input[0]
    if p.flows != [data] or p.inputs != [data]:
        return permutation(COUNTS)
    return Effect(Symmetry.LINEAR) if p.outputs else permutation("it sums over the axis")


@symmetry_rule("Resize", "Upsample")
def resized(p: Passage) -> Effect:
    """Interpolation along other axes."""
    if p.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return permutation("it fills in a number outside")
    return averaged(p)


@symmetry_rule("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin")
def largest(p: Passage) -> Effect:
    """The largest of several places keeps its channel when that is scaled."""
    if p.flows != [p.node.input[0]] or not p.outputs or len(p.outputs) > 1:
        return permutation("it compares elements of the axis")
    return Effect(Symmetry.SCALING, (), "it is not linear")


@symmetry_rule("Shape")
def measured(p: Passage) -> Effect:
    """Sizes, which stay as they are."""
    return Effect(Symmetry.LINEAR) if not p.outputs else permutation(COUNTS)


@symmetry_rule("ConstantOfShape")
def filled(p: Passage) -> Effect:
    """Zeros are zeros in every basis."""
    value = p.attributes.get("value")
    if p.inputs or (value is not None and np.any(value)):
        return permutation("it fills the axis with a number that is not zero")
    return Effect(Symmetry.LINEAR)
