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


def rewrites(*operators: str, domain: str = "") -> Callable[[Rewrite], Rewrite]:
    """Enter a function into the table for some operators of a domain."""

    def enter(rewrite: Rewrite) -> Rewrite:
        for operator in operators:
            REWRITES[qualified(operator, domain)] = rewrite
        return rewrite

    return enter


def qualified(operator: str, domain: str | None) -> str:
    """Return the name of an operator, that of its domain in front if it is not the standard one."""
    return f"{domain}.{operator}" if domain else operator
