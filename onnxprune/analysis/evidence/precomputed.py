"""Weights that a network computes from other constants before it reads them, as constants.

Pruning tools leave ``weight · mask`` in a model, exporters transpose weights when the network runs. Tensors
computed from constants without other readers are computed here, once, if they take no more room than those:
a quantised weight stays quantised.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.ir import Model, captured
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of
from onnxprune.support.mapped import byte_count, is_mapped

Array = np.ndarray[Any, np.dtype[Any]]


def precomputed(model: Model) -> Model:
    """Return the network with such weights written down; itself where it has none."""
    readers = Counter(i for node in model.all_nodes for i in (*node.input, *captured(node)))
    readers.update(o.name for graph in model.graphs for o in graph.output)
    room = {n: _room(t) for n, t in model.constants.items() if readers[n] == 1}
    fixed: dict[str, onnx.NodeProto] = {}
    known = {"", *model.constants}
    for node in model.nodes:
        if _is_fixed(node) and known.issuperset(node.input):
            name = node.output[0]
            fixed[name] = node
            known.add(name)
            room[name] = sum(room.get(i, 0) for i in node.input) if readers[name] == 1 else 0
    read = {i for node in model.nodes if node.output[0] not in fixed for i in node.input if room.get(i)}
    found = {name: _value(model, fixed, name) for name in sorted(read & set(fixed))}
    fitting = {name: value for name, value in found.items() if value is not None}
    fitting = {name: value for name, value in fitting.items() if value.dtype.kind == "f"}
    fitting = {name: value for name, value in fitting.items() if value.nbytes <= room[name]}
    return _written_down(model, fitting) if fitting else model


def _room(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a constant takes in its file."""
    return byte_count(tensor) if is_mapped(tensor) else len(tensor.raw_data) or int(tensor.ByteSize())


def _is_fixed(node: onnx.NodeProto) -> bool:
    """Return whether a node makes one tensor of its operands, by an operator that onnx can evaluate."""
    if spec_of(node).random or node.op_type == "ConstantOfShape":
        return False
    return node.domain in STANDARD_DOMAINS and len(node.output) == 1 and bool(node.input)


def _value(model: Model, fixed: dict[str, onnx.NodeProto], name: str) -> Array | None:
    """Compute a tensor; ``None`` where that fails."""
    if name not in fixed:
        return model.array(name)
    node = fixed[name]
    operands = [_value(model, fixed, i) for i in node.input if i]
    try:
        return np.asarray(evaluate(node, [o for o in operands if o is not None], model.opset()))
    except Exception:  # any failure only means that the node stays
        return None


def _written_down(model: Model, values: dict[str, Array]) -> Model:
    model = model.copy()
    names = {name: model.add_constant(f"{name}__value", value) for name, value in values.items()}
    for node in model.nodes:
        node.input[:] = [names.get(i, i) for i in node.input]
    return model
