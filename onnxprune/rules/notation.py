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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from onnxprune.dims import Dim, Factor, nested

if TYPE_CHECKING:
    from onnxprune.rules.context import Context

MOVES_ALONG = "it moves along this axis"


@dataclass(frozen=True)
class Tensor:
    """One operand or result: its axes, each a tuple of names, major to minor."""

    name: str
    axes: tuple[tuple[str, ...], ...]

    def stars(self) -> list[str]:
        """Return the ``*names`` among the axes (at most one is of use)."""
        return [a[0] for a in self.axes if a[0].startswith("*")]


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern."""

    operands: tuple[Tensor, ...]
    results: tuple[Tensor, ...]

    @property
    def summed(self) -> set[str]:
        """Names that no result has."""
        kept = {n for t in self.results for a in t.axes for n in a}
        found = {n for t in self.operands for a in t.axes for n in a}
        return {n for n in found - kept if not n.startswith("*") and not n.isdigit()}


@cache
def parse(pattern: str) -> Pattern:
    """Read a pattern."""
    left, _, right = pattern.partition("->")
    return Pattern(_tensors(left), _tensors(right))


def _tensors(text: str) -> tuple[Tensor, ...]:
    found = re.findall(r"(\w+)\[([^\]]*)\]", text)
    return tuple(Tensor(name, _axes(body)) for name, body in found)


def _axes(text: str) -> tuple[tuple[str, ...], ...]:
    tokens = re.findall(r"\([^)]*\)|\*?\w+", text)
    return tuple(tuple(t.strip("()").split()) for t in tokens)


def fits(context: Context, pattern: str) -> bool:
    """Whether the operands and results of a node have the ranks that a pattern says."""
    parsed = parse(pattern)
    ranks = [(t, len(context.shape(k))) for k, t in enumerate(parsed.operands) if context.has(k)]
    ranks += [(t, len(context.result_shape(k))) for k, t in enumerate(parsed.results) if context.makes(k)]
    return all(len(_spread(tensor, rank)) == rank for tensor, rank in ranks)


def match(context: Context, pattern: str, given: Mapping[str, int]) -> dict[str, Dim]:
    """Say what a pattern says about a node, and return the dim of each name.

    Args:
        context: The node.
        pattern: The pattern.
        given: Sizes that the shapes alone do not tell, such as the number of groups.

    Returns:
        The dim of each plain name; of each ``*name`` the product of its axes.
    """
    parsed = parse(pattern)
    operands = {k: _spread(t, len(context.shape(k))) for k, t in enumerate(parsed.operands) if context.has(k)}
    shapes = {k: context.shape(k) for k in operands}
    results = {
        k: _spread(t, len(context.result_shape(k))) for k, t in enumerate(parsed.results) if context.makes(k)
    }
    sizes = _solve([*((operands[k], shapes[k]) for k in operands)], dict(given))
    sizes |= _solve([(results[k], context.result_shape(k)) for k in results], dict(sizes))
    names: dict[str, Dim] = {n: _factor(context, n, s) for n, s in sizes.items()}
    _keep_lone_stars(context, names, [*operands.values(), *results.values()])
    for k, axes in operands.items():
        for dim, axis in zip(context.axes(k), axes, strict=True):
            context.same(dim, nested(names[n] for n in axis))
    for name in sorted(parsed.summed & set(names)):
        context.contract(names[name], *(k for k, axes in operands.items() if any(name in a for a in axes)))
    for k, axes in results.items():
        context.define(k, [nested(names[n] for n in axis) for axis in axes])
    return _with_stars(names)


def _spread(tensor: Tensor, rank: int) -> list[tuple[str, ...]]:
    """Write ``*s`` out as one name an axis: ``*s0 *s1 …``."""
    count = rank - sum(1 for a in tensor.axes if not a[0].startswith("*"))
    axes: list[tuple[str, ...]] = []
    for axis in tensor.axes:
        axes.extend([(f"{axis[0]}{k}",) for k in range(count)] if axis[0].startswith("*") else [axis])
    return axes


def _solve(
    known: Iterable[tuple[list[tuple[str, ...]], tuple[int, ...]]], sizes: dict[str, int]
) -> dict[str, int]:
    """Find the size of each name from the sizes of the axes it stands in."""
    equations = [(a, s) for axes, shape in known for a, s in zip(axes, shape, strict=True)]
    sizes |= {n: int(n) for axis, _ in equations for n in axis if n.isdigit()}
    for _ in range(len(equations)):
        for axis, size in equations:
            unknown = [n for n in axis if n not in sizes]
            if len(unknown) == 1:
                rest = math.prod(sizes[n] for n in axis if n in sizes)
                sizes[unknown[0]] = size // rest
    return sizes


def _factor(context: Context, name: str, size: int) -> Factor:
    return context.fixed(size, "it is part of what the operator is") if name.isdigit() else Factor(size)


def _keep_lone_stars(context: Context, names: dict[str, Dim], tensors: list[list[tuple[str, ...]]]) -> None:
    places = [n for axes in tensors for axis in axes for n in axis]
    for name, dim in names.items():
        if name.startswith("*") and places.count(name) == 1:
            context.block(dim, MOVES_ALONG)


def _with_stars(names: dict[str, Dim]) -> dict[str, Dim]:
    stars = {re.sub(r"\d+$", "", n) for n in names if n.startswith("*")}
    return names | {
        s: nested(d for n, d in names.items() if re.fullmatch(re.escape(s) + r"\d+", n)) for s in stars
    }
