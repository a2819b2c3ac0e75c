"""Sizes that are named by a sum, such as ``past_sequence_length + sequence_length``.

Exporters name an axis by the sum of two others, or by a multiple of one. Such a name is read as arithmetic
only where it mentions axes that the inputs have: ``num-channels`` is one name.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
}
_TOTAL, _PAST = "total", "past"


def terms(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the axes that the name of another is computed from; none where it is a plain name.

    Args:
        name: The name of an axis.
        known: The names of all axes of the inputs.
    """
    tree = _parsed(name)
    if tree is None or isinstance(tree, ast.Name):
        return ()
    found = tuple(dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name)))
    return found if found and set(found) <= set(known) else ()


def computed(name: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size that a name says, ``None`` where it says none or a part of it is not known.

    Args:
        name: The name of an axis.
        sizes: Sizes by name.
    """
    tree = _parsed(name)
    if tree is None or isinstance(tree, ast.Name):
        return None
    try:
        return max(_value(tree, sizes), 0)
    except (KeyError, ZeroDivisionError):
        return None


def total_of(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the two axes that make up an axis named ``total_…`` beside a ``past_…`` of the same rest.

    Args:
        name: The name of an axis, such as ``total_sequence_length``.
        known: The names of all axes of the inputs.
    """
    rest = name.removeprefix(f"{_TOTAL}_")
    parts = (f"{_PAST}_{rest}", rest)
    return parts if rest != name and set(parts) <= set(known) else ()


def _parsed(name: str) -> ast.expr | None:
    """Return a name as arithmetic over names and whole numbers, ``None`` where it is none."""
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return tree if _is_arithmetic(tree) else None


def _is_arithmetic(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        return type(tree.op) in _OPERATIONS and _is_arithmetic(tree.left) and _is_arithmetic(tree.right)
    if isinstance(tree, ast.Constant):
        return type(tree.value) is int
    return isinstance(tree, ast.Name)


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp):
        return _OPERATIONS[type(tree.op)](_value(tree.left, sizes), _value(tree.right, sizes))
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    assert isinstance(tree, ast.Constant)
    assert isinstance(tree.value, int)
    return tree.value
