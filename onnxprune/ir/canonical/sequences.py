"""Sequences of tensors whose parts are known before the run, as the tensors they are.

Exporters write ``unbind``, ``chunk`` and lists of tensors as sequences. Where the positions of all elements
put into a sequence and taken out of it are known, it is a Split, a Concat, or no node at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, attributes, captured, label
from onnxprune.ops.spec import STANDARD_DOMAINS

LONGEST = 4096
"""Parts up to which a sequence is written out."""
_OPERATORS = {
    "ConcatFromSequence",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SplitToSequence",
}

Integers: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def without_sequences(model: Model, shapes: Shapes) -> Model:
    """Return the model with such sequences written out as tensors; itself where it has none.

    Args:
        model: A checked model.
        shapes: Shapes and types of its tensors.
    """
    if not any(node.op_type in _OPERATORS for node in model.all_nodes):
        return model
    model = model.copy()
    for graph in reversed(model.graphs):  # inner graphs first
        _Unrolled(model, shapes, graph).write()
    model.edited()
    return model


@dataclass
class _Unrolled:
    """One graph, and the parts of the sequences in it."""

    model: Model
    shapes: Shapes
    graph: onnx.GraphProto
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def write(self) -> None:
        """Replace the nodes that take tensors out of known sequences; those that make them die by that."""
        kept = {o.name for o in self.graph.output}.union(*map(captured, self.graph.node))
        for node in self.graph.node:
            node.input[:] = [self.instead.get(i, i) for i in node.input]
            if (
                node.domain not in STANDARD_DOMAINS
                or node.op_type not in _OPERATORS
                or not self._follow(node, kept)
            ):
                self.nodes.append(node)
        nodes = list(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _follow(self, node: onnx.NodeProto, kept: set[str]) -> bool:
        """Record the parts of a sequence, or make an element taken out; return whether the node is dead."""
        if node.op_type == "SequenceAt":
            return self._take(node, kept)
        if node.op_type == "ConcatFromSequence":
            return self._join(node)
        if node.op_type == "SequenceLength":
            return self._count(node)
        made = self._made(node)
        if made is not None and len(made) <= LONGEST:
            self.parts[node.output[0]] = made
        return False

    def _made(self, node: onnx.NodeProto) -> tuple[str, ...] | None:
        """Return the parts of the sequence a node makes, ``None`` where they are not known."""
        if node.op_type == "SequenceConstruct":
            return tuple(node.input)
        if node.op_type == "SequenceEmpty":
            return ()
        if node.op_type == "SplitToSequence":
            return self._split(node)
        before, last = self.parts.get(node.input[0]), 2 if node.op_type == "SequenceInsert" else 1
        if before is None:
            return None
        place: int | None = len(before) if node.op_type == "SequenceInsert" else -1
        if len(node.input) > last and node.input[last]:
            place = self._number(node.input[last])
        if place is None:
            return None
        place += len(before) if place < 0 else 0
        added = (node.input[1],) if node.op_type == "SequenceInsert" else ()
        return (*before[:place], *added, *before[place + (not added) :])

    def _split(self, node: onnx.NodeProto) -> tuple[str, ...] | None:
        """Cut a tensor into the parts of a sequence."""
        sizes = self.shapes.sizes.get(node.input[0])
        given = attributes(node)
        if not sizes:
            return None
        axis = int(given.get("axis", 0)) % len(sizes)
        lengths = self._lengths(node, axis)
        if lengths is None or len(lengths) > LONGEST or any(length < 1 for length in lengths):
            return None
        names = [self.model.fresh(f"{node.output[0]}__part{k}") for k in range(len(lengths))]
        self._cut(node, names, lengths, axis)
        if (len(node.input) > 1 and node.input[1]) or given.get("keepdims", 1):
            return tuple(names)
        return tuple(self._without_axis(name, axis) for name in names)

    def _lengths(self, node: onnx.NodeProto, axis: int) -> list[int] | None:
        """Return the length of each part along the axis that is cut."""
        split = self._integers(node.input[1]) if len(node.input) > 1 and node.input[1] else np.asarray(1)
        if split is None or split.ndim > 1:
            return None
        if split.ndim:
            return [int(length) for length in split]
        whole, step = self.shapes.sizes[node.input[0]][axis], int(split)
        if not isinstance(whole, int) or step < 1:
            return None
        return [min(step, whole - start) for start in range(0, whole, step)]

    def _cut(self, node: onnx.NodeProto, names: Sequence[str], lengths: Sequence[int], axis: int) -> None:
        title = self.model.fresh(f"{label(node)}__split")
        cut = helper.make_node("Split", [node.input[0]], names, name=title, axis=axis)
        if self.model.opset() < 13:
            cut.attribute.append(helper.make_attribute("split", lengths))
        else:
            cut.input.append(self._constant(f"{node.output[0]}__lengths", lengths))
        self.nodes.append(cut)

    def _without_axis(self, name: str, axis: int) -> str:
        squeezed = self.model.fresh(f"{name}__squeezed")
        self._with_axes("Squeeze", name, squeezed, axis)
        return squeezed

    def _with_axes(self, kind: str, name: str, result: str, axis: int) -> None:
        """Add a node whose axes are an attribute before opset 13, and an operand since."""
        made = helper.make_node(kind, [name], [result], name=result)
        if self.model.opset() < 13:
            made.attribute.append(helper.make_attribute("axes", [axis]))
        else:
            made.input.append(self._constant(f"{result}__axes", [axis]))
        self.nodes.append(made)

    def _take(self, node: onnx.NodeProto, kept: set[str]) -> bool:
        """Read a part where a part was taken out of a sequence."""
        parts, place = self.parts.get(node.input[0]), self._number(node.input[1])
        if parts is None or place is None or not -len(parts) <= place < len(parts):
            return False
        name = node.output[0]
        if name in kept:
            self.nodes.append(helper.make_node("Identity", [parts[place]], [name], name=node.name))
        else:
            self.instead[name] = parts[place]
        return True

    def _join(self, node: onnx.NodeProto) -> bool:
        """Lay the parts of a sequence end to end, or side by side along a new axis."""
        parts, given = self.parts.get(node.input[0]), attributes(node)
        if not parts:
            return False
        axis, name = int(given["axis"]), node.output[0]
        if given.get("new_axis", 0):
            names = [self.model.fresh(f"{name}__row{k}") for k in range(len(parts))]
            for part, row in zip(parts, names, strict=True):
                self._with_axes("Unsqueeze", part, row, axis)
            parts = tuple(names)
        self.nodes.append(helper.make_node("Concat", list(parts), [name], name=node.name, axis=axis))
        return True

    def _count(self, node: onnx.NodeProto) -> bool:
        parts = self.parts.get(node.input[0])
        if parts is None:
            return False
        value = onnx.numpy_helper.from_array(np.asarray(len(parts), np.int64))
        self.nodes.append(helper.make_node("Constant", [], [node.output[0]], name=node.name, value=value))
        return True

    def _constant(self, name: str, values: Sequence[int]) -> str:
        return self.model.add_constant(name, np.asarray(values, np.int64))

    def _number(self, name: str) -> int | None:
        value = self._integers(name)
        return int(value.item()) if value is not None and value.size == 1 else None

    def _integers(self, name: str) -> Integers | None:
        """Return integers that are the same in every run."""
        if name in self.model.constants:
            return self.model.array(name)
        return self.shapes.values.get(name)
