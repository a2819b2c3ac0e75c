"""Graphs inside nodes: what crosses their boundary stays, what lies on either side of it does not matter."""

from __future__ import annotations

from onnxprune.graph import captured
from onnxprune.rules.context import Context
from onnxprune.rules.table import rule

INSIDE = {"If": "branches", "Loop": "body", "Scan": "body", "SequenceMap": "body"}


@rule(*INSIDE)
def graph_inside(c: Context) -> None:
    """Block what the inner graphs read and make; name them, so that the reader knows where to look."""
    inside = INSIDE[c.node.op_type]
    reads, makes = ("read", "make") if inside == "branches" else ("reads", "makes")
    for name in sorted({i for i in c.node.input if i} | captured(c.node)):
        if name in c.typing.shapes.sizes or name in c.typing.axes:
            for dim in c.typing.axes_of(name):
                c.block(dim, f"its {inside} {reads} '{name}'")
    for result, name in enumerate(c.node.output):
        if name in c.typing.shapes.sizes:
            c.define(result, [c.fixed(s, f"its {inside} {makes} it") for s in c.result_shape(result)])
