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
            if name in model.constants and operand not in spec_of(node).lists:
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


def _is_accident(model: Model, name: str, found: list[Place]) -> bool:
    """Return whether a constant is a vector, shared zero points, or a weight of one number."""
    tensor = model.constants[name]
    long = sum(1 for d in tensor.dims if d > 1)
    if tensor.data_type == onnx.TensorProto.STRING or long < 2:
        return long == 1 and tensor.data_type != onnx.TensorProto.STRING
    if all(operand in spec_of(node).zero_points for node, operand in found):
        return True
    if math.prod(tensor.dims) > LARGEST or not all(spec_of(node).mixes for node, _ in found):
        return False
    values = model.array(name)
    return bool(np.all(values == values.flat[0]))
