"""Reductions and variadic operators without a gradient."""

from __future__ import annotations

import functools
from typing import Any

import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter, axes_of, rank_of
from onnxprune.train.rewrites.registry import rewrites


def largest(x: gs.Tensor, emit: Emitter, axes: list[int], smallest: bool = False) -> Any:
    """Keep the largest (or smallest) value along each axis, with TopK, whose gradient goes to the winner."""
    for axis in axes:
        x = emit("TopK", x, emit.ints([1]), outputs=2, axis=axis, largest=int(not smallest))[0]
    return x


def _drop_axes(node: gs.Node, emit: Emitter, reduced: gs.Tensor, axes: list[int]) -> gs.Tensor:
    """Remove the reduced axes, unless the node keeps them."""
    if node.attrs.get("keepdims", 1) or not axes:
        return reduced
    return emit("Squeeze", reduced, emit.ints(axes))


@rewrites("ReduceMax", "ReduceMin")
def reduce_extreme(node: gs.Node, emit: Emitter) -> Any:
    """Largest or smallest value along some axes."""
    axes = axes_of(node, rank_of(node.inputs[0]))
    reduced = largest(node.inputs[0], emit, axes, smallest=node.op == "ReduceMin")
    return _drop_axes(node, emit, reduced, axes)


@rewrites("ReduceL1", "ReduceSumSquare", "ReduceLogSum")
def reduce_composed(node: gs.Node, emit: Emitter) -> Any:
    """A ReduceSum with an elementwise operator before or after it."""
    x = node.inputs[0]
    axes = axes_of(node, rank_of(x))
    before = {"ReduceL1": ("Abs", x), "ReduceSumSquare": ("Mul", x, x)}.get(node.op, ("Identity", x))
    if not axes:
        summed = emit(*before)
    else:
        summed = emit.reduce("ReduceSum", emit(*before), axes, bool(node.attrs.get("keepdims", 1)))
    return emit("Log", summed) if node.op == "ReduceLogSum" else summed


@rewrites("ReduceL2", "ReduceLogSumExp")
def reduce_keeping(node: gs.Node, emit: Emitter) -> Any:
    """These have a gradient only where the reduced axes are kept."""
    if node.attrs.get("keepdims", 1):
        return None
    axes = axes_of(node, rank_of(node.inputs[0]))
    attributes = {name: value for name, value in node.attrs.items() if name != "keepdims"}
    return _drop_axes(node, emit, emit(node.op, *node.inputs, keepdims=1, **attributes), axes)


@rewrites("ReduceSum", "ReduceMean")
def reduce_nothing(node: gs.Node, emit: Emitter) -> Any:
    """Over no axes there is no gradient; the result is the operand."""
    if not node.attrs.get("noop_with_empty_axes") or axes_of(node, rank_of(node.inputs[0])):
        return None
    return emit("Identity", node.inputs[0])


@rewrites("Sum")
def sum_of_many(node: gs.Node, emit: Emitter) -> Any:
    """A chain of Add."""
    return functools.reduce(lambda total, x: emit("Add", total, x), node.inputs)


@rewrites("Mean")
def mean_of_many(node: gs.Node, emit: Emitter) -> Any:
    """A chain of Add, divided by how many there are."""
    return emit("Mul", sum_of_many(node, emit), 1.0 / len(node.inputs))
