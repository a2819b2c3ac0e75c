"""One model as the verifier reads it: constants, and the size of every tensor.

Sizes and the values of shape arithmetic are found here from the operators' definitions, by rules of this
package alone. Where no rule applies, onnx's own inference is used, as far as it gives numbers; any other size
is an unknown that no other tensor shares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.certify.reading import attention_definitions, known_elements, quantised_definitions
from onnxprune.certify.reading.carried import without_carried_states
from onnxprune.certify.reading.definitions import defined
from onnxprune.certify.reading.inference import inferred_sizes
from onnxprune.certify.reading.inner_graphs import Body, bodies_of, inlined, needed_for, read_by
from onnxprune.certify.reading.merged_axes import read_apart
from onnxprune.certify.reading.parts_of_joins import read_in_part
from onnxprune.certify.reading.stacks import given_sizes, laid_out, scan_axes
from onnxprune.certify.refusal import MALFORMED, STANDARD, Impossible, Refusal, need, unread
from onnxprune.certify.relations.element_bounds import Array
from onnxprune.certify.sizes import known_values, move_sizes, product_sizes, window_sizes
from onnxprune.certify.sizes.size_monomials import INPUT, Size, size_of, unknown
from onnxprune.certify.sizes.size_rules import SHAPES

SMALL = 4096
"""Elements up to which a value is kept as numbers and sizes."""
TABLES = (
    attention_definitions,
    quantised_definitions,
    known_elements,
    move_sizes,
    product_sizes,
    window_sizes,
)
"""The modules that hold more definitions and rules of sizes."""
AHEAD = 64
"""Nodes behind an If that are followed to find out that one of its branches is impossible."""
_SCAN_WITHOUT_SAMPLES = 9
"""The opset from which on a Scan has no lengths and goes along any axis."""
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
_NOT_FOLDED = RANDOM | known_values.NO_TENSOR | {"Dropout", "Constant", "If", "Loop", "Scan"}


Read: TypeAlias = Callable[[onnx.TensorProto], Array]


@dataclass(frozen=True)
class SureBranch:
    """The branch of an If without which no run ends.

    Attributes:
        condition: The tensor that chooses it.
        name: The name of its attribute.
        sentence: The reason, with the node that fails for all inputs in the other.
    """

    condition: str
    name: str
    sentence: str


class Graph:
    """A model with the sizes of its tensors. Names are unique over the main graph and all bodies.

    Args:
        model: The model.
        side: A word for names of unknowns that only this model has.
        read: Function from an initializer to its values.

    Attributes:
        constants: Values that are the same in every run, by name.
        folded: Names of those that were computed here.
        sizes: By name.
        values: Arrays of numbers and sizes: shape arithmetic, by name.
        main: The main graph.
        joins: The Concat nodes visited so far, by result.
        moves: The Expand and Gather nodes visited so far, by result.
        apart: Names of tensors with axes apart, by that of the tensor with merged ones (see `merged_axes`).
        lists: The elements of sequences that are known by name (see `known_elements`).
        contents: The element of optional values that have one.
        like: Names of constants of the model that constants made here have the axes of.
        sure: The If nodes of which one branch alone is possible, by result.
        bodies: The graphs inside nodes, by the node's first result and the attribute.
    """

    def __init__(self, model: onnx.ModelProto, side: str, read: Read = numpy_helper.to_array) -> None:
        self.side, self._values_of = side, read
        self.opset = next((o.version for o in model.opset_import if o.domain in STANDARD), 1)
        self.imports = list(model.opset_import)
        self.constants: dict[str, Array] = {}
        self.folded: set[str] = set()
        self.sizes: dict[str, list[Size]] = {}
        self.values: dict[str, Array] = {}
        self.bodies: dict[tuple[str, str], Body] = {}
        self.joins: dict[str, onnx.NodeProto] = {}
        self.moves: dict[str, onnx.NodeProto] = {}
        self.apart: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {}
        self.contents: dict[str, str] = {}
        self.like: dict[str, str] = {}
        self.sure: dict[str, SureBranch] = {}
        self._trying = False
        self._taken: set[str] = set()
        self._main = _defined(model.graph)
        initialized = {t.name for t in model.graph.initializer}
        self.inputs = [i for i in model.graph.input if i.name not in initialized]
        self._inferred = inferred_sizes(model)
        self.main = self._read(model.graph, {}, [i.name for i in self.inputs])
        for name, value in self.constants.items():
            self._note_constant(name, value)
        for value_info in self.inputs:
            self._declare(value_info)

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return the attributes of a node by name."""
        return {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def visit(self, node: onnx.NodeProto) -> None:
        """Find the sizes of a node's results, and its value where it is shape arithmetic."""
        self._fold(node)
        if node.output[0] in self.constants:
            return
        if any(a.type == a.GRAPH for a in node.attribute):
            self._visit_bodies(node)
            return
        found: Sequence[Sequence[Size] | None] = []
        rule = SHAPES.get(node.op_type) if node.domain in STANDARD else None
        if rule is not None:
            try:
                found = rule(self, node) or []
            except MALFORMED:
                found = []  # sizes it depends on are not known
        for place, name in enumerate(node.output):
            self._note_sizes(name, found[place] if place < len(found) else None)
        value = known_values.value_of(self, node) if node.domain in STANDARD else None
        if value is not None and value.size <= SMALL:
            self.values[node.output[0]] = value
            self.sizes[node.output[0]] = list(value.shape)

    def flattened(self, body: Body) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of a graph, each visited just before; an If of known condition is its branch."""
        for place, node in enumerate(body.nodes):
            taken = self._known_branch(node) or self._only_branch(node, body, place)
            if taken is None:
                for part in defined(self, node) or [node]:
                    yield from self._entered(part)
            else:
                yield from self.flattened(inlined(node, taken))

    def _entered(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Visit a node, and return it in its simplest form.

        Raises:
            Refusal: It lacks something that its operator needs.
        """
        made = next((o for o in node.output if o), "")
        try:
            read = read_in_part(self, node)
            self.visit(read)
            if node.domain not in STANDARD:
                return [read]
            self._note_move(node)
            return read_apart(self, read)
        except Impossible as why:
            raise Impossible(why.reason, why.tensor or made, why.operator or node.op_type) from why
        except MALFORMED as error:
            raise Refusal(unread(error), made, node.op_type) from error

    def _known_branch(self, node: onnx.NodeProto) -> Body | None:
        if node.op_type != "If" or node.domain not in STANDARD:
            return None
        value = self.values.get(node.input[0])
        if value is None or value.size != 1 or not isinstance(value.ravel()[0], bool | np.bool_):
            return None
        return self.bodies[node.output[0], "then_branch" if value.ravel()[0] else "else_branch"]

    def _note_move(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Concat":
            self.joins[node.output[0]] = node
        if node.op_type in ("Expand", "Gather"):
            self.moves[node.output[0]] = node

    def _only_branch(self, node: onnx.NodeProto, around: Body, place: int) -> Body | None:
        """Return the branch of an If whose other branch leads to a node that no run passes; or none."""
        if node.op_type != "If" or node.domain not in STANDARD or self._trying:
            return None
        inside = bodies_of(self, node)
        behind = around.nodes[place + 1 : place + 1 + AHEAD]
        later = around.nodes[place + 1 + AHEAD :]
        fails = {}
        for name, body in inside.items():
            nodes = [*inlined(node, body).nodes, *behind]
            fails[name] = self._failing(needed_for(self, nodes, [*around.outputs, *read_by(self, later)]))
        possible = [name for name, why in fails.items() if why is None]
        if len(possible) != 1:
            return None
        why = next(why for why in fails.values() if why is not None)
        sentence = f"If '{node.output[0]}' takes its {possible[0]}: with the other, {why}"
        self.sure[node.output[0]] = SureBranch(node.input[0], possible[0], sentence)
        return inside[possible[0]]

    def _failing(self, nodes: list[onnx.NodeProto]) -> Refusal | None:
        """Return the reason why no run passes some nodes; none where that is not known. Nothing is kept."""
        kept, self._trying = self._facts(), True
        try:
            for _ in self.flattened(Body([], [], nodes)):
                pass
        except Impossible as why:
            return why
        except Refusal:
            return None
        finally:
            self._trying = False
            vars(self).update(kept)
        return None

    def adopt(self, name: str, other: Graph, theirs: str) -> None:
        """Give a tensor the sizes of one of another graph that it equals."""
        if theirs in other.sizes:
            self.sizes[name] = other.sizes[theirs]
        if theirs in other.values:
            self.values[name] = other.values[theirs]

    def add(self, name: str, value: Array) -> str:
        """Enter a constant under a name that no tensor has; return the name."""
        fresh = self.fresh(name)
        self.constants[fresh] = value
        self._note_constant(fresh, value)
        return fresh

    def fresh(self, name: str) -> str:
        """Return a name that no tensor has, and take it."""
        return self._enter(name, {}, inside=True)

    def note_list(self, name: str, listed: Sequence[Size]) -> None:
        """Enter a list of numbers and sizes under a name."""
        self.values[name], self.sizes[name] = np.asarray(listed, object), [len(listed)]

    def integers(self, name: str) -> list[Size]:
        """Return a list of numbers and sizes.

        Raises:
            KeyError: It is not known.
        """
        listed: list[Size] = self.values[name].ravel().tolist()
        return listed

    def listed(self, node: onnx.NodeProto, name: str, place: int) -> list[Size] | None:
        """Return numbers that are an attribute in old opsets and an operand in new ones, none if absent."""
        given = self.attributes(node).get(name)
        if given is not None:
            return list(given) if isinstance(given, list | tuple) else [given]
        return self.integers(node.input[place]) if self.has(node, place) else None

    @staticmethod
    def has(node: onnx.NodeProto, place: int) -> bool:
        """Return true if a node has an operand."""
        return len(node.input) > place and bool(node.input[place])

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """Return the type of a constant."""
        return self.constants[name].dtype if name in self.constants else None

    def _visit_bodies(self, node: onnx.NodeProto) -> None:
        """Find the sizes inside a node with bodies, and those of its results."""
        made: list[Sequence[Size] | None] = []
        inside = bodies_of(self, node)
        if node.op_type == "If":
            for body in inside.values():
                with suppress(Impossible):  # it does not run then
                    for _ in self.flattened(body):
                        pass
            found = [[self.sizes.get(o) for o in body.outputs] for body in inside.values()]
            made = [one if one == other else None for one, other in zip(*found, strict=True)]
        elif node.op_type in ("Loop", "Scan"):
            made = list(self._repeated(node, inside["body"]))
        for place, name in enumerate(node.output):
            self._note_sizes(name, made[place] if place < len(made) else None)

    def _repeated(self, node: onnx.NodeProto, body: Body) -> Iterator[Sequence[Size] | None]:
        """Visit a body that is run again and again; yield the sizes of the results."""
        operands, states = list(node.input), len(body.outputs) - 1
        if node.op_type == "Scan" and self.opset < _SCAN_WITHOUT_SAMPLES:
            return  # its operands are others
        if node.op_type == "Scan":
            scanned = self.attributes(node)["num_scan_inputs"]
            states = len(operands) - scanned
            given = dict(zip(body.inputs, operands, strict=False))
        else:
            given = dict(zip(body.inputs[2:], operands[2:], strict=False))
            states = len(given)
            for name in body.inputs[:2]:
                self.sizes[name] = []
        into, out_of = scan_axes(self.attributes(node), len(given) - states, len(body.outputs) - states)
        unknown_turns = size_of(f"{self.side} {node.output[0]}.turns")
        sizes, turns = given_sizes(self.sizes, given, states, into, unknown_turns)
        first = 1 if node.op_type == "Loop" else 0
        after = dict(zip(list(given)[:states], body.outputs[first:], strict=False))
        changed: set[str] | None = None
        while changed is None or changed:  # nothing that holds in the first turn alone is kept
            kept = self._facts()
            self.sizes.update(sizes)
            with suppress(Impossible):  # it does not run then
                for _ in self.flattened(body):
                    pass
            changed = {
                inner
                for inner, name in after.items()
                if inner in sizes and self.sizes.get(name) != sizes[inner]
            }
            if changed:
                sizes = {inner: s for inner, s in sizes.items() if inner not in changed}
                vars(self).update(kept)
        for inner, name in after.items():
            yield self.sizes.get(name) if inner in sizes else None
        for name, axis in zip(body.outputs[first + states :], out_of, strict=False):
            element = self.sizes.get(name)
            yield None if element is None else laid_out(element, turns, axis)

    def _facts(self) -> dict[str, Any]:
        """Return copies of all that is known of tensors, by the names of the attributes."""
        names = (
            "constants",
            "folded",
            "sizes",
            "values",
            "joins",
            "moves",
            "apart",
            "sure",
            "lists",
            "contents",
            "_taken",
        )
        return {name: getattr(self, name).copy() for name in names}

    # --- reading -------------------------------------------------------------------------------------------

    def _read(
        self, graph: onnx.GraphProto, outer: Mapping[str, str], inputs: Iterable[str], inside: bool = False
    ) -> Body:
        """Read a graph and the bodies in it; names that are taken get others, as a scope of their own."""
        need(not graph.sparse_initializer, "sparse initializers have no rule")
        names = dict(outer)
        entered = [self._enter(name, names, inside) for name in inputs]
        for tensor in graph.initializer:
            self.constants[self._enter(tensor.name, names, inside)] = self._values_of(tensor)
        nodes = []
        for given in graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(given)
            node.input[:] = [names.get(i, i) for i in given.input]
            for attribute in given.attribute:
                if attribute.type == attribute.GRAPH:
                    listed = [i.name for i in attribute.g.input]
                    key = (self._will_be(given.output[0], inside), attribute.name)
                    self.bodies[key] = self._read(attribute.g, names, listed, True)
                need(attribute.type != attribute.GRAPHS, "a node with several bodies in one attribute")
            node.output[:] = [self._enter(o, names, inside) if o else "" for o in given.output]
            if node.op_type == "Constant" and node.domain in STANDARD:
                self.constants[node.output[0]] = known_values.constant(node)
            else:
                nodes += without_carried_states(self, node)
        return Body(entered, [names.get(o.name, o.name) for o in graph.output], nodes)

    def _will_be(self, name: str, inside: bool) -> str:
        """Return the name that a tensor gets: its own, in bodies another where that is taken."""
        need(inside or name not in self._taken, f"the tensor '{name}' is made twice")
        fresh, count = name, 2
        while inside and (fresh in self._taken or fresh in self._main):
            fresh, count = f"{name}__{count}", count + 1
        return fresh

    def _enter(self, name: str, names: dict[str, str], inside: bool) -> str:
        fresh = self._will_be(name, inside)
        self._taken.add(fresh)
        names[name] = fresh
        return fresh

    def _declare(self, info: onnx.ValueInfoProto) -> None:
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            self.sizes[info.name] = [
                d.dim_value
                if d.HasField("dim_value") and d.dim_value >= 0  # files from before names have -1
                else unknown(INPUT + (d.dim_param or f"{info.name}.{k}"))
                for k, d in enumerate(info.type.tensor_type.shape.dim)
            ]

    # --- known facts of a tensor ----------------------------------------------------------------------------

    def _note_constant(self, name: str, value: Array) -> None:
        self.sizes[name] = list(value.shape)
        if value.size <= SMALL and value.dtype.kind in "iubf":
            self.values[name] = value.astype(object)

    def _note_sizes(self, name: str, found: Sequence[Size] | None) -> None:
        if not name:
            return
        sure = self._inferred.get(name)
        if found is None and sure is not None:
            found = [size_of(f"{self.side} {name}.{axis}") for axis in range(len(sure))]
        if found is None:
            return
        if sure is not None and len(sure) == len(found):
            found = [size if number is None else number for number, size in zip(sure, found, strict=True)]
        self.sizes[name] = list(found)

    def _fold(self, node: onnx.NodeProto) -> None:
        """Compute a node whose operands are all constants."""
        if (
            node.domain not in STANDARD
            or node.op_type in _NOT_FOLDED
            or len([o for o in node.output if o]) != 1
        ):
            return
        if not any(node.input) or not all(i in self.constants for i in node.input if i):
            return
        value = known_values.run(self, node, {i: self.constants[i] for i in node.input if i})
        if value is not None:
            self.constants[node.output[0]] = value
            self.folded.add(node.output[0])
            self._note_constant(node.output[0], value)


def _defined(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the tensors that a graph makes, those in bodies aside."""
    made = {o for node in graph.node for o in node.output if o}
    return made | {t.name for t in graph.initializer} | {i.name for i in graph.input}
