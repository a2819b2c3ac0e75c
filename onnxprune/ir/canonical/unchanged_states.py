"""States of loops that never change, such as weights that are carried from turn to turn.

A body that returns a state unchanged reads the same tensor in every iteration: that of the graph outside. So
the body reads that one instead, and weights are weights again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import helper

from onnxprune.ir import GraphIndex, Model, attributes, bodies, label
from onnxprune.ir.canonical.canonical_bodies import rename
from onnxprune.ops.spec import STANDARD_DOMAINS


def without_fixed_states(model: Model) -> Model:
    """Return the model with such states read from outside; itself where it has none.

    Args:
        model: A checked model; all tensors, those of bodies included, have names of their own.
    """
    if not any(_fixed(node) for node in model.all_nodes):
        return model
    model = model.copy()
    for graph in reversed(model.graphs):  # inner graphs first
        nodes = [part for node in graph.node for part in _rewritten(node)]
        del graph.node[:]
        graph.node.extend(nodes)
    model.edited()
    return model


def carried_along(model: Model) -> tuple[dict[str, str], set[tuple[str, int]]]:
    """Return where tensors come from that loops carry unchanged, and the places that only hand them on.

    Returns:
        For each input of a body the tensor outside that it is in every turn; and the operands of loops and of
        Identity nodes, by the node's first result and the number of the operand.
    """
    sources: dict[str, str] = {}
    handing: set[tuple[str, int]] = set()
    for node in model.all_nodes:
        for outer, inner, made, _ in _fixed(node):
            (body,) = bodies(node)
            sources[body.input[inner].name] = node.input[outer]
            handing.add((next(o for o in node.output if o), outer))
            index, name = GraphIndex.of(body), body.output[made].name
            while name != body.input[inner].name:
                handing.add((name, 0))
                maker = index.producer(name)
                assert maker is not None  # an Identity, as `_fixed` has found
                name = maker.input[0]
    return sources, handing


def _states(node: onnx.NodeProto) -> Iterator[tuple[int, int, int, int]]:
    """Yield the indices of each state: operand, input of the body, output of the body, result."""
    if node.op_type == "Loop":
        for k in range(len(node.input) - 2):
            yield k + 2, k + 2, k + 1, k
    elif node.op_type == "Scan" and len(next(bodies(node)).input) == len(node.input):  # opset 8 has lengths
        for k in range(len(node.input) - int(attributes(node)["num_scan_inputs"])):
            yield k, k, k, k


def _fixed(node: onnx.NodeProto) -> list[tuple[int, int, int, int]]:
    """Return the states that a body hands on as they are."""
    if node.op_type not in ("Loop", "Scan"):
        return []
    found = []
    for body in bodies(node):
        returned = [value.name for value in body.output]
        index = GraphIndex.of(body)
        for state in _states(node):
            name = index.behind(body.output[state[2]].name, _is_copy)
            if (
                name == body.input[state[1]].name
                and node.input[state[0]]
                and _returned_once(returned, name, state[2])
            ):
                found.append(state)
    return found


def _is_copy(node: onnx.NodeProto) -> bool:
    return node.op_type == "Identity" and node.domain in STANDARD_DOMAINS


def _returned_once(returned: Sequence[str], name: str, place: int) -> bool:
    """Return whether a body returns an input of its own once: the other outputs must not be it."""
    return name not in (*returned[:place], *returned[place + 1 :])


def _rewritten(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Let a body read the states that never change from outside; later readers of the result do too."""
    fixed = _fixed(node)
    if not fixed or len(fixed) == sum(1 for _ in _states(node)) == len(node.output):
        return [node]  # a loop needs at least one result
    body = next(bodies(node))
    names = {body.input[inner].name: node.input[outer] for outer, inner, _, _ in fixed}
    copies = [
        helper.make_node(
            "Identity", [node.input[outer]], [node.output[result]], name=f"{label(node)}__{result}"
        )
        for outer, _, _, result in fixed
        if result < len(node.output) and node.output[result]
    ]
    for outer, inner, made, result in reversed(fixed):
        del body.input[inner], body.output[made], node.input[outer]
        if result < len(node.output):
            del node.output[result]
    rename(body, names)
    return [*copies, node]
