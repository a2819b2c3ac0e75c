"""Operators that read pixels at computed places: every channel is read at the same ones."""

from __future__ import annotations

import math

from onnxprune.ops.axes.axis_typing import UnknownOperandError
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.convolution import finish
from onnxprune.ops.axes.table import Zeros, every, first, rule
from onnxprune.ops.views import LinearView, Operands

OUTSIDE = "it may read beside its input, where zeros are, so uniform data do not stay uniform"


@rule("GridSample", zero=first)
def grid_sample(c: Context) -> None:
    """Coordinates for each pixel of the result."""
    axes = c.match("X[n c *s] grid[n *t d] -> Y[n c *t]")
    for name in ("*t", "d"):
        c.block(axes[name], "it is a place in the picture")


@rule("RoiAlign", "MaxRoiPool", zero=first)
def regions(c: Context) -> None:
    """Rectangles, a picture of fixed size for each."""
    axes = c.match("X[n c *s] regions[r d] -> Y[r c *t]")
    for name in ("n", "r", "d"):
        c.block(axes[name], "rectangles are picked by number")


@rule("Col2Im", zero=first)
def col2im(c: Context) -> None:
    """Columns of patches are added up to a picture."""
    block = c.numbers("block_shape", 2) or []
    axes = c.match("X[n (c k) l] -> Y[n c *s]", {"k": math.prod(block)})
    for name in "kl":
        c.block(axes[name], "it is a place in the picture")


def _weights_and_bias(zeros: Zeros) -> bool:
    return zeros[1] is True and every(zeros[3:4])


def _offset_windows(o: Operands) -> list[LinearView]:
    groups = int(o.attributes.get("group", 1))
    return [LinearView(0, 1, 1, 1, "offset windows", groups, bias=3, uneven=OUTSIDE)]


@rule(
    "DeformConv",
    zero=_weights_and_bias,
    linear=_offset_windows,
    parameters=(1, 3),
    trainable=False,
)
def deform_conv(c: Context) -> None:
    """A convolution that reads at offsets; all channels read at the same ones."""
    if c.attributes.get("offset_group", 1) != 1:
        raise UnknownOperandError("groups of its channels read at different places")
    pattern = "X[n (g ci) *s] W[(g co) ci *k] offset[n o *t] B[(g co)] mask[n m *t] -> Y[n (g co) *t]"
    axes = c.match(pattern, {"g": int(c.attributes.get("group", 1))})
    for name in "om":
        if name in axes:
            c.block(axes[name], "it is a place in the kernel")
    for name in ("*s", "*t"):
        c.block(axes[name], "it reads at offsets along this axis")
    finish(c, axes, "*t", weights=(1, 3))
