"""Shared settings of all tests: profiles of hypothesis, and tests left out where they cannot work."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Generator

import onnxruntime
import pytest
from hypothesis import settings

from onnxprune.ir import Model

Model.verified = "ONNXPRUNE_VERIFY_ANALYSES" in os.environ  # slow: every use of a cached analysis is checked
settings.register_profile("default", max_examples=200, derandomize=True)
settings.register_profile("quick", max_examples=50, derandomize=True)
settings.register_profile("thorough", max_examples=5000)
settings.load_profile("default")

LAST_FOR_PYTHON_3_10 = (1, 23)
"""The last onnxruntime there is for it: some networks of the tests are beyond it."""
BEYOND_IT = (
    "Unsupported model IR version",
    "is under development and support for this is limited",
    "Could not find an implementation for",
    "Reduction on all axes, output size should be 1",
    "zero point of per-channel filter must be same",
)
"""Its messages about those networks."""
COMPUTED_OTHERWISE = ("test_rules.py::test_examples[Attention]",)
"""Tests whose results differ there: sums of infinite scores are NaN."""


LONG_TABLE = 4
"""Cases from which the table of a test is long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that thins out long tables of cases."""
    parser.addoption(
        "--every", type=int, default=1, metavar="N", help=f"every Nth case of tables of {LONG_TABLE} and more"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin out long tables; leave out onnxruntime-training where there is no build of it.

    A training runtime that is not set up is a failure.
    """
    _thin_out(config, items)
    if sys.version_info < (3, 13):
        return
    for item in items:
        if item.get_closest_marker("training"):
            item.add_marker(pytest.mark.skip(reason="there is no training runtime for this Python"))


def _thin_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    tables: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tables[item.nodeid.partition("[")[0]].append(item)
    long = [cases for cases in tables.values() if len(cases) >= LONG_TABLE]
    dropped = {item for cases in long for k, item in enumerate(cases) if k % config.getoption("--every")}
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(params=["stock", pytest.param("ort-training", marks=pytest.mark.training)])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let training that leaves the engine open use one after the other."""
    from onnxprune.train import engines, preparation

    name = str(request.param)
    only = {"stock": (engines.STOCK,), "ort-training": (engines.ORT_TRAINING,)}[name]
    monkeypatch.setattr(
        preparation, "candidates", lambda asked: only if asked == "auto" else engines.candidates(asked)
    )
    return name


@pytest.fixture(autouse=True)
def own_modules(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Forget the search path and the modules of a test: a later one may have others of the same name."""
    path, folder = list(sys.path), str(tmp_path_factory.getbasetemp())
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(folder):
            del sys.modules[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Skip tests that an old runtime cannot run; with a current one none is skipped."""
    try:
        return (yield)
    except Exception as error:
        if _is_old() and (_is_beyond(error) or item.nodeid.endswith(COMPUTED_OTHERWISE)):
            pytest.skip(f"beyond onnxruntime {onnxruntime.__version__}")
        raise


def _is_old() -> bool:
    return tuple(map(int, onnxruntime.__version__.split(".")[:2])) <= LAST_FOR_PYTHON_3_10


def _is_beyond(error: Exception) -> bool:
    return any(said in str(error) for said in BEYOND_IT)
