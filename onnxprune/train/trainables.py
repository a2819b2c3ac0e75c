"""Selection of trainable tensors by their role.

A scalar such as 1/√d, an anchor grid or a table of means is a float constant too, and must stay as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from onnxprune.ops.spec import OpSpec, find_spec
from onnxprune.train.emit import Untrainable

_ARITHMETIC = ("sum", "product")
_LARGEST_PARAMETER = 1e4  # an Add of −1e9 is an attention mask


def trainables_of(graph: gs.Graph) -> dict[str, gs.Constant]:
    """Choose the trained constants of a topologically sorted graph.

    Taken are the parameters of the operators above, and the vectors and tensors that Add and Mul apply to
    an activation between two such operators or right after one: biases, layer scales, position embeddings.

    Returns:
        Constants by name, in the order of their first use.
    """
    chosen: dict[str, gs.Constant] = {}
    for node in graph.nodes:
        for index in _parameters(node):
            if index < len(node.inputs):
                _take(chosen, node.inputs[index])
    weighted = [node for node in graph.nodes if _has_parameter(node, chosen)]
    after = _reached(weighted, forward=True)
    before = _reached(weighted, forward=False)
    for node in graph.nodes:
        if (
            _spec(node).arithmetic in _ARITHMETIC
            and id(node) in after
            and (id(node) in before or _follows(node, weighted))
        ):
            for operand in node.inputs:
                _take(chosen, operand, smallest=2)
    return chosen


def running_statistics_of(graph: gs.Graph) -> tuple[str, ...]:
    """Return the running means and variances of every BatchNormalization.

    Raises:
        Untrainable: They are computed by other nodes, so that training cannot update them.
    """
    names: dict[str, None] = {}
    for node in graph.nodes:
        for index in _spec(node).statistics:
            statistic = node.inputs[index]
            if not isinstance(statistic, gs.Constant):
                raise Untrainable(f"the running statistic {statistic.name} of {node.name} is computed")
            names[statistic.name] = None
    return tuple(names)


def _spec(node: gs.Node) -> OpSpec:
    return find_spec(node.domain or "", node.op)


def _parameters(node: gs.Node) -> tuple[int, ...]:
    """Return the operands of a node that training changes."""
    spec = _spec(node)
    return spec.parameters if spec.trainable else ()


def _take(chosen: dict[str, gs.Constant], operand: gs.Tensor, smallest: int = 1) -> None:
    root = _root(operand)
    if not isinstance(root, gs.Constant) or root.dtype != np.float32 or root.name in chosen:
        return
    values = np.asarray(root.values)
    if values.size >= smallest and np.isfinite(values).all() and np.abs(values).max() <= _LARGEST_PARAMETER:
        chosen[root.name] = root


def _root(tensor: gs.Tensor) -> gs.Tensor:
    """Walk back to the stored form of a parameter, through nodes that gradients pass unchanged."""
    while tensor.inputs and _is_view(tensor.inputs[0]):
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _is_view(node: gs.Node) -> bool:
    """Return whether a node only rearranges the elements of a tensor, or changes their type."""
    return node.op == "Cast" or bool(_spec(node).rearranges)


def _has_parameter(node: gs.Node, chosen: Mapping[str, gs.Constant]) -> bool:
    operands = [node.inputs[index] for index in _parameters(node) if index < len(node.inputs)]
    return any(_root(operand).name in chosen for operand in operands)


def _follows(node: gs.Node, weighted: Iterable[gs.Node]) -> bool:
    """Return whether an operand is directly the result of a weighted operator."""
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
