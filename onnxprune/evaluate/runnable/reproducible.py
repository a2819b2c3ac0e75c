"""A model whose runs are equal: without dropout, unseeded random numbers and coarser integer kernels."""

from __future__ import annotations

import onnx
from onnx import helper

from onnxprune.ir import every_graph
from onnxprune.ops.spec import spec_of
from onnxprune.support.mapped import array_of


def reproducible(proto: onnx.ModelProto) -> list[str]:
    """Change a model in place so that it computes the same numbers in every run.

    Dropout in training mode becomes inference, random generators without a seed get one, and integer matrix
    products run at full accuracy instead of at a stated accuracy level.

    Args:
        proto: The model; its interface stays as it is.

    Returns:
        One sentence for each kind of change; none where nothing was changed.
    """
    nodes = [node for graph in every_graph(proto.graph) for node in graph.node]
    false = _constants(proto)
    dropouts = [_without_dropout(node, false) for node in nodes]
    generators = [node for node in nodes if spec_of(node).random == "always"]
    seeds = [_seeded(node, number) for number, node in enumerate(generators)]
    levels = [_at_full_accuracy(node) for node in nodes]
    sentences = {
        "Dropout in training mode is off in both": any(dropouts),
        "random generators without a seed share one": any(seeds),
        "accuracy_level is set to full in both": any(levels),
    }
    return [sentence for sentence, holds in sentences.items() if holds]


def _constants(proto: onnx.ModelProto) -> set[str]:
    """Return the names of constants that are False."""
    found = {}
    for graph in every_graph(proto.graph):
        found.update({t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.BOOL})
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                tensor = node.attribute[0].t
                if tensor.data_type == onnx.TensorProto.BOOL:
                    found[node.output[0]] = tensor
    return {name for name, tensor in found.items() if not array_of(tensor).any()}


def _without_dropout(node: onnx.NodeProto, false: set[str]) -> bool:
    """Remove the training mode of a Dropout node; return whether there was one."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2] or node.input[2] in false:
        return False
    del node.input[2]
    return True


def _seeded(node: onnx.NodeProto, number: int) -> bool:
    """Set the seed of the random generator of a number; return whether it had none."""
    if any(a.name == "seed" for a in node.attribute):
        return False
    node.attribute.append(helper.make_attribute("seed", float(number + 1)))
    return True


def _at_full_accuracy(node: onnx.NodeProto) -> bool:
    """Remove an accuracy level; return whether there was one."""
    levels = [k for k, a in enumerate(node.attribute) if a.name == "accuracy_level" and a.i]
    for k in reversed(levels):
        del node.attribute[k]
    return bool(levels)
