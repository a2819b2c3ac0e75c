"""Calls of local functions, written again where the nodes in their places are still those of the function.

Local functions are inlined when a model is read. A call is restored when the model is written: the nodes that
make its results are compared with the body of the function, from the results to the operands. Operators,
attributes and constants of the body have to be the same; weights that are operands of the call may have
changed. A call stays inlined where the cut changed a node, where another node reads an inner tensor, and
where the function has inner graphs, dead nodes or operands that it does not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx

from onnxprune.ir.nested_graphs import captured, every_graph, subgraphs

_Key = tuple[str, str, str]
_Message = TypeVar(
    "_Message", onnx.AttributeProto, onnx.FunctionProto, onnx.NodeProto, onnx.OperatorSetIdProto
)


@dataclass(frozen=True)
class LocalCalls:
    """The local functions of a file, and their calls.

    Attributes:
        functions: The functions in the order of the file.
        calls: The nodes that call them, inner graphs included.
        imports: The operator sets of the file.
    """

    functions: tuple[onnx.FunctionProto, ...]
    calls: tuple[onnx.NodeProto, ...]
    imports: tuple[onnx.OperatorSetIdProto, ...]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> LocalCalls:
        """Copy the functions and calls of a model before they are inlined."""
        known = {_key_of(f) for f in proto.functions}
        calls = (n for graph in every_graph(proto.graph) for n in graph.node if _key(n) in known)
        functions = tuple(_copy(f, onnx.FunctionProto()) for f in proto.functions)
        imports = tuple(_copy(i, onnx.OperatorSetIdProto()) for i in proto.opset_import)
        return cls(functions, tuple(_copy(n, onnx.NodeProto()) for n in calls), imports)

    def restored(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """Return a model with the calls whose nodes are unchanged; itself where there are none."""
        functions = {_key_of(f): f for f in self.functions}
        found = onnx.ModelProto()
        found.CopyFrom(proto)
        done: list[onnx.NodeProto] = []
        for graph in every_graph(found.graph):
            done += _GraphCalls(graph, functions).put_back(self.calls)
        if not done:
            return proto
        whole = len(done) == len(self.calls)
        needed = set(functions) if whole else _needed(done, functions)
        found.functions.extend(f for f in self.functions if _key_of(f) in needed)
        if whole:
            del found.opset_import[:]
            found.opset_import.extend(self.imports)
        else:
            listed = {i.domain for i in found.opset_import}
            domains = {domain for domain, _, _ in needed} - listed
            found.opset_import.extend(i for i in self.imports if i.domain in domains)
        return found


class _GraphCalls:
    """A graph in which the nodes of calls are replaced by the calls.

    Args:
        graph: The graph; it is changed in place.
        functions: The local functions.
    """

    def __init__(self, graph: onnx.GraphProto, functions: Mapping[_Key, onnx.FunctionProto]) -> None:
        self.graph, self.functions = graph, functions
        self.makers = {o: k for k, node in enumerate(graph.node) for o in node.output if o}
        self.returned = {value.name for value in graph.output}
        self.readers: dict[str, set[int]] = defaultdict(set)
        for k, node in enumerate(graph.node):
            for name in (*node.input, *captured(node)):
                self.readers[name].add(k)

    def put_back(self, calls: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Replace the nodes of calls, and return the calls."""
        places: dict[int, onnx.NodeProto] = {}
        gone: set[int] = set()
        for call in calls:
            nodes: set[int] = set()
            names = self._operands(call, list(call.output), nodes)
            if names is None or nodes & gone or not self._is_closed(nodes, set(call.output)):
                continue
            restored = _copy(call, onnx.NodeProto())
            restored.input[:] = names[: len(call.input)]
            places[max(nodes)] = restored
            gone |= nodes
        if places:
            kept = [
                places.get(k, node) for k, node in enumerate(self.graph.node) if k in places or k not in gone
            ]
            self._forget({o for k in gone for o in self.graph.node[k].output})
            nodes_now = [_copy(node, onnx.NodeProto()) for node in kept]
            del self.graph.node[:]
            self.graph.node.extend(nodes_now)
        return list(places.values())

    def _forget(self, results: set[str]) -> None:
        """Remove the declared shapes of tensors that no node makes any more."""
        for k in reversed([k for k, value in enumerate(self.graph.value_info) if value.name in results]):
            del self.graph.value_info[k]

    def _is_closed(self, nodes: set[int], results: set[str]) -> bool:
        """Return true if other nodes read the results alone, and all of them after the last of the nodes."""
        made = {o for k in nodes for o in self.graph.node[k].output if o}
        if (made - results) & self.returned:
            return False
        outside = {name: self.readers[name] - nodes for name in made}
        return all((name in results and min(read) > max(nodes)) for name, read in outside.items() if read)

    def _operands(self, call: onnx.NodeProto, results: list[str], nodes: set[int]) -> list[str] | None:
        """Return the operands of a call whose results are made by nodes like those of its function.

        Args:
            call: The call; its own operands are not read.
            results: Names of its results in this graph, empty where a result is not known.
            nodes: Receives the numbers of the nodes.
        """
        function = self.functions[_key(call)]
        names = {
            inner: outer for inner, outer in zip(function.output, results, strict=False) if inner and outer
        }
        given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in call.attribute}
        for node in reversed(function.node):
            pattern = _bound(node, given)
            made = [names.get(name, "") for name in node.output]
            if pattern is None or not any(made):
                return None
            if _key(pattern) in self.functions:
                read = self._operands(pattern, made, nodes)
            else:
                read = self._read_by(pattern, next(filter(None, made)), nodes)
            if read is None or not _fit(names, node.input, read):
                return None
        inputs = [names.get(name, "") for name in function.input]
        return inputs if all(inputs[: len(call.input)]) else None

    def _read_by(self, pattern: onnx.NodeProto, result: str, nodes: set[int]) -> list[str] | None:
        """Return the operands of the node that makes a tensor, if it is like a node of a function."""
        number = self.makers.get(result)
        if number is None:
            return None
        node = self.graph.node[number]
        if (node.op_type, node.domain) != (pattern.op_type, pattern.domain) or _facts(node) != _facts(
            pattern
        ):
            return None
        nodes.add(number)
        return list(node.input)


