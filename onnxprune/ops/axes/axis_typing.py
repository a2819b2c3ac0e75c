"""The axes of all tensors of a network, with the statements of the rules."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx

from onnxprune.algebra.axes import Dim, Factor
from onnxprune.analysis.shapes import Shapes
from onnxprune.ir import Model, captured
from onnxprune.ops.axes.statements import (
    Axes,
    Cap,
    Contraction,
    Divisor,
    Ghost,
    IndexUse,
    Inexact,
    Quantised,
    Rescale,
    SizeUse,
    Work,
)
from onnxprune.ops.axes.variables import Indexing
from onnxprune.ops.views import LinearView


class UnknownOperandError(Exception):
    """A rule cannot describe this node; the message is the reason its axes are blocked with."""


@dataclass
class Typing:
    """The axes of all tensors, and all statements of the rules."""

    model: Model
    shapes: Shapes
    allow_inexact: bool = False
    lookups: frozenset[str] = frozenset()
    """First results of the nodes that pick rows of a vocabulary, some of which may be removed."""
    rows: Factor | None = None
    """The rows of that vocabulary."""
    pickable: frozenset[str] = frozenset()
    """First results of the nodes that pick rows which `KeepRows` may remove."""
    axes: dict[str, Axes] = field(default_factory=dict)
    size_uses: list[SizeUse] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    uncounted: dict[int, str] = field(default_factory=dict)
    """Nodes whose work is counted in part, and why."""
    divisors: list[Divisor] = field(default_factory=list)
    weight_uses: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    movers: dict[str, int] = field(default_factory=dict)
    secondary: list[Dim] = field(default_factory=list)
    inexact: list[Inexact] = field(default_factory=list)
    never_zero: set[int] = field(default_factory=set)
    rescales: list[Rescale] = field(default_factory=list)
    readings: list[tuple[str, int, Quantised]] = field(default_factory=list)
    """Tensors of integers, the nodes that make or read them, and how those take them."""
    quantised: dict[str, Quantised] = field(default_factory=dict)
    """Constants of integers whose zero point is known to masking (see `groups.integers`)."""
    unread: set[str] = field(default_factory=set)
    """Constants of integers whose real value is unknown."""
    index_uses: list[IndexUse] = field(default_factory=list)
    caps: list[Cap] = field(default_factory=list)
    ghosts: dict[int, Ghost] = field(default_factory=dict)
    """By the node that sums."""
    spared: dict[Factor, frozenset[str]] = field(default_factory=dict)
    """Weights that masking leaves as they are along a factor: other weights make its channels zero."""
    absent: dict[str, float] = field(default_factory=dict)
    """Constants in which masking writes another number than zero, and that number."""
    mixes: list[tuple[int, Dim]] = field(default_factory=list)
    """Nodes, and the axes along which they may mix elements; sums aside."""
    indexing: dict[int, Indexing] = field(default_factory=dict)
    """Nodes, and which axes of their operands and results run along the same index."""
    linear: dict[int, tuple[LinearView, ...]] = field(default_factory=dict)
    """Nodes that are linear in an operand, in one way or several: the first of known weights counts."""
    means: set[str] = field(default_factory=set)
    """Tensors that sum to one along their last axis."""

    roles: list[tuple[str, Dim]] = field(default_factory=list)
    """Axes by their role: ``heads``, ``kv_heads``, ``head_width``."""
    refused: dict[int, str] = field(default_factory=dict)
    """Nodes that no rule describes, and why."""
    users: dict[tuple[int, int], int] = field(default_factory=dict)
    """The node that takes a constant for a weight, by the operand of the node that moves it about first."""

    derived: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Results computed once from these axes (see `Channels.derived`)."""

    nodes: list[onnx.NodeProto] = field(init=False, repr=False)
    """All nodes, those of bodies included, by the numbers that are given here."""

    def __post_init__(self) -> None:
        self.nodes = self.model.all_nodes

    def maker(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor; ``None`` for constants and inputs."""
        return None if name in self.model.constants else self.model.index.producer(name)

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor."""
        found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in {*node.input, *captured(node)} - {""}:
                found[name].append(node)
        return found

    def axes_of(self, name: str) -> Axes:
        """Return the dims of a tensor; a constant gets fresh ones at the first call."""
        if name not in self.axes:
            if name not in self.shapes.sizes:
                why = self.shapes.analysis.unknown.get(name)
                raise UnknownOperandError(f"the shape of '{name}' is not known" + (f": {why}" if why else ""))
            self.axes[name] = tuple(Factor(s) for s in self.shapes.sizes[name])
        return self.axes[name]
