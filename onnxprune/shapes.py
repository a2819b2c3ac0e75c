"""The size of every axis of every tensor, and the small tensors that are known before the model runs.

Rules need numbers, models have symbols. Symbolic input axes get a *probe* value, shapes follow node by node
through onnx's own inference (onnxruntime's, for the operators only it knows), and the small integer chains
that exporters leave behind (Shape → Gather → Concat → Reshape) are evaluated on the way. Done with two
different probes, what differs between them is what depends on the input: those axes and elements are
*dynamic*. Shapes the file declares are not trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import ModelError
from onnxprune.graph import Model, label
from onnxprune.probes import PROBES, Probe, Shape, other_shapes, probe_shapes
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
Given = Mapping[str, Sequence[int]] | None

SMALL = 4096
"""Elements up to which a tensor is followed by value."""
_NEVER_FOLLOWED = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
_NEVER_FOLLOWED |= {"Multinomial", "If", "Loop", "Scan", "Dropout", "Constant"}


@dataclass
class Shapes:
    """What is known of each tensor, by name.

    Attributes:
        sizes: Axis sizes at the first probe; a tensor of unknown rank is missing.
        dynamic: For each axis, whether its size follows the input.
        values: Small tensors known before the run, at the first probe (constants included).
        moving: For those, which elements follow the input.
        traced: Those of them that were computed from some tensor's shape.
        types: Element types (``TensorProto`` numbers).
        probed: Input shapes the first probe stands for.
    """

    sizes: dict[str, Shape]
    dynamic: dict[str, tuple[bool, ...]]
    values: dict[str, Array]
    moving: dict[str, Array]
    traced: set[str]
    types: dict[str, int]
    probed: dict[str, Shape]

    def note_constants(self, model: Model) -> None:
        """Take in constants added since, and values that have become constants."""
        for name, tensor in model.constants.items():
            if name in self.sizes and name not in self.traced:
                continue
            self.sizes[name], self.types[name] = tuple(tensor.dims), tensor.data_type
            self.dynamic[name] = (False,) * len(tensor.dims)
            self.traced.discard(name)
            if math.prod(tensor.dims) <= SMALL:
                self.values[name] = model.array(name)
                self.moving[name] = np.zeros(tuple(tensor.dims), bool)


@dataclass
class _Run:
    """One walk through the graph with one set of input shapes."""

    model: Model
    probe: Probe
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    traced: set[str] = field(default_factory=set)

    def sizes(self) -> dict[str, Shape]:
        known = {n: _sizes(t) for n, t in self.types.items()}
        return {n: s for n, s in known.items() if s is not None}


def infer(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Find the shapes of all tensors.

    Args:
        model: A checked model.
        given: Full shapes of inputs whose axes should not be probed, by input name.

    Raises:
        ModelError: No shape of the inputs that was tried fits the graph.
    """
    first = _first_that_fits(model, [(probe, given) for probe in PROBES])
    second = _with_other_shapes(model, first, given)
    sizes, others = first.sizes(), second.sizes()
    values = {n: v for n, v in first.values.items() if n in second.values}
    return Shapes(
        sizes=sizes,
        dynamic={n: _differs(s, others.get(n)) for n, s in sizes.items()},
        values=values,
        moving={n: _moving(v, second.values[n]) for n, v in values.items()},
        traced=first.traced & set(values),
        types={n: t.tensor_type.elem_type for n, t in first.types.items()},
        probed=probe_shapes(model, first.probe, given),
    )


def fitting_shapes(model: Model, given: Mapping[str, Sequence[int]] | None = None) -> dict[str, Shape]:
    """Return full input shapes the model works with, by input name.

    Args:
        model: A checked model.
        given: Shapes that are fixed by the caller.
    """
    return infer(model, given).probed


def _first_that_fits(model: Model, trials: Iterable[tuple[Probe, Given]]) -> _Run:
    """Walk with one choice of shapes after the other until one fits; the first failure tells most."""
    failure: ModelError | None = None
    for probe, given in trials:
        try:
            return _walk(model, probe, given)
        except ModelError as error:
            failure = failure or error
            if all(_is_static(i) or i.name in (given or {}) for i in model.inputs):
                break
    assert failure is not None
    failure.hint = failure.hint or "give the input shapes: --shape NAME=1x3x224x224"
    raise failure


def _with_other_shapes(model: Model, first: _Run, given: Given) -> _Run:
    """Walk again with other sizes on open axes; a model that takes no others has none that move."""
    if all(_is_static(i) for i in model.inputs):
        return first
    for probe in first.probe.others():
        for shapes in other_shapes(model, given):
            try:
                return _walk(model, probe, shapes)
            except ModelError:
                continue
    return first


