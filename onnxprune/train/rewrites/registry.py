"""The table of rewrites itself; the other modules of this package fill it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_graphsurgeon as gs

from onnxprune.train.emit import Emitter

# Replacements of the node's outputs, in order; None leaves the node, perhaps with attributes made explicit.
Replacement: TypeAlias = gs.Tensor | Sequence[gs.Tensor] | None
Rewrite: TypeAlias = Callable[[gs.Node, Emitter], Replacement]

REWRITES: dict[str, Rewrite] = {}
FORMS: set[str] = set()
"""Operators with a pullback whose other forms (implicit pads, two directions, …) are rewritten first."""


def rewrites(*operators: str, domain: str = "", form: bool = False) -> Callable[[Rewrite], Rewrite]:
    """Enter a function into the table for some operators of a domain.

    Args:
        operators: Their names.
        domain: Their domain.
        form: True if the operators have a pullback and the rewrite spells other forms of them: `FORMS`.
    """

    def enter(rewrite: Rewrite) -> Rewrite:
        for operator in operators:
            REWRITES[qualified(operator, domain)] = rewrite
        if form:
            FORMS.update(qualified(operator, domain) for operator in operators)
        return rewrite

    return enter


def qualified(operator: str, domain: str | None) -> str:
    """Return the name of an operator, that of its domain in front if it is not the standard one."""
    return f"{domain}.{operator}" if domain else operator
