"""What onnxruntime-training 1.19.2 differentiates, so that what it does not is said before anything is spent.

Measured operator by operator against finite differences on its CPU build.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import TrainingError

DIFFERENTIABLE = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "LSTM", "GRU"),
        *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs"),
        *("Sin", "Cos", "Reciprocal", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Softmax", "LogSoftmax"),
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Identity", "Dropout", "Cast"),
        *("MaxPool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp"),
        *("Concat", "Split", "Slice", "Pad", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Expand", "Tile", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements"),
        *("TopK", "Trilu", "If", "SoftmaxCrossEntropyLoss"),
    }
)

# No gradient flows through these, and none needs to: their results do not change with their operands.
_STOPS = frozenset(
    {
        *("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "IsNaN", "IsInf", "ConstantOfShape"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor"),
    }
)

_REASONS = {
    "ScatterND": "with a reduction its gradient is wrong",
    "QuantizeLinear": "quantised models are trained before they are quantised",
    "DequantizeLinear": "quantised models are trained before they are quantised",
    "Loop": "loops are not differentiated",
    "Scan": "loops are not differentiated",
}


def check_gradient_path(graph: gs.Graph, trainables: Collection[str]) -> tuple[str, ...]:
    """Follow the gradient from the loss back to what is trained.

    Args:
        graph: The training copy with the loss as its only output, topologically sorted.
        trainables: What should be trained.

    Returns:
        Those of them that the loss depends on.

    Raises:
        TrainingError: A node on the way has no gradient, or nothing trainable reaches the loss.
    """
    carrying = _depending_on(graph, trainables)
    wanted = {id(output) for output in graph.outputs}
    reached = set()
    for node in reversed(graph.nodes):
        if not any(id(output) in wanted and id(output) in carrying for output in node.outputs):
            continue
        _require_gradient(node)
        for operand in node.inputs:
            wanted.add(id(operand))
            reached.add(operand.name)
    kept = tuple(name for name in trainables if name in reached)
    if not kept:
        raise TrainingError("nothing in this model can be trained: no weight reaches the loss")
    return kept


def _depending_on(graph: gs.Graph, trainables: Collection[str]) -> set[int]:
    """Return the ids of the tensors whose values change smoothly with what is trained."""
    carrying = {id(tensor) for name, tensor in graph.tensors().items() if name in trainables}
    for node in graph.nodes:
        if node.op not in _STOPS and any(id(operand) in carrying for operand in node.inputs):
            carrying |= {id(output) for output in node.outputs if _is_float(output)}
    return carrying


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is None or np.dtype(tensor.dtype).kind == "f"


def _require_gradient(node: gs.Node) -> None:
    reduced = node.op.startswith("Scatter") and node.attrs.get("reduction", "none") != "none"
    if node.op in DIFFERENTIABLE and not reduced:
        return
    reason = _REASONS.get(node.op, "this operator has no gradient")
    raise TrainingError(f"node {node.name!r} ({node.op}) cannot be trained through: {reason}")
