"""Attention heads among the groups of a network."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.algebra.axes import Dim, Factor, factors
from onnxprune.analysis.groups.channels import Channels
from onnxprune.ops.axes.axis_typing import Typing

_COUNTS_OF_HEADS = {"num_heads", "q_num_heads", "kv_num_heads"}
"""Attributes of attention operators."""


def heads_of(channels: Channels) -> frozenset[str]:
    """Return the names of the groups whose channels are attention heads.

    A head is an element of a batch axis of a product of two activations, such as queries and keys: an axis of
    both operands that the product does not sum over. Fused operators count their heads in an attribute.
    """
    found = set(_counted(channels.typing)) | set(_batched(channels))
    return frozenset(g.name for g in channels.groups if g.factor in found)


def _counted(typing: Typing) -> Iterator[Factor]:
    """Yield the factors that attributes of fused operators count."""
    for use in typing.size_uses:
        if use.attribute in _COUNTS_OF_HEADS:
            yield from factors(use.dim)


def _batched(channels: Channels) -> Iterator[Factor]:
    """Yield the factors on batch axes of products of two activations."""
    constant, axes = channels.model.constants, channels.typing.axes
    for node in channels.typing.nodes:
        if node.op_type == "MatMul" and not any(name in constant for name in node.input):
            left, right = (_on(axes.get(name, ())[:-2]) for name in node.input)
            yield from left & right


def _on(dims: tuple[Dim, ...]) -> set[Factor]:
    return {factor for dim in dims for factor in factors(dim)}
