"""Operators without a size rule: onnx's own inference is queried, then onnxruntime.

A query holds names for the open sizes, and is repeated with numbers: some inferences read a name as
zero, and the sizes common to both answers are kept. Networks repeat their blocks, so answers are cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import defs, helper, shape_inference

from onnxprune.algebra.sizes.algebra import Extent, Size
from onnxprune.algebra.sizes.facts import ContradictionError
from onnxprune.algebra.sizes.tensors import FLOATS, INTEGERS, plain
from onnxprune.errors import ModelError
from onnxprune.ops.spec import STANDARD_DOMAINS

if TYPE_CHECKING:
    from onnxprune.ops.sizes.node import SizedNode

Dim: TypeAlias = "int | str | None"
Dims: TypeAlias = "tuple[Dim, ...] | None"
_MOST = (1 << 63) - 1
"""The largest size that the format can hold."""
NUMBERS = (64, 96, 160, 224, 352, 416, 544, 608, 736, 928, 992, 1184, 1312, 1376, 1504)
"""Sizes for names in the second trial: multiples of 32, which fit blocks and windows."""
FEW_NUMBERS = ((5, 7, 11, 13, 17, 19, 23, 29), (31, 37, 41, 43, 47, 53, 59, 61))
"""Sizes for names where a node has to be run, one tuple a run."""
_IR_VERSION = 8
LARGEST_ASKED = 4 << 20
"""Bytes of attributes up to which a node is loaded into onnxruntime: it takes many times as many."""


@dataclass(frozen=True)
class Operand:
    """An operand without its name: type, shape and small value.

    Attributes:
        kind: Its element type; 0 where it is left out or no tensor.
        dims: Its shape, names for open sizes.
        value: Its bytes where sizes may depend on it, else empty.
    """

    kind: int
    dims: Dims
    value: bytes


@dataclass(frozen=True)
class NodeQuery:
    """A node without the names: equal questions have equal answers.

    Attributes:
        node: The node, its operands and results numbered.
        operands: One an operand, ``None`` for one left out.
        opsets: Versions of the operator domains.
    """

    node: bytes
    operands: tuple[Operand | None, ...]
    opsets: tuple[tuple[str, int], ...]

    def proto(self) -> onnx.NodeProto:
        """Return the node."""
        node: onnx.NodeProto = onnx.NodeProto.FromString(self.node)
        return node

    def types(self) -> dict[str, onnx.TypeProto]:
        """Return the types of the operands that are tensors, by name.

        Raises:
            ContradictionError: A size is beyond the integers of the format.
        """
        sizes = (d for o in self.operands if o is not None for d in o.dims or ())
        if wrong := [d for d in sizes if isinstance(d, int) and d > _MOST]:
            raise ContradictionError(f"{wrong[0]} elements along an axis are more than 64 bits can count")
        return {
            f"i{k}": helper.make_tensor_type_proto(o.kind, o.dims)
            for k, o in enumerate(self.operands)
            if o is not None and o.kind
        }

    def tensors(self) -> dict[str, onnx.TensorProto]:
        """Return the operands whose numbers are known, by name."""
        return {
            f"i{k}": onnx.TensorProto(
                name=f"i{k}",
                data_type=o.kind,
                dims=[d for d in o.dims or () if isinstance(d, int)],
                raw_data=o.value,
            )
            for k, o in enumerate(self.operands)
            if o is not None and o.value
        }

    def with_numbers(self, numbers: Mapping[Dim, int]) -> NodeQuery:
        """Put numbers in the place of names."""
        return replace(
            self,
            operands=tuple(
                o
                if o is None or o.dims is None
                else replace(o, dims=tuple(numbers.get(d, d) for d in o.dims))
                for o in self.operands
            ),
        )


@dataclass(frozen=True)
class NodeTypes:
    """Inferred types and shapes of the results of a node.

    Attributes:
        results: The element type and the shape of each result, by place.
        refusal: The reason why some types or shapes are missing, empty where none is.
    """

    results: tuple[tuple[int | None, Dims], ...]
    refusal: str = ""


def ask(node: SizedNode) -> None:
    """Find the results of a node by onnx and onnxruntime; unknown ones are noted with the reason."""
    names: dict[Size, str] = {}
    question = _question(node, names)
    answer = _answered(question)
    if names:
        numbers: dict[Dim, int] = dict(zip(names.values(), NUMBERS, strict=False))
        if len(numbers) == len(names):
            answer = _common_types(answer, _answered(question.with_numbers(numbers)), numbers)
    sizes: dict[Dim, Extent] = {name: size for size, name in names.items()}
    for place, name in enumerate(node.outputs):
        if not name:
            continue
        kind, dims = answer.results[place]
        if dims is None:
            node.put(place, None, kind or 0)
            node.walk.tensors.unknown[name] = answer.refusal or "no tool knows its rank"
            continue
        found = [sizes.get(d, d) for d in dims]
        known = [node.fresh(place, k) if isinstance(d, str | None) else d for k, d in enumerate(found)]
        node.put(place, known, kind or 0)
        if None in dims:
            node.walk.tensors.unknown[name] = answer.refusal or "no tool knows all of its sizes"


def objection(node: SizedNode) -> str:
    """Return the error of onnx or onnxruntime for a node and its operands, empty where it can be run."""
    names: dict[Size, str] = {}
    question = _question(node, names)
    numbers: dict[Dim, int] = dict(zip(names.values(), NUMBERS, strict=False))
    numbered = question.with_numbers(numbers)
    sentence = _of_onnx(question).refusal or _of_onnx(numbered).refusal if _is_known(question) else ""
    if sentence:
        return sentence
    if any(o is not None and (o.dims is None or not o.kind) for o in question.operands):
        return "the type or the rank of an operand is not known"
    try:
        _run(numbered, 0)
    except ModelError as error:
        return error.message
    return ""


def _is_known(question: NodeQuery) -> bool:
    """Return whether onnx defines an operator."""
    node, opsets = question.proto(), dict(question.opsets)
    domain = "" if node.domain == "ai.onnx" else node.domain
    return bool(defs.has(node.op_type, opsets.get(domain, 1), domain))


def _question(node: SizedNode, names: dict[Size, str]) -> NodeQuery:
    bare = onnx.NodeProto(op_type=node.operator, domain=node.proto.domain, attribute=node.proto.attribute)
    bare.input.extend(f"i{k}" if i else "" for k, i in enumerate(node.inputs))
    bare.output.extend(f"o{k}" if o else "" for k, o in enumerate(node.outputs))
    operands = tuple(_operand(node, k, names) if node.has(k) else None for k in range(len(node.inputs)))
    return NodeQuery(bare.SerializeToString(), operands, tuple(sorted(node.walk.opsets.items())))


def _operand(node: SizedNode, place: int, names: dict[Size, str]) -> Operand:
    shape = node.shape(place)
    dims: Dims = None
    if shape is not None:
        dims = tuple(s if isinstance(s, int) else names.setdefault(s, f"d{len(names)}") for s in shape)
    return Operand(node.kind(place) or 0, dims, _relevant_bytes(node, place))


def _relevant_bytes(node: SizedNode, place: int) -> bytes:
    """Return the bytes of an operand that sizes may depend on: integers, and short lists of scales."""
    kind, values = node.kind(place), node.known(place)
    if kind is None or values is None or values.size > 64:
        return b""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    if kind in INTEGERS:
        numbers = plain(values.ravel())
        return b"" if numbers is None else np.array(numbers, dtype).tobytes()
    if kind in FLOATS and values.size <= 8 and not any(isinstance(v, Size) for v in values.ravel()):
        return np.array([float(v) for v in values.ravel()], dtype).tobytes()
    return b""


def _common_types(named: NodeTypes, numbered: NodeTypes, numbers: Mapping[Dim, int]) -> NodeTypes:
    """Keep the common facts of two answers; where the numbers do not fit, those by names, but no zero."""
    results: list[tuple[int | None, Dims]] = []
    for (kind, dims), (other_kind, others) in zip(named.results, numbered.results, strict=True):
        if dims is None:
            rank: Dims = None
            if others is not None and named.refusal != numbered.refusal:
                rank = (None,) * len(others)
            results.append((kind or other_kind, rank))
        elif others is None or len(others) != len(dims):
            results.append((kind, tuple(None if d == 0 else d for d in dims)))
        else:
            both = zip(dims, others, strict=True)
            results.append((kind, tuple(d if numbers.get(d, d) == e else None for d, e in both)))
    return NodeTypes(tuple(results), named.refusal or numbered.refusal)


@lru_cache(maxsize=4096)
def _answered(question: NodeQuery) -> NodeTypes:
    """Return the answer of onnx, completed by that of onnxruntime."""
    answer = _of_onnx(question)
    outputs = question.proto().output
    if all(dims is not None or not name for (_, dims), name in zip(answer.results, outputs, strict=True)):
        return answer
    if any(o is not None and (o.dims is None or not o.kind) for o in question.operands):
        return replace(answer, refusal=answer.refusal or "the rank of an operand is not known")
    other = _of_runtime(question)
    results = tuple(
        one if one[1] is not None else (one[0] or two[0], two[1])
        for one, two in zip(answer.results, other.results, strict=True)
    )
    return NodeTypes(results, "; ".join(filter(None, (answer.refusal, other.refusal))))


def _nothing(question: NodeQuery, refusal: str) -> NodeTypes:
    return NodeTypes(((None, None),) * len(question.proto().output), refusal)


def _of_onnx(question: NodeQuery) -> NodeTypes:
    node, opsets = question.proto(), dict(question.opsets)
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        schema = defs.get_schema(node.op_type, opsets.get(domain, 1), domain)
    except defs.SchemaError:
        version = f"version {opsets.get(domain, 1)} of '{domain or 'ai.onnx'}'"
        return _nothing(question, f"onnx knows no {node.op_type} in {version}")
    types = question.types()
    if any(name and name not in types for name in node.input):
        return _nothing(question, "the type of an operand is not known")
    imports = [helper.make_opsetid(d, v) for d, v in opsets.items()]
    try:
        found = shape_inference.infer_node_outputs(
            schema, node, types, question.tensors(), None, imports, _IR_VERSION
        )
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        return _nothing(question, f"onnx: {lines[-1] if lines else type(error).__name__}")
    whole = all(o is None or o.dims is not None for o in question.operands)
    results = tuple(_read(found.get(name), whole) for name in node.output)
    return NodeTypes(results)


def _read(kind: onnx.TypeProto | None, whole: bool) -> tuple[int | None, Dims]:
    """Read a type; onnx takes an operand of unknown shape for a number, so ranks are dropped then."""
    if kind is None or not kind.HasField("tensor_type"):
        return None, None
    tensor = kind.tensor_type
    if not whole or not tensor.HasField("shape"):
        return tensor.elem_type, None
    dims: list[Dim] = [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None
        for d in tensor.shape.dim
    ]
    return tensor.elem_type, tuple(dims)


def _of_runtime(question: NodeQuery) -> NodeTypes:
    """Load a model of one node and read its results' types from onnxruntime, or run it on examples."""
    from onnxprune.runtime import Session

    node = question.proto()
    if node.ByteSize() > LARGEST_ASKED:
        return _nothing(question, "it holds too much to be run by itself")
    try:
        session = Session(_model(question, node), optimize=False, threads=1)
    except ModelError as error:
        return _nothing(question, error.message)
    declared = {o.name: (helper.np_dtype_to_tensor_dtype(o.dtype), o.shape) for o in session.outputs}
    results = [declared.get(name, (None, ())) for name in node.output]
    if all(shape for (_, shape), name in zip(results, node.output, strict=True) if name):
        return NodeTypes(tuple((kind, tuple(shape) or None) for kind, shape in results))
    if node.domain in STANDARD_DOMAINS:  # an empty shape may also be an unknown one
        return NodeTypes(tuple((kind, tuple(shape) or None) for kind, shape in results))
    return _of_examples(question)


