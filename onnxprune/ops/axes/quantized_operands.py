"""Operands and results of quantised operators: their scales, zero points and weights."""

from __future__ import annotations

from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.statements import Quantised

IN_BLOCKS = "its elements share a scale"


def one_operand(c: Context) -> None:
    """State the reading and writing of a node with a tensor, its scale and zero point, and the result's."""
    c.reads(0, reading(c, 1, 2))
    c.writes(0, reading(c, None, 4))


def reading(c: Context, scale: int | None, zero: int, axis: int = 0, block: int = 0) -> Quantised:
    """Return the reading of integers, given the operands that hold their scale and zero point."""
    names = [c.node.input[k] if k is not None and c.has(k) else None for k in (scale, zero)]
    return Quantised(names[0], names[1], axis, block)


def is_known(c: Context, how: Quantised) -> bool:
    """Return whether the zero point and the scale are constants."""
    names = [n for n in (how.scale, how.zero) if n is not None]
    return all(name in c.typing.model.constants for name in names)


def quantised_weights(c: Context, operand: int, *, scale: int | None = None, zero: int, axis: int) -> None:
    """State that an operand is a quantised weight, if its zero point and scale are constants."""
    if not c.has(operand):
        return
    how = reading(c, scale, zero, axis % max(len(c.axes(operand)), 1))
    c.reads(operand, how)
    if is_known(c, how):
        c.weights(operand)
