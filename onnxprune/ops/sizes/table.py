"""The table: operator → size rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from onnxprune.ops.sizes.node import Node

SizeRule: TypeAlias = "Callable[[Node], None]"
RULES: dict[tuple[str, str], SizeRule] = {}
MICROSOFT = "com.microsoft"


def size_rule(*operators: str, domain: str = "") -> Callable[[SizeRule], SizeRule]:
    """Enter a function into the table as the rule of some operators."""

    def enter(rule: SizeRule) -> SizeRule:
        for operator in operators:
            RULES[domain, operator] = rule
        return rule

    return enter


def lookup(domain: str, operator: str) -> SizeRule | None:
    """Return an operator's rule, ``None`` where there is none."""
    return RULES.get(("" if domain == "ai.onnx" else domain, operator))
