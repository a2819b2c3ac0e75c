"""Quantised operators that work element by element, join or pool."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.joining import join
from onnxprune.ops.axes.pointwise import broadcast
from onnxprune.ops.axes.quantized_operands import one_operand, reading
from onnxprune.ops.axes.table import carriers, first, rule, some
from onnxprune.ops.axes.variables import from_the_right
from onnxprune.ops.spec import MICROSOFT


@rule("QLinearAdd", domain=MICROSOFT, zero=lambda zeros: zeros[0] is True and zeros[3] is True)
def qlinear_add(c: Context) -> None:
    """Elementwise; scales and zero points are single numbers."""
    _line_up(c, (0, 3))
    c.reads(0, reading(c, 1, 2))
    c.reads(3, reading(c, 4, 5))
    c.writes(0, reading(c, None, 7))


rule("QLinearMul", domain=MICROSOFT, zero=lambda zeros: some((zeros[0], zeros[3])))(qlinear_add)


@rule("QLinearWhere", domain=MICROSOFT, zero=lambda zeros: zeros[1] is True and zeros[4] is True)
def qlinear_where(c: Context) -> None:
    """Choose between two operands, each with its scale and zero point."""
    _line_up(c, (0, 1, 4))
    c.reads(1, reading(c, 2, 3))
    c.reads(4, reading(c, 5, 6))
    c.writes(0, reading(c, None, 8))


@rule("QLinearSoftmax", domain=MICROSOFT)
def qlinear_softmax(c: Context) -> None:
    """Normalise over one axis; before opset 13 over all axes from that one on."""
    dims = c.axes(0)
    axis = int(c.attributes.get("axis", -1)) % len(dims)
    for dim in dims[axis:] if c.attributes["opset"] < 13 else dims[axis : axis + 1]:
        c.block(dim, "it normalises over this axis")
    c.define(0, dims)
    one_operand(c)


@rule("QLinearConcat", domain=MICROSOFT, zero=lambda zeros: carriers(zeros[2::3]))
def qlinear_concat(c: Context) -> None:
    """Each operand is followed by its scale and zero point."""
    data = range(2, len(c.node.input), 3)
    join(c, data)
    for operand in data:
        c.reads(operand, reading(c, operand + 1, operand + 2))
    c.writes(0, reading(c, None, 1))


@rule("QLinearLeakyRelu", domain=MICROSOFT, zero=first)
def qlinear_activation(c: Context) -> None:
    """Elementwise, of one operand."""
    c.define(0, c.axes(0))
    one_operand(c)


rule("QLinearSigmoid", domain=MICROSOFT)(qlinear_activation)


@rule("QLinearGlobalAveragePool", "QLinearAveragePool", domain=MICROSOFT, zero=first)
def qlinear_pool(c: Context) -> None:
    """Each channel is pooled by itself."""
    c.match("X[n *s c] -> Y[n *t c]" if c.attributes.get("channels_last") else "X[n c *s] -> Y[n c *t]")
    one_operand(c)


def _line_up(c: Context, operands: Sequence[int]) -> None:
    """Line operands up from the right, as elementwise operators do."""
    dims = {k: c.axes(k) for k in operands}
    axes = broadcast(c, list(dims.values()))
    c.runs_along(from_the_right(axes, dims))
    c.define(0, axes)
