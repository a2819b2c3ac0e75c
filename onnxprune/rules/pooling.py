"""Pools: windows over the spatial axes of each channel."""

from __future__ import annotations

from onnxprune.rules.context import Context
from onnxprune.rules.table import first, rule


@rule("AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", zero=first)
def pool(c: Context) -> None:
    """Channels do not see each other."""
    c.match("X[n c *s] -> Y[n c *t]")


@rule("MaxPool", zero=first)
def max_pool(c: Context) -> None:
    """As the others; the optional indices count through all channels, so those must stay."""
    axes = c.match("X[n c *s] -> Y[n c *t] indices[n c *u]")
    if c.makes(1):
        c.block(axes["c"], "its indices count through all channels")
