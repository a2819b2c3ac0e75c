"""Values before the run: constants, values computed from them, and shape arithmetic on unknown sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxprune.certify.relations.element_bounds import Array
from onnxprune.certify.sizes.size_monomials import Monomial, Size, computed, product
from onnxprune.certify.sizes.size_rules import slices

if TYPE_CHECKING:
    from onnxprune.certify.reading.graph import Graph

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max")
NO_TENSOR = {"SequenceConstruct", "SequenceInsert", "SequenceErase", "SplitToSequence", "Optional"}
"""Operators whose results are no tensors, and have no value here."""
_INTEGERS = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def constant(node: onnx.NodeProto) -> Array:
    """Return the value of a Constant node."""
    (given,) = node.attribute
    value = helper.get_attribute_value(given)
    if given.name == "value":
        return numpy_helper.to_array(value)
    if "string" in given.name:
        return np.asarray(value, object)
    return np.asarray(value, np.int64 if "int" in given.name else np.float32)


def run(graph: Graph, node: onnx.NodeProto, operands: Mapping[str, Array]) -> Array | None:
    """Compute a node by onnx's reference; none where that fails."""
    try:
        infos = [
            helper.make_tensor_value_info(i, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for i, v in operands.items()
        ]
        outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
        alone = helper.make_graph([node], "node", infos, outputs)
        model = helper.make_model(alone, opset_imports=graph.imports)
        with np.errstate(all="ignore"):
            (made,) = ReferenceEvaluator(model).run(None, dict(operands))
        return np.asarray(made)
    except Exception:  # after any exception of the reference the value is unknown
        return None


def value_of(graph: Graph, node: onnx.NodeProto) -> Array | None:
    """Return the numbers and sizes that a node of shape arithmetic makes; ``None`` for other nodes."""
    try:
        return _value(graph, node)
    except (KeyError, IndexError, TypeError, ValueError):
        return None  # an operand is not known


def _value(graph: Graph, node: onnx.NodeProto) -> Array | None:
    given = graph.attributes(node)
    if node.op_type == "Shape":
        sizes = graph.sizes[node.input[0]]
        return _objects(sizes[given.get("start", 0) : given.get("end", len(sizes))])
    if node.op_type == "Size":
        return _objects(product(graph.sizes[node.input[0]]))
    if not any(node.input) or len(node.output) != 1:
        return None
    known = [graph.values[i] for i in node.input if i]
    if not any(isinstance(element, Monomial) for v in known for element in v.ravel()):
        return _numbers(graph, node)
    return _symbolic(graph, node, given, known)


def _objects(value: Any) -> Array:
    return np.asarray(value, object)


def _numbers(graph: Graph, node: onnx.NodeProto) -> Array | None:
    """Compute a node of which all operands turned out to be numbers."""
    if (
        node.op_type in NO_TENSOR | {"If", "Loop", "Scan", "Dropout"}
        or "Random" in node.op_type
        or node.op_type == "Bernoulli"
    ):
        return None
    operands = {i: graph.constants.get(i, _typed(graph.values[i])) for i in node.input if i}
    made = run(graph, node, operands)
    if made is None or made.dtype.kind not in "iubf":
        return None
    graph.constants[node.output[0]] = made
    graph.folded.add(node.output[0])
    return made.astype(object)


def _typed(value: Array) -> Array:
    """Return sizes as an array: they are 64-bit integers."""
    if any(not isinstance(e, int | np.integer) or isinstance(e, bool | np.bool_) for e in value.ravel()):
        raise TypeError("no list of sizes")
    return value.astype(np.int64)


def _symbolic(
    graph: Graph, node: onnx.NodeProto, given: Mapping[str, Any], known: list[Array]
) -> Array | None:
    """Return the results of a node that are computed from sizes; none where there is no rule."""
    if node.op_type in _ARITHMETIC:
        return _arithmetic(node.op_type, known) if len(known) == 2 and not given.get("fmod") else None
    moved = _moved(graph, node, given, known)
    if moved is not None:
        return moved
    operator, first = node.op_type, known[0]
    if operator == "Where" and not any(isinstance(e, Monomial) for e in first.ravel()):
        return np.where(first.astype(bool), known[1], known[2])
    if operator == "Equal":
        made = _objects(np.frompyfunc(_equal, 2, 1)(*known))
        return None if any(e is None for e in made.ravel()) else made
    if operator == "ReduceProd":
        return _objects(product(first.ravel())).reshape(_numbers_of(graph.sizes[node.output[0]]))
    return None


def _arithmetic(operator: str, known: list[Array]) -> Array | None:
    if any(isinstance(e, float | bool | np.floating) for v in known for e in v.ravel()):
        return None
    return _objects(np.frompyfunc(lambda x, y: computed(operator, x, y), 2, 1)(*known))


def _moved(graph: Graph, node: onnx.NodeProto, given: Mapping[str, Any], known: list[Array]) -> Array | None:
    """Return the result of an operator that only moves elements."""
    operator, first = node.op_type, known[0]
    if operator == "Gather":
        return np.asarray(np.take(first, known[1].astype(np.int64), given.get("axis", 0)), object)
    if operator == "Concat":
        return np.concatenate(known, given["axis"])
    if operator == "Transpose":
        return first.transpose(given.get("perm"))
    if operator in ("Unsqueeze", "Squeeze", "Reshape", "Flatten"):
        return first.reshape(_numbers_of(graph.sizes[node.output[0]]))
    if operator == "Identity" or (operator == "Cast" and given["to"] in _INTEGERS):
        return first
    if operator == "Slice":
        for axis, start, end, step in slices(graph, node):
            first = first[(slice(None),) * axis + (slice(start, end, step),)]
        return first
    return None


def _numbers_of(sizes: Sequence[Size]) -> list[int]:
    if not all(isinstance(s, int) for s in sizes):
        raise ValueError("a list whose length is not known")
    return [s for s in sizes if isinstance(s, int)]


def _equal(one: Any, other: Any) -> bool | None:
    """Return whether two sizes are equal, none where that depends on the run."""
    if one == other:
        return True
    if not isinstance(one, Monomial) and not isinstance(other, Monomial):
        return False
    number, size = (other, one) if isinstance(one, Monomial) else (one, other)
    return (
        False
        if isinstance(size, Monomial) and not isinstance(number, Monomial) and number < 0 and size.natural
        else None
    )
