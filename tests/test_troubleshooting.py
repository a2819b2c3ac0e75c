"""The page of error messages quotes messages that the program has."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType

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


@cache
def strings_of_the_program() -> list[list[str]]:
    files = [*(ROOT / "onnxprune").rglob("*.py"), *(ROOT / "passes").glob("*.py")]
    nodes = (node for path in files for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return [parts for node in nodes if (parts := fixed_parts(node))]


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
    assert any(holds(message, parts) for parts in strings_of_the_program())


def test_message_that_no_string_makes_is_found() -> None:
    message = "'GLOB' matches no group, node or theatre"
    assert not any(holds(message, parts) for parts in strings_of_the_program())


def the_messages() -> ModuleType:
    """Return the script that lists all messages."""
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MESSAGES = the_messages()


def test_every_hint_of_the_code_is_in_the_list_of_messages() -> None:
    """Fixed strings in the place of a hint, found without the script, are in a row."""
    listed = {row for _, *texts in MESSAGES.rows() for row in texts}
    missing = []
    for path in (ROOT / "onnxprune").rglob("*.py"):
        source = path.read_text("utf-8")
        for found in re.finditer(r'raise \w+Error\(\s*f?"[^"]*",\s*"([^"]*)",?\s*\)', source):
            missing += [] if found[1] in listed else [(path.name, found[1])]
    assert not missing
    assert len(listed) > 500


@pytest.mark.parametrize(
    ("made", "row"),
    [
        ('DataError("a b", "c")', ("a b", "c")),
        ('DataError(f"{x} is {y!r}", HINT)', ("… is …", "do it")),
        ('DataError("a" + found(), "b" if x else "c")', ("a…", "b / c")),
        ('DataError(f"a {HINT}", why or "c")', ("a do it", "… / c")),
    ],
)
def test_forms_in_which_errors_are_made(made: str, row: tuple[str, str]) -> None:
    source = f'HINT = "do it"\n\ndef work():\n    raise {made}\n'
    assert list(MESSAGES.raised(source)) == [("DataError", *row)]


def test_messages_without_a_hint_and_other_calls_are_left_out() -> None:
    assert list(MESSAGES.raised('raise KeyError("a")\nprint("a", "b")')) == []


def test_page_of_messages_is_a_table_for_each_kind_of_error() -> None:
    page = MESSAGES.page()
    assert "## DataError\n\n| message | hint |\n|---|---|\n" in page
    assert all(
        re.fullmatch(r"\|([^|]|\\\|)*\|([^|]|\\\|)*\|", row) for row in page.splitlines() if row[:1] == "|"
    )
