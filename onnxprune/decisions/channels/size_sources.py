"""Sizes that a network computes while it runs, changed at their sources.

The sources are the nodes that read sizes off tensors, which have the new sizes after a cut, and the constants
that the network joins with them. A change at a source reaches all numbers computed from it; it is made only
where each reader of them needs exactly the new ones, or the same number as before.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.algebra.sizes.algebra import Extent, NotWholeError, Size, exact_quotient
from onnxprune.algebra.sizes.facts import SizeFacts
from onnxprune.algebra.sizes.tensors import Values
from onnxprune.analysis.shapes import Shapes
from onnxprune.analysis.shapes.node_evaluation import evaluate
from onnxprune.analysis.sizes.walk import Walk
from onnxprune.errors import UNEXPECTED, OnnxpruneError
from onnxprune.ir import Model, subgraphs
from onnxprune.ir.index import GraphIndex
from onnxprune.ops.spec import STANDARD_DOMAINS, spec_of

Place: TypeAlias = "tuple[int, int]"
"""A node by its number, and one of its operands; for sizes that the node reads off a tensor, `READ`."""
NewSizes: TypeAlias = "Mapping[Place, Mapping[int, Extent]]"
"""New numbers by place and element."""
READ = -1
_ROUNDS = 8


@dataclass(frozen=True)
class ChangedSources:
    """Sources that are changed.

    Attributes:
        places: Nodes that read sizes off tensors, and operands that are constants.
        done: Elements of operands that have their new numbers by these.
    """

    places: Set[Place] = frozenset()
    done: Collection[tuple[Place, int]] = ()


@dataclass
class SizeFlow:
    """The way of sizes from their sources to their readers.

    Attributes:
        model: The network before any change, its weights cut or not.
        shapes: Its shapes, and the numbers it computes.
        index: The producers and readers of its tensors.
        new_sizes: The new numbers that readers need, and those that nodes read off tensors.
    """

    model: Model
    shapes: Shapes
    index: GraphIndex
    new_sizes: NewSizes
    readers: frozenset[int] = field(init=False)
    """The nodes that need new numbers."""

    def __post_init__(self) -> None:
        self.readers = frozenset(node for node, operand in self.new_sizes if operand != READ)

    def sources(self) -> ChangedSources:
        """Change as many sources as all readers agree with; write the constants among them."""
        read = {place: new for place, new in self.new_sizes.items() if place[1] == READ}
        numbers: NewSizes = read | self._constants()
        quotients: frozenset[int] = frozenset()
        for _ in range(_ROUNDS):
            if not numbers:
                break
            flow = _Flow(self, numbers, quotients)
            flow.run()
            if not flow.conflicts:
                numbers = dict(numbers) | flow.divisors
                self._write({place: new for place, new in numbers.items() if place[1] != READ})
                return ChangedSources(numbers.keys(), self._done(flow))
            if flow.blamed - quotients:
                quotients |= flow.blamed
            else:
                numbers = {place: new for place, new in numbers.items() if place not in flow.conflicts}
        return ChangedSources()

    def _constants(self) -> dict[Place, dict[int, Extent]]:
        """Return the constants that hold numbers to change, and the new ones."""
        found: dict[Place, dict[int, Extent]] = {}
        for (number, operand), elements in self.new_sizes.items():
            if operand == READ:
                continue
            name = self.index.nodes[number].input[operand]
            for element, new in elements.items():
                origin = self._origin(name, element, new)
                if origin is not None:
                    place, inner, number = origin
                    found.setdefault(place, {}).setdefault(inner, number)
        return found

    def _origin(self, name: str, element: int, new: Extent) -> tuple[Place, int, int] | None:
        """Return a constant operand that a number is made of, its element there, and the number to put in."""
        number = self.index.producers.get(name)
        if number is None:
            return None
        node = self.index.nodes[number]
        for operand, inner, target in self._steps(node, element, new):
            if node.input[operand] not in self.model.constants:
                found = self._origin(node.input[operand], inner, target)
                if found is not None:
                    return found
            elif isinstance(target, int):
                return (number, operand), inner, target
        return None

    def _steps(self, node: onnx.NodeProto, element: int, new: Extent) -> Iterator[tuple[int, int, Extent]]:
        """Yield operands that an element of a result is made of, its element there, and the number for it."""
        if node.domain not in STANDARD_DOMAINS:
            return
        if node.op_type == "Mul":
            yield from self._multiples(node, element, new)
            return
        moved = self._moved(node, element)
        if moved is not None:
            yield *moved, new

    def _multiples(
        self, node: onnx.NodeProto, element: int, new: Extent
    ) -> Iterator[tuple[int, int, Extent]]:
        """Yield the factors of a product that become a whole number or expression where the others stay."""
        before = self.shapes.integers(node.output[0])
        old = None if before is None else before[element]
        for operand, name in enumerate(node.input):
            factors = self.shapes.integers(name)
            if not old or factors is None or len(factors) not in (1, len(before or ())):
                continue
            inner = element if len(factors) > 1 else 0
            factor = factors[inner]
            target = None if factor is None else exact_quotient(factor * new, old)
            if target is not None:
                yield operand, inner, target

    def _moved(self, node: onnx.NodeProto, element: int) -> tuple[int, int] | None:
        """Return the operand that an element of a result is moved from, and its element there."""
        if node.op_type == "Cast" or spec_of(node).rearranges == "shape":
            return 0, element
        if node.op_type == "Concat":
            return self._piece(node, element)
        if node.op_type in ("Gather", "Slice"):
            numbers = [self.shapes.values.get(name) for name in node.input[1:]]
            known = [v for v in numbers if v is not None]
            count = self._length(node.input[0])
            if count is None or len(known) < len(numbers):
                return None
            moved = evaluate(node, [np.arange(count), *known], self.model.opset())
            return 0, int(np.ravel(moved)[element])
        if node.op_type == "Where":
            chosen = self.shapes.integers(node.input[0])
            counts = {self._length(name) for name in node.input}
            if chosen is None or len(counts) != 1 or chosen[element] not in (0, 1):
                return None
            return 1 if chosen[element] else 2, element
        return None

    def _piece(self, node: onnx.NodeProto, element: int) -> tuple[int, int] | None:
        for operand, name in enumerate(node.input):
            count = self._length(name)
            if count is None:
                return None
            if element < count:
                return operand, element
            element -= count
        return None

    def _length(self, name: str) -> int | None:
        """Return the number of elements of a list."""
        sizes = self.shapes.sizes.get(name, ())
        return sizes[0] if len(sizes) == 1 and isinstance(sizes[0], int) else None

    def _write(self, numbers: NewSizes) -> None:
        for (number, operand), elements in numbers.items():
            node = self.index.nodes[number]
            values = self.model.array(node.input[operand]).copy()
            for element, new in elements.items():
                values.ravel()[element] = new
            node.input[operand] = self.model.add_constant(f"{node.input[operand]}__kept", values)

    def _done(self, flow: _Flow) -> list[tuple[Place, int]]:
        found = []
        for place, elements in self.new_sizes.items():
            values = flow.values.get(flow.names[place]) if place in flow.names else None
            if values is not None:
                found += [(place, e) for e, new in elements.items() if values.ravel()[e] == new]
        return found


@dataclass
class _Flow:
    """The numbers that a network computes from changed sources.

    Attributes:
        of: The network.
        numbers: The changed sources, and their new numbers.
        values: The changed numbers, by tensor.
        origins: The sources that each of these tensors is computed from.
        names: The tensors that readers read.
        conflicts: Sources that some reader needs as they were.
        quotients: Divisions by a constant whose result stays: the divisor changes with the dividend.
        divisors: New numbers of these constants.
        divisions: The divisions by a constant that each changed tensor is computed by.
        blamed: The divisions by which numbers change that some reader needs as they were.
    """

    of: SizeFlow
    numbers: NewSizes
    quotients: frozenset[int] = frozenset()
    divisors: dict[Place, dict[int, Extent]] = field(default_factory=dict)
    divisions: dict[str, frozenset[int]] = field(default_factory=dict)
    blamed: frozenset[int] = frozenset()
    values: dict[str, Values] = field(default_factory=dict)
    origins: dict[str, frozenset[Place]] = field(default_factory=dict)
    names: dict[Place, str] = field(default_factory=dict)
    conflicts: set[Place] = field(default_factory=set)

    def __post_init__(self) -> None:
        facts = SizeFacts()
        known = self.of.shapes.analysis.values.values()
        sizes = (x for values in known for x in values.ravel() if isinstance(x, Size))
        if (some := next(sizes, None)) is not None:
            facts.algebra = some.algebra
        opsets = {o.domain: o.version for o in self.of.model.proto.opset_import}
        self._walk = Walk(opsets, facts, self.of.model.name, "")
        self._waiting = list({number for number, _ in self.numbers})
        self._seen = set(self._waiting)
        heapq.heapify(self._waiting)

    def run(self) -> None:
        """Compute the numbers in the order of execution."""
        while self._waiting:
            number = heapq.heappop(self._waiting)
            new = self.numbers.get((number, READ))
            if new is None:
                self._follow(number)
            else:
                self._change(self.of.index.nodes[number].output[0], new, {(number, READ)})

    def _change(self, name: str, new: Mapping[int, Extent], sources: Iterable[Place]) -> None:
        """Change elements of a result."""
        known = self._known(name)
        if known is None:
            self.conflicts.update(sources)
            return
        values = known.copy()
        for element, number in new.items():
            values.ravel()[element] = number
        self._enter(name, values, sources)

    def _enter(self, name: str, values: Values, sources: Iterable[Place]) -> None:
        """Note the changed numbers of a tensor, whose readers are next."""
        self.values[name], self.origins[name] = values, frozenset(sources)
        if name in self.of.index.returned:
            self.conflicts.update(sources)
        for reader in self.of.index.readers(name):
            if reader not in self._seen:
                self._seen.add(reader)
                heapq.heappush(self._waiting, reader)

    def _known(self, name: str) -> Values | None:
        """Return the numbers of a tensor before any change."""
        shapes = self.of.shapes
        found = shapes.analysis.values.get(name, shapes.listed.get(name))
        if found is None and name in shapes.values and shapes.values[name].dtype.kind in "iub":
            found = shapes.values[name].astype(object)
        return found

    def _follow(self, number: int) -> None:
        """Compute the results of a node; where they are no numbers, compare its operands."""
        node = self.of.index.nodes[number]
        operands = {o: self._operand(number, o) for o, name in enumerate(node.input) if name}
        changed = {
            o: v for o, v in operands.items() if v is not None and not _equal(v, self._known(node.input[o]))
        }
        if not changed:
            return
        if number in self.quotients and self._divisor(number, changed) is not None:
            return
        sources = {s for o in changed for s in self._sources(number, o)}
        divisions = {d for o in changed for d in self.divisions.get(node.input[o], ())}
        divisions |= {number} if self._divisor(number, changed, write=False) is not None else set()
        results = None
        if number not in self.of.readers and not any(subgraphs(node)):
            results = self._results(node, operands)
        if results is None:
            for operand, values in changed.items():
                self._compare(number, operand, values)
            return
        for name, values in results.items():
            if not _equal(values, self._known(name)):
                self.divisions[name] = frozenset(divisions)
                self._enter(name, values, sources)

    def _divisor(
        self, number: int, changed: Mapping[int, Values], *, write: bool = True
    ) -> dict[int, Extent] | None:
        """Return the new elements of a constant divisor with which a quotient stays as it was.

        Args:
            number: A node.
            changed: Its operands with changed numbers.
            write: Note them among the new numbers.
        """
        node = self.of.index.nodes[number]
        if node.op_type != "Div" or node.domain not in STANDARD_DOMAINS or list(changed) != [0]:
            return None
        quotient, below = self._known(node.output[0]), self.of.model.constants.get(node.input[1])
        if (
            quotient is None
            or below is None
            or quotient.size != changed[0].size
            or list(below.dims) not in ([], [1])
        ):
            return None
        found = {
            exact_quotient(new, old) if old else None
            for new, old in zip(changed[0].ravel(), quotient.ravel(), strict=True)
        }
        if len(found) != 1 or not isinstance(divisor := found.pop(), int):
            return None
        if write:
            self.divisors[number, 1] = {0: divisor}
        return {0: divisor}

    def _operand(self, number: int, operand: int) -> Values | None:
        name = self.of.index.nodes[number].input[operand]
        values = self.values.get(name)
        if values is None:
            values = self._known(name)
        new = self.numbers.get((number, operand))
        if new is None or values is None:
            return values
        values = values.copy()
        for element, size in new.items():
            values.ravel()[element] = size
        return values

    def _sources(self, number: int, operand: int) -> set[Place]:
        found = set(self.origins.get(self.of.index.nodes[number].input[operand], ()))
        return found | ({(number, operand)} & self.numbers.keys())

    def _results(
        self, node: onnx.NodeProto, operands: Mapping[int, Values | None]
    ) -> dict[str, Values] | None:
        """Return the results of a node; ``None`` where one is no list of numbers of the same shape."""
        names = [name for name in node.output if name]
        before = {name: values for name in names if (values := self._known(name)) is not None}
        if len(before) < len(names) or any(values is None for values in operands.values()):
            return None
        copy, tensors, shapes = onnx.NodeProto(), self._walk.tensors, self.of.shapes
        copy.CopyFrom(node)
        for operand, values in operands.items():
            if values is not None:
                copy.input[operand] = f"{operand}"
                tensors.shapes[f"{operand}"] = values.shape
                tensors.types[f"{operand}"] = shapes.types[node.input[operand]]
                tensors.values[f"{operand}"] = values
        try:
            self._walk.apply(copy)
        except (OnnxpruneError, NotWholeError, *UNEXPECTED):
            return None
        found = {name: self._walk.value(name) for name in names if self._walk.has_value(name)}
        known = {name: values for name, values in found.items() if values is not None}
        same = all(name in known and known[name].shape == before[name].shape for name in names)
        return known if same else None

    def _compare(self, number: int, operand: int, values: Values) -> None:
        """Note a conflict where a reader needs other numbers than those computed."""
        name = self.of.index.nodes[number].input[operand]
        before, targets = self._known(name), self.of.new_sizes.get((number, operand), {})
        self.names[number, operand] = name
        old = values if before is None else before
        for element, (new, known) in enumerate(zip(values.ravel(), old.ravel(), strict=True)):
            if new not in (targets.get(element, known), known):
                self.conflicts |= self._sources(number, operand)
                self.blamed |= self.divisions.get(name, frozenset())


def _equal(values: Values, others: Values | None) -> bool:
    return others is not None and values.shape == others.shape and bool(np.all(values == others))
