"""The same network in the form the analysis reads: nothing is computed that is known, no accident is shared.

Exporters leave chains of nodes that compute shapes which never change, make weights with ConstantOfShape,
and merge constants that happen to be equal. Here the known values become constants, and vectors that several
nodes read get a copy for each reader. Matrices stay shared: that is a decision of whoever made the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import onnx

from onnxprune.graph import Model, attributes, captured
from onnxprune.shapes import Shapes, infer

_FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


def canonicalise(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> tuple[Model, Shapes]:
    """Return the model in canonical form, and its shapes; the model given stays as it is.

    Args:
        model: A checked model.
        given: Full input shapes to analyse with, by input name.
    """
    shapes = infer(model, given)
    folds = _known_before_the_run(model, shapes)
    if not folds and not _shared_vectors(model):
        return model, shapes
    model = model.copy()
    _fold(model, folds)
    for name in sorted(_shared_vectors(model)):
        _unshare(model, name)
    shapes.note_constants(model)
    return model, shapes


def _known_before_the_run(model: Model, shapes: Shapes) -> dict[str, np.ndarray]:
    """Find node results that never change: static shape arithmetic, and ConstantOfShape of static shape."""
    known = {n: shapes.values[n] for n in shapes.traced if not shapes.moving[n].any()}
    for node in model.proto.graph.node:
        if node.op_type == "ConstantOfShape" and node.output[0] not in shapes.values:
            target = node.input[0]
            if target in shapes.values and not shapes.moving[target].any():
                fill = attributes(node).get("value")
                value = onnx.numpy_helper.to_array(fill) if fill is not None else np.zeros(1, np.float32)
                known[node.output[0]] = np.full(shapes.values[target], value.ravel()[0], value.dtype)
    outputs = {o.name for o in model.outputs}
    return {n: v for n, v in known.items() if n not in outputs and n not in model.constants}


def _fold(model: Model, known: Mapping[str, np.ndarray]) -> None:
    """Replace the nodes that make known values by constants, and drop what only they used."""
    graph = model.proto.graph
    kept = [n for n in graph.node if not (n.output and n.output[0] in known)]
    read = {i for n in kept for i in (*n.input, *captured(n))} | {o.name for o in graph.output}
    del graph.node[:]
    graph.node.extend(_alive(kept, {o.name for o in graph.output}))
    model.edited()
    for name in sorted(read & set(known)):
        model.add_constant(name, known[name])
    drop_unused_constants(model)


def _alive(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that something still reads, in order."""
    alive = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            alive.append(node)
            wanted |= set(node.input) | captured(node)
    return alive[::-1]


def drop_unused_constants(model: Model) -> None:
    """Remove initializers and Constant nodes that nothing reads."""
    graph = model.proto.graph
    read = {i for n in graph.node for i in (*n.input, *captured(n))} | {o.name for o in graph.output}
    unused = set(model.constants) - read
    _delete(graph.initializer, [t.name in unused for t in graph.initializer])
    _delete(graph.input, [i.name in unused for i in graph.input])
    _delete(graph.node, [n.op_type == "Constant" and n.output[0] in unused for n in graph.node])
    model.edited()


def _delete(repeated: MutableSequence[Any], doomed: list[bool]) -> None:
    """Delete in place: copying what stays would copy every weight."""
    for index in reversed([k for k, gone in enumerate(doomed) if gone]):
        del repeated[index]


def _shared_vectors(model: Model) -> set[str]:
    """Find float constants of one long axis that more than one place reads."""
    readers: dict[str, int] = defaultdict(int)
    inside: set[str] = {o.name for o in model.outputs}
    for node in model.proto.graph.node:
        inside |= captured(node)
        for name in node.input:
            readers[name] += 1
    return {
        name
        for name, tensor in model.constants.items()
        if readers[name] > 1
        and name not in inside
        and tensor.data_type in _FLOATS
        and sum(1 for d in tensor.dims if d > 1) == 1
    }


def _unshare(model: Model, name: str) -> None:
    """Give every reader but the first a copy of its own."""
    places = [(n, k) for n in model.proto.graph.node for k, i in enumerate(n.input) if i == name]
    values = model.array(name)
    for node, operand in places[1:]:
        node.input[operand] = model.add_constant(name, values)
