"""Axis patterns: operator rules as text.

    X[n (g ci) *s] W[(g co) ci *k] B[(g co)] -> Y[n (g co) *t]

Operands and results stand in the order of the operator's specification; those not given are passed over. In
brackets are the axes: a name is a factor, the same name everywhere the same axis; ``(g co)`` is a product,
major to minor; ``*s`` any number of axes; a number an axis (or part of one) of that fixed size. Axes of a
``*name`` that stands in only one place are kept as they are: the operator moves along them. A name that is
in operands but in no result is summed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from onnxprune.algebra.axes import Dim, Factor, nested
from onnxprune.algebra.sizes.algebra import Extent
from onnxprune.ops.axes.variables import Indexing

if TYPE_CHECKING:
    from onnxprune.ops.axes.context import Context

MOVES_ALONG = "it moves along this axis"


Axis = tuple[str, ...]
"""The names in one axis, major to minor."""
Ranks = tuple["int | None", ...]
"""The rank of each operand or result, ``None`` for those left out."""


@dataclass(frozen=True)
class PatternLayout:
    """A pattern as it reads for operands and results of certain ranks.

    Attributes:
        operands: Their places and axes, ``*s`` written out as ``*s0 *s1 …``.
        results: Likewise.
        summed: Names that no result has, with the places of the operands that have them.
        lone: The ``*names`` that stand in one place only.
        stars: The written-out names of each ``*name``.
    """

    operands: tuple[tuple[int, tuple[Axis, ...]], ...]
    results: tuple[tuple[int, tuple[Axis, ...]], ...]
    summed: tuple[tuple[str, tuple[int, ...]], ...]
    lone: tuple[str, ...]
    stars: tuple[tuple[str, tuple[str, ...]], ...]


def fits(context: Context, pattern: str) -> bool:
    """Return whether the operands and results of a node have the ranks of a pattern."""
    return _layout(context, pattern) is not None


def _layout(context: Context, pattern: str) -> PatternLayout | None:
    operands, results = parse(pattern)
    return lay_out(
        pattern,
        tuple(len(context.axes(k)) if context.has(k) else None for k in range(len(operands))),
        tuple(len(context.result_shape(k)) if context.makes(k) else None for k in range(len(results))),
    )


@cache
def lay_out(pattern: str, operands: Ranks, results: Ranks) -> PatternLayout | None:
    """Read a pattern: once for all nodes of one kind."""
    left, right = parse(pattern)
    inside, outside = _spread_all(left, operands), _spread_all(right, results)
    if inside is None or outside is None:
        return None
    names = [n for _, axes in (*inside, *outside) for axis in axes for n in axis]
    made = {n for axes in right for axis in axes for n in axis}
    summed = sorted({n for n in names if n not in made and n[0] != "*" and not n.isdigit()})
    spread = [n for n in dict.fromkeys(names) if n[0] == "*"]
    return PatternLayout(
        operands=tuple(inside),
        results=tuple(outside),
        summed=tuple((n, tuple(k for k, axes in inside if any(n in a for a in axes))) for n in summed),
        lone=tuple(n for n in spread if names.count(n) == 1),
        stars=tuple((s, tuple(g)) for s, g in groupby(sorted(spread, key=_star), _star)),
    )


@cache
def parse(pattern: str) -> tuple[list[list[Axis]], list[list[Axis]]]:
    """Return the axes of each operand and of each result."""
    left, _, right = pattern.partition("->")
    return _tensors(left), _tensors(right)


def _tensors(text: str) -> list[list[Axis]]:
    bodies = re.findall(r"\w+\[([^\]]*)\]", text)
    tokens = [re.findall(r"\([^)]*\)|\*?\w+", body) for body in bodies]
    return [[tuple(t.strip("()").split()) for t in axes] for axes in tokens]


def _spread_all(tensors: list[list[Axis]], ranks: Ranks) -> list[tuple[int, tuple[Axis, ...]]] | None:
    """Return place and axes of each tensor that is given, ``None`` where the ranks do not fit."""
    given = [(k, rank) for k, rank in enumerate(ranks) if rank is not None]
    placed = [(k, tuple(_spread(tensors[k], rank))) for k, rank in given]
    fit = all(len(axes) == rank for (_, axes), (_, rank) in zip(placed, given, strict=True))
    return placed if fit else None


def _spread(axes: list[Axis], rank: int) -> Iterator[Axis]:
    """Write ``*s`` out as one name an axis: ``*s0 *s1 …`` (at most one such name is of use)."""
    count = rank - sum(1 for a in axes if a[0][0] != "*")
    for axis in axes:
        yield from [(f"{axis[0]}{k}",) for k in range(count)] if axis[0][0] == "*" else [axis]


def _star(name: str) -> str:
    return name.rstrip("0123456789")


def match(context: Context, pattern: str, given: Mapping[str, Extent]) -> dict[str, Dim]:
    """Apply a pattern to a node, and return the dim of each name.

    Args:
        context: The node.
        pattern: A pattern that fits it.
        given: Sizes that do not follow from the shapes, such as the number of groups.

    Returns:
        The dim of each plain name; of each ``*name`` the product of its axes.
    """
    layout = _layout(context, pattern)
    assert layout is not None
    shapes = [(axes, context.shape(k)) for k, axes in layout.operands]
    results = ((axes, context.result_shape(k)) for k, axes in layout.results)
    sizes = _solve(context, [*shapes, *results], dict(given))
    names: dict[str, Dim] = {n: _factor(context, n, s) for n, s in sizes.items()}
    context.runs_along(Indexing(dict(names), dict(layout.operands), dict(layout.results)))
    for name in layout.lone:
        context.block(names[name], MOVES_ALONG)
    for k, axes in layout.operands:
        for dim, axis in zip(context.axes(k), axes, strict=True):
            context.same(dim, _product(names, axis))
    for name, operands in layout.summed:
        context.contract(names[name], *operands)
    for k, axes in layout.results:
        context.define(k, [_product(names, axis) for axis in axes])
    return names | {star: nested(names[n] for n in written) for star, written in layout.stars}


def _product(names: Mapping[str, Dim], axis: Axis) -> Dim:
    return names[axis[0]] if len(axis) == 1 else nested(names[n] for n in axis)


def _solve(
    context: Context, known: Iterable[tuple[tuple[Axis, ...], tuple[Extent, ...]]], sizes: dict[str, Extent]
) -> dict[str, Extent]:
    """Find the size of each name from the sizes of the axes it stands in."""
    open_ = [(axis, size) for axes, shape in known for axis, size in zip(axes, shape, strict=True)]
    sizes |= {n: int(n) for axis, _ in open_ for n in axis if n.isdigit()}
    solved = True
    while open_ and solved:
        solved, left = False, []
        for axis, size in open_:
            unknown = [n for n in axis if n not in sizes]
            if len(unknown) == 1:
                divisor = math.prod((sizes[n] for n in axis if n in sizes), start=1)
                sizes[unknown[0]] = context.parts_of(size, divisor)
                solved = True
            elif unknown:
                left.append((axis, size))
        open_ = left
    return sizes


def _factor(context: Context, name: str, size: Extent) -> Factor:
    return context.fixed(size, "the operator fixes this size") if name.isdigit() else Factor(size)
