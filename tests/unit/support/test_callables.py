from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxprune.errors import DataError, UsageError
from onnxprune.support.callables import is_reference, load_callable, user_code


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder of its own, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("text", ["m:f", "package.module:Class.method", "_m1:_f", "größe:länge"])
def test_references(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize("text", ["data.npz", "m:", ":f", "a/b:f", "C:\\data", "m:f:g", "1m:f", "top1", ""])
def test_other_texts(text: str) -> None:
    assert not is_reference(text)


def test_a_module_in_the_current_folder(here: Path) -> None:
    (here / "loader_one.py").write_text("class Loaders:\n    @staticmethod\n    def train(): return 7\n")
    assert load_callable("loader_one:Loaders.train")() == 7


def test_installed_modules_come_first(here: Path) -> None:
    (here / "string.py").write_text("def capwords(text): return 'not the one'\n")
    sys.modules.pop("string", None)
    assert load_callable("string:capwords")("a b") == "A B"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module_x:f", "no module 'no_such_module_x'"),
        ("os.no_such:f", "no module 'os.no_such'"),
        ("math:no_such", "module 'math' has no 'no_such'"),
        ("math:pi", "module 'math' cannot call its 'pi'"),
        ("not a reference", "not of the form"),
    ],
)
def test_missing_callables_are_refused(reference: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_callable(reference)


def test_a_module_that_fails_on_import_is_located(here: Path) -> None:
    (here / "loader_bad.py").write_text("\n1 / 0\n")
    with pytest.raises(DataError, match="importing 'loader_bad' raised ZeroDivisionError") as caught:
        load_callable("loader_bad:f")
    assert caught.value.hint == f"see {here / 'loader_bad.py'}, line 2"


def test_a_module_whose_own_import_is_missing_is_not_called_missing(here: Path) -> None:
    (here / "loader_needy.py").write_text("import no_such_dependency_x\n")
    with pytest.raises(DataError, match=r"importing 'loader_needy' raised ModuleNotFoundError.*no_such_dep"):
        load_callable("loader_needy:f")


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(UsageError, match="mine"), user_code("this"):
        raise UsageError("mine")
