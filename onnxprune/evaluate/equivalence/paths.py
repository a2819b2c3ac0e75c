"""Facts about the way to each tensor of a graph: float types, rounding to few steps, values of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.evaluate.runnable import is_rounding
from onnxprune.ir import captured, every_graph
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of
from onnxprune.support.mapped import array_of, blocks

_WIDTHS: dict[int, int] = {
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
}


_AXES = ("axis", "axes", "keepdims")


@dataclass(frozen=True)
class ComputationGraph:
    """The main graph of a model, ready to be walked.

    Attributes:
        makers: The node that makes each tensor.
        constants: Initializers and results of Constant nodes.
        inputs: Inputs that have to be fed.
        widths: The size in bytes of the narrowest float type that each tensor is computed in, where any is.
        rounded: Tensors that activations rounded to a few steps lead to.
        dependent: Tensors that depend on the values of inputs, not only on their shapes.
        versions: The version of each domain of operators, empty for that of ONNX.
        functions: Local functions, by domain and name.
    """

    makers: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    inputs: frozenset[str]
    widths: dict[str, int]
    rounded: frozenset[str]
    dependent: frozenset[str]
    versions: dict[str, int]
    functions: dict[tuple[str, str], bytes]

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> ComputationGraph:
        """Walk through a model once, in the order of execution."""
        graph = proto.graph
        constants = {t.name: t for t in graph.initializer}
        constants |= {n.output[0]: t for n in graph.node if (t := _held(n)) is not None}
        inputs = frozenset(i.name for i in graph.input if i.name not in constants)
        walk = _Walk({n: t.data_type for n, t in constants.items()}, set(inputs))
        walk.kinds.update({i.name: i.type.tensor_type.elem_type for i in graph.input})
        for node in graph.node:
            walk.step(node)
        makers = {o: n for n in graph.node for o in n.output if o and o not in constants}
        return cls(
            makers,
            constants,
            inputs,
            walk.widths,
            frozenset(walk.rounded),
            frozenset(walk.dependent),
            {_domain(o.domain): o.version for o in proto.opset_import},
            {(f.domain, f.name): f.SerializeToString(deterministic=True) for f in proto.functions},
        )

    def meanings(self, node: onnx.NodeProto) -> list[tuple[str, int, list[bytes]]]:
        """Return the operators of a node and of its bodies, each with the version that defines it.

        A local function is defined by its text, and by those of all functions that it may call.
        """
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        nodes = [node, *(n for body in bodies for g in every_graph(body) for n in g.node)]
        return [self._meaning(n) for n in nodes]

    def _meaning(self, node: onnx.NodeProto) -> tuple[str, int, list[bytes]]:
        if (node.domain, node.op_type) in self.functions:
            return node.op_type, 0, sorted(self.functions.values())
        domain = _domain(node.domain)
        version = self.versions.get(domain, 1)
        if onnx.defs.has(node.op_type, version, domain):
            version = onnx.defs.get_schema(node.op_type, version, domain).since_version
        return node.op_type, version, []

    def ways(self, node: onnx.NodeProto) -> dict[str, bytes]:
        """Return the attributes of a node that choose its way of working, defaults included.

        Those that number axes are left out: another axis has another shape.
        """
        domain, found = _domain(node.domain), dict[str, onnx.AttributeProto]()
        if onnx.defs.has(node.op_type, self.versions.get(domain, 1), domain):
            known = onnx.defs.get_schema(node.op_type, self.versions.get(domain, 1), domain).attributes
            found = {n: a.default_value for n, a in known.items() if a.default_value.name}
        found |= {a.name: a for a in node.attribute}
        return {name: _bare(a) for name, a in found.items() if name not in _AXES}

    def same_constant(self, name: str, other: ComputationGraph, its: str) -> bool:
        """Return true if a constant of this graph and one of another are equal, types included."""
        one, two = self.constants[name], other.constants[its]
        if one.data_type != two.data_type or list(one.dims) != list(two.dims):
            return False
        if one.HasField("raw_data") and two.HasField("raw_data"):
            return bool(one.raw_data == two.raw_data)
        if one.data_type == onnx.TensorProto.STRING:
            return bool(np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two)))
        pair = zip(blocks(array_of(one)), blocks(array_of(two)), strict=True)
        return all(np.array_equal(a, b) for a, b in pair)


class _Walk:
    """Facts about the tensors so far."""

    def __init__(self, kinds: dict[str, int], dependent: set[str]) -> None:
        self.kinds, self.dependent = kinds, dependent
        self.widths: dict[str, int] = {}
        self.rounded: set[str] = set()

    def step(self, node: onnx.NodeProto) -> None:
        """Pass one node."""
        read = [i for i in (*node.input, *captured(node)) if i]
        made = [o for o in node.output if o]
        spec = spec_of(node)
        depends = spec.random == "always" or not (spec.sizes_only or self.dependent.isdisjoint(read))
        kind = self._kind(node)
        self.kinds.update(dict.fromkeys(made, kind))
        known = [self.widths[i] for i in read if i in self.widths]
        if depends:
            self.dependent.update(made)
            known += self._computed_in(node, read, kind)
        if known:
            self.widths.update(dict.fromkeys(made, min(known)))
        if (depends and is_rounding(node)) or not self.rounded.isdisjoint(read):
            self.rounded.update(made)

    def _computed_in(self, node: onnx.NodeProto, read: list[str], kind: int) -> list[int]:
        """Return the widths of the float types that a node computes in."""
        if _only_moves(node):
            return []
        kinds = [kind] if node.op_type == "Cast" else [self.kinds.get(i, 0) for i in read]
        bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        kinds += [t.data_type for body in bodies for g in every_graph(body) for t in g.initializer]
        return [_WIDTHS[k] for k in kinds if k in _WIDTHS]

    def _kind(self, node: onnx.NodeProto) -> int:
        """Return the float type of a node's results, derived from its operands; 0 if unknown."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                return int(attribute.i)
        of = node.input[1:2] if node.op_type == "DequantizeLinear" else node.input
        floats = [k for i in of if (k := self.kinds.get(i, 0)) in _WIDTHS]
        return floats[0] if floats else 0


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _held(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node, in whichever attribute it has it."""
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name in ("value_float", "value_floats"):
            floats = list(attribute.floats) if attribute.name.endswith("s") else attribute.f
            return numpy_helper.from_array(np.asarray(floats, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            ints = list(attribute.ints) if attribute.name.endswith("s") else attribute.i
            return numpy_helper.from_array(np.asarray(ints, np.int64))
    return None


def _only_moves(node: onnx.NodeProto) -> bool:
    """Return whether a node computes no floats: its results hold those of operands, in the same type."""
    spec = spec_of(node)
    joins = node.op_type in ("Concat", "Constant", "Where")
    moves = bool(spec.moves) and node.op_type not in ("Cast", "CastLike")
    return joins or moves or spec.quantises == "to floats"


def _bare(attribute: onnx.AttributeProto) -> bytes:
    """Return an attribute as bytes, without its description."""
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    copy.doc_string = ""
    return bytes(copy.SerializeToString(deterministic=True))
