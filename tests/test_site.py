"""The documentation as a site: complete navigation, a complete API reference, a strict build."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

import onnxprune
import onnxprune.passes

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").exists())
DOCS = ROOT / "docs"
BUILT_WITH = ("mkdocs", "material", "mkdocstrings")


def directives() -> list[str]:
    """Return the names that the API reference documents."""
    return re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)


def test_reference_holds_every_public_name() -> None:
    public = {f"onnxprune.{name}" for name in onnxprune.__all__}
    public |= {f"onnxprune.passes.{name}" for name in onnxprune.passes.__all__}
    assert set(directives()) == public | {"onnxprune.errors"}


@pytest.mark.parametrize("name", directives())
def test_reference_names_exist_and_have_a_docstring(name: str) -> None:
    module, *attributes = name.removeprefix("onnxprune.").split(".")
    found = reduce(getattr, [module, *attributes], onnxprune)
    assert found.__doc__


def test_tree_of_errors_holds_every_error() -> None:
    import onnxprune.errors as errors

    classes = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)}
    assert {n for n in classes if not re.search(rf"\b{n}\b", errors.__doc__ or "")} == set()


def test_navigation_holds_every_page() -> None:
    listed = re.findall(r"- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    beside = re.findall(r'"(\w+\.md)",$', (DOCS / "site_hooks.py").read_text("utf-8"), re.MULTILINE)
    pages = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(pages | set(beside) | {"messages.md"})


@pytest.mark.slow
def test_site_builds_without_a_warning_and_can_be_searched(tmp_path: Path) -> None:
    if any(importlib.util.find_spec(name) is None for name in BUILT_WITH):
        pytest.skip("the dependency group `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text("utf-8"))
    found = {entry["location"] for entry in index["docs"] if "reduce_latency" in entry["text"]}
    assert any(place.startswith("api.html#onnxprune.passes.Prune") for place in found)
    assert any("the labels in … are of type" in entry["text"] for entry in index["docs"])
    assert any(place.startswith("contributing.html") for place in {e["location"] for e in index["docs"]})
