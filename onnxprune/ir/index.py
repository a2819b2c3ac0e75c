"""Values of a graph with their producer and their uses: one index, built in one pass over the nodes.

The nodes stay protobuf messages; the index holds their numbers in execution order. Producers, uses, liveness
and backward slices are found in time proportional to the answer, so a pass with one query for every node
stays linear.

The flat numbering of `Model.all_nodes` lists the nodes of analysed bodies before the node that holds them;
the numbering of one graph treats a node with bodies as a reader of all values captured by those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import onnx

from onnxprune.ir.nested_graphs import bodies, captured, flat

CAPTURED = -1
"""The operand number of a value that a body of the node reads from outside."""


class Use(NamedTuple):
    """One read of a value: the number of the node, and which operand it is."""

    node: int
    operand: int


class GraphIndex:
    """Producer and uses of every value of some nodes in execution order.

    Args:
        nodes: The nodes.
        returned: Names of the values that are read from outside: graph outputs.
        listed: True if the nodes of analysed bodies are among the nodes, so that only other bodies capture.
    """

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], returned: Iterable[str] = (), *, listed: bool = False
    ) -> None:
        self.nodes = nodes
        self.returned = frozenset(returned)
        self.producers: dict[str, int] = {}
        self.uses: dict[str, list[Use]] = {}
        self._listed = listed
        for number, node in enumerate(nodes):
            self._enter(number, node)

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> GraphIndex:
        """Index the nodes of one graph; the captures of a node's bodies count as operands of the node."""
        return cls(graph.node, (o.name for o in graph.output))

    @classmethod
    def flat(cls, graph: onnx.GraphProto, graphs: Iterable[onnx.GraphProto]) -> GraphIndex:
        """Index all nodes of a graph and of its analysed bodies, numbered as in `Model.all_nodes`.

        Args:
            graph: The graph.
            graphs: That graph and its bodies, whose outputs are all returned values.
        """
        return cls(list(flat(graph)), (o.name for g in graphs for o in g.output), listed=True)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a value; ``None`` for inputs, initializers and unknown names."""
        number = self.producers.get(name)
        return None if number is None else self.nodes[number]

    def behind(self, name: str, passes: Callable[[onnx.NodeProto], bool]) -> str:
        """Return the value that a chain of nodes with a property, ending in another value, begins with."""
        while (node := self.producer(name)) is not None and passes(node):
            name = node.input[0]
        return name

    def readers(self, name: str) -> list[int]:
        """Return the numbers of the nodes that read a value, ascending, each once."""
        return list(dict.fromkeys(use.node for use in self.uses.get(name, ())))

    def operands(self, name: str) -> list[Use]:
        """Return the uses of a value as an operand; those inside bodies that are not listed are left out."""
        return [use for use in self.uses.get(name, ()) if use.operand != CAPTURED]

    def count(self, name: str) -> int:
        """Return the number of uses of a value, graph outputs included."""
        return len(self.uses.get(name, ())) + (name in self.returned)

    def reads(self, number: int) -> Iterator[str]:
        """Yield the values that a node reads: its operands, then the captures of its bodies."""
        node = self.nodes[number]
        yield from (name for name in node.input if name)
        if not self._listed or not any(bodies(node)):
            yield from captured(node)

    def last_read(self, name: str) -> int:
        """Return the number of the last node that reads a value; that of no node if it is returned.

        An unread value has −1, a graph output the number of nodes.
        """
        if name in self.returned:
            return len(self.nodes)
        uses = self.uses.get(name)
        return max(use.node for use in uses) if uses else -1

    def live(self, position: int, names: Iterable[str]) -> set[str]:
        """Return those of some values that a node at or after a position reads, or that are returned.

        Args:
            position: The number of a node.
            names: Values that exist before that node runs.
        """
        return {name for name in names if self.last_read(name) >= position}

    def made(self, begin: int, end: int) -> Iterator[str]:
        """Yield the values that the nodes from ``begin`` to before ``end`` make."""
        for number in range(begin, end):
            yield from (name for name in self.nodes[number].output if name)

    def needed(
        self, names: Iterable[str], stops: Collection[str] = (), begin: int = 0, end: int | None = None
    ) -> list[int]:
        """Return the nodes that compute some values, in execution order: the backward slice.

        Args:
            names: The values.
            stops: Values that are known: the nodes that make only those are not needed.
            begin: The first node that may be needed; the results of earlier nodes are known.
            end: The first node that does not run; by default all may.
        """
        end = len(self.nodes) if end is None else end
        found: set[int] = set()
        waiting = [name for name in names if name not in stops]
        while waiting:
            number = self.producers.get(waiting.pop(), -1)
            if begin <= number < end and number not in found:
                found.add(number)
                waiting.extend(name for name in self.reads(number) if name not in stops)
        return sorted(found)

    def rewire(self, number: int, operands: Iterable[str]) -> None:
        """Replace the operands of a node, in the message and in the index."""
        node = self.nodes[number]
        for name in {name for name in node.input if name}:
            self.uses[name] = [u for u in self.uses[name] if u.node != number or u.operand == CAPTURED]
        node.input[:] = list(operands)
        for operand, name in enumerate(node.input):
            if name:
                self.uses.setdefault(name, []).append(Use(number, operand))

    def _enter(self, number: int, node: onnx.NodeProto) -> None:
        for name in node.output:
            if name:
                self.producers[name] = number
        for operand, name in enumerate(node.input):
            if name:
                self.uses.setdefault(name, []).append(Use(number, operand))
        if node.attribute and (not self._listed or not any(bodies(node))):
            for name in sorted(captured(node)):
                self.uses.setdefault(name, []).append(Use(number, CAPTURED))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GraphIndex):
            return NotImplemented
        uses = ({n: sorted(u) for n, u in index.uses.items() if u} for index in (self, other))
        same = self.producers == other.producers and self.returned == other.returned
        return same and next(uses) == next(uses)

    __hash__ = None  # type: ignore[assignment]
