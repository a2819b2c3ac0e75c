"""Constants that are equal by accident, one for each reader again.

Exporters write constants that happen to be equal once: biases of zeros, scales of ones, zero points. Each
reader gets a copy of its own, so that the removal of an element by one reader does not affect the others.
Matrices stay shared: that is a decision of the author of the model. Zero points are no such matrices, nor are
weights all of whose elements are one number: training has never touched them.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import onnx

from onnxprune.ir import Model, bodies, captured
from onnxprune.ops.spec import spec_of

_LISTS = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "GatherND": (1,),
    "OneHot": (0, 1),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "ScatterElements": (1,),
    "ScatterND": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Operands that list numbers and have no axis of the network; of reductions the second as well."""
_ZERO_POINTS = {"DequantizeLinear": 2, "QuantizeLinear": 2, "MatMulNBits": 3, "GatherBlockQuantized": 3}
"""Operators whose zero points may have several axes, and the operands that hold them."""
LARGEST = 1 << 20
"""Elements up to which a weight of one number alone is looked for, and copied."""
Place = tuple[onnx.NodeProto, int]


def shared_places(model: Model) -> dict[str, list[Place]]:
    """Return the places that read each shared vector, or shared zero points of a matrix, by name.

    Args:
        model: A model; tensors that a body reads from outside, or returns, are left alone.
    """
    places: dict[str, list[Place]] = defaultdict(list)
    elsewhere = {o.name for graph in model.graphs for o in graph.output}
    for node in model.all_nodes:
        elsewhere |= captured(node) if not any(bodies(node)) else set()
        for operand, name in enumerate(node.input):
            if name in model.constants and not _is_list(node, operand):
                places[name].append((node, operand))
    return {
        name: found
        for name, found in places.items()
        if len(found) > 1 and name not in elsewhere and _is_accident(model, name, found)
    }


def unshare(model: Model) -> None:
    """Give every reader of a shared vector but the first a copy of its own, in place."""
    for name, found in sorted(shared_places(model).items()):
        values = model.array(name)
        for node, operand in found[1:]:
            node.input[operand] = model.add_constant(name, values)


def _is_list(node: onnx.NodeProto, operand: int) -> bool:
    if node.op_type.startswith("Reduce"):
        return operand == 1
    return node.domain in ("", "ai.onnx") and operand in _LISTS.get(node.op_type, ())


def _is_accident(model: Model, name: str, found: list[Place]) -> bool:
    """Return whether a constant is a vector, shared zero points, or a weight of one number."""
    tensor = model.constants[name]
    long = sum(1 for d in tensor.dims if d > 1)
    if tensor.data_type == onnx.TensorProto.STRING or long < 2:
        return long == 1 and tensor.data_type != onnx.TensorProto.STRING
    if all(_ZERO_POINTS.get(node.op_type) == operand for node, operand in found):
        return True
    if math.prod(tensor.dims) > LARGEST or not all(spec_of(node).mixes for node, _ in found):
        return False
    values = model.array(name)
    return bool(np.all(values == values.flat[0]))
