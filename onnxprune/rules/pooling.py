"""Pools: windows over the spatial axes of each channel."""

from __future__ import annotations

from onnxprune.dims import Factor
from onnxprune.rules.constants import Numbers, windows
from onnxprune.rules.context import Context
from onnxprune.rules.reduction import take_maximum
from onnxprune.rules.table import first, rule


@rule("LpPool", zero=first)
def pool(c: Context) -> None:
    """Channels do not see each other."""
    c.match("X[n c *s] -> Y[n c *t]")


def _sees_no_padding(v: Numbers) -> bool:
    """Whether a mean is never taken over zeros laid beside the picture."""
    same = str(v.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    beside = any(v.attributes.get("pads", ())) or same or v.attributes.get("ceil_mode")
    return not (v.attributes.get("count_include_pad") and beside)


rule("AveragePool", zero=first, constant=windows(_sees_no_padding))(pool)


@rule("GlobalAveragePool", "GlobalMaxPool", zero=first, constant=windows())
def global_pool(c: Context) -> None:
    """Over all axes from the third on, as the reductions of their names."""
    dims = c.axes(0)
    for dim in dims[2:]:
        if c.node.op_type == "GlobalMaxPool":
            take_maximum(c, dim)
        else:
            c.contract(dim, 0, statistic=c.node.op_type == "GlobalAveragePool")
        if c.node.op_type == "GlobalAveragePool":
            c.rescale_result(dim, -1)
    c.define(0, [*dims[:2], *[Factor(1) for _ in dims[2:]]])


rule("GlobalLpPool", zero=first)(global_pool)


@rule("MaxPool", zero=first, constant=windows())
def max_pool(c: Context) -> None:
    """As the others; the optional indices count through all channels, so those must stay."""
    axes = c.match("X[n c *s] -> Y[n c *t] indices[n c *u]")
    if c.makes(1):
        c.block(axes["c"], "its indices count through all channels")


@rule("NhwcMaxPool", domain="com.microsoft", zero=first)
def max_pool_channels_last(c: Context) -> None:
    """MaxPool with the channels on the last axis."""
    c.match("X[n *s c] -> Y[n *t c]")
