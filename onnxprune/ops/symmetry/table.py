"""Entry of symmetry rules into the table of operators."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.ops.spec import SymmetryRule, entry


def symmetry_rule(*operators: str, domain: str = "") -> Callable[[SymmetryRule], SymmetryRule]:
    """Enter a function as the symmetry rule of some operators."""
    return entry("symmetry", *operators, domain=domain)
