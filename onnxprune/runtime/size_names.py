"""Sizes that are named by a sum, such as ``past_sequence_length + sequence_length``.

Exporters name an axis by the sum of two others, or by a multiple of one. Such a name is read as arithmetic
only where it mentions axes that the inputs have: ``num-channels`` is one name.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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
    found = symbols_of(tree, name)
    return tuple(found) if found and set(found) <= set(known) else ()


def computed(name: str, sizes: Mapping[str, int]) -> int | None:
    """Return the size that a name computes, ``None`` where it computes none or a part of it is not known.

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
    return tree if _readable(tree) else None


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.BinOp):
        return _OPERATIONS[type(tree.op)](_value(tree.left, sizes), _value(tree.right, sizes))
    if isinstance(tree, ast.Call):
        return (max if called(tree) == "max" else min)(_value(operand, sizes) for operand in tree.args)
    if isinstance(tree, ast.Name):
        return sizes[tree.id]
    assert isinstance(tree, ast.Constant)
    assert isinstance(tree.value, int)
    return tree.value


def expression(text: str, plain: Collection[str]) -> ast.expr | None:
    """Parse a name that is a sum or the like; ``None`` for one that is only a name.

    A dash or slash without blanks around it is one of a name, unless both sides are names themselves.

    Args:
        text: The name of an axis.
        plain: The names of all axes.
    """
    tree = _parsed(text)
    if tree is None or isinstance(tree, ast.Name | ast.Constant):
        return None
    sure = all(name in plain for name in _names(tree)) or not ("-" in text or "/" in text)
    return tree if sure or any(f" {sign} " in text for sign in ("-", "/", "//")) else None


def _readable(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        known = isinstance(tree.op, ast.Add | ast.Sub | ast.Mult | ast.FloorDiv | ast.Div)
        return known and _readable(tree.left) and _readable(tree.right) and not _by_zero(tree)
    if isinstance(tree, ast.Call):
        return called(tree) in ("max", "min") and bool(tree.args) and all(map(_readable, tree.args))
    return isinstance(tree, ast.Name) or (isinstance(tree, ast.Constant) and type(tree.value) is int)


def _by_zero(tree: ast.BinOp) -> bool:
    divides = isinstance(tree.op, ast.FloorDiv | ast.Div)
    return divides and isinstance(tree.right, ast.Constant) and tree.right.value == 0


def called(tree: ast.Call) -> str:
    """Return the name of the function that is called, in small letters: ``max`` or ``min``."""
    return tree.func.id.lower() if isinstance(tree.func, ast.Name) and not tree.keywords else ""


def _names(tree: ast.AST) -> Iterator[str]:
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    yield from (n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called)


def symbols_of(tree: ast.expr | None, text: str) -> Sequence[str]:
    """Return the symbols that a name mentions: itself where it is a plain one.

    Args:
        tree: The name, parsed by `expression`.
        text: The name.
    """
    return (text,) if tree is None else tuple(dict.fromkeys(_names(tree)))
