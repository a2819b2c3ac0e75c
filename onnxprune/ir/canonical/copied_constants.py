"""Copies of constants by Identity, read where the constant is.

Exporters that merge equal initializers put an Identity in the place of each one that they drop.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.ir import Model
from onnxprune.ops.spec import STANDARD_DOMAINS


def without_copies(model: Model) -> Model:
    """Return the model with constants in the place of their copies; itself where there are none.

    Copies that a graph returns stay.

    Args:
        model: A model in which all tensors, those of bodies included, have names of their own.
    """
    returned = {o.name for graph in model.graphs for o in graph.output}
    source: dict[str, str] = {}
    for node in model.nodes:
        if node.op_type == "Identity" and node.domain in STANDARD_DOMAINS and node.output[0] not in returned:
            name = source.get(node.input[0], node.input[0])
            if name in model.constants:
                source[node.output[0]] = name
    return read_instead(model, source) if source else model


def read_instead(model: Model, instead: Mapping[str, str]) -> Model:
    """Return a copy of a model that reads some tensors in the place of others.

    Args:
        model: The model.
        instead: The tensor to read, by the name of another one; the nodes of the main graph that make the
            latter are left out.
    """
    model = model.copy()
    for graph in model.graphs:
        for node in graph.node:
            node.input[:] = [instead.get(name, name) for name in node.input]
    kept = [node for node in model.proto.graph.node if not (node.output and node.output[0] in instead)]
    del model.proto.graph.node[:]
    model.proto.graph.node.extend(kept)
    model.edited()
    return model
