"""One node, as a factor passes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnxprune.algebra.axes import Factor, factors
from onnxprune.ir import attributes
from onnxprune.ops.axes import Typing
from onnxprune.ops.symmetry.symmetry_kinds import Vector
from onnxprune.ops.views import INNER, LinearView


@dataclass(frozen=True)
class Passage:
    """A node that carries a factor.

    Attributes:
        typing: The axes of all tensors.
        index: The number of the node.
        factor: The factor.
    """

    typing: Typing
    index: int
    factor: Factor

    @property
    def node(self) -> onnx.NodeProto:
        """The node."""
        return self.typing.nodes[self.index]

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes as Python values."""
        return attributes(self.node)

    def axes(self, name: str) -> list[int]:
        """Return the axes of a tensor that the factor lies on."""
        dims = self.typing.axes.get(name, ()) if name else ()
        return [k for k, dim in enumerate(dims) if self.factor in factors(dim)]

    def carries(self, name: str) -> bool:
        """Return whether the factor lies on a tensor."""
        return bool(self.axes(name))

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is fixed in the file."""
        return name in self.typing.model.constants

    def rank(self, name: str) -> int:
        """Return the number of axes of a tensor."""
        return len(self.typing.axes[name])

    @cached_property
    def inputs(self) -> list[str]:
        """The operands that carry the factor."""
        return [name for name in self.node.input if self.carries(name)]

    @cached_property
    def outputs(self) -> list[str]:
        """The results that carry the factor."""
        return [name for name in self.node.output if self.carries(name)]

    @property
    def flows(self) -> list[str]:
        """The operands that carry it and are no constants."""
        return [name for name in self.inputs if not self.is_constant(name)]

    @property
    def result(self) -> str:
        """The first result."""
        return str(self.node.output[0])

    def value(self, operand: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Return an operand's numbers where they are known before the run."""
        known = operand < len(self.node.input) and self.node.input[operand]
        return self.typing.shapes.values.get(self.node.input[operand]) if known else None

    def has(self, operand: int) -> bool:
        """Return whether an optional operand is given."""
        return operand < len(self.node.input) and bool(self.node.input[operand])

    def is_zero(self, name: str) -> bool:
        """Return whether a tensor is a constant of zeros."""
        return self.is_constant(name) and not np.any(self.typing.model.array(name))

    def is_uniform(self, name: str) -> bool:
        """Return whether a constant is the same number all along the factor's axes."""
        values = self.typing.model.array(name)
        return all(
            np.array_equal(values, np.broadcast_to(values.take([0], k), values.shape))
            for k in self.axes(name)
        )

    def shift(self, name: str) -> Vector:
        """Return the role of a constant that is added to, or becomes, the first result."""
        return Vector("shift", name, self.axes(name)[0], self.result, self.index)

    @cached_property
    def view(self) -> LinearView | None:
        """The linear view of the node by its constant weights, ``None`` where it has none."""
        for view in self.typing.linear.get(self.index, ()):
            operands = self.node.input
            if (
                view.data != INNER
                and self.is_constant(operands[view.weights])
                and not self.is_constant(operands[view.data])
            ):
                return view
        return None
