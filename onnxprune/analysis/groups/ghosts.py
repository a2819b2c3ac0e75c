"""Values of removed channels that are not zero but known from other tensors.

A layer normalisation that is spelled out subtracts the mean: where the data are zero, ``x − m`` is ``−m``,
and its square ``m²``. A sum over channels is exact without them if that is added as often as channels go.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.algebra.axes import Factor, factors
from onnxprune.ops.axes import Contraction, Ghost, Typing
from onnxprune.ops.axes.statements import Axes
from onnxprune.ops.spec import spec_of

DEEPEST = 16
"""Limit of the nodes between a known value and the sum."""


def find_ghost(
    typing: Typing,
    factor: Factor,
    contraction: Contraction,
    values: Mapping[str, float],
    makers: Mapping[str, int],
) -> Ghost | None:
    """Return the computation of a removed channel's part in a sum, ``None`` where that is not known.

    Args:
        typing: The network.
        factor: The channels.
        contraction: The sum over them.
        values: The number each tensor holds at a removed channel, where that is one.
        makers: The node that makes each tensor.
    """
    node = typing.nodes[contraction.node]
    sums = spec_of(node).sums
    if not sums or len(contraction.tensors) != 1:
        return None
    name = contraction.tensors[0]
    dims = typing.axes[name]
    axes = [k for k, dim in enumerate(dims) if factor in factors(dim)]
    summed = len(dims) - (len(typing.axes[node.output[0]]) if node.output[0] in typing.axes else 0)
    if len(axes) != 1 or (sums != "mean" and not _sums_one_axis(typing, contraction, summed)):
        return None
    search = _Search(typing, factor, values, makers, rank=len(dims), axis=axes[0])
    found = search.follow(name)
    if not isinstance(found, int) or not search.is_whole:
        return None
    return Ghost(contraction.node, contraction.dim, tuple(search.steps))


def _sums_one_axis(typing: Typing, contraction: Contraction, dropped: int) -> bool:
    """Return whether a node sums over one axis alone: others may broadcast the ghost."""
    here = [c for c in typing.contractions if c.node == contraction.node]
    return len(here) == 1 and dropped <= 1


class _Search:
    """Follows a tensor back to known values of it at a removed channel."""

    def __init__(
        self,
        typing: Typing,
        factor: Factor,
        values: Mapping[str, float],
        makers: Mapping[str, int],
        rank: int,
        axis: int,
    ) -> None:
        self.typing, self.factor, self.values, self.makers = typing, factor, values, makers
        self.rank, self.axis = rank, axis
        self.steps: list[tuple[int, tuple[str | float | int, ...]]] = []
        self.known: dict[str, int] = {}
        self.is_whole = False
        """True if some tensor that is read has as many axes as the sum's operand."""

    def follow(self, name: str, depth: int = 0) -> str | float | int | None:
        """Return the stand-in of a tensor: itself, a number, or the number of a step."""
        if name in self.values:
            return self.values[name]
        dims = self.typing.axes.get(name)
        if dims is None or depth > DEEPEST:
            return None
        own = self.axis - (self.rank - len(dims))
        if not any(self.factor in factors(dim) for dim in dims):
            return self._read(name, dims, own)
        if name in self.known:
            return self.known[name]
        return self._computed(name, dims, own, depth)

    def _read(self, name: str, dims: Axes, own: int) -> str | None:
        if own >= 0 and dims[own].size != 1:
            return None
        self.is_whole |= len(dims) == self.rank
        return name

    def _computed(self, name: str, dims: Axes, own: int, depth: int) -> int | None:
        """Note the step that computes a tensor of the same channels, element by element."""
        index = self.makers.get(name)
        if index is None or own < 0 or self.factor not in factors(dims[own]):
            return None
        node = self.typing.nodes[index]
        if not spec_of(node).elementwise or len(node.output) != 1:
            return None
        operands = [self.follow(i, depth + 1) for i in node.input if i]
        if any(o is None for o in operands) or len(operands) != len(node.input):
            return None
        self.steps.append((index, tuple(o for o in operands if o is not None)))
        self.known[name] = len(self.steps) - 1
        return self.known[name]
