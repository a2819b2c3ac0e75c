"""Step sizes that suit a network, by the operators that it holds."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxprune.ops.spec import spec_of
from onnxprune.train.settings import DEFAULT_LEARNING_RATE, OptimizerName

WITH_ATTENTION: Mapping[OptimizerName, float] = {"sgd": 0.02, "adamw": 0.0002}
"""Peak step sizes of networks that normalise over the last axis or have attention."""


def default_step_size(model: onnx.ModelProto, optimizer: OptimizerName) -> float:
    """Return the peak step size for a model that none is given for.

    Args:
        model: The network.
        optimizer: The optimiser.
    """
    return (WITH_ATTENTION if holds_attention(model) else DEFAULT_LEARNING_RATE)[optimizer]


def holds_attention(model: onnx.ModelProto) -> bool:
    """Return whether a network normalises over the last axis or has attention.

    Attention that is written in several nodes is a Softmax whose result is multiplied by a computed matrix.
    """
    specs = [spec_of(node) for node in model.graph.node]
    if any(spec.attends or (spec.normalises == "features" and spec.parameters) for spec in specs):
        return True
    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {name for n in model.graph.node if n.op_type == "Constant" for name in n.output}
    weights = {name for n in model.graph.node if n.op_type == "Softmax" for name in n.output}
    for node in model.graph.node:
        spec = spec_of(node)
        passes = (spec.elementwise and spec.moves) or node.op_type == "Where"
        if passes and weights & set(node.input):
            weights.update(node.output[:1])
        if node.op_type == "MatMul" and node.input[0] in weights and node.input[1] not in constant:
            return True
    return False
