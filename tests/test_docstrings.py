"""Docstrings open with a noun or an imperative, not with a relative or interrogative word."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("onnxprune", "passes", "benchmarks", "docs", "examples", "models")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
BANNED = {"What", "Whatever", "Whether", "How", "Where", "Which", "Who", "Whoever", "From", "Does", "Those"}


def openings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the first word of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", "module"), text.split()[0].rstrip(",:")


def test_docstrings_open_with_a_noun_or_an_imperative() -> None:
    found = {str(path.relative_to(ROOT)): list(openings(path)) for path in FILES}
    assert [(path, *place) for path, places in found.items() for place in places if place[1] in BANNED] == []