def _model(question: NodeQuery, node: onnx.NodeProto) -> onnx.ModelProto:
    imports = [helper.make_opsetid(d, v) for d, v in question.opsets]
    model = onnx.ModelProto(ir_version=_IR_VERSION, opset_import=imports)
    model.graph.name = "one node"
    model.graph.node.append(node)
    tensors = question.tensors()
    model.graph.initializer.extend(tensors.values())
    for name, kind in question.types().items():
        if name not in tensors:
            model.graph.input.add(name=name, type=kind)
    model.graph.output.extend(onnx.ValueInfoProto(name=o) for o in node.output if o)
    return model


def _of_examples(question: NodeQuery) -> NodeTypes:
    """Run a node at two sets of sizes, on zeros and on ones: sizes that follow no name alone are open."""
    names = dict.fromkeys(
        d for o in question.operands if o is not None for d in o.dims or () if isinstance(d, str)
    )
    runs: list[tuple[dict[Dim, int], list[tuple[int, tuple[int, ...]]]]] = []
    for few in FEW_NUMBERS:
        numbers: dict[Dim, int] = dict(zip(names, few, strict=False))
        if len(numbers) < len(names):
            return _nothing(question, "too many open sizes to run it")
        for number in (0, 1):
            try:
                runs.append((numbers, _run(question.with_numbers(numbers), number)))
            except ModelError as error:
                return _nothing(question, error.message)
    results = []
    for place in range(len(question.proto().output)):
        shapes = [(numbers, found[place][1]) for numbers, found in runs]
        kind = runs[0][1][place][0]
        ranks = {len(shape) for _, shape in shapes}
        dims = [_common(shapes, axis) for axis in range(ranks.pop())] if len(ranks) == 1 else None
        results.append((kind or None, None if dims is None else tuple(dims)))
    return NodeTypes(tuple(results))


def _run(question: NodeQuery, number: int) -> list[tuple[int, tuple[int, ...]]]:
    from onnxprune.runtime import Session

    node = question.proto()
    session = Session(_model(question, node), optimize=False, threads=1)
    feeds = {
        i.name: np.full([s for s in i.shape if isinstance(s, int)], number, i.dtype) for i in session.inputs
    }
    made: Mapping[str, Any] = session.run(feeds)
    return [
        (helper.np_dtype_to_tensor_dtype(made[o].dtype), made[o].shape) if o else (0, ()) for o in node.output
    ]


def _common(shapes: Sequence[tuple[Mapping[Dim, int], tuple[int, ...]]], axis: int) -> Dim:
    """Return the name, or the number, that an axis has in all runs."""
    sizes = {shape[axis] for _, shape in shapes}
    if len(sizes) == 1:
        return sizes.pop()
    for name in shapes[0][0]:
        if all(shape[axis] == numbers[name] for numbers, shape in shapes):
            return name
    return None
