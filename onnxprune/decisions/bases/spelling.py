"""Root mean square normalisation in operators that every runtime has."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnxprune.ir import Model, attributes, label

SIMPLIFIED = "SimplifiedLayerNormalization"
_RMS_OPSET = 23
_AXES_OPERAND = 18


def spell_out(model: Model, given: Model) -> None:
    """Write the normalisations that absorption left as standard operators.

    From opset 23 that is RMSNormalization; before, the square, its mean, the root, a division, and a product
    with a scale of ones: the form that onnxruntime fuses into one node.

    Args:
        model: The model, which is changed.
        given: The model it was made from: nodes that are there stay as they are.
    """
    own = {n.output[0] for n in given.all_nodes if n.op_type == SIMPLIFIED}
    for graph in model.graphs:
        numbers = [k for k, n in enumerate(graph.node) if n.op_type == SIMPLIFIED and n.output[0] not in own]
        for number in reversed(numbers):
            node = graph.node[number]
            if model.opset() >= _RMS_OPSET:
                node.op_type = "RMSNormalization"
                continue
            steps = _steps(model, node)
            del graph.node[number]
            for step in reversed(steps):
                graph.node.insert(number, step)
    model.edited()


def _steps(model: Model, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return ``x / √(mean(x²) + ε) · 1`` node by node."""
    data, scale, result = node.input[0], node.input[1], node.output[0]
    dtype = model.dtype(scale)
    parts = ("square", "mean", "shifted", "root", "divided")
    square, mean, shifted, root, divided = (model.fresh(f"{result}_{part}") for part in parts)
    epsilon = model.add_constant(
        f"{result}_epsilon", np.asarray(attributes(node).get("epsilon", 1e-5), dtype)
    )
    exponent = model.add_constant(f"{result}_exponent", np.asarray(2, dtype))
    if model.opset() >= _AXES_OPERAND:
        axes = model.add_constant(f"{result}_axes", np.array([-1], np.int64))
        average = helper.make_node("ReduceMean", [square, axes], [mean], keepdims=1)
    else:
        average = helper.make_node("ReduceMean", [square], [mean], keepdims=1, axes=[-1])
    steps = [
        helper.make_node("Pow", [data, exponent], [square]),
        average,
        helper.make_node("Add", [mean, epsilon], [shifted]),
        helper.make_node("Sqrt", [shifted], [root]),
        helper.make_node("Div", [data, root], [divided]),
        helper.make_node("Mul", [divided, scale], [result]),
    ]
    for step, part in zip(steps, (*parts, "scaled"), strict=True):
        step.name = model.fresh(f"{label(node)}_{part}")
    return steps
