"""Convolutions: grouped, depthwise, transposed, of any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.algebra.axes import Dim
from onnxprune.ops.axes.context import Context, Linear
from onnxprune.ops.axes.table import rule, weights_and_bias

PADDED = "it pads its input with zeros, so what is the same everywhere is not at the edges"
STAMPED = "it lays its kernel out beside itself, so what is the same everywhere becomes a pattern"


@rule("Conv", zero=weights_and_bias)
def conv(c: Context) -> None:
    """Groups are the major part of the channels; depthwise is one channel in each group."""
    axes = c.match("X[n (g ci) *s] W[(g co) ci *k] B[(g co)] -> Y[n (g co) *t]", {"g": _groups(c)})
    finish(c, axes, "*t")
    c.multiplies(Linear(0, 1, 1, 1, groups=_groups(c), bias=2, uneven=PADDED if _padded(c) else ""))


@rule("ConvTranspose", zero=weights_and_bias)
def conv_transpose(c: Context) -> None:
    """As Conv, but the weight's first axis is the input's."""
    axes = c.match("X[n (g ci) *s] W[(g ci) co *k] B[(g co)] -> Y[n (g co) *t]", {"g": _groups(c)})
    finish(c, axes, "*s")
    c.multiplies(Linear(0, 1, 1, 1, groups=_groups(c), inputs_first=True, bias=2, uneven=STAMPED))


def _padded(c: Context) -> bool:
    same = str(c.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    return any(c.attributes.get("pads", ())) or (same and any(k != 1 for k in c.shape(1)[2:]))


def _groups(c: Context) -> int:
    return int(c.attributes.get("group", 1))


def finish(c: Context, axes: dict[str, Dim], moved: str, weights: Sequence[int] = (1, 2)) -> None:
    """Say what all convolutions have in common: weight and bias, groups, work."""
    g, co, ci = axes["g"], axes["co"], axes["ci"]
    c.weights(*weights)
    c.follow_attribute("group", g)
    if ci.size != 1:
        c.prefer_other(g)
    elif g.size != 1:  # depthwise: the filters of one channel are few
        c.prefer_other(co)
    c.works(axes["n"], g, co, ci, axes["*k"], axes[moved])
