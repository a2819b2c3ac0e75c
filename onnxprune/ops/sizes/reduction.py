"""Operators that take many elements to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxprune.algebra.sizes.algebra import Value, maximum, minimum
from onnxprune.algebra.sizes.tensor_arithmetic import total
from onnxprune.algebra.sizes.tensors import FLOATS, INT64, Values, filled
from onnxprune.ops.sizes.layout import listed_axes
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule

FUNCTIONS: dict[str, Callable[[Sequence[Value]], Value]] = {
    "ReduceSum": lambda values: sum(values, 0),
    "ReduceProd": total,
    "ReduceMax": lambda values: maximum(*values),
    "ReduceMin": lambda values: minimum(*values),
}


@size_rule(
    *FUNCTIONS, "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"
)
def reduce(node: SizedNode) -> None:
    """1 on the axes that are taken together, or those axes gone; all axes where none is listed."""
    shape, keep = node.shape(), node.flag("keepdims", default=True)
    given = node.attribute("axes") is not None or node.has(1)
    axes = listed_axes(node) if given else []
    if shape is None:
        node.put(0, [] if not given and not keep and not node.flag("noop_with_empty_axes") else None)
        return
    if axes is None and node.length(1) == 0:
        axes = []
    if axes is None:
        fewer = node.length(1)
        node.put_rank(len(shape) if keep else None if fewer is None else len(shape) - fewer)
        return
    if not axes and not node.flag("noop_with_empty_axes"):
        axes = list(range(len(shape)))
    gone = {node.axis(k, len(shape)) for k in axes}
    sizes = [1 if k in gone else size for k, size in enumerate(shape) if keep or k not in gone]
    node.put(0, sizes, None, _reduced(node, gone, len(sizes)))


def _reduced(node: SizedNode, axes: set[int], rank: int) -> Values | None:
    """Return the result of reducing all elements to one number."""
    value, function = node.known(0), FUNCTIONS.get(node.operator)
    if value is None or function is None or node.kind() in FLOATS or not value.size:
        return None
    if len(axes) != value.ndim:
        return None
    return filled([1] * rank, [function(list(value.ravel()))])


@size_rule("ArgMax", "ArgMin")
def arg_max(node: SizedNode) -> None:
    """A place along one axis."""
    shape = node.shape()
    if shape is None:
        node.put(0, None, INT64)
        return
    axis = node.axis(node.attribute("axis", 0), len(shape))
    kept = [1] if node.flag("keepdims", default=True) else []
    node.put(0, [*shape[:axis], *kept, *shape[axis + 1 :]], INT64)
