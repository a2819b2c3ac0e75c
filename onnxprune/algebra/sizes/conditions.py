"""Demands of a network on the sizes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxprune.algebra.sizes.algebra import Extent, number_of

Kind: TypeAlias = Literal["nonnegative", "equal", "one of", "broadcast", "multiple"]


@dataclass(frozen=True)
class Condition:
    """A demand that holds wherever the network runs.

    Attributes:
        kind: ``nonnegative``: the size is 0 or more. ``equal`` and ``one of``: it is one of the options.
            ``broadcast``: it is the option, or one of the two is 1. ``multiple``: the option divides it.
        size: Size that the demand is about.
        options: Values it may have.
        node: The node that demands it, by its label.
        reason: Purpose of the size in the node, such as ``inner axes``.
    """

    kind: Kind
    size: Extent
    options: tuple[Extent, ...]
    node: str
    reason: str

    def holds(self, numbers: Mapping[str, int]) -> bool:
        """Return whether it is met by numbers for the symbols, by name.

        Raises:
            KeyError: A symbol has no number.
        """
        size = number_of(self.size, numbers)
        options = [number_of(option, numbers) for option in self.options]
        if self.kind == "nonnegative":
            return size >= 0
        if self.kind == "multiple":
            return size % options[0] == 0
        if self.kind == "broadcast":
            return size == options[0] or 1 in (size, options[0])
        return size in options

    @property
    def symbols(self) -> frozenset[str]:
        """The names of the symbols it is about."""
        return frozenset().union(*(x.symbols for x in (self.size, *self.options) if not isinstance(x, int)))

    def __str__(self) -> str:
        return f"{self.statement} (node '{self.node}': {self.reason})"

    @property
    def statement(self) -> str:
        """The condition as text."""
        options = " or ".join(map(str, self.options))
        return {
            "nonnegative": f"{self.size} >= 0",
            "equal": f"{self.size} = {options}",
            "one of": f"{self.size} is {options}",
            "broadcast": f"{self.size} = {options}, or one of them is 1",
            "multiple": f"{self.size} is a multiple of {options}",
        }[self.kind]
