"""The documentation is true: snippets run, tables are those of the program, the targets of links exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxprune.app.cli import main
from onnxprune.app.recipe import read_recipe
from onnxprune.certify.__main__ import main as certify
from onnxprune.models.__main__ import main as write_models

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SLOW = {"tutorial", "run", "ana", "recover", "cnn", "detector", "transformer", "int8"}


@dataclass(frozen=True)
class Snippet:
    """A block of code: its language, its lines, and where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file it is, where its first line names one."""
        named = re.match(r"# ([\w.-]+\.(?:py|toml))\n", self.text)
        return named[1] if named else None


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [Snippet(m[1], m[2], text[: m.start()].count("\n") + 2) for m in found]


def marked(page: Path) -> object:
    marks = [pytest.mark.slow] if page.stem in SLOW else []
    return pytest.param(page, id=str(page.relative_to(DOCS)), marks=marks)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to follow a page in: the networks of the package are there, and nothing else."""
    assert write_models([str(tmp_path / "models")]) == 0
    before, path = set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == tmp_path:
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", [marked(page) for page in PAGES if snippets(page)])
def test_every_snippet_runs_and_prints_the_shown_output(page, folder, capfd):
    names: dict[str, object] = {}
    for snippet in snippets(page):
        if snippet.file:
            Path(snippet.file).write_text(snippet.text, "utf-8")
        if snippet.language == "toml":
            Path("snippet.toml").write_text(snippet.text, "utf-8")
            read_recipe(Path("snippet.toml"))
        elif snippet.language == "python" and not snippet.file:
            exec(compile("\n" * (snippet.line - 1) + snippet.text, str(page), "exec"), names)
        elif snippet.language == "console":
            follow(snippet, capfd)
        else:
            assert snippet.file or snippet.language in ("text", "json"), f"{page}, line {snippet.line}"


def follow(snippet: Snippet, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the commands of a transcript; each line shown has to be printed, up to where it is cut."""
    for piece in snippet.text.split("$ ")[1:]:
        command, *shown = piece.splitlines()
        printed = printed_by(shlex.split(command), capfd)
        for line in shown:
            start, cut, _ = words(line).partition("…")
            start = start.strip()
            assert any(found.startswith(start) if cut else found == start for found in printed), (
                f"`{command}` does not print `{line}`, but:\n" + "\n".join(printed)
            )


def printed_by(command: list[str], capfd: pytest.CaptureFixture[str]) -> list[str]:
    assert command[:2] == ["python", "-m"], command
    program = {
        "onnxprune": main,
        "onnxprune.certify": lambda words: sys.exit(certify(words)),
        "onnxprune.models": lambda words: sys.exit(write_models(words)),
    }[command[2]]
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        program(command[3:])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    return [words(line) for line in out.splitlines()]


def words(line: str) -> str:
    return " ".join(line.split())


def generator():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_of_options_and_keys_are_those_of_the_program():
    stale = [str(p) for p, text in generator().pages().items() if p.read_text("utf-8") != text]
    assert stale == [], "bring them up to date with: python docs/generate.py"


def test_the_picture_of_the_rooms_is_that_of_the_imports():
    spec = importlib.util.spec_from_file_location("draw_architecture", DOCS / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = (DOCS / "architecture.svg").read_text("utf-8")
    assert drawn == module.picture(), "draw it again: python docs/architecture.py"


def test_every_option_and_every_key_is_explained():
    for page, text in generator().pages().items():
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        empty = [row for row in rows if row.endswith("|  |")]
        assert empty == [], page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


def test_the_index_names_every_page():
    index = (DOCS / "index.md").read_text("utf-8")
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+\.md)\)", index)}
    assert {p for p in PAGES if p.name != "index.md"} <= linked
