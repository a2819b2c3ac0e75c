"""All messages of errors, with their hints, read from the source code.

    python docs/messages.py             # the page, as Markdown
    python docs/messages.py WORD…       # the rows with all of these words

The page is part of the site (`site_hooks.py`). Parts of a message that depend on model or data are `…`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("onnxprune", "passes")
_OPEN = "…"
"""In place of a part that is known when the program runs."""
HEAD = """# All messages

Every error of the program with its hint. `…` stands for names, numbers and other parts known when the
program runs. Causes and remedies of the frequent ones: [troubleshooting](troubleshooting.md).
"""


def page() -> str:
    """Return the page, as Markdown."""
    found = rows()
    kinds = sorted({kind for kind, _, _ in found})
    parts = [HEAD]
    for kind in kinds:
        lines = [f"| {_cell(text)} | {_cell(hint)} |" for name, text, hint in found if name == kind]
        parts.append("\n".join([f"\n## {kind}\n", "| message | hint |", "|---|---|", *lines]) + "\n")
    return "".join(parts)


def rows() -> list[tuple[str, str, str]]:
    """Return all messages: class of the error, message, hint, sorted and each once."""
    files = (path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
    found = {row for path in files for row in raised(path.read_text("utf-8"))}
    return sorted(row for row in found if any(c.isalpha() for c in row[1] + row[2]))


def raised(source: str) -> Iterator[tuple[str, str, str]]:
    """Yield class, message and hint of every place of a module that makes an error with both."""
    tree = ast.parse(source)
    known = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) >= 2 and (name := _class(node.func)):
            yield name, text(node.args[0], known), text(node.args[1], known)


def text(node: ast.expr, known: Mapping[str, ast.expr]) -> str:
    """Return the text of an expression, the parts that are not fixed as `…`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part, known) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text(node.left, known) + text(node.right, known)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in known:
        return text(known[node.value.id], {})
    if isinstance(node, ast.Name) and node.id in known:
        return text(known[node.id], {})
    if isinstance(node, ast.IfExp):
        return " / ".join(dict.fromkeys((text(node.body, known), text(node.orelse, known))))
    if isinstance(node, ast.BoolOp):
        return " / ".join(dict.fromkeys(text(value, known) for value in node.values))
    return _OPEN


def _class(function: ast.expr) -> str:
    """Return the name of a class of errors; empty for other functions."""
    name = function.id if isinstance(function, ast.Name) else ""
    return name if name.endswith("Error") else ""


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")


def main(words: list[str]) -> None:
    """Print the page, or the rows with all words."""
    if not words:
        print(page(), end="")
    for name, message, hint in rows() if words else ():
        if all(word.lower() in f"{message} {hint}".lower() for word in words):
            print(f"{name}: {message}\n    hint: {hint}")


if __name__ == "__main__":
    main(sys.argv[1:])
