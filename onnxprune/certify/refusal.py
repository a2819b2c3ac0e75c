"""The one exception of the verifier: a step of the proof fails."""

from __future__ import annotations

STANDARD = ("", "ai.onnx")
"""Domains of the operators that have rules; operators of other domains are refused by name."""


class Refusal(Exception):  # noqa: N818 - a refusal is no error of the program
    """The models are not shown to be equal.

    Attributes:
        reason: Part of the proof that is missing.
        tensor: The first tensor of the dense model that is not shown, empty where it is not known yet.
        operator: The operator that makes it.
    """

    def __init__(self, reason: str, tensor: str = "", operator: str = "") -> None:
        super().__init__(reason)
        self.reason, self.tensor, self.operator = reason, tensor, operator

    def __str__(self) -> str:
        return f"{self.operator} '{self.tensor}': {self.reason}" if self.tensor else self.reason


class Impossible(Refusal):
    """A node fails for all inputs of the sizes at hand: no run reaches it with these."""


MALFORMED = (
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    ZeroDivisionError,
)
"""Errors of rules on nodes that lack sizes, attributes or operands that the rule reads."""


def unread(error: Exception) -> str:
    """Return the reason for a refusal after an error of a rule, in words."""
    if isinstance(error, KeyError):
        return f"'{error.args[0] if error.args else ''}' is not known"
    if isinstance(error, AssertionError):
        return "a rule of the verifier does not hold for it"
    return f"a rule of the verifier does not fit it ({error})"


def need(condition: object, reason: str) -> None:
    """Raise a refusal unless a condition holds."""
    if not condition:
        raise Refusal(reason)


def can_be(condition: object, reason: str) -> None:
    """Raise `Impossible` unless a condition holds that every run meets."""
    if not condition:
        raise Impossible(reason)
