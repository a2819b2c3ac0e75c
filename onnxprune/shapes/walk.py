"""A walk through a network for one set of input shapes: the types of all tensors, and what is known of them.

Bodies of If, Loop and Scan are walked as they are reached. A branch that does not fit the shapes at hand is
no error: it is not taken with such shapes. What an If returns is known where all its branches agree.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.errors import ModelError
from onnxprune.graph import Model, attributes, bodies, goes_on, label
from onnxprune.shapes.inference import evaluate, inferred_types, sizes_of
from onnxprune.shapes.probes import Shape

Array = np.ndarray[Any, np.dtype[Any]]

SMALL = 4096
"""Elements up to which a tensor is followed by value."""
_NEVER_FOLLOWED = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
_NEVER_FOLLOWED |= {"Multinomial", "If", "Loop", "Scan", "Dropout", "Constant"}


@dataclass
class Walk:
    """What one walk finds.

    Attributes:
        model: The network.
        types: Types of the tensors met, by name.
        values: Small tensors whose values do not depend on data, by name.
        traced: Those of them that were computed on the way.
        undecided: Conditions whose value says nothing, as it follows the input: both branches are walked.
    """

    model: Model
    undecided: Collection[str] = ()
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    traced: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.opsets = {o.domain: o.version for o in self.model.proto.opset_import}
        for name, tensor in self.model.constants.items():
            self.types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            if math.prod(tensor.dims) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
                self.values[name] = self.model.array(name)

    def sizes(self) -> dict[str, Shape]:
        """Return the shapes that are fully known, by name."""
        known = {n: sizes_of(t) for n, t in self.types.items()}
        return {n: s for n, s in known.items() if s is not None}

    def conditions(self) -> set[str]:
        """Return the conditions of If nodes whose values are known."""
        nodes = self.model.all_nodes if self.model.nested else []
        return {n.input[0] for n in nodes if n.op_type == "If" and n.input[0] in self.values}

    def follow(self, graph: onnx.GraphProto) -> None:
        """Go through the nodes of a graph in the order of execution.

        Raises:
            ModelError: The shapes do not fit at some node.
        """
        for node in graph.node:
            if not _follow_values(self, node):
                taken = _taken(self, node)
                _follow_types(self, node, [self.enter(node, body) for body in taken])
                if node.op_type == "If" and len(taken) == 1:
                    self._hand_over(node, taken[0])

    def enter(self, node: onnx.NodeProto, body: onnx.GraphProto) -> list[onnx.TypeProto | None]:
        """Go through a body, and return the types of what it makes, ``None`` where they are not known."""
        try:
            for value, kind in zip(body.input, _handed_in(self, node, body), strict=True):
                if kind is not None:
                    self.types[value.name] = kind
            self.follow(body)
        except ModelError:
            return [None] * len(body.output)
        return [self.types.get(value.name) for value in body.output]

    def _hand_over(self, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
        """Know what an If returns where the branch it takes makes what is known."""
        for name, value in zip(node.output, branch.output, strict=True):
            if value.name in self.values:
                self.values[name] = self.values[value.name]
                self.traced.add(name)


def _follow_values(run: Walk, node: onnx.NodeProto) -> bool:
    """Evaluate a node whose result does not depend on data; say whether that was so."""
    shape = run.types.get(node.input[0]) if node.input else None
    if node.op_type in ("Shape", "Size") and shape is not None and (sizes := sizes_of(shape)) is not None:
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
        result = evaluate(node, [v for v in inputs if v is not None], run.opsets.get("", 1))
    except Exception:  # any failure only means that the value is not known
        return False
    return isinstance(result, np.ndarray | np.generic) and _record(run, node.output[0], np.asarray(result))


def _worth_following(run: Walk, node: onnx.NodeProto) -> bool:
    """Follow what came from shapes, and integers; weights computed from weights keep their nodes."""
    inputs: list[str] = [i for i in node.input if i]
    if node.op_type == "ConstantOfShape":
        return bool(run.values[inputs[0]].prod() <= SMALL)
    kinds = {run.values[name].dtype.kind for name in inputs}
    return any(name in run.traced for name in inputs) or kinds <= set("iub")


def _record(run: Walk, name: str, value: Array) -> bool:
    if value.size > SMALL:
        return False
    run.values[name] = value
    run.types[name] = helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    run.traced.add(name)
    return True


def _follow_types(run: Walk, node: onnx.NodeProto, inside: Sequence[Sequence[onnx.TypeProto | None]]) -> None:
    """Find the types of a node's results, those of the bodies inside it being known."""
    if inside:
        found = _handed_out(run, node, inside)
        run.types |= {name: kind for name, kind in zip(node.output, found, strict=True) if kind is not None}
    if node.op_type == "If" or all(name in run.types for name in node.output if name):
        return  # what an If declares to return is not trusted
    if any(i and i not in run.types for i in node.input):
        return  # behind an operator that nobody knows
    where = f"{run.model.name}: {{}} node '{label(node)}' ({node.op_type})"
    try:
        answer = inferred_types(node, run.types, run.values, run.opsets)
    except ModelError as error:
        if inside:
            return  # its bodies read tensors that are not among its operands
        raise ModelError(f"{where.format('shapes do not fit at')}: {error.message}") from error
    for name, kind in answer.items():
        if any(s < 0 for s in sizes_of(kind) or ()):
            raise ModelError(f"{where.format('')} makes an axis of negative size".replace(":  ", ": "))
        run.types.setdefault(name, kind)


