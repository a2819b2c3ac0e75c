"""Operators that onnxruntime-training 1.19.2 differentiates, checked before a training starts.

Measured operator by operator against finite differences on its CPU build.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.errors import TrainingError
from onnxprune.ops.spec import find_spec
from onnxprune.train.rewrites.registry import qualified

DIFFERENTIABLE = frozenset(
    {
        *("Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "LSTM", "GRU"),
        *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs"),
        *("Sin", "Cos", "Reciprocal", "Gelu", "Softmax", "LogSoftmax"),
        *(f"com.microsoft.{name}" for name in ("Gelu", "FastGelu", "QuickGelu", "BiasGelu")),
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Identity", "Dropout", "Cast"),
        *("MaxPool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp"),
        *("Concat", "Split", "Slice", "Pad", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Expand", "Tile", "Gather", "GatherElements", "GatherND", "ScatterND", "ScatterElements"),
        *("TopK", "Trilu", "SoftmaxCrossEntropyLoss"),
    }
)

_GROUPS = {
    "quantised models are trained before they are quantised": (
        "QuantizeLinear DequantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger QLinearConv "
        "QLinearMatMul com.microsoft.DynamicQuantizeMatMul com.microsoft.MatMulIntegerToFloat "
        "com.microsoft.QLinearAdd com.microsoft.QLinearAveragePool com.microsoft.QLinearConcat "
        "com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearLeakyRelu com.microsoft.QLinearMul "
        "com.microsoft.QLinearSigmoid com.microsoft.QuantizeLinear com.microsoft.DequantizeLinear"
    ),
    "the bodies of loops and branches are not differentiated": "If Loop Scan SequenceMap",
    "it is a staircase: where it changes at all it jumps": "Floor Ceil Round Sign Hardmax OneHot Mod",
    "it works on integers": "BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor",
    "its operator sets are beyond those that can be trained": "Attention RotaryEmbedding TensorScatter",
    "onnxruntime has fused it: export the model without its optimisations": (
        "com.microsoft.Attention com.microsoft.MultiHeadAttention com.microsoft.GroupQueryAttention "
        "com.microsoft.EmbedLayerNormalization com.microsoft.RotaryEmbedding"
    ),
    "onnxruntime itself does not know it": "com.microsoft.SimplifiedLayerNormalization",
    "the elements it picks are known at run time only": "Compress MaxRoiPool RoiAlign",
}
REASONS = {operator: reason for reason, names in _GROUPS.items() for operator in names.split()}
NO_GRADIENT = "onnxruntime-training has no gradient for it"


def check_gradient_path(
    graph: gs.Graph, trainables: Collection[str], refusal: Callable[[gs.Node], str]
) -> tuple[str, ...]:
    """Follow the gradient from the loss back to the trained tensors.

    Args:
        graph: The training copy with the loss as its only output, topologically sorted.
        trainables: Tensors to train.
        refusal: Function from a node to the reason why the engine has no gradient; empty if it has one.

    Returns:
        Those of them that the loss depends on.

    Raises:
        TrainingError: A node on the way has no gradient, or nothing trainable reaches the loss.
    """
    carrying = _depending_on(graph, trainables)
    needed = {id(output) for output in graph.outputs}
    reached = set()
    for node in reversed(graph.nodes):
        if not any(id(output) in needed and id(output) in carrying for output in node.outputs):
            continue
        reason = refusal(node)
        if reason:
            raise TrainingError(f"node {node.name!r} ({node.op}) cannot be trained through: {reason}")
        for operand in _operands(node):
            needed.add(id(operand))
            reached.add(operand.name)
    kept = tuple(name for name in trainables if name in reached)
    if not kept:
        raise TrainingError("nothing in this model can be trained: no weight reaches the loss")
    return kept


def _depending_on(graph: gs.Graph, trainables: Collection[str]) -> set[int]:
    """Return the ids of the tensors whose values depend smoothly on trained ones."""
    named = frozenset(trainables)
    carrying = {id(tensor) for name, tensor in graph.tensors().items() if name in named}
    for node in graph.nodes:
        if not find_spec(node.domain or "", node.op).discrete and any(
            id(operand) in carrying for operand in _operands(node)
        ):
            carrying |= {id(output) for output in node.outputs if _is_float(output)}
    return carrying


def _is_float(tensor: gs.Tensor) -> bool:
    return tensor.dtype is None or np.dtype(tensor.dtype).kind == "f"


def _operands(node: gs.Node) -> list[gs.Tensor]:
    """Return the tensors a node reads, those its bodies read included."""
    bodies = [value for value in node.attrs.values() if isinstance(value, gs.Graph)]
    return [
        *node.inputs,
        *(operand for body in bodies for inner in body.nodes for operand in _operands(inner)),
    ]


def refusal_of(node: gs.Node) -> str:
    """Return the reason why onnxruntime-training does not differentiate a node; empty if it does."""
    operator = qualified(node.op, node.domain)
    if operator.startswith("Scatter") and node.attrs.get("reduction", "none") != "none":
        return "with a reduction its gradient is wrong"
    return "" if operator in DIFFERENTIABLE else REASONS.get(operator, NO_GRADIENT)
