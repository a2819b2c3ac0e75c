"""Statements of the axis rules about sizes, sums, indices and numbers of a network."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.algebra.axes import Dim

Axes = tuple[Dim, ...]


RESULT = -1


@dataclass(frozen=True)
class SizeUse:
    """A number in the file that is the size of a dim.

    Attributes:
        node: Index of the node.
        attribute: Name of the attribute that holds it, or ``None``.
        operand: Index of the operand that holds it, where ``attribute`` is ``None``; ``RESULT`` where the
            node itself reads the size off a tensor.
        element: Its place in a list; ``None`` for a lone number.
        dim: The dim whose size it is.
        backwards: True if the number is minus the size: a bound counted from the end of an axis.
    """

    node: int
    attribute: str | None
    operand: int
    element: int | None
    dim: Dim
    backwards: bool = False


@dataclass(frozen=True)
class Contraction:
    """A sum over a dim: exact to shorten where one of the operands is zero at the removed elements."""

    node: int
    dim: Dim
    tensors: tuple[str, ...]
    statistic: bool = False
    """True if the sum is of a mean or a norm, which the user may accept to change."""
    axis: int | None = None
    """Axis of the first tensor that is summed over, where the dim lies on several."""


@dataclass(frozen=True)
class Inexact:
    """A statistic over a dim that the user accepts to change.

    Attributes:
        node: Index of the node.
        dim: The dim.
        operand: The tensor the statistic is taken of; empty where its formula is not known.
        over: The axes of that tensor over which it is taken.
        centred: True if its mean is subtracted, so that the term of a channel as large as the mean is zero;
            otherwise the term of a channel that is zero.
    """

    node: int
    dim: Dim
    operand: str = ""
    over: tuple[int, ...] = ()
    centred: bool = False


@dataclass(frozen=True)
class Rescale:
    """A number that depends on how long an axis is: it is multiplied by (old size / new size) ** power.

    With power 0 an attribute's default is written out, because it would change with the size.

    Attributes:
        node: Index of the node.
        dim: The axis.
        power: The power.
        operand: Index of the operand that holds the numbers (a constant), or ``None``.
        attribute: Name and default of the attribute that does, or ``None``; without either it is the result.
    """

    node: int
    dim: Dim
    power: float
    operand: int | None = None
    attribute: tuple[str, float] | None = None


@dataclass(frozen=True)
class Ghost:
    """The known value of a removed channel in a sum over it.

    Attributes:
        node: Index of the node that sums.
        dim: Dim it sums over.
        steps: Nodes to be run again, the last of which makes the operand of the sum, each with its operands:
            a tensor by name, a number, or the result of an earlier step by its number.
    """

    node: int
    dim: Dim
    steps: tuple[tuple[int, tuple[str | float | int, ...]], ...]


@dataclass(frozen=True)
class Cap:
    """An attribute that may not be larger than the size of a dim."""

    node: int
    attribute: str
    dim: Dim


@dataclass(frozen=True)
class IndexUse:
    """A constant operand that lists elements of a dim by their number.

    Attributes:
        node: Index of the node.
        operand: The operand.
        dim: The dim.
        axis: The axis of the list along which the elements follow each other.
        column: Number of the entry along the last axis of the list that holds it; ``None`` where all do.
    """

    node: int
    operand: int
    dim: Dim
    axis: int = 0
    column: int | None = None


@dataclass(frozen=True)
class Quantised:
    """The quantisation of a tensor: ``(q − zero) · scale``.

    Attributes:
        scale: Name of the constant that holds the scale, ``None`` for 1.
        zero: Name of the tensor that holds the zero point, ``None`` for 0.
        axis: The axis those lie on, where they are more than one number.
        block: Number of neighbours on that axis that share scale and zero point, if those have as many axes
            as the tensor; otherwise 0.
    """

    scale: str | None = None
    zero: str | None = None
    axis: int = 0
    block: int = 0


@dataclass(frozen=True)
class Divisor:
    """An operand that must not become zero, because the result would be infinite.

    Attributes:
        node: Index of the node.
        tensor: The operand.
        dims: Its axes of which this is true.
        above: True if numbers below zero have no finite result either.
    """

    node: int
    tensor: str
    dims: Axes
    above: bool = False


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one node: the product of the sizes of the dims."""

    node: int
    dims: Axes
