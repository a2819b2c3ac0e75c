"""The cost of a network as a polynomial in the remaining channels.

Every product of sizes the rules name (the multiply-accumulates of a node, the elements of a weight) is one
term. A budget is evaluated by putting counts into the terms, without touching the graph.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnxprune.algebra.axes import Dim, Factor, factors, resolve
from onnxprune.algebra.kept_axes import at_numbers, kept_count
from onnxprune.analysis.groups.channels import Channels, Group
from onnxprune.ir import FLOAT_TYPES

PARAMETERS = (
    *FLOAT_TYPES,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
)
Counts = Mapping[Factor, int]

_MOST = 10**200
"""More work than any: sizes of a damaged file multiply to numbers that no float holds."""


@dataclass(frozen=True)
class CostTerm:
    """A constant times the sizes of dims that can shrink."""

    constant: float
    dims: tuple[Dim, ...]

    def value(self, counts: Counts) -> float:
        """Return the term's value with some factors cut to ``counts``."""
        return self.constant * math.prod(kept_count(d, counts) for d in self.dims)


class Polynomial:
    """A sum of terms, with the terms of each factor at hand."""

    def __init__(self, products: Iterable[tuple[float, Iterable[Dim]]], free: set[Factor]) -> None:
        self.constant = 0.0
        self.terms: list[CostTerm] = []
        self._of: dict[Factor, list[int]] = defaultdict(list)
        for constant, dims in products:
            self._add(constant, [resolve(d) for d in dims], free)

    def _add(self, constant: float, dims: list[Dim], free: set[Factor]) -> None:
        moving = tuple(d for d in dims if free.intersection(factors(d)))
        constant *= min(math.prod(d.count for d in dims if d not in moving), _MOST)
        if not moving:
            self.constant += constant
            return
        for factor in {f for d in moving for f in factors(d)} & free:
            self._of[factor].append(len(self.terms))
        self.terms.append(CostTerm(constant, moving))

    @classmethod
    def sum(cls, polynomials: Iterable[Polynomial], coefficients: Iterable[float]) -> Polynomial:
        """Return a sum of polynomials, each multiplied by a number."""
        total = cls((), set())
        for polynomial, by in zip(polynomials, coefficients, strict=True):
            total.constant += by * polynomial.constant
            shift = len(total.terms)
            total.terms += [CostTerm(by * t.constant, t.dims) for t in polynomial.terms]
            for factor, rows in polynomial._of.items():
                total._of[factor] += [shift + row for row in rows]
        return total

    def value(self, counts: Counts | None = None) -> float:
        """Return the whole sum."""
        return self.constant + sum(t.value(counts or {}) for t in self.terms)

    def of(self, factor: Factor) -> list[CostTerm]:
        """Return the terms a factor is in."""
        return [self.terms[k] for k in self._of.get(factor, ())]


@dataclass(frozen=True)
class Cost:
    """The costs of a network.

    Attributes:
        macs: Multiply-accumulates for one sample: convolutions and matrix products; of an If those of its
            larger branch, of a Loop or Scan those of all turns, where it is known how many there are.
        params: Elements of its floating-point and quantised constants.
        channels: Channels in all groups that are pruned by default.
    """

    macs: Polynomial
    params: Polynomial
    channels: Polynomial

    def figures(self, counts: Counts | None = None) -> dict[str, int]:
        """Return all costs as whole numbers."""
        return {
            name: round(poly.value(counts))
            for name, poly in (("macs", self.macs), ("params", self.params), ("channels", self.channels))
        }


def cost_of(channels: Channels, groups: Iterable[Group] | None = None) -> Cost:
    """Build the polynomials of a network.

    Args:
        channels: Its groups.
        groups: The groups whose channels are counted; all that are not optional by default.
    """
    default = [g for g in channels.groups if not g.optional]
    chosen = default if groups is None else list(groups)
    if chosen != default:
        return _built(channels, chosen)
    return channels.derived("cost", lambda: _built(channels, default))


def _built(channels: Channels, chosen: Sequence[Group]) -> Cost:
    typing, free, blocks = channels.typing, _free(channels), channels.blocks.by_node
    constants, within = channels.model.constants, _within(channels)
    sized = [
        (1.0, (*typing.axes[n], *within.get(n, ())))
        if n in typing.axes
        else (float(math.prod(t.dims)), within.get(n, ()))
        for n, t in constants.items()
        if t.data_type in PARAMETERS
    ]
    batch, number = batch_of(channels), typing.shapes.number
    work = [
        (1.0 / batch, [*(at_numbers(d, number) for d in w.dims), *blocks.get(w.node, ())])
        for w in typing.work
    ]
    return Cost(
        macs=Polynomial(work, free),
        params=Polynomial(sized, free),
        channels=Polynomial([(1.0, (g.factor,)) for g in chosen], free),
    )


def _free(channels: Channels) -> set[Factor]:
    """Return the factors of all groups and blocks."""
    return {g.factor for g in channels.groups} | {b.factor for b in channels.blocks.removable}


def _within(channels: Channels) -> dict[str, tuple[Factor, ...]]:
    """Return the factors of the blocks that a constant dies with, by name: those of all its readers."""
    by_node = channels.blocks.by_node
    found: dict[str, tuple[Factor, ...]] = {}
    if not by_node:
        return found
    index = channels.typing.model.index
    for name in channels.model.constants:
        readers = [by_node.get(number, ()) for number in index.readers(name)]
        if readers and name not in index.returned:
            common = tuple(f for f in readers[0] if all(f in other for other in readers))
            found |= {name: common} if common else {}
    return found


def batch_of(channels: Channels) -> int:
    """Return the size of the batch the analysis was made with, where the file leaves that to the caller."""
    sizes = channels.typing.shapes.sizes
    for value in channels.model.inputs:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value <= 0 and value.name in sizes:
            return max(channels.typing.shapes.number(sizes[value.name][0]), 1)
    return 1


def bytes_of(channels: Channels, file_bytes: float) -> Polynomial:
    """Return the size of the file in bytes: the bytes of its constants, and a fixed rest.

    Args:
        channels: The network.
        file_bytes: Size of the file before pruning, in bytes.
    """
    typing, free, within = channels.typing, _free(channels), _within(channels)
    sized, stored = [], 0.0
    for name, tensor in channels.model.constants.items():
        width = float(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        stored += width * math.prod(tensor.dims)
        if name in typing.axes:
            sized.append((width, (*typing.axes[name], *within.get(name, ()))))
        elif name in within:
            sized.append((width * math.prod(tensor.dims), within[name]))
    polynomial = Polynomial(sized, free)
    polynomial.constant += max(file_bytes, stored) - polynomial.value()
    return polynomial
