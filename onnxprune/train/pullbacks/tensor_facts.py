"""Sizes, types and known values of every tensor of a forward graph whose inputs have fixed sizes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnxprune.ops.spec import spec_of
from onnxprune.train.wire import Array

Shape: TypeAlias = "tuple[int | None, ...]"

MOST_ELEMENTS = 4096
"""Of a result that is computed here: sizes and bounds, not data."""


@dataclass
class StaticFacts:
    """Facts known before the graph runs.

    Attributes:
        shapes: By tensor; None where the number of axes is not known, and for a size that is not.
        types: Element type by tensor.
        values: Values of constants, and of tensors that follow from them and from sizes.
    """

    shapes: dict[str, Shape | None] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], changing: Collection[str]
    ) -> StaticFacts:
        """Follow a graph.

        Args:
            model: Topologically sorted.
            sizes: Shape of each input.
            changing: Initializers whose values are not to be relied on.
        """
        facts, opsets = cls(), list(model.opset_import)
        for info in model.graph.input:
            facts.shapes[info.name] = tuple(sizes[info.name])
            facts.types[info.name] = info.type.tensor_type.elem_type
        for tensor in model.graph.initializer:
            facts.shapes[tensor.name], facts.types[tensor.name] = tuple(tensor.dims), tensor.data_type
            if tensor.name not in changing:
                facts.values[tensor.name] = numpy_helper.to_array(tensor)
        for node in model.graph.node:
            facts._follow(node, opsets, model.ir_version)
        return facts

    def _follow(self, node: onnx.NodeProto, opsets: list[onnx.OperatorSetIdProto], ir_version: int) -> None:
        if self._computed(node, opsets):
            return
        if node.domain and spec_of(node).elementwise:
            self.shapes[node.output[0]] = self.shapes.get(node.input[0])
            self.types[node.output[0]] = TensorProto.FLOAT
            return
        for name, kind in self._inferred(node, opsets, ir_version).items():
            tensor = kind.tensor_type
            self.types[name] = tensor.elem_type
            known = tensor.HasField("shape")
            self.shapes[name] = tuple(_size(dim) for dim in tensor.shape.dim) if known else None
        if node.domain and spec_of(node).keeps_shape:  # inference of onnx knows the types alone
            self.shapes[node.output[0]] = self.shapes.get(node.input[0])

    def _computed(self, node: onnx.NodeProto, opsets: list[onnx.OperatorSetIdProto]) -> bool:
        """Compute the result of a node whose operands are known, if it is a small one."""
        if node.op_type in ("Shape", "Size") and not node.domain:
            shape = self.shapes.get(node.input[0])
            if shape is None or None in shape:
                return False
            given = {a.name: a.i for a in node.attribute}
            sizes = np.array(shape, np.int64)[given.get("start", 0) : given.get("end")]
            whole = np.array(math.prod(sizes.tolist()), np.int64)
            self._note(node.output[0], sizes if node.op_type == "Shape" else whole)
            return True
        operands = [name for name in node.input if name]
        if len(node.output) != 1 or not all(name in self.values for name in operands):
            return False
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute) or node.domain:
            return False
        if sum(self.values[name].size for name in operands) > MOST_ELEMENTS:
            return False
        try:
            run = ReferenceEvaluator(node, opsets={o.domain: o.version for o in opsets}).run
            (value,) = run(None, {name: self.values[name] for name in operands})
        except Exception:  # the evaluator cannot compute it: the value stays unknown
            return False
        found = np.asarray(value)
        if found.dtype == object or found.size > MOST_ELEMENTS:
            return False
        self._note(node.output[0], found)
        return True

    def _note(self, name: str, value: Array) -> None:
        self.values[name], self.shapes[name] = value, value.shape
        self.types[name] = helper.np_dtype_to_tensor_dtype(value.dtype)

    def _inferred(
        self, node: onnx.NodeProto, opsets: list[onnx.OperatorSetIdProto], ir_version: int
    ) -> Mapping[str, TypeProto]:
        version = next((o.version for o in opsets if o.domain == node.domain), 1)
        try:
            schema = defs.get_schema(node.op_type, version, node.domain)
            types = {name: self._type(name) for name in node.input if name in self.types}
            data = {
                name: numpy_helper.from_array(self.values[name], name)
                for name in node.input
                if name in self.values and self.values[name].size <= MOST_ELEMENTS
            }
            found: Mapping[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=opsets, ir_version=ir_version
            )
        except Exception:  # an operator without a schema, or one that inference cannot follow
            return {}
        return found

    def _type(self, name: str) -> TypeProto:
        kind, shape = self.types[name], self.shapes.get(name)
        made: TypeProto = helper.make_tensor_type_proto(kind, None if shape is None else list(shape))
        return made


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") else None
