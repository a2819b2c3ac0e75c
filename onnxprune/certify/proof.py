"""The proof: relations between the tensors of two graphs, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from onnxprune.certify.reading.graph import Graph, Read
from onnxprune.certify.reading.inner_graphs import Body, bodies_of, captured, made_inside
from onnxprune.certify.refusal import MALFORMED, STANDARD, Refusal, need, unread
from onnxprune.certify.relations.element_bounds import LARGE, Array, Bounds, Centred, exactly, lift
from onnxprune.certify.relations.kept_constants import PLACES, ROUNDING, same_bits
from onnxprune.certify.relations.relation import Relation, same
from onnxprune.certify.rules import RULES, NodePair
from onnxprune.certify.rules.windows import Indices

Kept: TypeAlias = Mapping[str, Mapping[int, Array]]


class Proof:
    """The relations shown so far.

    Args:
        sparse: The sparse model.
        dense: The dense one.
        kept: Index lists of dense constants, by name and axis; a hint.
        masked: True if floating-point constants of the dense model may be zero where those of the sparse one
            are not; no axis may be cut then. This compares a sparse model with the one it was made of.
        read: Function from an initializer to its values.
        forget: Function that is called after each node with a large constant: its values need not stay in
            memory.

    Attributes:
        of: The sparse tensor that a dense one is related to, and the relation.
        failed: The reason why no relation is shown of other dense tensors, by name.
        indices: Indices of maxima, by the name of the dense tensor (see `windows.Indices`).
        centred: Bounds of quantised elements minus their zero point, by the name of the sparse tensor.
    """

    def __init__(
        self,
        sparse: onnx.ModelProto,
        dense: onnx.ModelProto,
        kept: Kept | None = None,
        *,
        masked: bool = False,
        read: Read = numpy_helper.to_array,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        imports = [{(o.domain, o.version) for o in m.opset_import} for m in (sparse, dense)]
        need(imports[0] == imports[1], "the models are of different opsets")
        functions = [[f.SerializeToString(deterministic=True) for f in m.functions] for m in (sparse, dense)]
        need(functions[0] == functions[1], "the models have different functions")
        self.kept, self.masked = dict(kept or {}), masked
        self.sparse, self.dense = Graph(sparse, "sparse", read), Graph(dense, "dense", read)
        self.of: dict[str, tuple[str, Relation]] = {}
        self.failed: dict[str, Refusal] = {}
        self.indices: dict[str, Indices] = {}
        self.centred: dict[str, Centred] = {}
        self.sparse_nodes = list(self.sparse.flattened(self.sparse.main))
        self._models, self._values_of, self._forget = (sparse, dense), read, forget
        self._bounds: dict[str, Bounds] | None = None
        self._copies: dict[str, str] = {}
        self._inside: set[str] = set()

    def run(self) -> None:
        """Show that all outputs are the same.

        Raises:
            Refusal: One is not shown to be.
        """
        self._relate_inputs()
        self.walk(self.sparse_nodes, self.dense.flattened(self.dense.main))
        self._choose_alike()
        outputs = [m.graph.output for m in self._models]
        need(self.sparse.main.outputs == self.dense.main.outputs, "the outputs have other names")
        for one, two in zip(*outputs, strict=True):
            types = one.type.tensor_type.elem_type, two.type.tensor_type.elem_type
            need(types[0] == types[1], f"output '{one.name}' is of another type")
            need(self.equal(one.name, two.name), f"output '{one.name}' is cut, or lacks a constant")

    def _choose_alike(self) -> None:
        """Show that the dense model takes the only branch of an If wherever the sparse one takes it."""
        for result, branch in self.dense.sure.items():
            other = self.sparse.sure.get(result)
            if (
                other is None
                or other.name != branch.name
                or not self._is_same(other.condition, branch.condition)
            ):
                raise Refusal("another condition chooses the branch", result, "If")

    def _is_same(self, sparse: str, dense: str) -> bool:
        """Return true if two tensors are the same, those inside of equal bodies included."""
        return (sparse == dense and sparse in self._inside) or self.equal(sparse, dense)

    def walk(self, sparse: Iterable[onnx.NodeProto], dense: Iterable[onnx.NodeProto]) -> None:
        """Relate the results of the nodes of a dense graph to those of the sparse one."""
        makers = {n.output[0]: n for n in sparse}
        for node in makers.values():
            if node.op_type == "Identity" and node.domain in STANDARD:
                self._copies[node.output[0]] = self._source(node.input[0])
        for node in dense:
            try:
                self._relate(makers, node)
            except Refusal as why:
                self._note(node, why)
            except MALFORMED as error:
                self._note(node, Refusal(unread(error)))
            if any(self._is_large(name) for name in node.input):
                self._forget()

    def _is_large(self, name: str) -> bool:
        constant = self.dense.constants.get(name)
        return constant is not None and constant.size > LARGE

    def related(self, sparse: str, dense: str) -> Relation:
        """Return the relation of a dense tensor to a sparse one.

        Raises:
            Refusal: It is not known.
        """
        name, relation = self.of.get(dense, ("", None))
        if relation is not None and self._source(name) == self._source(sparse):
            return relation
        if self.equal(sparse, dense):
            return same(len(self.sparse.sizes[sparse]))
        raise self.failed.get(dense) or Refusal(f"'{dense}' does not stand for '{sparse}'")

    def equal(self, sparse: str, dense: str) -> bool:
        """Return true if two tensors are shown to be the same, or both are left out.

        Raises:
            Refusal: No relation is shown of the dense tensor, for a known reason.
        """
        if not sparse and not dense:
            return True
        if sparse in self.sparse.constants and dense in self.dense.constants:
            one, two = self.sparse.constants[sparse], self.dense.constants[dense]
            if (one.dtype, one.shape) != (two.dtype, two.shape):
                return False
            if self.masked and one.dtype.kind == "f":
                return self._is_masked(sparse, one, two)
            return one.tolist() == two.tolist() if one.dtype == object else same_bits(one, two)
        if dense in self.of and self._source(self.of[dense][0]) == self._source(sparse):
            return self.of[dense][1].plain
        known = self.sparse.values.get(sparse), self.dense.values.get(dense)
        if known[0] is not None and known[1] is not None:
            return bool(known[0].shape == known[1].shape and (known[0] == known[1]).all())
        if dense in self.failed:
            raise self.failed[dense]
        return False

    def _source(self, sparse: str) -> str:
        """Return the tensor that a sparse one is a copy of."""
        return self._copies.get(sparse, sparse)

    def _is_masked(self, name: str, before: Array, after: Array) -> bool:
        """Return true if a constant is zero or as before, but for the rounding of values folded here."""
        room = 4 * ROUNDING[before.dtype.itemsize] if name in self.sparse.folded else 0.0
        with np.errstate(invalid="ignore"):  # infinite values are compared as they are
            close = np.abs(before.astype(np.float64) - after) <= room * np.abs(before.astype(np.float64))
        return bool(((before == after) | (after == 0) | close).all())

    def bounds_of(self, sparse: str) -> Bounds | None:
        """Return the bounds of a sparse tensor, independently of the dense model."""
        if self._bounds is None:
            alone = Proof(self._models[0], self._models[0], read=self._values_of, forget=self._forget)
            alone._relate_inputs()
            alone.walk(alone.sparse_nodes, alone.dense.flattened(alone.dense.main))
            self._bounds = {name: relation.bounds for name, (_, relation) in alone.of.items()}
        return self._bounds.get(sparse)

    def keep(self, sparse: onnx.NodeProto, dense: onnx.NodeProto, found: Sequence[Relation | None]) -> None:
        """Store the relations of the results of two nodes."""
        for one, two, relation in zip(sparse.output, dense.output, found, strict=False):
            if relation is not None and one and two:
                self.note(one, two, relation)

    def note(self, sparse: str, dense: str, relation: Relation) -> None:
        """Store a relation, and check that it agrees with the sizes found in each graph."""
        one, two = self.sparse.sizes.get(sparse), self.dense.sizes.get(dense)
        if relation.plain and (one is None or two is None):
            self.of[dense] = (sparse, relation)
            return
        need(one is not None and two is not None, "a result of unknown rank")
        assert one is not None
        assert two is not None
        need(len(one) == len(two) == relation.rank, "results of different rank")
        for axis, (size, left) in enumerate(zip(one, two, strict=True)):
            listed = relation.lists.get(axis)
            if listed is not None:
                need(isinstance(size, int) and isinstance(left, int), "a cut axis of unknown size")
                need(listed.min(initial=0) >= 0 and listed.max(initial=-1) < size, "a list beyond the size")
                need(listed.shape[axis] == left, "a list of another length")
                need(
                    all(n in (1, two[b]) for b, n in enumerate(listed.shape)),
                    "a list that does not fit the tensor",
                )
            elif axis not in relation.free:
                need(size == left, f"axis {axis} has {left} elements instead of {size}")
        self.of[dense] = (sparse, relation)

    # --- one node ------------------------------------------------------------------------------------------

    def _relate_inputs(self) -> None:
        one, two = self.sparse.inputs, self.dense.inputs
        need([i.name for i in one] == [i.name for i in two], "the inputs have other names")
        for s, d in zip(one, two, strict=True):
            types = [i.type.SerializeToString(deterministic=True) for i in (s, d)]
            need(types[0] == types[1], f"input '{s.name}' is of another type")
            if s.name in self.sparse.sizes:
                self.of[d.name] = (s.name, same(len(self.sparse.sizes[s.name])))

    def _note(self, node: onnx.NodeProto, why: Refusal) -> None:
        if not why.tensor:
            why = Refusal(why.reason, node.output[0] or next(o for o in node.output if o), node.op_type)
        for name in node.output:
            if name:
                self.of.pop(name, None)
                self.failed[name] = why

    def _relate(self, makers: Mapping[str, onnx.NodeProto], dense: onnx.NodeProto) -> None:
        for name in dense.output:
            self.of.pop(name, None)
            self.failed.pop(name, None)
        sparse = _partner(makers, dense)
        if sparse is None:
            self._added(makers, dense)
            return
        try:
            self._paired(sparse, dense)
        except Refusal:
            if sparse.output[0] != dense.output[0]:
                raise
            try:
                self._added(makers, dense)
                return
            except Refusal:
                pass
            raise

    def _paired(self, sparse: onnx.NodeProto, dense: onnx.NodeProto) -> None:
        names = sparse.output[0], dense.output[0]
        if names[0] in self.sparse.constants and names[1] in self.dense.constants:
            return  # their consumer compares them
        if self._all_equal(sparse, dense):
            for one, two in zip(sparse.output, dense.output, strict=True):
                self.dense.adopt(two, self.sparse, one)
            self.keep(sparse, dense, self._unchanged(sparse, dense))
            return
        values = self.sparse.values.get(names[0]), self.dense.values.get(names[1])
        if values[0] is not None and values[1] is not None and self.equal(*names):
            self.note(*names, same(values[0].ndim))
            return
        for name in dense.input:
            if name in self.failed and name not in self.dense.values:
                raise self.failed[name]
        need(not self.masked, "it is not the same as in the original")
        known = dense.domain in STANDARD and dense.op_type in RULES
        need(known, "there is no rule for this operator, and it reads a tensor that is cut")
        self.keep(sparse, dense, RULES[dense.op_type](NodePair(self, sparse, dense)))

    def _all_equal(self, sparse: onnx.NodeProto, dense: onnx.NodeProto) -> bool:
        """Return true if both nodes make the same of the same."""
        if len(sparse.input) != len(dense.input) or len(sparse.output) != len(dense.output):
            return False
        plain = [
            {a.name: a.SerializeToString(deterministic=True) for a in node.attribute if a.type != a.GRAPH}
            for node in (sparse, dense)
        ]
        try:
            if plain[0] != plain[1] or not all(map(self.equal, sparse.input, dense.input)):
                return False
            inside = bodies_of(self.sparse, sparse), bodies_of(self.dense, dense)
            return inside[0].keys() == inside[1].keys() and all(
                self._same_body(inside[0][name], inside[1][name]) for name in inside[0]
            )
        except Refusal:
            return False

    def _same_body(self, sparse: Body, dense: Body) -> bool:
        """Return true if two bodies are the same text and read the same from outside."""
        texts = [
            (b.inputs, b.outputs, [n.SerializeToString(deterministic=True) for n in b.nodes])
            for b in (sparse, dense)
        ]
        found = texts[0] == texts[1] and all(self.equal(n, n) for n in captured(self.sparse, sparse))
        if found:
            self._inside |= made_inside(self.sparse, sparse)
        return found

    def _unchanged(self, sparse: onnx.NodeProto, dense: onnx.NodeProto) -> list[Relation | None]:
        """Return the relations of the results of two equal nodes: plain, with bounds where a rule has any."""
        if dense.op_type in RULES and dense.domain in STANDARD and not self.masked:
            try:
                found = RULES[dense.op_type](NodePair(self, sparse, dense))
                if all(r.plain for r in found) and len(found) == len(sparse.output):
                    return list(found)
            except (Refusal, *MALFORMED):
                pass
        ranks = [len(self.sparse.sizes[o]) if o in self.sparse.sizes else None for o in sparse.output]
        return [same(rank if rank is not None else 0) for rank in ranks]

    def _added(self, makers: Mapping[str, onnx.NodeProto], dense: onnx.NodeProto) -> None:
        """Relate a node that only the dense graph has, or that stands in the place of another operator."""
        if dense.output[0] in self.dense.constants or dense.output[0] in self.dense.values:
            return  # shape arithmetic: its consumer compares the values
        need(not self.masked, "the original has no node for it")
        sparse = makers.get(dense.output[0])
        if sparse is not None and dense.op_type == "Identity" and self._passes_on(sparse, dense):
            return
        corrects = dense.op_type in ("Mul", "Add") and dense.domain in STANDARD
        need(corrects, "the sparse model has no node for it")
        places = [k for k in (0, 1) if dense.input[k] in self.of]
        for name in dense.input:
            if name in self.failed:
                raise self.failed[name]
        need(len(places) == 1, "the sparse model has no node for it")
        (place,) = places
        name, given = self.of[dense.input[place]]
        constant = self.dense.constants.get(dense.input[1 - place])
        need(constant is not None, "the sparse model has no node for it")
        assert constant is not None
        made = _scaled(given, constant) if dense.op_type == "Mul" else _corrected(given, constant)
        self.note(name, dense.output[0], made)

    def _passes_on(self, sparse: onnx.NodeProto, dense: onnx.NodeProto) -> bool:
        """Relate an Identity in the place of a sum with operands that are zero for all inputs."""
        if sparse.op_type not in ("Add", "Sub", "Sum") or sparse.domain not in STANDARD:
            return False
        zero = [self._is_zero(name) for name in sparse.input]
        for place in (0,) if sparse.op_type == "Sub" else range(len(zero)):
            one, two = self.sparse.sizes.get(sparse.input[place]), self.sparse.sizes.get(sparse.output[0])
            if not all(zero[:place] + zero[place + 1 :]) or one is None or one != two:
                continue
            try:
                self.note(
                    sparse.output[0], dense.output[0], self.related(sparse.input[place], dense.input[0])
                )
                return True
            except Refusal:
                continue
        return False

    def _is_zero(self, name: str) -> bool:
        """Return whether a tensor of the sparse graph is zero for all inputs."""
        constant = self.sparse.constants.get(name)
        bounds = exactly(constant) if constant is not None else self.bounds_of(name)
        return bounds is not None and bool(bounds.zero.all())


def _partner(makers: Mapping[str, onnx.NodeProto], dense: onnx.NodeProto) -> onnx.NodeProto | None:
    """Return the sparse counterpart of a dense node: of its name, or of that before a suffix."""
    name = dense.output[0]
    while name not in makers and "__" in name:
        name = name.rpartition("__")[0]
    node = makers.get(name)
    if node is None or (node.op_type, len(node.output)) != (dense.op_type, len(dense.output)):
        return None
    return node if node.domain == dense.domain or {node.domain, dense.domain} <= set(STANDARD) else None


def _scaled(given: Relation, constant: Array) -> Relation:
    """Return a relation after a product with the factor that is missing."""
    need(constant.size == 1 and given.shift is None, "a factor for each channel")
    factor = given.scale * float(constant.ravel()[0])
    if abs(factor - 1) <= 4 * ROUNDING.get(constant.dtype.itemsize, 0.0):
        factor = 1.0
    need(constant.ndim <= given.rank and given.above is None, "not a factor alone")
    return Relation(given.rank, given.bounds, given.lists, given.free, factor)


def _corrected(given: Relation, constant: Array) -> Relation:
    """Return a relation after a sum with the constant that is missing."""
    need(
        given.shift is not None and given.scale == 1 and given.above is None and constant.ndim <= given.rank,
        "a constant from nowhere",
    )
    assert given.shift is not None
    added = lift(constant, given.rank)
    room = (
        PLACES
        * ROUNDING.get(constant.dtype.itemsize, 0.0)
        * np.maximum(np.abs(given.shift.low), np.abs(given.shift.high))
    )
    known = added.astype(np.float64)
    close = (known >= given.shift.high - room) & (known <= given.shift.low + room)
    need(close.all(), "not the constant that is missing")
    return Relation(given.rank, given.bounds, given.lists, given.free)
