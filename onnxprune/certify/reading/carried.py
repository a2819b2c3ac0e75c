"""States that a body hands on as they are: it reads the tensor outside instead, in every turn the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import onnx
from onnx import helper

from onnxprune.certify.refusal import STANDARD

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph
    from onnxprune.certify.reading.inner_graphs import Body


def without_carried_states(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return a Loop or Scan without such states, in front of it a copy for each of their results.

    Args:
        graph: The model; the body of the node is in its table, and is changed.
        node: The node, changed as well.
    """
    body = graph.bodies.get((node.output[0], "body"))
    if node.op_type not in ("Loop", "Scan") or node.domain not in STANDARD or body is None:
        return [node]
    loop = node.op_type == "Loop"
    scanned = 0 if loop else graph.attributes(node)["num_scan_inputs"]
    into, made = (2, 1) if loop else (0, 0)
    count = len(node.input) - into - scanned
    if len(body.inputs) != len(node.input):
        return [node]  # a Scan of opset 8
    carried = [k for k in range(count) if _is_carried(body, body.inputs[into + k], body.outputs[made + k])]
    left = [o for k, o in enumerate(node.output) if k not in carried]
    if not carried or not any(left):
        return [node]
    graph.bodies[left[0], "body"] = graph.bodies.pop((node.output[0], "body"))
    _rename(graph, body, {body.inputs[into + k]: node.input[into + k] for k in carried})
    pairs = [(node.input[into + k], node.output[k]) for k in carried if k < len(node.output)]
    for k in reversed(carried):
        del body.inputs[into + k], body.outputs[made + k], node.input[into + k]
    node.output[:] = left
    return [*(helper.make_node("Identity", [outer], [result]) for outer, result in pairs if result), node]


def _is_carried(body: Body, given: str, returned: str) -> bool:
    makers = {o: n for n in body.nodes for o in n.output}
    while returned != given and (maker := makers.get(returned)) is not None and _is_copy(maker):
        returned = maker.input[0]
    return returned == given and body.outputs.count(given) <= 1


def _is_copy(node: onnx.NodeProto) -> bool:
    return node.op_type == "Identity" and node.domain in STANDARD


def _inside(graph: Graph, body: Body) -> Iterator[Body]:
    """Yield a body and the bodies in it."""
    yield body
    for node in body.nodes:
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                yield from _inside(graph, graph.bodies[node.output[0], attribute.name])


def _rename(graph: Graph, body: Body, names: Mapping[str, str]) -> None:
    """Let a body and the bodies in it read other tensors; names are unique, so none is hidden."""
    for part in _inside(graph, body):
        part.outputs[:] = [names.get(o, o) for o in part.outputs]
        for node in part.nodes:
            node.input[:] = [names.get(i, i) for i in node.input]
