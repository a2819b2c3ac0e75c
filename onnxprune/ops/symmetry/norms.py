"""Normalisations: orthogonal along the axis of the statistics, once their parameters are absorbed."""

from __future__ import annotations

from onnxprune.algebra.axes import resolve
from onnxprune.ops.spec import MICROSOFT
from onnxprune.ops.symmetry.passage import Passage
from onnxprune.ops.symmetry.symmetry_kinds import Effect, Norm, Symmetry, permutation
from onnxprune.ops.symmetry.table import symmetry_rule


@symmetry_rule("BatchNormalization")
def batch(p: Passage) -> Effect:
    """A number for each channel; general linear once it is folded into the weights before it.

    Scaled by ``s`` are the mean and the shift: ``(s·x − s·μ)·γ/σ + s·β = s·y``.
    """
    if p.attributes.get("training_mode") or len(p.node.output) > 1 or p.flows != [p.node.input[0]]:
        return permutation("it takes statistics while it runs")
    roles = (Norm("batch", p.index), p.shift(p.node.input[2]), p.shift(p.node.input[3]))
    return Effect(Symmetry.SCALING, roles, "it scales each channel by a number of its own", Symmetry.LINEAR)


@symmetry_rule("LayerNormalization")
def layer(p: Passage) -> Effect:
    """Orthogonal once the mean is taken in the writers, scale and shift in the readers."""
    if not _whole(p) or len(p.outputs) > 1:
        return permutation("it takes its statistics over more than the axis")
    if any(p.node.output[1:]):
        return permutation("its statistics are results too")
    reason = "it subtracts the mean of the axis and scales each channel"
    return Effect(Symmetry.PERMUTATION, (Norm("layer", p.index),), reason, Symmetry.ORTHOGONAL)


@symmetry_rule("RMSNormalization", "SimplifiedLayerNormalization")
@symmetry_rule("SimplifiedLayerNormalization", domain=MICROSOFT)
def root_mean_square(p: Passage) -> Effect:
    """Orthogonal where its scale is one number, or once that is absorbed by the readers."""
    if not _whole(p):
        return permutation("it takes its statistics over more than the axis")
    scale = p.node.input[1]
    now = p.is_constant(scale) and p.is_uniform(scale)
    reason = "" if now else "it scales each channel"
    kind = Symmetry.ORTHOGONAL if now else Symmetry.PERMUTATION
    return Effect(kind, (Norm("rms", p.index),), reason, Symmetry.ORTHOGONAL)


def _whole(p: Passage) -> bool:
    """Return whether the statistics are those of the axis, all of it, and of no other."""
    data = p.node.input[0]
    last = p.rank(data) - 1
    axis = int(p.attributes.get("axis", -1)) % (last + 1)
    alone = resolve(p.typing.axes[data][last]) is p.factor and p.axes(data) == [last]
    return alone and axis == last and not p.is_constant(data)
