"""The result of size analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnxprune.algebra.sizes.algebra import Extent, as_extent
from onnxprune.algebra.sizes.conditions import Condition
from onnxprune.algebra.sizes.tensors import Shape, TensorSequence, Values
from onnxprune.analysis.sizes.inputs import OpenAxis


@dataclass
class SizeAnalysis:
    """The sizes of all tensors as expressions of the open input axes.

    Attributes:
        shapes: The shape of each tensor of known rank, those of bodies included.
        values: Small tensors that are known before the run: constants, and integers computed from shapes.
            Elements are ``int``, ``Fraction`` or `Size`; booleans are 0 and 1.
        derived: Those of them that are more than constants of the file.
        types: Element types (``TensorProto`` numbers).
        kinds: ``sequence``, ``map`` or ``optional`` for values other than tensors.
        symbols: The open axes of the inputs, by name.
        bound: The numbers that symbols were given.
        equations: Equations found between symbols, in words.
        assumptions: Assumptions that the analysis makes, in words.
        conditions: Conditions on inputs, without which the network does not run.
        possible: The same of nodes that may not run: of branches, and of the bodies of loops.
        undecided: Axes whose size is one of two, in words.
        branches: Decided conditions of If nodes, by their first result; true for ``then_branch``.
        turns: The number of turns of loops, where it is known, by the first result.
        unknown: The reason why a rank or an axis is not known, by tensor.
        sequences: Shapes and number of the elements of values that are sequences.
        simplified: A size with all equations put in.
    """

    shapes: dict[str, Shape]
    values: dict[str, Values]
    derived: set[str]
    types: dict[str, int]
    kinds: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, OpenAxis] = field(default_factory=dict)
    bound: Mapping[str, int] = field(default_factory=dict)
    equations: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    possible: list[Condition] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    branches: dict[str, bool] = field(default_factory=dict)
    turns: dict[str, Extent] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    sequences: dict[str, TensorSequence] = field(default_factory=dict)
    simplified: Callable[[Extent], Extent] = field(default=as_extent, repr=False)
