"""Index variables: which axes of a node run along the same index.

A factor types an axis; it does not identify an element of it. In ``x·xᵀ`` the rows and the columns of
the result are one factor, and two indices. A fact about an element at one index (it is zero, it may be
renumbered) implies none at the other. A rule that combines operands therefore states which of their
axes run together; without a statement, two axes of one factor are taken for two indices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from onnxprune.algebra.axes import Dim, Factor, factors

if TYPE_CHECKING:
    from onnxprune.ops.axes.axis_typing import Typing
    from onnxprune.ops.axes.statements import Contraction

Keys: TypeAlias = "tuple[str, ...]"
"""The indices that one axis runs along, major to minor; none where its only element is stretched."""


@dataclass
class Indexing:
    """The indices of a node.

    Attributes:
        variables: Variable that each index counts, by its key.
        operands: The indices of each axis of an operand, by its number; operands left out are not described.
        results: The indices of each axis of a result, likewise.
    """

    variables: Mapping[str, Dim] = field(default_factory=dict)
    operands: Mapping[int, tuple[Keys, ...]] = field(default_factory=dict)
    results: Mapping[int, tuple[Keys, ...]] = field(default_factory=dict)

    def with_(self, other: Indexing) -> Indexing:
        """Return the union of this indexing and another one."""
        return Indexing(
            {**self.variables, **other.variables},
            {**self.operands, **other.operands},
            {**self.results, **other.results},
        )

    def axes(self, operand: int, key: str) -> tuple[int, ...]:
        """Return the axes of a described operand that run along an index."""
        return tuple(axis for axis, keys in enumerate(self.operands[operand]) if key in keys)


@dataclass(frozen=True)
class View:
    """The operands of a node that one index of a result depends on, for one factor.

    Attributes:
        axis: The axis of the result that runs along the index; ``None`` where the result has but one.
        operands: For each operand the axes on which it has the factor and runs along that index; empty where
            it has none, ``None`` where that is not known.
    """

    axis: int | None
    operands: tuple[tuple[int, ...] | None, ...]


class Views:
    """The operand indices that each result index of a node depends on."""

    def __init__(self, typing: Typing) -> None:
        self.typing = typing
        self._summed: dict[int, set[Factor]] = defaultdict(set)
        for contraction in typing.contractions:
            self._summed[contraction.node].update(factors(contraction.dim))

    def of(self, index: int, result: int, factor: Factor) -> list[View]:
        """Return a view for each index of a result that runs along a factor."""
        node = self.typing.nodes[index]
        carrying = [self._axes(name, factor) for name in node.input]
        indexing = self.typing.indexing.get(index)
        if self._lies_once(index, result, factor):
            return [View(None, tuple(carrying))]
        if indexing is not None and result in indexing.results:
            found = list(_described(indexing, result, factor, carrying))
            if found:
                return found
        unknown = tuple(None if axes else () for axes in carrying)
        alone = sum(map(bool, carrying)) == 1
        if alone and self._count(node.output[result], factor) <= max(
            self._count(name, factor) for name in node.input
        ):
            return [View(None, tuple(carrying))]
        return [View(None, unknown)]

    def _lies_once(self, index: int, result: int, factor: Factor) -> bool:
        """Return whether all axes with a factor run along one index, without a sum over it."""
        node = self.typing.nodes[index]
        counts = [self._count(name, factor) for name in node.input]
        summed = factor in self._summed[index] and sum(map(bool, counts)) > 1
        return max([*counts, self._count(node.output[result], factor)]) <= 1 and not summed

    def _axes(self, name: str, factor: Factor) -> tuple[int, ...]:
        dims = self.typing.axes.get(name, ()) if name else ()
        return tuple(k for k, dim in enumerate(dims) if factor in factors(dim))

    def _count(self, name: str, factor: Factor) -> int:
        """Return the number of times that a factor stands on the axes of a tensor."""
        dims = self.typing.axes.get(name, ()) if name else ()
        return sum(factors(dim).count(factor) for dim in dims)


def _described(
    indexing: Indexing, result: int, factor: Factor, carrying: Sequence[tuple[int, ...]]
) -> Iterator[View]:
    for axis, keys in enumerate(indexing.results[result]):
        for key in keys:
            if factor in factors(indexing.variables[key]):
                yield View(
                    axis,
                    tuple(
                        tuple(a for a in indexing.axes(k, key) if a in axes)
                        if k in indexing.operands
                        else (None if axes else ())
                        for k, axes in enumerate(carrying)
                    ),
                )


def summed_space(typing: Typing, contraction: Contraction) -> list[Dim]:
    """Return the variable of each index of the terms of a sum; each axis not described has its own."""
    node, indexing = typing.nodes[contraction.node], typing.indexing.get(contraction.node)
    keys: dict[str, Dim] = {}
    apart: list[Dim] = []
    for operand, name in enumerate(node.input):
        if name not in contraction.tensors:
            continue
        if indexing is not None and operand in indexing.operands:
            keys |= {key: indexing.variables[key] for axis in indexing.operands[operand] for key in axis}
        else:
            apart += typing.axes.get(name, ())
    for name in node.output:
        if name in contraction.tensors:
            apart += typing.axes.get(name, ())
    return [*keys.values(), *apart]


def from_the_right(
    axes: Sequence[Dim], operands: Mapping[int, Sequence[Dim]], results: Sequence[int] = (0,)
) -> Indexing:
    """Return the indices of a node that lines operands up from the right, as numpy does.

    Args:
        axes: The axes of the results.
        operands: The axes of each operand, by its number.
        results: The numbers of the results.
    """
    rank = len(axes)
    keys: tuple[Keys, ...] = tuple((str(k),) for k in range(-rank, 0))
    return Indexing(
        {str(k): axes[k] for k in range(-rank, 0)},
        {
            operand: tuple((str(k),) if dims[k].size == axes[k].size else () for k in range(-len(dims), 0))
            for operand, dims in operands.items()
        },
        dict.fromkeys(results, keys),
    )
