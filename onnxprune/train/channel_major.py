"""Stretches of a network whose tensors are laid out by channel: ``[channels, pictures, positions]``.

So laid out a 1×1 convolution is one matrix product for the whole batch, and a depthwise one over a small map
one for each channel, with nothing to be turned around before or behind it; where the runtime's convolutions
and their gradients go picture by picture, for the most part on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxprune.train.carriers import can_be_carried, carrier_of, flows_of
from onnxprune.train.emit import Emitter

LEAST_GAIN = 2
"""Elements that depthwise convolutions of a stretch read and write, for each one transposed at its ends.

Those of single positions alone gain nothing: measured on bottlenecks with 3×3 convolutions between them.
"""


def lay_out_by_channel(graph: gs.Graph, pictures: int) -> None:
    """Rewrite all stretches whose elements outweigh the transposes at their ends (`LEAST_GAIN`).

    Args:
        graph: The graph, sorted topologically, and not any more after.
        pictures: Number of pictures in a batch.
    """
    for stretch in _stretches(graph, pictures):
        ends = _Ends.of(stretch, graph)
        carried, turned = _carried(stretch), sum(map(_elements, (*ends.entries, *ends.exits)))
        if carried and carried >= LEAST_GAIN * turned:
            _rewrite(stretch, ends, graph)


@dataclass(frozen=True)
class _Ends:
    """The first and the last tensor of a stretch.

    Attributes:
        entries: Tensors that its nodes read and others make.
        exits: Tensors that its nodes make and others read.
    """

    entries: Sequence[gs.Tensor]
    exits: Sequence[gs.Tensor]

    @classmethod
    def of(cls, stretch: Sequence[gs.Node], graph: gs.Graph) -> _Ends:
        inside, results = {id(node) for node in stretch}, {output.name for output in graph.outputs}
        made = {node.outputs[0].name: node.outputs[0] for node in stretch}
        entries = {x.name: x for node in stretch for x in flows_of(node) if x.name not in made}
        read = {name for name, x in made.items() if any(id(reader) not in inside for reader in x.outputs)}
        return cls(list(entries.values()), [made[name] for name in made if name in read | results])


def _stretches(graph: gs.Graph, pictures: int) -> Iterator[list[gs.Node]]:
    """Yield the largest sets of nodes that can be carried and hang together, in order of execution."""
    able = {id(node): node for node in graph.nodes if can_be_carried(node, pictures)}
    while able:
        found = _connected(next(iter(able)), able)
        yield [node for node in graph.nodes if id(node) in found]
        able = {key: node for key, node in able.items() if key not in found}


def _connected(start: int, able: Mapping[int, gs.Node]) -> set[int]:
    """Return the ids of all nodes that can be reached from one node, along its flows and against them."""
    found, waiting = set(), [start]
    while waiting:
        node = able[waiting.pop()]
        if id(node) in found:
            continue
        found.add(id(node))
        beside = [maker for x in flows_of(node) for maker in x.inputs] + list(node.outputs[0].outputs)
        waiting += [id(other) for other in beside if id(other) in able]
    return found


def _carried(stretch: Sequence[gs.Node]) -> int:
    """Return how many elements of a picture depthwise convolutions read and write."""
    depthwise = [node for node in stretch if node.op == "Conv" and node.attrs.get("group", 1) > 1]
    return sum(_elements(x) for node in depthwise for x in (node.inputs[0], *node.outputs))


def _elements(tensor: gs.Tensor) -> int:
    return math.prod(tensor.shape[1:])


def _rewrite(stretch: Sequence[gs.Node], ends: _Ends, graph: gs.Graph) -> None:
    """Emit the stretch anew, with transposed entries, and exits transposed back."""
    carried = {x.name: _turned(x, Emitter(graph, f"{x.name}/by_channel")) for x in ends.entries}
    leaving = {x.name for x in ends.exits}
    for node in stretch:
        emit, (output,) = Emitter(graph, node.name), node.outputs
        operands = [carried.get(x.name, x) for x in node.inputs]
        carrier = carrier_of(node)
        assert carrier is not None
        result = carrier.emit(node, operands, emit)
        carried[output.name] = _described(result, output)
        node.outputs.clear()
        if output.name in leaving:
            back = emit("Transpose", result, perm=[1, 0, 2])
            emit.assign(emit("Reshape", back, emit.ints([0, *output.shape[1:]])), output)


def _turned(x: gs.Tensor, emit: Emitter) -> gs.Tensor:
    flat = emit("Reshape", x, emit.ints([0, x.shape[1], -1]))
    return _described(emit("Transpose", flat, perm=[1, 0, 2]), x)


def _described(carried: gs.Tensor, x: gs.Tensor) -> gs.Tensor:
    """Set type and sizes, which later rewrites of the node may read."""
    carried.dtype, carried.shape = x.dtype, [x.shape[1], x.shape[0], math.prod(x.shape[2:])]
    return carried
