"""The size rules of operators, entered into the table of operators."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.ops.spec import MICROSOFT, SizeRule, entry

__all__ = ["MICROSOFT", "size_rule"]


def size_rule(*operators: str, domain: str = "") -> Callable[[SizeRule], SizeRule]:
    """Enter a function into the table as the size rule of some operators."""
    return entry("sizes", *operators, domain=domain)
