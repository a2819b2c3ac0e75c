"""Derived sizes against real runs: no axis reported as known is ever wrong."""

from __future__ import annotations

from pathlib import Path

import ideas_control  # noqa: F401 - it enters more networks
import onnx
import pytest
from ideas import IDEAS
from places import CASES
from sizes_truth import Run, compare, observe

from onnxprune.analysis.sizes import infer_sizes
from onnxprune.ir import Model, check

REFUSED = {"nchwc"}
"""Models that no analysis accepts."""
CASE_FILES = [p for p in sorted(CASES.glob("*.onnx")) if p.stem not in REFUSED]
NOT_RUN = {"fakequant", "trtnms", "mha_packed"}
"""Models with an operator that this runtime lacks, or lacks for these sizes."""
LEFT_OPEN = {"tts_len": 20}
"""Axes that depend on data."""


def judged(proto: onnx.ModelProto, least: int) -> tuple[list[str], list[str]]:
    """Return the wrong statements of an analysis of a model, and its unknown sizes."""
    model = check(Model(proto))
    analysis = infer_sizes(model.proto)
    found = [observe(model.proto, analysis, which) for which in range(4)]
    runs = [run for run in found if isinstance(run, Run)]
    assert len(runs) >= least, [failure for failure in found if isinstance(failure, str)]
    verdict = compare(analysis, runs)
    assert not runs or verdict.counts["axis known"] > 0
    return verdict.wrong, verdict.unknown


@pytest.mark.parametrize("path", CASE_FILES, ids=lambda p: p.stem)
def test_sizes_of_files_are_those_of_runs(path: Path) -> None:
    wrong, unknown = judged(onnx.load(path), 0 if path.stem in NOT_RUN else 1)
    assert wrong == []
    assert len(unknown) <= LEFT_OPEN.get(path.stem, 0), unknown


@pytest.mark.parametrize("name", sorted(IDEAS))
def test_sizes_of_networks_are_those_of_runs(name: str) -> None:
    wrong, unknown = judged(IDEAS[name].build(), 1)
    assert wrong == []
    assert unknown == []
