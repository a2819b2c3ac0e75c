"""Graphs inside nodes, brought into the form the analysis reads.

All tensors of a network share one space of names there, so bodies that use the same name get names of their
own. An If whose condition is known before the run is replaced by the branch it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, attributes, bodies, captured, subgraphs


def distinct(model: Model) -> Model:
    """Return the model with every tensor of every body under a name of its own; itself where that is so."""
    if len(model.graphs) == 1 or not _clashes(model):
        return model
    model = model.copy()
    taken: set[str] = set(_defined(model.proto.graph)) | {i.name for i in model.proto.graph.input}
    for graph in model.graphs[1:]:
        names: dict[str, str] = {}
        for name in _defined(graph):
            fresh, count = name, 2
            while fresh in taken:
                fresh, count = f"{name}__{count}", count + 1
            taken.add(fresh)
            if fresh != name:
                names[name] = fresh
        rename(graph, names)
    model.edited()
    return model


def known_branches(model: Model, shapes: Shapes) -> dict[str, bool]:
    """Return the branch of each If that takes the same one in every run, by its first result."""
    known = {}
    for node in model.all_nodes if len(model.graphs) > 1 else ():
        name = _first_result(node) if node.op_type == "If" and list(bodies(node)) else ""
        if name in shapes.branches:
            known[name] = shapes.branches[name]
    return known


def take_branches(model: Model, known: Mapping[str, bool]) -> None:
    """Replace every If whose branch is known by that branch, in place."""
    for graph in reversed(model.graphs):  # inner graphs first
        nodes = list(graph.node)
        if any(_is_known(node, known) for node in nodes):
            del graph.node[:]
            for node in nodes:
                graph.node.extend(_taken(graph, node, known) if _is_known(node, known) else [node])
    model.edited()


def _is_known(node: onnx.NodeProto, known: Mapping[str, bool]) -> bool:
    return node.op_type == "If" and bool(list(bodies(node))) and _first_result(node) in known


def _first_result(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), "")


def _taken(graph: onnx.GraphProto, node: onnx.NodeProto, known: Mapping[str, bool]) -> list[onnx.NodeProto]:
    """Return the nodes of the branch that is taken; its constants move into the graph."""
    branch = attributes(node)["then_branch" if known[_first_result(node)] else "else_branch"]
    graph.initializer.extend(branch.initializer)
    graph.sparse_initializer.extend(branch.sparse_initializer)
    made = {o for n in branch.node for o in n.output}
    returned = [value.name for value in branch.output]
    names = {
        inner: outer
        for inner, outer in zip(returned, node.output, strict=True)
        if inner in made and outer and returned.count(inner) == 1
    }
    rename(branch, names)
    copies = [
        helper.make_node("Identity", [inner], [outer], name=f"{node.name or outer}__{k}")
        for k, (inner, outer) in enumerate(zip(returned, node.output, strict=True))
        if outer and inner not in names
    ]
    return [*branch.node, *copies]


def _clashes(model: Model) -> bool:
    seen: set[str] = {i.name for i in model.proto.graph.input}
    for graph in model.graphs:
        for name in _defined(graph) if graph is not model.proto.graph else _made(graph):
            if name in seen:
                return True
            seen.add(name)
    return False


def _made(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of the results of a graph's nodes and of its constants, each once."""
    listed = {i.name for i in graph.input}
    names = [t.name for t in graph.initializer if t.name not in listed]
    names += [o for n in graph.node for o in n.output if o]
    yield from dict.fromkeys(names)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that `_made` yields, and those of the graph's inputs."""
    yield from dict.fromkeys([*(i.name for i in graph.input), *_made(graph)])


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors of a graph other names, there and in the bodies inside that read them."""
    if not names:
        return
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        read = captured(node)
        node.input[:] = [names.get(i, i) for i in node.input]
        node.output[:] = [names.get(o, o) for o in node.output]
        for body in subgraphs(node):
            rename(body, {old: new for old, new in names.items() if old in read})