def _taken(run: Walk, node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the bodies that are run: of an If whose condition is known, the branch it chooses."""
    condition = run.values.get(node.input[0]) if node.op_type == "If" else None
    if condition is None or condition.size != 1 or node.input[0] in run.undecided:
        return list(bodies(node))
    return [attributes(node)["then_branch" if condition.item() else "else_branch"]]


def _handed_in(run: Walk, node: onnx.NodeProto, body: onnx.GraphProto) -> list[onnx.TypeProto | None]:
    """Return the types of what a body is given."""
    given = [run.types.get(name) for name in node.input]
    if node.op_type == "Loop":
        count = helper.make_tensor_type_proto(onnx.TensorProto.INT64, [])
        go_on = helper.make_tensor_type_proto(onnx.TensorProto.BOOL, [])
        return [count, go_on, *given[2:]]
    if node.op_type == "Scan":
        states = len(given) - int(attributes(node)["num_scan_inputs"])
        axes = attributes(node).get("scan_input_axes") or [0] * (len(given) - states)
        return [*given[:states], *(_piece(k, axis) for k, axis in zip(given[states:], axes, strict=True))]
    return []


def _piece(kind: onnx.TypeProto | None, axis: int) -> onnx.TypeProto | None:
    """Return the type of one element of a tensor along an axis."""
    sizes = sizes_of(kind) if kind is not None else None
    if kind is None or sizes is None:
        return None
    axis %= len(sizes)
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, [*sizes[:axis], *sizes[axis + 1 :]])


def _handed_out(
    run: Walk, node: onnx.NodeProto, inside: Sequence[Sequence[onnx.TypeProto | None]]
) -> list[onnx.TypeProto | None]:
    """Return the types of a node's results: what its bodies make, where that is one and the same shape.

    A state that changes its shape from turn to turn has none.
    """
    if node.op_type == "If":
        results = zip(*inside, strict=True)
        return [kinds[0] if all(_alike(kind, kinds[0]) for kind in kinds) else None for kinds in results]
    made = inside[0][1:] if node.op_type == "Loop" else inside[0]
    given = node.input[2:] if node.op_type == "Loop" else node.input
    states = min(len(given), len(made))
    if node.op_type == "Scan":
        states = len(given) - int(attributes(node)["num_scan_inputs"])
    same = [k if _alike(k, run.types.get(i)) else None for k, i in zip(made[:states], given, strict=False)]
    turns = _turns(run, node, states)
    axes = attributes(node).get("scan_output_axes") or [0] * (len(made) - states)
    return [*same, *(_laid_out(k, axis, turns) for k, axis in zip(made[states:], axes, strict=True))]


def _turns(run: Walk, node: onnx.NodeProto, states: int) -> int | None:
    """Return how many turns a loop takes, ``None`` where it may end at any time."""
    if node.op_type == "Scan":
        sizes = sizes_of(run.types.get(node.input[states], onnx.TypeProto()))
        axis = (attributes(node).get("scan_input_axes") or [0])[0]
        return sizes[axis] if sizes is not None else None
    count = run.values.get(node.input[0])
    return int(count.item()) if count is not None and goes_on(node, run.values) else None


def _laid_out(kind: onnx.TypeProto | None, axis: int, turns: int | None) -> onnx.TypeProto | None:
    """Return the type of what a body makes in all turns, laid out along a new axis."""
    sizes = sizes_of(kind) if kind is not None else None
    if kind is None or sizes is None or turns is None:
        return None
    axis %= len(sizes) + 1
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, [*sizes[:axis], turns, *sizes[axis:]])


def _alike(a: onnx.TypeProto | None, b: onnx.TypeProto | None) -> bool:
    """Whether two types are known and the same."""
    if a is None or b is None or a.tensor_type.elem_type != b.tensor_type.elem_type:
        return False
    return sizes_of(a) is not None and sizes_of(a) == sizes_of(b)


def _has(node: onnx.NodeProto, attribute: str) -> bool:
    return any(a.name == attribute for a in node.attribute)
