"""The table of pullbacks; the other modules of this package fill it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxprune.train.rewrites.registry import qualified

if TYPE_CHECKING:
    from onnxprune.train.pullbacks.tape import Tape


@dataclass
class Node:
    """One node of the forward graph.

    Attributes:
        name: Its name, for messages.
        operator: Its operator, the domain in front if it is not the standard one.
        inputs: Names of its operands, empty where one is left out.
        outputs: Names of its results, likewise.
        attributes: By name, as Python values.
        saved: Tensors that its forward form keeps for the pullback.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    saved: dict[str, Any] = field(default_factory=dict)

    def input(self, index: int) -> str:
        """Return the name of an operand; an empty one where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int) -> str:
        """Return the name of a result; an empty one where it is left out."""
        return self.outputs[index] if index < len(self.outputs) else ""


Rule: TypeAlias = "Callable[[Node, Tape], None]"

PULLBACKS: dict[str, Rule] = {}
"""By operator: writes the gradients of a node's operands from those of its results."""

FORWARDS: dict[str, Rule] = {}
"""By operator: writes a node in a form that keeps what its pullback reads. Others are copied."""


def pullback(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter a pullback into the table for some operators of a domain."""
    return _entering(PULLBACKS, operators, domain)


def forward(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter the forward form of some operators of a domain."""
    return _entering(FORWARDS, operators, domain)


def _entering(table: dict[str, Rule], operators: tuple[str, ...], domain: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        for operator in operators:
            table[qualified(operator, domain)] = rule
        return rule

    return enter
