"""The page of error messages quotes messages that the program has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
FIXED = 0.4
"""Share of a message that the program has to hold word by word; the rest are names and numbers."""


def fixed_parts(node: ast.AST) -> list[str] | None:
    """Return the fixed text of a string in the code, in order; nothing where it is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["" if isinstance(part, ast.FormattedValue) else part.value for part in node.values]
    return None


def strings_of_the_program() -> list[list[str]]:
    files = [*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return [parts for node in nodes if (parts := fixed_parts(node))]


STRINGS = strings_of_the_program()


def holds(message: str, parts: list[str]) -> bool:
    """Return whether a string of the program can become a message."""
    if sum(map(len, parts)) < FIXED * len(message) or not all(part in message for part in parts):
        return False
    pattern = "".join(re.escape(part) if part else ".+?" for part in parts)
    return re.fullmatch(pattern, message) is not None


def test_messages_are_quoted() -> None:
    assert len(QUOTED) >= 35
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("message", QUOTED)
def test_quoted_message_is_one_of_the_program(message: str) -> None:
    assert any(holds(message, parts) for parts in STRINGS)


def test_message_that_no_string_makes_is_found() -> None:
    assert not any(holds("'GLOB' matches no group, node or theatre", parts) for parts in STRINGS)
