"""The table of pullbacks; the other modules of this package fill it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxprune.ops.spec import enter, find_spec
from onnxprune.train.rewrites.registry import qualified

if TYPE_CHECKING:
    from onnxprune.train.pullbacks.tape import Tape


@dataclass
class ForwardNode:
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


Rule: TypeAlias = "Callable[[ForwardNode, Tape], None]"

PULLBACKS: dict[str, Rule] = {}
"""Pullbacks by operator; these operators need no rewriting."""

FORWARDS: dict[str, Rule] = {}
"""By operator: writes a node in a form that keeps the tensors read by its pullback. Others are copied."""


def pullback(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter a pullback for some operators of a domain: as the gradient of their specs."""

    def enter_rule(rule: Rule) -> Rule:
        for operator in operators:
            enter(domain, operator, gradient=rule)
            PULLBACKS[qualified(operator, domain)] = rule
        return rule

    return enter_rule


def pullback_of(operator: str) -> Rule | None:
    """Return the gradient of an operator's spec, the domain in front of its name; None where it has none."""
    domain, _, name = operator.rpartition(".")
    return find_spec(domain, name).gradient


def forward(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Enter the forward form of some operators of a domain."""

    def enter_form(rule: Rule) -> Rule:
        FORWARDS.update({qualified(operator, domain): rule for operator in operators})
        return rule

    return enter_form
