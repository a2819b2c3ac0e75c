"""Pools: windows over the spatial axes of each channel."""

from __future__ import annotations

import onnx

from onnxprune.algebra.axes import Factor
from onnxprune.ops.axes.axis_typing import Typing, UnknownOperandError
from onnxprune.ops.axes.constant_rules import Numbers, windows
from onnxprune.ops.axes.context import Context
from onnxprune.ops.axes.reduction import take_maximum
from onnxprune.ops.axes.table import first, rule


@rule("LpPool", zero=first)
def pool(c: Context) -> None:
    """Each channel is pooled by itself."""
    c.match("X[n c *s] -> Y[n c *t]")


def _sees_no_padding(v: Numbers) -> bool:
    """Return whether a mean is never taken over zeros laid beside the picture."""
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
    """As the others; the optional indices count through all channels.

    Where they only give MaxUnpool the places of elements in a tensor of the same shape, both nodes count
    through the channels that are left.
    """
    axes = c.match("X[n c *s] -> Y[n c *t] indices[n c *u]")
    if c.makes(1) and not _only_put_back(c.typing, c.node):
        c.block(axes["c"], "its indices count through all channels")


def _only_put_back(typing: Typing, node: onnx.NodeProto) -> bool:
    """Return whether all readers of the indices of a pool are MaxUnpool, and restore the pooled tensor."""
    waiting = [node.output[1]]
    outputs = {o.name for graph in typing.model.graphs for o in graph.output}
    while waiting:
        name = waiting.pop()
        for reader in typing.readers.get(name, ()):
            if reader.op_type == "Identity":
                waiting.append(reader.output[0])
            elif not _puts_back(typing, reader, name, node):
                return False
        if name in outputs:
            return False
    return True


def _puts_back(typing: Typing, reader: onnx.NodeProto, indices: str, node: onnx.NodeProto) -> bool:
    if reader.op_type != "MaxUnpool" or list(reader.input).index(indices) != 1:
        return False
    made, pooled = (typing.shapes.sizes.get(name) for name in (reader.output[0], node.input[0]))
    return made is not None and made == pooled


@rule("MaxUnpool", zero=first)
def max_unpool(c: Context) -> None:
    """Elements are put where MaxPool took them from, each within its own channel."""
    maker = c.typing.maker(c.node.input[1])
    while maker is not None and maker.op_type == "Identity":
        maker = c.typing.maker(maker.input[0])
    if (
        maker is None
        or maker.op_type != "MaxPool"
        or not _puts_back(c.typing, c.node, c.node.input[1], maker)
    ):
        raise UnknownOperandError("it puts elements at places that count through all channels")
    axes = c.match("X[n c *s] indices[n c *s] -> Y[n c *t]")
    for name in ("*s", "*t"):
        c.block(axes[name], "it puts elements at places on this axis")
    if c.has(2):
        c.follow_operand(2, 1, axes["c"])


@rule("NhwcMaxPool", domain="com.microsoft", zero=first)
def max_pool_channels_last(c: Context) -> None:
    """MaxPool with the channels on the last axis."""
    c.match("X[n *s c] -> Y[n *t c]")