def _is_static(value: onnx.ValueInfoProto) -> bool:
    return all(d.HasField("dim_value") and d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


def _walk(model: Model, probe: Probe, given: Given) -> _Run:
    run = _Run(model, probe)
    inputs = probe_shapes(model, probe, given)
    for value in model.inputs:
        if value.type.HasField("tensor_type"):
            element = value.type.tensor_type.elem_type
            run.types[value.name] = helper.make_tensor_type_proto(element, inputs[value.name])
        else:
            run.types[value.name] = value.type
    for name, tensor in model.constants.items():
        run.types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if math.prod(tensor.dims) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
            run.values[name] = model.array(name)
    opsets = {o.domain: o.version for o in model.proto.opset_import}
    for node in model.proto.graph.node:
        if not _follow_values(run, node, opsets):
            _follow_types(run, node, opsets)
    return run


def _follow_values(run: _Run, node: onnx.NodeProto, opsets: dict[str, int]) -> bool:
    """Evaluate a node whose result does not depend on data; say whether that was so."""
    shape = run.types.get(node.input[0]) if node.input else None
    if node.op_type in ("Shape", "Size") and shape is not None and (sizes := _sizes(shape)) is not None:
        start, end = (
            helper.get_node_attr_value(node, k) if _has(node, k) else None for k in ("start", "end")
        )
        whole = np.asarray(sizes, np.int64)
        value = whole[start:end] if node.op_type == "Shape" else np.asarray(whole.prod())
        return _record(run, node.output[0], value)
    if node.domain or node.op_type in _NEVER_FOLLOWED or len(node.output) != 1:
        return False
    inputs = [run.values.get(i) for i in node.input if i]
    if not inputs or any(v is None for v in inputs) or not _worth_following(run, node):
        return False
    try:
        result = evaluate(node, [v for v in inputs if v is not None], opsets.get("", 1))
    except Exception:  # any failure only means that the value is not known
        return False
    return isinstance(result, np.ndarray | np.generic) and _record(run, node.output[0], np.asarray(result))


def _worth_following(run: _Run, node: onnx.NodeProto) -> bool:
    """Follow what came from shapes, and integers; weights computed from weights keep their nodes."""
    inputs: list[str] = [i for i in node.input if i]
    if node.op_type == "ConstantOfShape":
        return bool(run.values[inputs[0]].prod() <= SMALL)
    kinds = {run.values[name].dtype.kind for name in inputs}
    return any(name in run.traced for name in inputs) or kinds <= set("iub")


def _record(run: _Run, name: str, value: Array) -> bool:
    if value.size > SMALL:
        return False
    run.values[name] = value
    run.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    run.traced.add(name)
    return True


def evaluate(node: onnx.NodeProto, inputs: list[Array], opset: int) -> Any:
    """Return the first result of a node that is fed these operands."""
    feeds = {f"i{k}": v for k, v in enumerate(inputs)}
    given = iter(feeds)
    bare = onnx.NodeProto(op_type=node.op_type, output=["o"], attribute=node.attribute)
    bare.input.extend(next(given) if i else "" for i in node.input)
    results: Any = _evaluator(bare.SerializeToString(), opset).run(None, feeds)
    return results[0]


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    return ReferenceEvaluator(onnx.NodeProto.FromString(node), opsets={"": opset})


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
                dims=_sizes(kinds[f"i{k}"]),
                raw_data=value,
            )
            for k, value in enumerate(self.values)
            if value
        }


def _follow_types(run: _Run, node: onnx.NodeProto, opsets: dict[str, int]) -> None:
    if any(i and i not in run.types for i in node.input):
        return  # behind an operator that nobody knows
    try:
        answer = _inferred(_question(run, node, opsets))
    except (shape_inference.InferenceError, RuntimeError) as error:
        detail = str(error).strip().splitlines()[-1]
        raise ModelError(
            f"{run.model.name}: shapes do not fit at node '{label(node)}' ({node.op_type}): {detail}"
        ) from error
    for k, name in enumerate(node.output):
        inferred = answer.get(f"o{k}")
        if not name or inferred is None:
            continue
        if any(s < 0 for s in _sizes(inferred) or ()):
            raise ModelError(
                f"{run.model.name}: node '{label(node)}' ({node.op_type}) makes an axis of negative size"
            )
        run.types[name] = inferred


def _question(run: _Run, node: onnx.NodeProto, opsets: dict[str, int]) -> _Question:
    bare = onnx.NodeProto(op_type=node.op_type, domain=node.domain, attribute=node.attribute)
    bare.input.extend(f"i{k}" if i else "" for k, i in enumerate(node.input))
    bare.output.extend(f"o{k}" if o else "" for k, o in enumerate(node.output))
    return _Question(
        bare.SerializeToString(),
        tuple(run.types[i].SerializeToString() if i else b"" for i in node.input),
        tuple(_deciding(run.values.get(i)) for i in node.input),
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


def _asked(question: _Question) -> dict[str, onnx.TypeProto]:
    """Load a model of one node and read what onnxruntime says of its results, or what it makes of zeros."""
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
            sizes = {i.name: [s for s in i.shape if isinstance(s, int)] for i in session.inputs}
            zeros = {i.name: np.zeros(sizes[i.name], i.dtype) for i in session.inputs}
            shapes = {name: value.shape for name, value in session.run(zeros).items()}
    except ModelError:  # no operator of onnxruntime, or not one for these types and sizes
        return {}
    return {
        o.name: helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(o.dtype), shapes[o.name])
        for o in session.outputs
    }


def _sizes(kind: onnx.TypeProto) -> Shape | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None


def _differs(a: Shape, b: Shape | None) -> tuple[bool, ...]:
    if b is None or len(a) != len(b):
        return (True,) * len(a)
    return tuple(x != y for x, y in zip(a, b, strict=True))


def _moving(a: Array, b: Array) -> Array:
    return np.asarray(a != b) if a.shape == b.shape else np.ones(a.shape, bool)


def _has(node: onnx.NodeProto, attribute: str) -> bool:
    return any(a.name == attribute for a in node.attribute)
