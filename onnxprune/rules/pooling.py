"""Pools: windows over the spatial axes of each channel."""

from __future__ import annotations

from onnxprune.rules.constants import Numbers, windows
from onnxprune.rules.context import Context
from onnxprune.rules.table import first, rule


@rule("LpPool", "GlobalLpPool", zero=first)
def pool(c: Context) -> None:
    """Channels do not see each other."""
    c.match("X[n c *s] -> Y[n c *t]")


def _sees_no_padding(v: Numbers) -> bool:
    """Whether a mean is never taken over zeros laid beside the picture."""
    same = str(v.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    beside = any(v.attributes.get("pads", ())) or same or v.attributes.get("ceil_mode")
    return not (v.attributes.get("count_include_pad") and beside)


rule("AveragePool", zero=first, constant=windows(_sees_no_padding))(pool)
rule("GlobalAveragePool", "GlobalMaxPool", zero=first, constant=windows())(pool)


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
