"""Scalar factors of cuts, moved into nearby constants, where the fusions of runtimes expect them.

Runtimes recognise layers by patterns of nodes. A cut in the width of a root mean square needs one more
factor, and a node for it in the middle of that pattern would hide it. A cut in the width of attention heads
leaves the scale of the products as it was; onnxruntime's transformer optimizer assumes ``1 / √width``
without a check (``FusionAttention`` in onnxruntime/transformers/fusion_attention.py). Both factors
move into constants: ``mean·c + ε = c·(mean + ε/c)``, and ``(q·k) / √old = (q·√(new/old) · k) / √new``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx

from onnxprune.algebra.kept_axes import kept_size
from onnxprune.analysis.groups.channels import Channels
from onnxprune.ir import GraphIndex, Model, label
from onnxprune.ir.canonical.canonicalise import drop_unused_constants
from onnxprune.ops.spec import spec_of

Change: TypeAlias = "tuple[onnx.NodeProto, int, float]"
"""A node, the number of its constant operand, and the factor of that operand."""
_WIDE = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
_TOLERANCE = 1e-4
_SMALL = 4096
"""Elements up to which a constant may be written once more."""


def with_scales_in_place(
    model: Model, channels: Channels, removed: Mapping[str, Sequence[int]], *, nodes: bool = True
) -> tuple[Model, list[str]]:
    """Return the dense network with such factors in its constants, and the factors that could not be moved.

    Args:
        model: The dense network.
        channels: The groups of the network it was cut from.
        removed: Removed channels by group name.
        nodes: True if factors that have a node of their own are moved, beside the scales of attention.

    Returns:
        The network, itself where no factor can be moved; a sentence for each factor that stays, which names
        the node.
    """
    cut = _cut_widths(channels, removed)
    rescaled = [n.output[0] for n in model.nodes if n.op_type == "Mul" and n.name.endswith("__rescaled")]
    if not cut and not rescaled:
        return model, []
    model = model.copy()
    graph = _Scalars.of(model)
    moves = [_without_node(graph, name, nodes) for name in rescaled]
    moves += [move for name, widths in cut.items() if (move := _by_width(graph, name, *widths)) is not None]
    possible = graph.possible([move for move in moves if move.changes is not None])
    for move in possible:
        graph.apply(move)
    drop_unused_constants(model)
    return model, [move.otherwise for move in moves if move not in possible]


@dataclass(frozen=True, eq=False)
class _Move:
    """A factor that goes into constants.

    Attributes:
        changes: The constants, ``None`` where there are none that could take it.
        otherwise: Reason given where it stays.
        needless: The node that is then of no use.
    """

    changes: list[Change] | None
    otherwise: str
    needless: onnx.NodeProto | None = None


def _cut_widths(channels: Channels, removed: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, int]]:
    """Return the products of two computed matrices that sum over fewer elements than before, and how many."""
    counts = {factor: len(kept) for factor, kept in channels.kept(removed).items()}
    found = {}
    for contraction in channels.typing.contractions:
        node = channels.typing.nodes[contraction.node]
        if node.op_type != "MatMul" or channels.model.constants.keys() & set(node.input):
            continue
        old, new = contraction.dim.size, kept_size(contraction.dim, counts)
        if isinstance(old, int) and isinstance(new, int) and new != old:
            found[node.output[0]] = (old, new)
    return found


def _without_node(graph: _Scalars, name: str, is_applied: bool) -> _Move:
    """Move the factor of a node that a cut has put in."""
    node = graph.index.nodes[graph.index.producers[name]]
    factor = graph.scalar(node.input[1])
    changes = graph.behind(name, factor) if factor is not None and is_applied else None
    reason = f"'{name}' is multiplied by a node of its own: runtimes may not fuse the nodes around it"
    return _Move(changes, reason, node)


def _by_width(graph: _Scalars, name: str, old: int, new: int) -> _Move | None:
    """Let the scale of the products of attention follow the width of its heads, if it did before."""
    product = graph.index.producer(name)
    if product is None:
        return None
    sites = [*graph.scalars_after(name), *graph.scalars_before(product, 0), *graph.scalars_before(product, 1)]
    total = math.prod(site.factor for site in sites)
    if not sites or not math.isclose(total, 1 / math.sqrt(old), rel_tol=_TOLERANCE):
        return None
    reason = f"the heads of '{label(product)}' are {new} wide and scaled for {old}"
    reason += (
        ": onnxruntime's transformer optimizer, which takes the width for granted, would fuse them wrongly"
    )
    share = math.pow(old / new, 1 / (2 * len(sites)))
    changes: list[Change] = []
    for site in sites:
        found = graph.before(site.tensor, 1 / share)
        if found is None:
            return _Move(None, reason)
        scale = 1 / share if site.node.op_type == "Div" else share
        changes += [(site.node, site.operand, scale), *found]
    return _Move(changes, reason)


@dataclass(frozen=True)
class _Site:
    """A node that multiplies by a constant number.

    Attributes:
        node: The node.
        operand: Number of the operand that is the constant.
        factor: Factor the node multiplies with.
        tensor: The tensor before the products whose constants can make up for another number.
    """

    node: onnx.NodeProto
    operand: int
    factor: float
    tensor: str


@dataclass
class _Scalars:
    """Constants of a network that can take up a factor.

    Attributes:
        model: The network, which is changed.
        index: The nodes of its main graph, with producers and uses.
        changed: Tied matrices that have their factor.
    """

    model: Model
    index: GraphIndex
    changed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: Model) -> _Scalars:
        # A list: nodes are removed from the graph, and their numbers have to stay.
        return cls(model, GraphIndex([*model.nodes], (o.name for o in model.outputs)))

    def scalar(self, name: str) -> float | None:
        """Return a constant number of float32 or float64, else ``None``."""
        tensor = self.model.constants.get(name)
        if tensor is None or tensor.data_type not in _WIDE or math.prod(tensor.dims) != 1:
            return None
        return float(self.model.array(name).item())

    def possible(self, moves: Sequence[_Move]) -> list[_Move]:
        """Return the moves that no tied matrix would have to be written twice for."""
        while True:
            factors: dict[str, list[float]] = {}
            for move in moves:
                for node, operand, factor in move.changes or ():
                    factors.setdefault(node.input[operand], []).append(factor)
            torn = {
                name
                for name, found in factors.items()
                if math.prod(self.model.constants[name].dims) > _SMALL
                and (len(found) != self.index.count(name) or not np.allclose(found, found[0], rtol=1e-12))
            }
            left = [m for m in moves if not any(n.input[k] in torn for n, k, _ in m.changes or ())]
            if len(left) == len(moves):
                return left
            moves = left

    def apply(self, move: _Move) -> None:
        """Multiply constants; a small one that others read stays as it is, and the node gets a copy."""
        for node, operand, factor in move.changes or ():
            name = node.input[operand]
            values = self.model.array(name)
            values = (values.astype(np.float64) * factor).astype(values.dtype)
            if self.index.count(name) == 1:
                self.model.set_array(name, values)
            elif values.size > _SMALL:  # all its readers need the same factor
                if name not in self.changed:
                    self.model.set_array(name, values)
                self.changed.add(name)
            else:
                own = self.model.add_constant(name, values)
                operands = [own if k == operand else given for k, given in enumerate(node.input)]
                self.index.rewire(self.index.producers[node.output[0]], operands)
        if move.needless is not None:
            self._bypass(move.needless)

    def _bypass(self, node: onnx.NodeProto) -> None:
        """Remove a node that multiplies by a number; the producer of its operand makes its result."""
        number = self.index.producers[node.input[0]]
        maker = self.index.nodes[number]
        place = [*maker.output].index(node.input[0])
        maker.output[place] = node.output[0]
        self.index.producers[node.output[0]] = number
        self.model.proto.graph.node.remove(node)
        self.model.edited()

    def behind(self, name: str, factor: float) -> list[Change] | None:
        """Find the constants that make up for a factor that a tensor no longer has; ``None`` if none do."""
        changes: list[Change] = []
        while (node := self._only_reader(name)) is not None:
            found = _BEHIND.get(node.op_type, _unchanged)(self, node, name, factor)
            if found is None:
                return None
            more, factor = found
            changes += more
            if factor == 1:
                return changes
            name = node.output[0]
        return None

    def before(self, name: str, factor: float) -> list[Change] | None:
        """Find the constants that give a tensor a factor; ``None`` if there are none."""
        changes: list[Change] = []
        while (node := self._only_producer(name)) is not None and len(node.output) == 1:
            constants = [k for k, i in enumerate(node.input) if self._is_wide(i)]
            operands = spec_of(node).affine
            if node.op_type in ("Add", "Sub") and len(constants) == 1:
                changes.append((node, constants[0], factor))
                name = node.input[1 - constants[0]]
            elif node.op_type in ("Mul", "MatMul") and constants:
                return [*changes, (node, constants[-1], factor)]
            elif node.op_type == "Div" and constants == [1]:
                return [*changes, (node, 1, 1 / factor)]
            elif operands:
                return self._together(node, operands, constants, factor, changes)
            elif _moves(node):
                name = node.input[0]
            else:
                return None
        return None

    def _together(
        self,
        node: onnx.NodeProto,
        operands: Sequence[int],
        constants: Sequence[int],
        factor: float,
        changes: list[Change],
    ) -> list[Change] | None:
        given = [k for k in operands if k < len(node.input) and node.input[k]]
        return [*changes, *((node, k, factor) for k in given)] if set(given) <= set(constants) else None

    def scalars_after(self, name: str) -> list[_Site]:
        """Return the node behind a product that scales it."""
        node = self._only_reader(name)
        product = self.index.nodes[self.index.producers[name]]
        if node is None or node.op_type not in ("Mul", "Div"):
            return []
        tensor = next((i for i in product.input if self.before(i, 1.0) is not None), product.input[0])
        return self._site(node, name, tensor)

    def scalars_before(self, product: onnx.NodeProto, operand: int) -> list[_Site]:
        """Return the node that scales an operand of a product."""
        name = product.input[operand]
        while (node := self._only_producer(name)) is not None:
            if node.op_type in ("Mul", "Div"):
                scaled = next((i for i in node.input if i not in self.model.constants), "")
                return self._site(node, scaled, scaled)
            if not _moves(node):
                return []
            name = node.input[0]
        return []

    def _site(self, node: onnx.NodeProto, scaled: str, tensor: str) -> list[_Site]:
        operand = 1 if node.input[0] == scaled else 0
        number = self.scalar(node.input[operand])
        if not number or number < 0 or (node.op_type == "Div" and operand == 0):
            return []
        return [_Site(node, operand, 1 / number if node.op_type == "Div" else number, tensor)]

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        uses = self.index.operands(name)
        return self.index.nodes[uses[0].node] if uses and self.index.count(name) == 1 else None

    def _only_producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor which is read once."""
        return self.index.producer(name) if self.index.count(name) == 1 else None

    def _is_wide(self, name: str) -> bool:
        tensor = self.model.constants.get(name)
        return tensor is not None and tensor.data_type in _WIDE


