"""Constants, sizes and origins of tensors, as far as they decide about valid inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.shapes import Shapes, infer
from onnxprune.errors import OnnxpruneError
from onnxprune.ir import Model, attributes, bodies
from onnxprune.ops.spec import spec_of

Array = np.ndarray[Any, np.dtype[Any]]


class ValueFacts:
    """Facts about the tensors of a model whose inputs have given shapes.

    Args:
        model: The model.
        shapes: Full shapes of the inputs, by name.
    """

    def __init__(self, model: Model, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.model = model
        self.shapes = dict(shapes)
        self.nodes = model.all_nodes
        self.types = {i.name: i.type.tensor_type.elem_type for i in model.inputs}
        self.index = model.index
        self._same = dict(_operands_of_bodies(self.nodes))
        self._spans: dict[str, tuple[float, float] | None] = {}

    def outer(self, name: str) -> str:
        """Return the operand of a Loop or Scan that has another name in a body; other names as they are."""
        while name in self._same:
            name = self._same[name]
        return name

    def span(self, name: str) -> tuple[float, float] | None:
        """Return the smallest and the largest element of a constant, ``None`` of any other tensor."""
        if name not in self._spans:
            self._spans[name] = self._span(name)
        return self._spans[name]

    def number(self, name: str) -> float | None:
        """Return the value that all elements of a constant have, ``None`` where there is no such value."""
        span = self.span(name)
        return span[0] if span is not None and span[0] == span[1] else None

    def constant(self, name: str) -> Array | None:
        """Return the values of a constant of the file."""
        return self.model.array(name) if name in self.model.constants else None

    def size(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, ``None`` where it is not known."""
        if name in self.model.constants:
            return tuple(self.model.constants[name].dims)
        name = self.outer(name)
        return self.shapes[name] if name in self.shapes else self._inferred(name)

    def axis(self, name: str, axis: int) -> int | None:
        """Return the size of one axis of a tensor, ``None`` where it is not known."""
        size = self.size(name)
        return size[axis] if size is not None and -len(size) <= axis < len(size) else None

    def counts(self, name: str) -> bool:
        """Return whether a tensor is a range of numbers, moved about."""
        while (maker := self.index.producer(name)) is not None and spec_of(maker).moves:
            name = maker.input[0]
        return maker is not None and maker.op_type == "Range"

    @cached_property
    def plain(self) -> frozenset[str]:
        """Tensors that are made of inputs and constants alone, element by element: masks on their way."""
        found = {i.name for i in self.model.inputs}
        for node in self.nodes:
            operands = [i for i in node.input if i]
            used = [i for i in operands if self.outer(i) in found]
            rest = [i for i in operands if i not in used]
            if _is_plain(node) and used and all(i in self.fixed for i in rest):
                found |= set(node.output)
        return frozenset(found)

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Tensors that follow from constants and from the shapes of inputs, not from their values."""
        found = set(self.model.constants)
        for node in self.nodes:
            operands = {i for i in node.input if i}
            if spec_of(node).sizes_only or (operands <= found and not any(bodies(node))):
                found |= set(node.output)
        return frozenset(found)

    def _inferred(self, name: str) -> tuple[int, ...] | None:
        """Return a shape that the sizes of the inputs decide."""
        if self._known is None or (shape := self._known.sizes.get(name)) is None:
            return None
        sure = all(isinstance(size, int) or size.symbols <= self._decided for size in shape)
        return self._known.numbers(name) if sure else None

    @cached_property
    def _known(self) -> Shapes | None:
        try:
            return infer(self.model, {n: s for n, s in self.shapes.items() if s})
        except OnnxpruneError:  # a run of the model reports it
            return None

    @cached_property
    def _decided(self) -> set[str]:
        """The symbols that stand for axes of inputs."""
        inputs = {i.name for i in self.model.inputs}
        symbols = self._known.analysis.symbols.items() if self._known is not None else ()
        return {name for name, symbol in symbols if any(place[0] in inputs for place in symbol.places)}

    def _span(self, name: str) -> tuple[float, float] | None:
        values = self.constant(name)
        if values is not None:
            numbers = values.dtype.kind in "fiub" and values.size
            return (float(values.min()), float(values.max())) if numbers else None
        node = self.index.producer(name)
        if node is None:
            return None
        if node.op_type == "ConstantOfShape":
            fill = attributes(node).get("value")
            value = float(onnx.numpy_helper.to_array(fill).ravel()[0]) if fill is not None else 0.0
            return value, value
        if node.op_type != "Neg" and spec_of(node).moves != "whole":
            return None
        span = self.span(node.input[0])
        return (-span[1], -span[0]) if span is not None and node.op_type == "Neg" else span


def _is_plain(node: onnx.NodeProto) -> bool:
    """Return whether a node has no weights of its own, and works element by element or moves elements."""
    spec = spec_of(node)
    return bool(spec.moves) or (spec.elementwise and not spec.parameters) or node.op_type == "Concat"


def _operands_of_bodies(nodes: list[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    """Yield the inputs of the bodies of Loop and Scan with the operand that each of them begins as."""
    for node in nodes:
        for body in bodies(node):
            inside = [i.name for i in body.input]
            if node.op_type == "Loop":
                yield from zip(inside[2:], node.input[2:], strict=False)
            elif node.op_type == "Scan":
                yield from zip(inside, node.input[len(node.input) - len(inside) :], strict=False)
