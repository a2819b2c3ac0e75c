"""Two networks compared node by node: operators, attributes, operands, the bytes of constants."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from itertools import zip_longest

import onnx

from onnxprune.ir import Model, bodies
from onnxprune.ops.spec import STANDARD_DOMAINS
from onnxprune.support.mapped import array_of, same_bits

Operand = str | onnx.TensorProto | None
"""A constant, or the name of a tensor."""


class NetworkNodes:
    """The nodes of a network by their first result.

    Args:
        model: The network. Its Constant nodes are no nodes here: they count as constants where they are read.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """The nodes."""
        return {n.output[0]: n for n in self.model.all_nodes if n.output and not _is_constant(n)}

    def operand(self, node: onnx.NodeProto, number: int) -> Operand:
        """Return an operand of a node; an empty name where it has none of that number."""
        name = node.input[number] if number < len(node.input) else ""
        return self.model.constants.get(name, name)

    def is_same(self, other: NetworkNodes, name: str, known: Collection[str] = ()) -> bool:
        """Return true if another network makes a tensor by the same operator from the same operands.

        Args:
            other: The network.
            name: First result of a node of both.
            known: Names of constants that are equal in both.
        """
        one, two = self.nodes[name], other.nodes[name]
        if operator_of(one) != operator_of(two):
            return False
        for number, names in enumerate(zip_longest(one.input, two.input, fillvalue="")):
            if names[0] == names[1] and names[0] in known:
                continue
            if not are_equal(self.operand(one, number), other.operand(two, number)):
                return False
        return True


def differences(one: NetworkNodes, other: NetworkNodes, known: Collection[str] = ()) -> set[str]:
    """Return the first results of the nodes that differ, or that only one of two networks has.

    Args:
        one: A network.
        other: Another one, with the same outputs.
        known: Names of constants that are equal in both.
    """
    wrong = set(one.nodes.keys() ^ other.nodes.keys())
    wrong |= {name for name in one.nodes.keys() & other.nodes.keys() if not one.is_same(other, name, known)}
    for first, second in zip(one.model.outputs, other.model.outputs, strict=True):
        fixed = (network.model.constants.get(v.name) for network, v in ((one, first), (other, second)))
        if first.name != second.name or not are_equal(*fixed):
            wrong.add(first.name)
    return wrong


def operator_of(node: onnx.NodeProto) -> tuple[object, ...]:
    """Return the identity of a node without its name, its operands and the nodes of analysed bodies."""
    inner = list(bodies(node))
    attributes = sorted(
        (a.name, a.SerializeToString(deterministic=True))
        for a in node.attribute
        if not (inner and a.type == onnx.AttributeProto.GRAPH)
    )
    returned = [tuple(o.name for o in body.output) for body in inner]
    return node.op_type, node.domain, tuple(node.output), attributes, returned


def are_equal(one: Operand, other: Operand) -> bool:
    """Return true if two operands are one tensor, or constants of the same type, shape and bytes."""
    if not isinstance(one, onnx.TensorProto) or not isinstance(other, onnx.TensorProto):
        return one is other if not (isinstance(one, str) and isinstance(other, str)) else one == other
    if (one.data_type, list(one.dims)) != (other.data_type, list(other.dims)):
        return False
    if one.HasField("raw_data") and other.HasField("raw_data"):
        return bool(one.raw_data == other.raw_data)
    first, second = array_of(one), array_of(other)
    if one.data_type == onnx.TensorProto.STRING:
        return bool(first.tolist() == second.tolist())
    return same_bits(first, second)


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.domain in STANDARD_DOMAINS
