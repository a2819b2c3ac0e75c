"""Which tensors are trained: chosen by the role they play, not by being floats.

A scalar such as 1/√d, an anchor grid or a table of means is a float constant too, and must stay as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.train.emit import Untrainable

# Operator -> the operands that are its parameters.
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3),
    "RMSNormalization": (1,),
    "FusedConv": (1, 2),
    "FusedGemm": (0, 1, 2),
    "FusedMatMul": (0, 1),
    "TransposeMatMul": (0, 1),
    "Einsum": (0, 1, 2, 3),
    "BiasGelu": (1,),
    "PRelu": (1,),
    "Gather": (0,),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
RUNNING_STATISTICS = (3, 4)

# What an exporter may put between a parameter and its use; the gradient passes through.
_VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
_POINTWISE = frozenset({"Add", "Mul"})
_LARGEST_PARAMETER = 1e4  # an Add of −1e9 is an attention mask


def trainables_of(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Choose what to train in a topologically sorted graph.

    Taken are the parameters of the operators above, and the vectors and tensors that Add and Mul apply to
    an activation between two such operators or right after one: biases, layer scales, position embeddings.

    Returns:
        Constants by name, in the order of their first use.
    """
    chosen: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for index in PARAMETERS.get(node.op, ()):
            if index < len(node.inputs):
                _take(chosen, node.inputs[index])
    weighted = [node for node in graph.nodes if node.op in PARAMETERS and _has_parameter(node, chosen)]
    after = _reached(weighted, forward=True)
    before = _reached(weighted, forward=False)
    for node in graph.nodes:
        if node.op in _POINTWISE and id(node) in after and (id(node) in before or _follows(node, weighted)):
            for operand in node.inputs:
                _take(chosen, operand, smallest=2)
    return chosen


def running_statistics_of(graph: gs.Graph) -> tuple[str, ...]:
    """Return the running means and variances of every BatchNormalization.

    Raises:
        Untrainable: They are computed by other nodes, so that nothing could follow the training.
    """
    names: dict[str, None] = {}
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            for index in RUNNING_STATISTICS:
                statistic = node.inputs[index]
                if not isinstance(statistic, gs.Constant):
                    raise Untrainable(f"the running statistic {statistic.name} of {node.name} is computed")
                names[statistic.name] = None
    return tuple(names)


def _take(chosen: dict[str, gs.Constant], operand: gs.Tensor, smallest: int = 1) -> None:
    root = _root(operand)
    if not isinstance(root, gs.Constant) or root.dtype != np.float32 or root.name in chosen:
        return
    values = np.asarray(root.values)
    if values.size >= smallest and np.isfinite(values).all() and np.abs(values).max() <= _LARGEST_PARAMETER:
        chosen[root.name] = root


def _root(tensor: gs.Tensor) -> gs.Tensor:
    """Walk back through views to what a parameter is stored as."""
    while tensor.inputs and tensor.inputs[0].op in _VIEWS:
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _has_parameter(node: gs.Node, chosen: Mapping[str, gs.Constant]) -> bool:
    operands = [node.inputs[index] for index in PARAMETERS[node.op] if index < len(node.inputs)]
    return any(_root(operand).name in chosen for operand in operands)


def _follows(node: gs.Node, weighted: Iterable[gs.Node]) -> bool:
    """Whether an operand is directly the result of a weighted operator."""
    producers = {id(producer) for operand in node.inputs for producer in operand.inputs}
    return any(id(candidate) in producers for candidate in weighted)


def _reached(start: Iterable[gs.Node], forward: bool) -> set[int]:
    """Return the ids of all nodes after, or before, some nodes."""
    pending, reached = list(start), set[int]()
    while pending:
        node = pending.pop()
        edges = node.outputs if forward else node.inputs
        for tensor in edges:
            for neighbour in tensor.outputs if forward else tensor.inputs:
                if id(neighbour) not in reached:
                    reached.add(id(neighbour))
                    pending.append(neighbour)
    return reached
