"""The reports of passes: a field for each key, one spelling of each."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from onnxprune import passes
from onnxprune.ir import Model, load
from onnxprune.passes import Pass, PassResult, Prune, Report, Transform
from onnxprune.passes.reports import PruneReport, TransformReport

MODEL = Path(__file__).parents[2] / "models" / "mnist_cnn.onnx"
REPORTS = [getattr(passes, name) for name in passes.__all__ if name.endswith("Report")]


@pytest.fixture(scope="module")
def results() -> tuple[PassResult, PassResult]:
    pruned = Prune(reduce_macs=0.4)(load(MODEL))
    return pruned, Transform()(pruned)


def test_reports_are_typed_and_hold_the_keys_of_json(results: tuple[PassResult, PassResult]) -> None:
    pruned, dense = (result.report for result in results)
    assert isinstance(pruned, PruneReport)
    assert isinstance(dense, TransformReport)
    assert pruned.macs == dense.macs
    assert pruned.facts()["macs"] == pruned.macs
    assert dense.verdict == "agree"
    assert "latency_ms" not in pruned.facts()


def test_costs_have_one_spelling_in_all_reports(results: tuple[PassResult, PassResult]) -> None:
    for cost in ("macs", "params", "channels"):
        before = {result.facts[f"{cost}_before"] for result in results}
        assert len(before) == 1
        assert all(f"{cost}_reduction" in result.facts for result in results)


@pytest.mark.parametrize("report", REPORTS)
def test_keys_say_their_units_and_are_explained(report: type[Report]) -> None:
    names = {field.name for field in dataclasses.fields(report)}
    explained = {
        name
        for base in report.__mro__
        for name in re.findall(r"^ {8}(\w+): ", base.__doc__ or "", re.MULTILINE)
    }
    assert names <= explained
    assert [name for name in names if name.endswith(("_baseline", "_after", "_seconds"))] == []


def test_keys_of_a_pass_from_outside_are_a_report_too() -> None:
    @dataclass(frozen=True)
    class Counted(Pass):
        name: ClassVar[str] = "counted"

        def run(self, given: PassResult) -> PassResult:
            return PassResult(given.model, False, {"nodes": len(given.model.nodes)})  # type: ignore[arg-type]

    model: Model = load(MODEL)
    result = Counted()(model)
    assert result.facts == {"nodes": len(model.nodes)}
    assert result.report == Report(more={"nodes": len(model.nodes)})


def test_a_key_that_a_report_does_not_know_is_refused() -> None:
    with pytest.raises(TypeError):
        PruneReport(macs_baseline=3)  # type: ignore[call-arg]
