"""The size rules of operators, entered into the table of operators."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.ops.spec import SizeRule, enter

MICROSOFT = "com.microsoft"


def size_rule(*operators: str, domain: str = "") -> Callable[[SizeRule], SizeRule]:
    """Enter a function into the table as the size rule of some operators."""

    def add(rule: SizeRule) -> SizeRule:
        for operator in operators:
            enter(domain, operator, sizes=rule)
        return rule

    return add
