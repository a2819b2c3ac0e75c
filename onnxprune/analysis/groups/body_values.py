"""Numbers at removed channels, followed through the bodies of If, Loop and Scan.

A slice of a sequence holds the number that the sequence holds. A state holds a number in every turn if it
holds it before the first and after any turn in which it held it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx

from onnxprune.ir import attributes, bodies, flat
from onnxprune.ops.axes import Typing

Visit = Callable[[int, Mapping[str, float]], dict[str, float]]
"""A function from the number of a node and the values so far to the values of its results."""
Span = tuple[int, int]
"""The number of the first node in the bodies of a node, and the number of that node."""


def values_with_bodies(
    typing: Typing, visited: Sequence[int], values: Mapping[str, float], made: Visit
) -> dict[str, float]:
    """Visit nodes in order of execution, and return all values.

    Args:
        typing: The network.
        visited: The numbers of the nodes to visit, ascending.
        values: The numbers that tensors hold before the first node.
        made: Function that returns the values of the results of a node without bodies.
    """
    return _Walk(typing.nodes, visited, made).through(0, len(typing.nodes), dict(values))


class _Walk:
    def __init__(self, nodes: Sequence[onnx.NodeProto], visited: Sequence[int], made: Visit) -> None:
        self._nodes, self._visited, self._made = nodes, visited, made
        counts = {
            k: sum(1 for body in bodies(node) for _ in flat(body))
            for k, node in enumerate(nodes)
            if any(bodies(node))
        }
        self._spans: list[Span] = [(k - count, k) for k, count in counts.items()]
        self._holders = list(counts)

    def through(self, first: int, end: int, values: dict[str, float]) -> dict[str, float]:
        """Visit the nodes of one graph, and return the values together with those given."""
        at = first
        for start, holder in self._outermost(first, end):
            values = self._plain(at, start, values)
            values = self._held(start, holder, values)
            at = holder + 1
        return self._plain(at, end, values)

    def _outermost(self, first: int, end: int) -> Iterator[Span]:
        """Yield the nodes of one graph that have bodies, in order."""
        found: list[Span] = []
        edge = end
        for k in reversed(range(bisect_left(self._holders, first), bisect_left(self._holders, end))):
            start, holder = self._spans[k]
            if holder < edge:
                found.append((start, holder))
                edge = start
        yield from reversed(found)

    def _plain(self, first: int, end: int, values: dict[str, float]) -> dict[str, float]:
        for index in self._visited[bisect_left(self._visited, first) : bisect_left(self._visited, end)]:
            values |= self._made(index, values)
        return values

    def _held(self, start: int, holder: int, values: dict[str, float]) -> dict[str, float]:
        """Visit the bodies of a node, then the node."""
        node = self._nodes[holder]
        if node.op_type == "If":
            values = self.through(start, holder, values)
            made = [[v.name for v in body.output] for body in bodies(node)]
            return values | _agreed(node.output, zip(*made, strict=True), values)
        (body,) = bodies(node)
        if len(body.input) != len(node.input):  # a Scan of opset 8
            return self.through(start, holder, values)
        given, states, first = _operands(node, body)
        known = {inner: values[outer] for outer, inner in given if outer in values}
        returned = [value.name for value in body.output]
        carried = [(inner, returned[first + k]) for k, (_, inner) in enumerate(given[:states])]
        while True:
            found = self.through(start, holder, values | known)
            changed = [
                inner for inner, after in carried if inner in known and found.get(after) != known[inner]
            ]
            if not changed:
                break
            for inner in changed:
                del known[inner]
        kept = [[inner] for _, inner in given[:states]]
        return found | _agreed(node.output, [*kept, *([name] for name in returned[first + states :])], found)


def _operands(node: onnx.NodeProto, body: onnx.GraphProto) -> tuple[list[tuple[str, str]], int, int]:
    """Return operands with inputs of the body, the number of states, and where their results begin."""
    first = 2 if node.op_type == "Loop" else 0
    inner = [value.name for value in body.input[first:]]
    if len(inner) != len(node.input) - first:  # a Scan of opset 8 has lengths in front
        return [], 0, 0
    given = list(zip(node.input[first:], inner, strict=True))
    scanned = int(attributes(node)["num_scan_inputs"]) if node.op_type == "Scan" else 0
    return given, len(given) - scanned, first // 2


def _agreed(
    results: Sequence[str],
    sources: Iterable[Sequence[str]],
    values: Mapping[str, float],
) -> dict[str, float]:
    """Return the numbers of results all of whose sources hold one number."""
    agreed: dict[str, float] = {}
    for name, (source, *others) in zip(results, sources, strict=False):
        number = values.get(source)
        if name and number is not None and all(values.get(other) == number for other in others):
            agreed[name] = number
    return agreed
