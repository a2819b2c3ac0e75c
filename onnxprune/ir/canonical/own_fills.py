"""Tensors of one number whose size is open, one for each reader.

The layers of a stack read their first states from one tensor of zeros, as wide as the batch. It couples the
hidden channels of all layers, though no layer depends on any other through it. Here each reader has its own,
made by nodes of its own, like the copies of constants that are shared by accident (`sharing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container

import numpy as np
import onnx

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import FLOAT_TYPES, Model, captured
from onnxprune.ir.canonical.copied_constants import read_instead
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of


def with_own_fills(model: Model, shapes: Shapes) -> Model:
    """Return the model with the makers of shared fills copied for each reader; itself where none is shared.

    A fill is made by ConstantOfShape, or by Expand from a constant of one number; its parts and other moved
    forms are fills too. Those without a fixed axis of several elements, such as masks, stay shared.

    Args:
        model: A checked model; tensors in bodies have names of their own.
        shapes: Shapes and types of its tensors.
    """
    fills = _fills(model, shapes)
    if not any(len(set(model.index.readers(name))) > 1 for name in fills):
        return model
    model = model.copy()
    for graph in model.graphs:
        _separate(model, graph, fills)
    model.edited()
    return model


def _fills(model: Model, shapes: Shapes) -> set[str]:
    """Return the fills with a fixed axis of several elements that nodes compute."""
    fills: set[str] = set()
    for node in model.all_nodes:
        if node.domain not in STANDARD_DOMAINS or not node.input:
            continue
        first = node.input[0]
        uniform = first in model.constants and node.op_type == "Expand" and _is_uniform(model, first)
        if node.op_type == "ConstantOfShape" or uniform or (first in fills and spec_of(node).copies):
            fills.update(o for o in node.output if o and shapes.types.get(o) in FLOAT_TYPES)
    return {name for name in fills if any(isinstance(s, int) and s > 1 for s in shapes.sizes.get(name, ()))}


def _is_uniform(model: Model, name: str) -> bool:
    values = model.array(name)
    return values.size > 0 and bool(np.all(values == values.flat[0]))


def _separate(model: Model, graph: onnx.GraphProto, fills: set[str]) -> None:
    """Copy the makers of fills in a graph, the last ones first: a copy reads the fill before it."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if name in fills:
                readers[name].append(node)
    kept = {value.name for value in graph.output}.union(*map(captured, graph.node))
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # copies follow the node
        for name in node.output if fills.intersection(node.output) else ():
            others = readers[name] if name in kept else readers[name][1:]
            for reader in others:
                copy = _copied(model, node)
                own = copy.output[list(node.output).index(name)]
                reader.input[:] = [own if operand == name else operand for operand in reader.input]
                for operand in dict.fromkeys(copy.input):
                    if operand in fills:
                        readers[operand].append(copy)
                nodes.append(copy)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))


def _copied(model: Model, node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node, its results under new names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [model.fresh(f"{name}__own") if name else "" for name in node.output]
    copy.name = copy.output[0]
    return copy


def with_shared_fills(model: Model, own: Container[str]) -> Model:
    """Return the model with equal fills merged again, where a copy has stayed equal to another.

    Args:
        model: A network that comes from one with a fill for each reader.
        own: The tensors of the user's file: their makers stay.
    """
    instead: dict[str, str] = {}
    made: dict[tuple[object, ...], str] = {}
    returned = {o.name for graph in model.graphs for o in graph.output}
    for node in model.proto.graph.node:
        filling = node.op_type in ("ConstantOfShape", "Expand") or spec_of(node).copies
        if node.domain not in STANDARD_DOMAINS or len(node.output) != 1 or not filling:
            continue
        operands = tuple(instead.get(name, name) for name in node.input)
        given = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        name, key = node.output[0], (node.op_type, operands, given)
        if name in own or name in returned:
            made.setdefault(key, name)
        elif made.setdefault(key, name) != name:
            instead[name] = made[key]
    return read_instead(model, instead) if instead else model
