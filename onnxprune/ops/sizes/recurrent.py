"""Recurrent layers."""

from __future__ import annotations

from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import FLOAT, Shape
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import MICROSOFT, size_rule


@size_rule("LSTM", "GRU", "RNN")
def recurrent(node: SizedNode) -> None:
    """A state for each step and direction, and the last one of each."""
    _results(node, node.shape(1), node.shape(2), last=1)


@size_rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def quantized_recurrent(node: SizedNode) -> None:
    """As LSTM, its weights turned and quantised."""
    weight, state = node.shape(1), node.shape(2)
    _results(node, weight, state if state is None else (state[0], state[2], state[1]), last=2, kind=FLOAT)
    if weight is not None and (shape := node.shape()) is not None:
        node.same(shape[2], weight[1], "features of a step")


def _results(
    node: SizedNode, weight: Shape | None, state: Shape | None, last: int, kind: int | None = None
) -> None:
    shape = node.shape()
    directions = 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    hidden: Extent = node.attribute("hidden_size") or (node.fresh(0, 3) if state is None else state[2])
    if shape is not None and len(shape) != 3:
        raise ContradictionError(f"an operand of {len(shape)} axes has no steps, batch and features")
    steps, batch = (node.fresh(0, 0), node.fresh(0, 2)) if shape is None else (shape[0], shape[1])
    first = node.flag("layout")
    if first:
        steps, batch = batch, steps
    if weight is not None and shape is not None and last == 1:
        node.same(shape[2], weight[2], "features of a step")
    _same_batch(node, batch, first=first)
    node.put(0, [batch, steps, directions, hidden] if first else [steps, directions, batch, hidden], kind)
    final = [batch, directions, hidden] if first else [directions, batch, hidden]
    node.put(1, final, kind)
    node.put(2, final, kind)


def _same_batch(node: SizedNode, batch: Extent, *, first: bool) -> None:
    """Take the batch of lengths and of initial states for that of the operand."""
    lengths = node.shape(4)
    if lengths:
        node.same(lengths[0], batch, "batch of the lengths")
    for place in (5, 6) if node.operator in ("LSTM", "DynamicQuantizeLSTM") else (5,):
        state = node.shape(place)
        if state is not None and len(state) == 3:
            node.same(state[0 if first else 1], batch, "batch of the initial state")
