"""Operators as linear maps: the weights, the activation that they multiply, the bias, and the layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

WeightLayout: TypeAlias = Literal[
    "matrix", "stack", "gates", "windows", "transposed windows", "offset windows", "blocks", "letters"
]
"""The arrangement of the weights.

matrix              two axes
stack               ``[*stack, …, …]``, a matrix for each element of the leading axes, which broadcast
gates               ``[directions, …, …]``, one matrix a direction, its rows gate by gate (recurrent layers)
windows             ``[groups · outputs, inputs, *kernel]``
transposed windows  ``[groups · inputs, outputs, *kernel]``
offset windows      as windows, read at positions that are computed
blocks              several elements a byte, scales for blocks of them
letters             any axes, as an equation names them (Einsum)
"""
WINDOWS: frozenset[WeightLayout] = frozenset({"windows", "transposed windows", "offset windows"})
FRONT: frozenset[WeightLayout] = WINDOWS | {"matrix"}
"""Layouts of which the first two axes, groups major, are the rows and columns of the matrices."""


INNER = -1
"""The operand of data that are made within the node."""
After: TypeAlias = Literal["", "elementwise", "mixing"]


@dataclass(frozen=True)
class LinearView:
    """A product with weights: ``result = alpha · weights · data + beta · bias``, one matrix for each group.

    Attributes:
        data: The operand that is multiplied, the activation; ``INNER`` where it is made within the node.
        axis: The axis of the data that is summed over, groups major.
        weights: The operand that holds the matrices; further axes are places of a kernel, summed over too.
        result_axis: The axis of the result that the rows make, groups major.
        layout: The arrangement of the weights.
        groups: The number of matrices side by side, those of a stack aside.
        inputs_first: True if the axis of the weights that is summed over comes before that of the outputs.
        bias: The operand that is added, of one axis; ``None`` where the operator has none. It is optional.
        alpha: Factor of the product.
        beta: Factor of the bias.
        after: Operations after it within the node: none, so that product and bias are all of the result; an
            activation or another sum, ``elementwise``; attention or a recurrence, ``mixing``.
        uneven: The reason why uniform data do not give a uniform result; empty where they do.
        integers: True if the weights are integers that stand for other numbers.
        scales: The operand with their scales, where masking sets those to zero and not the integers.
        summed: The axis of the weights that is summed over, for the layouts ``blocks`` and ``letters``.
    """

    data: int
    axis: int
    weights: int
    result_axis: int
    layout: WeightLayout = "matrix"
    groups: int = 1
    inputs_first: bool = False
    bias: int | None = None
    alpha: float = 1.0
    beta: float = 1.0
    after: After = ""
    uneven: str = ""
    integers: bool = False
    scales: int | None = None
    summed: int | None = None

    @property
    def final(self) -> bool:
        """Return whether the product and the bias are all of the result."""
        return not self.after

    @property
    def is_plain(self) -> bool:
        """Return whether the weights are the matrices, with one row for each result channel."""
        plain = self.layout in FRONT and not self.integers
        return plain and self.data != INNER and self.after != "mixing"

    def summed_axis(self, rank: int) -> int:
        """Return the axis of the weights, of so many axes, that is summed over; kernels aside."""
        if self.summed is not None:
            return self.summed
        return (0 if self.inputs_first else 1) + (0 if self.layout in FRONT else rank - 2)

    def by_group(self, weights: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        """Return a view of the weights as ``[groups, outputs, inputs, places of the kernel]``.

        The layout is one of ``FRONT``.
        """
        shape = (self.groups, weights.shape[0] // self.groups, weights.shape[1], -1)
        matrices = weights.reshape(shape)
        return matrices.swapaxes(1, 2) if self.inputs_first else matrices

    def along_inputs(self, values: np.ndarray[Any, np.dtype[Any]], dims: Sequence[int]) -> Any:
        """Return numbers of the inputs, ``[groups · inputs]``, so that they broadcast against the weights.

        Args:
            values: A number for each element of the data's axis that is summed over.
            dims: The shape of the weights.
        """
        axis = self.summed_axis(len(dims))
        if self.groups > 1 and not self.inputs_first:
            rows = np.repeat(values.reshape(self.groups, dims[1]), dims[0] // self.groups, axis=0)
            return rows.reshape(dims[0], dims[1], *[1] * (len(dims) - 2))
        return values.reshape([-1 if k == axis else 1 for k in range(len(dims))])


@dataclass(frozen=True)
class Operands:
    """A node, by the facts that its linear view depends on.

    Attributes:
        attributes: Its attributes as Python values.
        shapes: The sizes of each operand; ``None`` where they are not known, or the operand is left out.
    """

    attributes: Mapping[str, Any]
    shapes: Sequence[Sequence[object] | None]

    def rank(self, operand: int) -> int | None:
        """Return the number of axes of an operand, ``None`` where that is not known."""
        shape = self.shapes[operand] if operand < len(self.shapes) else None
        return None if shape is None else len(shape)

    def number(self, attribute: str, default: float = 1.0) -> float:
        """Return an attribute that is a number."""
        return float(self.attributes.get(attribute, default))

    def has(self, operand: int) -> bool:
        """Return whether an operand is there."""
        return operand < len(self.shapes)

    def flag(self, attribute: str) -> bool:
        """Return an attribute that is 0 or 1."""
        return bool(self.attributes.get(attribute, 0))


LinearRule: TypeAlias = Callable[[Operands], Sequence[LinearView]]
"""Function from a node to the ways in which it is linear in an operand; that of constant weights counts."""
