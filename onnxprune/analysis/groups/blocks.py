"""Residual blocks: branches whose result is added to the stream that they start from.

A branch is found by its uses alone. An operand of a sum is the end of a branch if it is computed from another
operand, the stream, and nothing but the sum reads it. The branch is removable if some of its constants make
that end zero, by the zero rules of the operators from there back to the constants. The sum is then the
stream itself, and all that only the branch needs is dead.

The choice is a factor of one element: one while the branch is there, zero without it. Costs are multiplied
by it, so that a removed branch takes the costs of the groups inside it along.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

from onnxprune.algebra.axes import Block, Factor
from onnxprune.analysis.groups.channel_values import is_followed
from onnxprune.ir import FLOAT_TYPES, GraphIndex, bodies, label
from onnxprune.ops.axes import Typing
from onnxprune.ops.spec import spec_of

PREFIX = "block:"
"""The beginning of the names of blocks: no group of channels has such a name."""


def _keeps_elements(node: onnx.NodeProto) -> bool:
    """Return whether weights pass a node element by element, dequantised or in another order."""
    spec = spec_of(node)
    return node.op_type == "Cast" or bool(spec.rearranges) or spec.quantises == "to floats"


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """A branch that can be removed as a whole.

    Attributes:
        name: Name of the block: that of the node whose weights end it, behind `PREFIX`.
        stream: Tensor that the branch starts from and is added to.
        value: Tensor at the end of the branch: an operand of a sum.
        total: Result of the sum.
        weights: Constants that are zero where the block is removed.
        numbers: Numbers of the nodes that nothing but the branch needs, ascending.
        nodes: Their names, without those that have no weights.
        factor: Factor of one element, counted in the costs of these nodes.
    """

    name: str
    stream: str
    value: str
    total: str
    weights: tuple[str, ...]
    numbers: tuple[int, ...]
    nodes: tuple[str, ...]
    factor: Factor

    @property
    def size(self) -> int:
        """The number of choices beside removal: one."""
        return 1


@dataclass(frozen=True)
class ResidualBlocks:
    """The branches of a network.

    Attributes:
        removable: Branches that can be removed, in order of execution.
        refused: Ends of branches that cannot, with the node that prevents it and the reason.
    """

    removable: tuple[ResidualBlock, ...]
    refused: tuple[Block, ...]

    @cached_property
    def by_node(self) -> dict[int, tuple[Factor, ...]]:
        """The factors of the blocks that a node dies with, by its number."""
        found: dict[int, tuple[Factor, ...]] = {}
        for block in self.removable:
            for number in block.numbers:
                found[number] = (*found.get(number, ()), block.factor)
        return found


def find_blocks(typing: Typing) -> ResidualBlocks:
    """Find the residual branches of a network in canonical form.

    Only sums of the main graph are looked at.
    """
    search = _Search(typing)
    removable: list[ResidualBlock] = []
    refused: list[Block] = []
    names: set[str] = set()
    for branch in search.branches():
        try:
            found = search.removable(branch)
        except _KeptError as error:
            refused.append(error.block)
            continue
        if found is None:
            continue
        weights, numbers = found
        ends = [k for k in numbers if not set(weights).isdisjoint(typing.nodes[k].input)]
        end = max(ends, key=lambda k: (search.is_layer(k), k))
        name = PREFIX + label(typing.nodes[end])
        while name in names:
            name += "_"
        names.add(name)
        nodes = tuple(dict.fromkeys(label(typing.nodes[k]) for k in numbers if search.is_layer(k)))
        removable.append(
            ResidualBlock(name, branch.stream, branch.value, branch.total, weights, numbers, nodes, Factor(1))
        )
    return ResidualBlocks(tuple(removable), tuple(refused))


@dataclass(frozen=True)
class _Branch:
    """An operand of a sum that is computed from another operand.

    Attributes:
        stream: The other operand.
        value: The operand.
        total: Result of the node that adds it.
        around: Result of the outermost sum, which has the shape of the stream.
        inside: Numbers of the nodes between the stream and the operand, which others may need too.
    """

    stream: str
    value: str
    total: str
    around: str
    inside: frozenset[int]


class _KeptError(Exception):
    """A branch cannot be removed; ``block`` names node, operator and reason."""

    def __init__(self, node: onnx.NodeProto, reason: str) -> None:
        super().__init__(reason)
        self.block = Block(label(node), node.op_type, reason)


class _Search:
    """The use-def chains of a network, and its main graph."""

    def __init__(self, typing: Typing) -> None:
        self.typing, self.nodes = typing, typing.nodes
        self.index: GraphIndex = typing.model.index
        self.constants = typing.model.constants
        self.main = {n.output[0] for n in typing.model.main.nodes if n.output}

    def is_layer(self, number: int) -> bool:
        """Return whether a node multiplies by weights of its own."""
        node = self.nodes[number]
        return spec_of(node).mixes and any(
            self.index.behind(i, _keeps_elements) in self.constants for i in node.input
        )

    # --- sums ----------------------------------------------------------------------------------------------

    def branches(self) -> Iterator[_Branch]:
        """Yield the operands of sums that are computed from another operand of the same sum."""
        for node in self.nodes:
            if self._adds(node) and node.output[0] in self.main and not self._is_inner(node):
                leaves = list(self._leaves(node))
                if len(leaves) > 1:
                    yield from self._from_streams(node, leaves)

    def _from_streams(
        self, node: onnx.NodeProto, leaves: Sequence[tuple[str, str, bool]]
    ) -> Iterator[_Branch]:
        """Yield the operands of a sum that are computed from one that is added as a whole."""
        sizes, around = self.typing.shapes.sizes, node.output[0]
        streams = [v for v, _, added in leaves if added and sizes.get(v) == sizes.get(around) is not None]
        for value, total, _ in leaves:
            others = [s for s in streams if s != value]
            begin = min((self.index.producers.get(s, -1) for s in others), default=len(self.nodes))
            inside, seen = self._behind(value, begin)
            stream = max(seen.intersection(others), key=self._number, default=None)
            if stream is not None and any(map(self.is_layer, inside)):
                yield _Branch(stream, value, total, around, inside)

    def _number(self, name: str) -> int:
        return self.index.producers.get(name, -1)

    def _adds(self, node: onnx.NodeProto | None) -> bool:
        """Return whether a node is a sum or a difference of tensors that are all computed."""
        if node is None or spec_of(node).arithmetic not in ("sum", "difference") or not node.output:
            return False
        return len(node.input) > 1 and not any(name in self.constants for name in node.input)

    def _is_inner(self, node: onnx.NodeProto) -> bool:
        """Return whether the result of a sum is read once, as an addend of another sum."""
        readers = self.index.uses.get(node.output[0], [])
        if self.index.count(node.output[0]) != 1:
            return False
        use = readers[0] if readers else None
        reader = self.nodes[use.node] if use is not None else None
        return (
            use is not None
            and self._adds(reader)
            and not (spec_of(self.nodes[use.node]).arithmetic == "difference" and use.operand)
        )

    def _leaves(self, node: onnx.NodeProto) -> Iterator[tuple[str, str, bool]]:
        """Yield the operands of a sum of sums: the tensor, the result of its node, and if it is added."""
        differs = spec_of(node).arithmetic == "difference"
        for operand, name in enumerate(node.input):
            maker = self.index.producer(name)
            added = not (differs and operand)
            if added and maker is not None and self._adds(maker) and self._is_inner(maker):
                yield from self._leaves(maker)
            else:
                yield name, node.output[0], added

    def _behind(self, value: str, begin: int) -> tuple[frozenset[int], set[str]]:
        """Return the nodes after a position that a tensor is computed by, and the tensors that they read."""
        found: set[int] = set()
        seen: set[str] = set()
        waiting = [value]
        while waiting:
            number = self.index.producers.get(waiting.pop(), -1)
            if number > begin and number not in found:
                found.add(number)
                read = list(self.index.reads(number))
                seen.update(read)
                waiting += read
        return frozenset(found), seen

    # --- removal -------------------------------------------------------------------------------------------

    def removable(self, branch: _Branch) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
        """Return the constants that end a branch, and the nodes that die with it.

        Raises:
            _KeptError: Something else needs the end of the branch, or no constants make it zero.
        """
        adder = self.nodes[self.index.producers[branch.total]]
        if self.index.count(branch.value) != 1:
            raise _KeptError(adder, f"the branch '{branch.value}' is read elsewhere too")
        sizes = self.typing.shapes.sizes
        rest = [sizes.get(name) for name in adder.input if name != branch.value]
        if sizes.get(branch.total) not in rest:
            raise _KeptError(adder, "the sum is larger than its operands")
        dead = self._dead(branch.value, branch.inside)
        weights = self._ends(branch.value, dead, adder)
        if not any(map(self.is_layer, dead)):
            return None
        return tuple(dict.fromkeys(weights)), tuple(sorted(dead))

    def _dead(self, value: str, inside: Collection[int]) -> set[int]:
        """Return the nodes of a branch that nothing needs any more without its end."""
        dead: set[int] = set()
        waiting = [self.index.producers[value]] if value in self.index.producers else []
        while waiting:
            number = waiting.pop()
            node = self.nodes[number]
            if number in dead or number not in inside or any(bodies(node)):
                continue
            made = [name for name in node.output if name]
            if any(name in self.index.returned for name in made):
                continue
            readers = {use.node for name in made if name != value for use in self.index.uses.get(name, ())}
            if value not in made and not readers <= dead:
                continue
            if value in made and any(self.index.count(name) for name in made if name != value):
                continue
            dead.add(number)
            waiting += [
                self.index.producers[n] for n in self.index.reads(number) if n in self.index.producers
            ]
        return dead

    def _ends(self, value: str, dead: Collection[int], reader: onnx.NodeProto) -> list[str]:
        """Return constants that make a tensor zero.

        Args:
            value: The tensor.
            dead: Numbers of the nodes that only the branch needs.
            reader: A node that reads it.

        Raises:
            _KeptError: No constants do.
        """
        if value in self.constants:
            return [self._constant(value, dead, reader)]
        number = self.index.producers.get(value)
        if number is None:
            raise _KeptError(reader, f"no weights come before its operand '{value}'")
        node = self.nodes[number]
        if number not in dead:
            raise _KeptError(node, f"its result '{value}' is read elsewhere too")
        if not is_followed(self.typing, node, list(node.output).index(value)):
            raise _KeptError(node, "its result is not zero where its operands are")
        refusal: _KeptError | None = None
        for needed in self._needed(number):
            try:
                return [name for k in needed for name in self._ends(node.input[k], dead, node)]
            except _KeptError as error:
                refusal = refusal or error
        raise refusal or _KeptError(node, "its result is not zero where its operands are")

    def _needed(self, number: int) -> Iterator[tuple[int, ...]]:
        """Yield sets of operands that make the result of a node zero if they are; constants come first."""
        node = self.nodes[number]
        zero = spec_of(node).zero
        present = [k for k, name in enumerate(node.input) if name]
        flags = [not name for name in node.input]
        if number in self.typing.refused or number in self.typing.never_zero:
            return
        if zero(flags) or not zero([True] * len(flags)):
            return
        data_first = sorted(present, key=lambda k: node.input[k] in self.constants)
        tried: set[tuple[int, ...]] = set()
        for order in (data_first, data_first[::-1]):
            needed = set(present)
            for k in order:
                without = [f or (j in needed and j != k) for j, f in enumerate(flags)]
                needed -= {k} if zero(without) else set()
            if tuple(sorted(needed)) not in tried:
                tried.add(tuple(sorted(needed)))
                yield tuple(sorted(needed))

    def _constant(self, name: str, dead: Collection[int], reader: onnx.NodeProto) -> str:
        """Return a constant that may be set to zero.

        Raises:
            _KeptError: It is quantised, or something else reads it.
        """
        tensor = self.constants[name]
        if name in self.typing.quantised or name in self.typing.absent or tensor.data_type not in FLOAT_TYPES:
            raise _KeptError(reader, f"the weights '{name}' that end the branch are quantised")
        if not all(use.node in dead for use in self.index.uses.get(name, ())) or name in self.index.returned:
            raise _KeptError(reader, f"the weights '{name}' that end the branch are read elsewhere too")
        return name
