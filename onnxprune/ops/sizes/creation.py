"""Operators that make tensors: constants, ranges, shapes, random numbers."""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnxprune.algebra.sizes.algebra import Value, ceil_div, is_integral, maximum
from onnxprune.algebra.sizes.tensor_arithmetic import total
from onnxprune.algebra.sizes.tensors import (
    FLOAT,
    INT64,
    INTEGERS,
    SMALL,
    STRING,
    Values,
    constant_values,
    filled,
    from_array,
    plain,
)
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.sizes.table import size_rule


@size_rule("Constant")
def constant(node: SizedNode) -> None:
    """A tensor of the file, in one of its short forms."""
    tensor = node.attribute("value")
    if tensor is not None:
        node.put(0, tensor.dims, tensor.data_type)
        node.walk.tensors.add_constant(node.outputs[0], tensor)
        return
    sparse = node.attribute("sparse_value")
    if sparse is not None:
        node.put(0, sparse.dims, sparse.values.data_type)
        return
    for name, kind in (("int", INT64), ("float", FLOAT), ("string", STRING)):
        single, many = node.attribute(f"value_{name}"), node.attribute(f"value_{name}s")
        found = single if many is None else many
        if found is not None:
            shape = () if many is None else (len(many),)
            node.put(0, shape, kind)
            if name != "string":
                values = from_array(np.asarray(found, np.int64 if name == "int" else np.float32))
                if values is not None and values.size <= SMALL:
                    node.walk.tensors.values[node.outputs[0]] = values


@size_rule("Shape")
def shape(node: SizedNode) -> None:
    """The sizes of the operand, or some of them since version 15."""
    sizes = node.shape()
    if sizes is None:
        node.put(0, [node.fresh(0, 0)], INT64)
        return
    sizes = sizes[slice(node.attribute("start", 0), node.attribute("end"))]
    node.put(0, [len(sizes)], INT64, filled([len(sizes)], sizes))


@size_rule("Size")
def size(node: SizedNode) -> None:
    """The number of elements."""
    sizes = node.shape()
    node.put(0, [], INT64, None if sizes is None else filled([], [total(sizes)]))


@size_rule("ConstantOfShape")
def constant_of_shape(node: SizedNode) -> None:
    """One number everywhere."""
    tensor = node.attribute("value")
    kind = FLOAT if tensor is None else tensor.data_type
    target = node.target(0)
    if target is None:
        node.put_rank(node.length(0), kind)
        return
    target = [node.nonnegative(x, 0, k) for k, x in enumerate(target)]
    sizes, value = plain(target), None
    number = filled([], [0]) if tensor is None else constant_values(tensor)
    limit = SMALL if kind in INTEGERS else 64
    if sizes is not None and number is not None and math.prod(sizes) <= limit:
        value = filled(sizes, [number.ravel()[0]] * math.prod(sizes))
    node.put(0, target, kind, value)


@size_rule("Range")
def range_(node: SizedNode) -> None:
    """As many steps as fit."""
    operands = [node.value(k) for k in range(3)]
    known = [x.ravel()[0] for x in operands if x is not None and x.size]
    step = known[2] if len(known) == 3 else 0
    if not isinstance(step, int) or step == 0 or not all(map(is_integral, known)):
        node.put(0, [node.fresh(0, 0)])
        return
    start, limit = known[0], known[1]
    count = maximum(ceil_div(limit - start, step), 0)
    value = None
    if isinstance(count, int) and count <= SMALL:
        value = filled([count], [start + step * k for k in range(count)])
    node.put(0, [count], None, value)


@size_rule("EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
def like(node: SizedNode) -> None:
    """The shape of the operand, in a type of its own."""
    node.put(0, node.shape(), node.attribute("dtype", node.kind()))


@size_rule("RandomNormal", "RandomUniform")
def random(node: SizedNode) -> None:
    """A shape of the file."""
    node.put(0, node.attribute("shape"), node.attribute("dtype", FLOAT))


@size_rule("Multinomial")
def multinomial(node: SizedNode) -> None:
    """Some samples of each row."""
    shape = node.shape()
    drawn = None if shape is None else [shape[0], node.attribute("sample_size", 1)]
    node.put(0, drawn, node.attribute("dtype", onnx.TensorProto.INT32))


def one(values: Values | None) -> Value | None:
    """Return the single element of a tensor, ``None`` where it is not known."""
    found: Value | None = None if values is None or values.size != 1 else values.ravel()[0]
    return found
