"""What one node makes: its numbers where its operands are known, the types of its results otherwise.

Types come from onnx's own inference, from onnxruntime for the operators only it knows. Networks repeat their
blocks, so answers are kept: a node without its names is the same question again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import ModelError
from onnxprune.runtime import Session
from onnxprune.shapes.probes import Shape
from onnxprune.sizes.asking import LARGEST_ASKED

Array = np.ndarray[Any, np.dtype[Any]]


def evaluate(node: onnx.NodeProto, inputs: list[Array], opset: int) -> Any:
    """Return the first result of a node that is fed these operands."""
    feeds = {f"i{k}": v for k, v in enumerate(inputs)}
    given = iter(feeds)
    bare = onnx.NodeProto(op_type=node.op_type, output=["o"], attribute=node.attribute)
    bare.input.extend(next(given) if i else "" for i in node.input)
    with np.errstate(all="ignore"):  # the logarithm of zero, say, which a Where passes over later on
        results: Any = _evaluator(bare.SerializeToString(), opset).run(None, feeds)
    return results[0]


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    return ReferenceEvaluator(onnx.NodeProto.FromString(node), opsets={"": opset})


def inferred_types(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    values: Mapping[str, Array],
    opsets: Mapping[str, int],
) -> dict[str, onnx.TypeProto]:
    """Return the types of a node's results, by name; those nobody can tell are left out.

    Args:
        node: The node.
        types: The types of its operands, by name.
        values: Operands that are known, by name.
        opsets: Versions of the operator domains.

    Raises:
        ModelError: The operands do not fit; the message is the last line of what the inference says.
    """
    try:
        answer = _inferred(_question(node, types, values, opsets))
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ModelError(str(error).strip().splitlines()[-1]) from error
    found = {name: answer[f"o{k}"] for k, name in enumerate(node.output) if name and f"o{k}" in answer}
    if all(_has_rank(types[name]) for name in node.input if name):
        return found
    return {name: _without_shape(kind) for name, kind in found.items()}


def sizes_of(kind: onnx.TypeProto) -> Shape | None:
    """Return the shape of a tensor, ``None`` where it is not fully known."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


@dataclass(frozen=True)
class _Question:
    """A node without the names: networks repeat their blocks, and equal questions have equal answers.

    Attributes:
        node: The node, its operands and results numbered.
        kinds: The type of each operand, empty where it is left out.
        values: The bytes of those operands whose values may decide about shapes.
        opsets: Versions of the operator domains.
    """

    node: bytes
    kinds: tuple[bytes, ...]
    values: tuple[bytes, ...]
    opsets: tuple[tuple[str, int], ...]

    def named_node(self) -> onnx.NodeProto:
        node: onnx.NodeProto = onnx.NodeProto.FromString(self.node)
        return node

    def operands(self) -> dict[str, onnx.TypeProto]:
        return {f"i{k}": onnx.TypeProto.FromString(kind) for k, kind in enumerate(self.kinds) if kind}

    def tensors(self) -> dict[str, onnx.TensorProto]:
        kinds = self.operands()
        return {
            f"i{k}": onnx.TensorProto(
                name=f"i{k}",
                data_type=kinds[f"i{k}"].tensor_type.elem_type,
                dims=sizes_of(kinds[f"i{k}"]),
                raw_data=value,
            )
            for k, value in enumerate(self.values)
            if value
        }


def _question(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    values: Mapping[str, Array],
    opsets: Mapping[str, int],
) -> _Question:
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    bare.input.extend(f"i{k}" if i else "" for k, i in enumerate(node.input))
    bare.output.extend(f"o{k}" if o else "" for k, o in enumerate(node.output))
    return _Question(
        bare.SerializeToString(),
        tuple(types[i].SerializeToString() if i else b"" for i in node.input),
        tuple(_deciding(values.get(i)) for i in node.input),
        tuple(sorted(opsets.items())),
    )


def _deciding(value: Array | None) -> bytes:
    """Return the bytes of a value that shapes may depend on: integers, and short lists of scales."""
    decides = value is not None and (value.dtype.kind in "iub" or value.size <= 8)
    return value.tobytes() if value is not None and decides else b""


@lru_cache(maxsize=4096)
def _inferred(question: _Question) -> dict[str, onnx.TypeProto]:
    """Return the types of a node's results by onnx's own inference, by onnxruntime where onnx cannot tell."""
    node, opsets = question.named_node(), dict(question.opsets)
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except defs.SchemaError:
        return _asked(question)
    imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
    operands, tensors = question.operands(), question.tensors()
    found = shape_inference.infer_node_outputs(schema, node, operands, tensors, None, imports, 8)
    types: dict[str, onnx.TypeProto] = dict(found)
    return types if all(_has_rank(t) for t in types.values()) else types | _asked(question)


def _has_rank(kind: onnx.TypeProto) -> bool:
    return not kind.HasField("tensor_type") or kind.tensor_type.HasField("shape")


def _without_shape(kind: onnx.TypeProto) -> onnx.TypeProto:
    """Return a type with its shape left open: onnx takes an operand of unknown shape for a single number."""
    if not kind.HasField("tensor_type"):
        return kind
    bare = onnx.TypeProto()
    bare.tensor_type.elem_type = kind.tensor_type.elem_type
    return bare


def _asked(question: _Question) -> dict[str, onnx.TypeProto]:
    """Load a model of one node and read what onnxruntime says of its results, or makes of examples."""
    if len(question.node) > LARGEST_ASKED:
        return {}
    model = onnx.ModelProto(
        ir_version=8, opset_import=[helper.make_opsetid(d, v) for d, v in question.opsets]
    )
    model.graph.name = "one node"
    model.graph.node.append(question.named_node())
    tensors = question.tensors()
    model.graph.initializer.extend(tensors.values())
    for name, kind in question.operands().items():
        if name not in tensors:
            model.graph.input.add(name=name, type=kind)
    model.graph.output.extend(onnx.ValueInfoProto(name=o) for o in model.graph.node[0].output if o)
    try:
        session = Session(model, optimize=False, threads=1)
        shapes: dict[str, Any] = {o.name: o.shape for o in session.outputs}
        # an empty shape also stands for an unknown one
        if not all(shape and all(isinstance(s, int) for s in shape) for shape in shapes.values()):
            shapes = _tried(session, question.named_node().domain in ("", "ai.onnx"))
    except ModelError:  # no operator of onnxruntime, or not one for these types and sizes
        return {}
    return {
        o.name: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(o.dtype), shapes[o.name])
        for o in session.outputs
        if o.name in shapes
    }


def _tried(session: Session, of_onnx: bool) -> dict[str, Shape]:
    """Run a node on zeros and on ones; a shape that is another then depends on numbers, and is left out.

    Integers that onnx's own operators are given often say what shape to make, and no two of them tell which.
    """
    if of_onnx and not all(np.issubdtype(i.dtype, np.inexact) for i in session.inputs):
        return {}
    sizes = {i.name: [s for s in i.shape if isinstance(s, int)] for i in session.inputs}
    zeros, ones = (
        session.run({i.name: np.full(sizes[i.name], number, i.dtype) for i in session.inputs})
        for number in (0, 1)
    )
    return {name: made.shape for name, made in zeros.items() if ones[name].shape == made.shape}
