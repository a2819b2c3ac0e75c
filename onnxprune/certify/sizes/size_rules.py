"""Sizes of results from those of operands, as ONNX defines them: the table, and operators element by element.

Further rules are in `window_sizes`, `move_sizes` and `product_sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx

from onnxprune.certify.refusal import can_be, need
from onnxprune.certify.sizes.size_monomials import (
    Monomial,
    Size,
    is_clipped,
    is_natural,
    size_of,
)

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph

Sizes: TypeAlias = "list[Size]"
Rule: TypeAlias = "Callable[[Graph, onnx.NodeProto], Sequence[Sequence[Size] | None]]"
SHAPES: dict[str, Rule] = {}
"""The rules by operator; where a size is unknown, they raise KeyError or the like."""

SAME = set(
    "Relu LeakyRelu Sigmoid Tanh Elu Selu Celu Gelu Erf Sqrt Exp Log Neg Abs HardSwish HardSigmoid Softplus "
    "Swish Softsign Reciprocal Cast CastLike Identity Floor Ceil Round Sign Mish ThresholdedRelu Not Sin Cos "
    "Tan Atan Asin Acos Sinh Cosh Asinh Acosh Atanh BitwiseNot Softmax "
    "LogSoftmax Hardmax InstanceNormalization LayerNormalization GroupNormalization RMSNormalization LRN "
    "LpNormalization MeanVarianceNormalization Clip CumSum QuantizeLinear DequantizeLinear IsNaN IsInf Trilu "
    "ScatterND ScatterElements Scatter TensorScatter ReverseSequence CumProd Shrink RandomNormalLike "
    "RandomUniformLike Bernoulli".split()
)
SPREAD = set(
    "Add Sub Mul Div Pow PRelu Where Equal Less Greater LessOrEqual GreaterOrEqual And Or Xor Min Max Mod "
    "Sum Mean SwiGLU BitShift BitwiseAnd BitwiseOr BitwiseXor".split()
)
REDUCTIONS = {f"Reduce{r}" for r in "Sum Mean Max Min L1 L2 SumSquare Prod LogSum LogSumExp".split()}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule for operators."""

    def enter(function: Rule) -> Rule:
        SHAPES.update(dict.fromkeys(operators, function))
        return function

    return enter


def spread(sizes: Sequence[Size]) -> Size:
    """Return the size of an axis along which operands broadcast."""
    wide = [s for s in sizes if s != 1]
    numbers = {s for s in wide if not isinstance(s, Monomial)}
    can_be(len(numbers) < 2, "sizes that cannot be broadcast")
    if numbers:
        return numbers.pop()
    if not wide:
        return 1
    whole = [s for s in wide if all(s == other or is_clipped(other, s) for other in wide)]
    return whole[0] if whole else size_of(f"broadcast({sorted(map(str, wide))})")


def broadcast(shapes: Sequence[Sequence[Size]]) -> Sizes:
    """Return the sizes of tensors that broadcast."""
    rank = max(map(len, shapes))
    wide = [[*[1] * (rank - len(s)), *s] for s in shapes]
    return [spread(sizes) for sizes in zip(*wide, strict=True)]


def placed(axis: Any, rank: int) -> int:
    """Return an axis counted from the front."""
    need(-rank <= axis < rank, "an axis beyond the rank")
    return int(axis) % rank


def slices(graph: Graph, node: onnx.NodeProto) -> list[tuple[int, Any, Any, Any]]:
    """Return axis, start, end and step of each cut of a Slice."""
    rank = len(graph.sizes[node.input[0]])
    starts, ends = graph.listed(node, "starts", 1), graph.listed(node, "ends", 2)
    if starts is None or ends is None:
        raise KeyError(node.input[0])
    axes = graph.listed(node, "axes", 3) or list(range(len(starts)))
    steps = (graph.integers(node.input[4]) if graph.has(node, 4) else None) or [1] * len(starts)
    if any(is_natural(end) and not is_natural(step) for end, step in zip(ends, steps, strict=True)):
        raise KeyError("an end that runtimes may read as the start of the axis")
    return [
        (placed(axis, rank), start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    ]


def reduced_axes(graph: Graph, node: onnx.NodeProto) -> set[int]:
    """Return the axes that a reduction takes together."""
    rank = len(graph.sizes[node.input[0]])
    if node.op_type.startswith("Arg"):
        return {placed(graph.attributes(node).get("axis", 0), rank)}
    axes = graph.listed(node, "axes", 1)
    if not axes:
        return set() if graph.attributes(node).get("noop_with_empty_axes") else set(range(rank))
    return {placed(axis, rank) for axis in axes}


def operands(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Return the sizes of the operands that are there."""
    return [graph.sizes[i] for i in node.input if i]


@rule(*SAME)
def same(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The sizes of the first operand."""
    return [graph.sizes[node.input[0]]]


@rule("Dropout")
def dropout(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Both results are of the size of the operand."""
    return [graph.sizes[node.input[0]]] * len(node.output)


@rule("DynamicQuantizeLinear")
def dynamic_quantisation(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The elements, one scale and one zero point."""
    return [graph.sizes[node.input[0]], [], []]


@rule("BatchNormalization")
def batch_normalization(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """The first result is of the size of the operand."""
    return [graph.sizes[node.input[0]]]


@rule(*SPREAD)
def elementwise(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Operands broadcast."""
    return [broadcast(operands(graph, node))]


@rule(*REDUCTIONS, "ArgMax", "ArgMin")
def reduction(graph: Graph, node: onnx.NodeProto) -> list[Sizes]:
    """Axes become one element, or go."""
    gone, keep = reduced_axes(graph, node), graph.attributes(node).get("keepdims", 1)
    x = graph.sizes[node.input[0]]
    return [[1 if k in gone else s for k, s in enumerate(x) if k not in gone or keep]]