def _fit(names: dict[str, str], inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Enter the names of operands; return false where they contradict those known."""
    if len(inner) < len(outer):
        return False
    for k, name in enumerate(inner):
        found = outer[k] if k < len(outer) else ""
        if not name or not found:
            if name or found:
                return False
        elif names.setdefault(name, found) != found:
            return False
    return True


def _bound(node: onnx.NodeProto, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto | None:
    """Return a node of a function with the attributes of a call; ``None`` where it has inner graphs."""
    if any(subgraphs(node)):
        return None
    found = _copy(node, onnx.NodeProto())
    del found.attribute[:]
    for attribute in node.attribute:
        source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if source is not None:
            added = found.attribute.add()
            added.CopyFrom(source)
            added.name = attribute.name
    return found


def _facts(node: onnx.NodeProto) -> list[tuple[str, bytes]]:
    """Return the attributes of a node without their descriptions."""
    found = []
    for attribute in node.attribute:
        plain = _copy(attribute, onnx.AttributeProto())
        plain.doc_string = ""
        found.append((attribute.name, plain.SerializeToString(deterministic=True)))
    return sorted(found)


def _needed(calls: Sequence[onnx.NodeProto], functions: Mapping[_Key, onnx.FunctionProto]) -> set[_Key]:
    """Return the functions that some calls need, those that the functions call included."""
    found: set[_Key] = set()
    waiting = [_key(call) for call in calls]
    while waiting:
        key = waiting.pop()
        if key in functions and key not in found:
            found.add(key)
            waiting += [_key(node) for node in functions[key].node]
    return found


def _key(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _key_of(function: onnx.FunctionProto) -> _Key:
    return function.domain, function.name, function.overload


def _copy(message: _Message, empty: _Message) -> _Message:
    empty.CopyFrom(message)
    return empty
