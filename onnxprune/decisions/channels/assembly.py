"""A network that receives nodes and initializers of another, in the order that they have there."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx

from onnxprune.decisions.channels.graph_comparison import are_equal
from onnxprune.ir import GraphIndex, Model, bodies, captured, subgraphs
from onnxprune.ir.canonical.canonical_bodies import rename

Path: TypeAlias = "tuple[tuple[str, int], ...]"
"""A graph: on the way down to it, the first result of each node that holds a body, and the body's number."""


@dataclass(frozen=True)
class Sources:
    """The nodes and initializers of a network, with the graph that each lies in.

    Attributes:
        makers: Graph, place in it and node, by each result.
        fixed: Graph and initializer, by name.
        inputs: Names of the inputs of all graphs.
    """

    makers: dict[str, tuple[Path, int, onnx.NodeProto]]
    fixed: dict[str, tuple[Path, onnx.TensorProto]]
    inputs: frozenset[str]

    @classmethod
    def of(cls, model: Model) -> Sources:
        """Find them."""
        makers: dict[str, tuple[Path, int, onnx.NodeProto]] = {}
        fixed: dict[str, tuple[Path, onnx.TensorProto]] = {}
        inputs = set[str]()
        for path, graph in _graphs(model.proto.graph):
            inputs.update(i.name for i in graph.input)
            fixed.update((t.name, (path, t)) for t in graph.initializer)
            for place, node in enumerate(graph.node):
                makers.update((o, (path, place, node)) for o in node.output if o)
        return cls(makers, fixed, frozenset(inputs - fixed.keys()))

    def node(self, name: str) -> onnx.NodeProto | None:
        """Return the node whose first result is a tensor."""
        found = self.makers.get(name)
        return found[2] if found is not None and found[2].output[0] == name else None


class Assembly:
    """A network that receives nodes and initializers of another.

    Args:
        own: The network they come from.
        sources: Its parts.
        model: The network that is changed.
        beside: Other names for tensors that it has as constants; by default they are to be dropped.
    """

    def __init__(
        self, own: Model, sources: Sources, model: Model, beside: Mapping[str, str] | None = None
    ) -> None:
        self.own, self.sources, self.model = own, sources, model
        self.beside = beside or {}
        self.graphs = dict(_graphs(model.proto.graph))
        self.made = set(Sources.of(model).makers) | Sources.of(model).inputs
        self.brought: dict[Path, list[onnx.NodeProto]] = {}
        self.possible: dict[str, bool] = {}

    def can_have(self, name: str, folded: Collection[str]) -> bool:
        """Return true if the network can compute a tensor by nodes of the other."""
        if name in self.possible:
            return self.possible[name]
        waiting, seen = [name], set[str]()
        while waiting:
            tensor = waiting.pop()
            if tensor in seen:
                continue
            seen.add(tensor)
            if tensor in self.made or (tensor in self.model.constants and tensor not in folded):
                continue
            found = self.sources.makers.get(tensor)
            path = found[0] if found is not None else self.sources.fixed.get(tensor, (None,))[0]
            if path not in self.graphs:
                self.possible[name] = False
                return False
            waiting += reads_of(found[2]) if found is not None else []
        self.possible[name] = True
        return True

    def drop(self, names: Collection[str]) -> None:
        """Remove initializers."""
        for graph in self.graphs.values():
            for listed in (graph.initializer, graph.input if self.model.proto.ir_version < 4 else []):
                for index in reversed([k for k, value in enumerate(listed) if value.name in names]):
                    del listed[index]
        self.model.edited()

    def bring(self, name: str) -> bool:
        """Add the node or initializer of a tensor, and of all that it is computed from; true if it is there.

        Constants of the network stay as they are.
        """
        if not self.can_have(name, self.beside):
            return False
        waiting = [name]
        while waiting:
            tensor = waiting.pop()
            known = tensor in self.model.constants and tensor not in self.beside
            if known or tensor in self.made:
                continue
            if tensor in self.sources.makers:
                path, _, node = self.sources.makers[tensor]
                self.brought.setdefault(path, []).append(self._renamed(node))
                self.made.update(o for o in node.output if o)
                waiting += reads_of(node)
            else:
                self._copy_initializer(*self.sources.fixed[tensor])
        return True

    def _renamed(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for names in (copy.input, copy.output):
            names[:] = [self.beside.get(name, name) for name in names]
        for body in subgraphs(copy):
            rename(body, self.beside)
        return copy

    def _copy_initializer(self, path: Path, tensor: onnx.TensorProto) -> None:
        graph = self.graphs[path]
        graph.initializer.add().CopyFrom(tensor)
        self.model.constants[tensor.name] = graph.initializer[-1]
        if self.model.proto.ir_version < 4 and not path:
            listed = (i for i in self.own.proto.graph.input if i.name == tensor.name)
            graph.input.extend(listed)

    def has(self, name: str, like: onnx.TensorProto) -> bool:
        """Return true if a tensor is there, or can be: computed by nodes, or a constant of the same bytes."""
        found = self.model.constants.get(name)
        return are_equal(found, like) if found is not None else self.bring(name)

    def finish(self) -> None:
        """Put the nodes in order."""
        for path, nodes in self.brought.items():
            places = {n: k for n, (p, k, _) in self.sources.makers.items() if p == path}
            places |= {other: places[n] for n, other in self.beside.items() if n in places}
            _put_in_order(self.graphs[path], nodes, places)
        self.model.edited()


def reads_of(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that a node reads, those that its bodies capture included."""
    return [name for name in (*node.input, *captured(node)) if name]


def _put_in_order(graph: onnx.GraphProto, added: list[onnx.NodeProto], places: dict[str, int]) -> None:
    """Add nodes to a graph: all in their old order as far as their operands allow.

    Args:
        graph: The graph.
        added: The nodes.
        places: The old place of each node, by its results; a new node follows the one before it.
    """
    nodes, keys, last = [*graph.node, *added], [], -1
    for node in nodes:
        last = next((places[o] for o in node.output if o in places), last)
        keys.append(last)
    index = GraphIndex(nodes)
    missing = [
        {index.producers[n] for n in index.reads(k) if n in index.producers} for k in range(len(nodes))
    ]
    readers: list[list[int]] = [[] for _ in nodes]
    for number, needed in enumerate(missing):
        for maker in needed:
            readers[maker].append(number)
    counts = [len(needed) for needed in missing]
    ready = [(keys[k], k) for k, count in enumerate(counts) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, number = heapq.heappop(ready)
        order.append(number)
        for reader in readers[number]:
            counts[reader] -= 1
            if not counts[reader]:
                heapq.heappush(ready, (keys[reader], reader))
    arranged = [nodes[k] for k in order]
    del graph.node[:]
    graph.node.extend(arranged)


def _graphs(graph: onnx.GraphProto, path: Path = ()) -> Iterator[tuple[Path, onnx.GraphProto]]:
    """Yield a graph and the bodies inside it that the analysis reads, each with its path."""
    yield path, graph
    for node in graph.node:
        for number, body in enumerate(bodies(node)):
            yield from _graphs(body, (*path, (next(iter(node.output), ""), number)))
