"""Convolutions: grouped, depthwise, transposed, of any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.algebra.axes import Dim
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.table import rule, weights_and_bias
from onnxprune.ops.views import LinearView, Operands

PADDED = "it pads its input with zeros, so uniform data are not uniform at the edges"
STAMPED = "it lays its kernel out beside itself, so uniform data become a pattern"


def windows(o: Operands) -> list[LinearView]:
    """Return the linear view of a convolution: windows of the data times the kernels, and a bias."""
    uneven = PADDED if _padded(o) else ""
    return [LinearView(0, 1, 1, 1, "windows", groups=_groups(o), bias=2, uneven=uneven)]


def transposed_windows(o: Operands) -> list[LinearView]:
    """Return the linear view of a transposed convolution."""
    groups = _groups(o)
    return [LinearView(0, 1, 1, 1, "transposed windows", groups, inputs_first=True, bias=2, uneven=STAMPED)]


@rule("Conv", zero=weights_and_bias, linear=windows, parameters=(1, 2))
def conv(c: Context) -> None:
    """Groups are the major part of the channels; depthwise is one channel in each group."""
    axes = c.match("X[n (g ci) *s] W[(g co) ci *k] B[(g co)] -> Y[n (g co) *t]", {"g": _groups(c)})
    finish(c, axes, "*t")


@rule("ConvTranspose", zero=weights_and_bias, linear=transposed_windows, parameters=(1, 2))
def conv_transpose(c: Context) -> None:
    """As Conv, but the weight's first axis is the input's."""
    axes = c.match("X[n (g ci) *s] W[(g ci) co *k] B[(g co)] -> Y[n (g co) *t]", {"g": _groups(c)})
    finish(c, axes, "*s")


def _padded(o: Operands) -> bool:
    same = str(o.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    kernel = o.shapes[1]
    return any(o.attributes.get("pads", ())) or (same and (kernel is None or any(k != 1 for k in kernel[2:])))


def _groups(c: Context | Operands) -> int:
    return int(c.attributes.get("group", 1))


def finish(c: Context, axes: dict[str, Dim], moved: str, weights: Sequence[int] = (1, 2)) -> None:
    """State the common part of all convolutions: weight and bias, groups, work."""
    g, co, ci = axes["g"], axes["co"], axes["ci"]
    c.weights(*weights)
    c.follow_attribute("group", g)
    if ci.size != 1:
        c.prefer_other(g)
    elif g.size != 1:  # depthwise: the filters of one channel are few
        c.prefer_other(co)
    c.works(axes["n"], g, co, ci, axes["*k"], axes[moved])
