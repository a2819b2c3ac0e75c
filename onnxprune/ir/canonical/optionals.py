"""Optional values of which it is known whether they have an element: the element, or none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from onnxprune.ir import Model
from onnxprune.ir.nested_graphs import subgraphs
from onnxprune.ops.spec import STANDARD_DOMAINS


def with_known_elements(model: Model) -> Model:
    """Return the model with elements in the place of the optional values that hold them.

    Whether a value has an element becomes a constant; it is the model itself where nothing is known. Optional
    inputs of the network, and optional results of its branches and loops, stay.

    Args:
        model: A model in which all tensors, those of bodies included, have names of their own.
    """
    if not any(_asks(node) for node in model.all_nodes):
        return model
    contents = _contents(model)
    if not any(_asks(n) and _asked(n) in contents for n in _standard(model)):
        return model
    model = model.copy()
    for node in _standard(model):
        if _asks(node) and _asked(node) in contents:
            _settle(node, contents[_asked(node)])
    model.edited()
    return model


def _asks(node: onnx.NodeProto) -> bool:
    return node.op_type == "OptionalHasElement" or node.op_type == "OptionalGetElement"


def _asked(node: onnx.NodeProto) -> str:
    return node.input[0] if node.input else ""


def _standard(model: Model) -> Iterator[onnx.NodeProto]:
    return (node for node in model.all_nodes if node.domain in STANDARD_DOMAINS)


def _contents(model: Model) -> dict[str, str]:
    """Return the element of each value of which that is known; an empty name where there is none.

    A value that is no optional one is its own element.
    """
    contents = {"": ""} | {name: name for name in model.constants}
    contents |= {i.name: i.name for i in model.inputs if not i.type.HasField("optional_type")}
    for node in _standard(model):
        if node.op_type == "Optional":
            contents[node.output[0]] = _asked(node)
        elif node.op_type == "Identity":
            if node.input[0] in contents:
                contents[node.output[0]] = contents[node.input[0]]
        elif not any(True for _ in subgraphs(node)):  # branches and loops may return optional values
            contents |= {name: name for name in node.output if name}
    return contents


def _settle(node: onnx.NodeProto, element: str) -> None:
    """Make a node that asks for an element a constant or a copy; the element of an empty value stays."""
    if node.op_type == "OptionalHasElement":
        answer = onnx.numpy_helper.from_array(np.array(bool(element)))
        node.CopyFrom(onnx.helper.make_node("Constant", [], [node.output[0]], name=node.name, value=answer))
    elif element:
        node.CopyFrom(onnx.helper.make_node("Identity", [element], [node.output[0]], name=node.name))
