"""Kinds of symmetry, and the effect of a change of basis on the constants at a node."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias


class Symmetry(Enum):
    """The set of linear maps along an axis that the operators it passes commute with.

    Every set holds the permutations that pruning needs; a positive scaling is one number a channel.
    """

    PERMUTATION = "permutation"
    SCALING = "positive scaling"
    ORTHOGONAL = "orthogonal"
    LINEAR = "general linear"


def meet(a: Symmetry, b: Symmetry) -> Symmetry:
    """Return the maps that two sets have in common."""
    if a is b or b is Symmetry.LINEAR:
        return a
    return b if a is Symmetry.LINEAR else Symmetry.PERMUTATION


Kind: TypeAlias = Literal["read", "write", "shift"]


@dataclass(frozen=True)
class Vector:
    """A constant that a change of basis rewrites.

    Attributes:
        kind: ``read`` for weights that sum over the axis; ``write`` for those that make it; ``shift`` for
            addends of the values along it, or constants that become such values.
        constant: The constant.
        axis: Number of the axis.
        flow: The activation that is read or made.
        node: The number of the node.
    """

    kind: Kind
    constant: str
    axis: int
    flow: str
    node: int


@dataclass(frozen=True)
class DualPair:
    """A sum over the axis of two activations: the basis of one is dual to that of the other."""

    first: str
    second: str
    node: int


@dataclass(frozen=True)
class Norm:
    """A normalisation that takes its statistics over the axis, or whose parameters lie on it.

    Attributes:
        kind: ``layer`` for LayerNormalization, ``rms`` for one without a mean, ``batch`` for fixed
            statistics.
        node: The number of the node.
    """

    kind: Literal["layer", "rms", "batch"]
    node: int


Role: TypeAlias = Vector | DualPair | Norm


@dataclass(frozen=True)
class Effect:
    """The effect of one node on one factor.

    Attributes:
        symmetry: The maps that it commutes with, its constants rewritten according to the roles.
        roles: Constants and pairings.
        opened: The maps it commutes with once its parameters are absorbed by its neighbours; the same as
            ``symmetry`` where there are no parameters to absorb.
        reason: The reason why there are no more.
    """

    symmetry: Symmetry
    roles: tuple[Role, ...] = ()
    reason: str = ""
    opened: Symmetry = field(default=Symmetry.PERMUTATION)

    def __post_init__(self) -> None:
        if self.opened is Symmetry.PERMUTATION:
            object.__setattr__(self, "opened", self.symmetry)


def permutation(reason: str) -> Effect:
    """Return the effect of a node that commutes with permutations alone."""
    return Effect(Symmetry.PERMUTATION, (), reason)
