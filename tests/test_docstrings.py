"""Docstrings open with a noun or an imperative, and name their subjects by the nouns of the field."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("onnxprune", "passes", "benchmarks", "docs", "examples", "models", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
BANNED = {
    "What",
    "Whatever",
    "Whether",
    "How",
    "However",
    "Where",
    "Which",
    "Who",
    "Whoever",
    "From",
    "Does",
    "Those",
}
VAGUE = re.compile(
    r"\b(what|whatever|whoever|nobody|somebody|somewhere|said|speaks?|hears?|wants?)\b", re.IGNORECASE
)
"""Relative words in the place of a noun (the result, the operand, the user), and personifications."""
STARTS = {tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
"""Tokens after which a statement begins."""


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each docstring and each comment of a file."""
    first = True  # of a statement, where a string is a docstring
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and first):
                yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string
            if token.type not in (tokenize.COMMENT, tokenize.NL):
                first = token.type in STARTS


def openings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the first word of each docstring of a file, and of each name of a test.

    The docstrings of constants and attributes stand after their assignments.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                words = str(statement.value.value).split()
                yield f"{path.relative_to(ROOT)}:{statement.lineno}", words[0].rstrip(",:") if words else ""
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node.name.split("_")[1].capitalize()


def test_docstrings_and_names_of_tests_open_with_a_noun_or_an_imperative() -> None:
    found = [place for path in FILES for place in openings(path)]
    assert [(place, word) for place, word in found if word in BANNED] == []


def test_docstrings_and_comments_use_nouns() -> None:
    suspects = (path for path in FILES if VAGUE.search(path.read_text("utf-8")))
    found = [(place, VAGUE.findall(text)) for path in suspects for place, text in texts(path)]
    assert [(place, words) for place, words in found if words] == []


def modules(folder: Path) -> set[str]:
    """Return the names of the modules and packages in a folder."""
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    return files | {path.parent.name for path in folder.glob("*/__init__.py")}


@pytest.mark.parametrize(
    "file", [*(ROOT / "onnxprune").rglob("__init__.py")], ids=lambda file: str(file.parent.relative_to(ROOT))
)
def test_a_list_of_modules_names_all_of_them_and_no_others(file: Path) -> None:
    """Lines such as ``name, name    purpose``; a name at the end of a line goes on in the next one."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    listed = re.findall(r"^ {0,4}((?:[a-z_0-9]+,\s+)*[a-z_0-9]+/?) {2,}\S", text, re.MULTILINE)
    named = [name.strip(" /") for line in listed for name in re.split(r",\s+", line)]
    assert len(named) == len(set(named))
    if named:
        assert set(named) == modules(file.parent)