def _moves(node: onnx.NodeProto) -> bool:
    """Return whether a node only moves or repeats numbers, or converts them to float32 or a wider float."""
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i in _WIDE for a in node.attribute)
    return node.op_type == "Expand" or bool(spec_of(node).rearranges)


_Step: TypeAlias = "Callable[[_Scalars, onnx.NodeProto, str, float], tuple[list[Change], float] | None]"
"""Of a node whose operand lacks a factor: the constants to change, and the factor its result lacks."""


def _other(node: onnx.NodeProto, name: str) -> int:
    return 1 if node.input[0] == name else 0


def _sum(
    graph: _Scalars, node: onnx.NodeProto, name: str, factor: float
) -> tuple[list[Change], float] | None:
    other = _other(node, name)
    return ([(node, other, 1 / factor)], factor) if graph._is_wide(node.input[other]) else None


def _product(
    graph: _Scalars, node: onnx.NodeProto, name: str, factor: float
) -> tuple[list[Change], float] | None:
    other = _other(node, name)
    if node.input[other] == name:
        return None
    return ([(node, other, factor)], 1.0) if graph._is_wide(node.input[other]) else ([], factor)


def _quotient(
    graph: _Scalars, node: onnx.NodeProto, name: str, factor: float
) -> tuple[list[Change], float] | None:
    return None if node.input[0] == node.input[1] else ([], factor if node.input[0] == name else 1 / factor)


def _power(
    graph: _Scalars, node: onnx.NodeProto, name: str, factor: float
) -> tuple[list[Change], float] | None:
    exponent = graph.scalar(node.input[1])
    return None if exponent is None or name == node.input[1] else ([], math.pow(factor, exponent))


def _unchanged(
    graph: _Scalars, node: onnx.NodeProto, name: str, factor: float
) -> tuple[list[Change], float] | None:
    return ([], factor) if _moves(node) and name == node.input[0] else None


_BEHIND: dict[str, _Step] = {
    "Add": _sum,
    "Mul": _product,
    "Div": _quotient,
    "Pow": _power,
    "Sqrt": lambda graph, node, name, factor: ([], math.sqrt(factor)),
    "Reciprocal": lambda graph, node, name, factor: ([], 1 / factor),
}
