"""The walk through a network, node by node, bodies included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx

from onnxprune.algebra.sizes.algebra import Extent, NotWholeError, Size, Value, as_extent
from onnxprune.algebra.sizes.facts import ContradictionError, SizeFacts
from onnxprune.algebra.sizes.tensors import SMALL, Shape, Tensors, Values, each, fits_type
from onnxprune.analysis.sizes import delegation
from onnxprune.errors import UNEXPECTED, DefectError, OnnxpruneError
from onnxprune.ops.sizes.node import SizedNode
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of

_AHEAD = 40
"""Nodes that are read ahead to find whether a branch can be taken."""


class Walk:
    """A walk through a network, and its findings.

    Args:
        opsets: Versions of the operator domains.
        facts: Facts about symbols that it finds.
        where: Name of the model in messages.
        hint: Advice for sizes that do not fit.

    Attributes:
        tensors: Findings about each tensor.
        branches: The decided conditions of If nodes, by their first result.
        turns: The number of turns of each Loop for which it is known, by its first result.
    """

    def __init__(self, opsets: Mapping[str, int], facts: SizeFacts, where: str, hint: str) -> None:
        self.opsets, self.facts = opsets, facts
        self.tensors = Tensors()
        self.branches: dict[str, bool] = {}
        self._asking: dict[str, list[str]] = defaultdict(list)
        self._assumed: dict[Value | str, bool] = {}
        self.turns: dict[str, Extent] = {}
        self._where, self._hint = where, hint
        self._places: list[tuple[onnx.GraphProto, int]] = []
        self._trying = False

    def opset(self, domain: str) -> int:
        """Return the version of an operator domain."""
        if domain in STANDARD_DOMAINS:
            return next((self.opsets[d] for d in STANDARD_DOMAINS if d in self.opsets), 1)
        return self.opsets.get(domain, 1)

    def shape(self, name: str) -> Shape | None:
        """Return a tensor's shape as it is known by now."""
        shape = self.tensors.shapes.get(name)
        if shape is None or not self.facts.learnt:
            return shape
        return tuple(self.facts.size_now(size) if isinstance(size, Size) else size for size in shape)

    def note_turns(self, results: Iterable[str], turns: Extent | None) -> None:
        """Enter the number of turns of a loop under its first result, none where it is not known."""
        name = next(filter(None, results), "")
        self.turns.pop(name, None)
        if turns is not None:
            self.turns[name] = turns

    def decide(self, node: SizedNode, taken: bool | None) -> None:
        """Enter the branch that an If takes, ``None`` where it depends on the run.

        An If that certainly runs decides for all others with its condition.
        """
        condition, result = node.inputs[0], next(filter(None, node.outputs), "")
        self.branches.pop(result, None)
        self._asking[condition].append(result)
        if taken is not None:
            alike = self._asking[condition] if self.facts.sure else [result]
            self.branches |= dict.fromkeys(alike, taken)

    def assumed(self, name: str, truth: Value) -> Value:
        """Return a condition, as a number inside the branches that ask for the same."""
        for known in (name, truth):
            if known in self._assumed:
                return int(self._assumed[known])
        opposite = 1 - truth
        return int(not self._assumed[opposite]) if opposite in self._assumed else truth

    @contextmanager
    def assuming(self, name: str, truth: Value, taken: bool) -> Iterator[None]:
        """Go through nodes that run only where a condition is true, or only where it is not."""
        before = dict(self._assumed)
        self._assumed |= {name: taken, truth: taken}
        try:
            yield
        finally:
            self._assumed = before

    def has_value(self, name: str) -> bool:
        """Return whether the numbers of a tensor are followed."""
        return name in self.tensors.values or name in self.tensors.constants

    def value(self, name: str) -> Values | None:
        """Return a tensor's numbers as they are known by now."""
        found = self.tensors.known_value(name)
        fixed = name in self.tensors.constants and name not in self.tensors.derived
        if found is None or fixed or not self.facts.learnt:
            return found
        return each(self.facts.now, found)

    def put(
        self, name: str, shape: Sequence[Value] | None, kind: int | None, value: Values | None = None
    ) -> None:
        """Enter the shape, the type and the known value of a tensor."""
        tensors, facts = self.tensors, self.facts
        if kind:  # 0 is no type
            tensors.types[name] = kind
        if value is not None and value.size <= SMALL and fits_type(value, tensors.types.get(name)):
            tensors.values[name] = each(lambda x: facts.manageable(x, f"{name}.value"), value)
            tensors.derived.add(name)
        elif name in tensors.values:
            del tensors.values[name]
        if shape is None:
            tensors.shapes.pop(name, None)
            return
        tensors.shapes[name] = tuple(
            size
            if isinstance(size, int)
            else self._extent(facts.manageable(size, f"{name}.{axis}"), name, axis)
            for axis, size in enumerate(shape)
        )

    def _extent(self, size: Value, name: str, axis: int) -> Extent:
        try:
            found = as_extent(size)
        except NotWholeError as error:
            raise ContradictionError(f"axis {axis} of '{name}': {error}") from error
        if isinstance(found, Size):
            self.facts.occurs(found)
        return found

    def follow(self, graph: onnx.GraphProto) -> None:
        """Go through the nodes of a graph in the order of execution.

        Raises:
            ModelError: Sizes do not fit; the message names the node.
        """
        for tensor in graph.initializer:
            self.tensors.add_constant(tensor.name, tensor)
        for sparse in graph.sparse_initializer:
            self.tensors.shapes[sparse.values.name] = tuple(sparse.dims)
            self.tensors.types[sparse.values.name] = sparse.values.data_type
        self._places.append((graph, 0))
        try:
            for place, proto in enumerate(graph.node):
                self._places[-1] = (graph, place)
                self.apply(proto)
        finally:
            self._places.pop()

    def fits_ahead(self) -> bool:
        """Return whether the next nodes of the graph fit the sizes known now; no fact is derived from it."""
        if self._trying:
            return True
        graph, place = self._places[-1]
        facts, tensors = self.facts, self.tensors
        kept = [dict(d) for d in (facts.assumptions, facts.undecided, self.branches, facts.possible)]
        noted = [dict(d) for d in (tensors.unknown, tensors.kinds)]
        sure, self._trying, facts.sure = facts.sure, True, False
        try:
            for proto in graph.node[place + 1 : place + 1 + _AHEAD]:
                self.apply(proto)
        except ContradictionError:
            return False
        finally:
            self._trying, facts.sure = False, sure
            facts.assumptions, facts.undecided, self.branches, facts.possible = kept  # type: ignore[assignment]
            tensors.unknown, tensors.kinds = noted
        return True

    def apply(self, proto: onnx.NodeProto) -> None:
        """Enter the results of one node.

        Raises:
            ModelError: Sizes do not fit; the message names the node.
        """
        node = SizedNode(proto, self)
        rule = spec_of(proto).sizes
        try:
            if rule is None:
                self.ask(node)
            else:
                rule(node)
        except ContradictionError as error:
            if error.message.startswith(self._where):
                raise  # of a body
            text = (
                f"{self._where}: sizes do not fit at node '{node.label}' ({node.operator}): {error.message}"
            )
            raise ContradictionError(text, self._hint) from error
        except ZeroDivisionError as error:
            text = f"{self._where}: node '{node.label}' ({node.operator}) divides a size by zero"
            raise ContradictionError(text, self._hint) from error
        except OverflowError as error:
            text = f"{self._where}: a size at node '{node.label}' ({node.operator}) is out of range: {error}"
            raise ContradictionError(text, self._hint) from error
        except NotWholeError as error:
            text = f"{self._where}: sizes do not fit at node '{node.label}' ({node.operator}): {error}"
            raise ContradictionError(text, self._hint) from error
        except UNEXPECTED as error:
            raise self._unexpected(node, error) from error

    def _unexpected(self, node: SizedNode, error: Exception) -> OnnxpruneError:
        """Distinguish operands that no operator takes from a defect of a rule."""
        named = f"{self._where}: node '{node.label}' ({node.operator})"
        if objection := delegation.objection(node):
            return ContradictionError(f"{named} cannot be: {objection}", self._hint)
        return DefectError.of(named, "its size rule", error)

    def ask(self, node: SizedNode) -> None:
        """Infer the results of an operator without a rule by onnx and onnxruntime."""
        delegation.ask(node)

    def pass_on(self, source: str, target: str) -> bool:
        """Give a sequence, map or optional another name; return false for a tensor, which stays."""
        tensors = self.tensors
        if source not in tensors.kinds:
            return False
        tensors.kinds[target] = tensors.kinds[source]
        tensors.sequences.pop(target, None)
        if source in tensors.sequences:
            tensors.sequences[target] = tensors.sequences[source]
        return True
