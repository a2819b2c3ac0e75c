"""Arrays that stay on a device, with the processor's memory in the place of a device's."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import parser

from onnxprune.errors import ModelError
from onnxprune.ir import load
from onnxprune.models import bundled
from onnxprune.passes import Ana
from onnxprune.runtime import ExecutionConfig, ResidentArrays, Session, execution, resident

SUM = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,2] x, float[N,2] y) => (float[N,2] z, float[N,2] d) { z = Add(x, y) d = Sub(x, y) }"""


@pytest.fixture
def uploads(monkeypatch):
    """Treat the CPU provider as one with a memory of its own; yield the arrays that go there."""
    seen, upload = [], onnxruntime.OrtValue.ortvalue_from_numpy

    def spy(array, *place):
        if place:
            seen.append(array)
        return upload(array, *place)

    monkeypatch.setattr(execution, "_MEMORIES", {execution.CPU: "cpu"})
    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(spy))
    return seen


def arrays() -> dict[str, np.ndarray]:
    return {"x": np.float32([[1, 2], [3, 4]]), "y": np.float32([[5, 6], [7, 8]])}


def test_each_array_is_uploaded_once(uploads) -> None:
    given = ResidentArrays(arrays())
    for session in (Session(parser.parse_model(SUM)), Session(parser.parse_model(SUM))):
        for outputs in (None, ["d"]):
            found = session.run(given, outputs)
            assert list(found) == (outputs or ["z", "d"])
            np.testing.assert_array_equal(found["d"], [[-4, -4], [-4, -4]])
        session.run(given.only(["x", "y"]))
    assert len(uploads) == 2
    Session(parser.parse_model(SUM)).run(arrays())
    assert len(uploads) == 2


def test_plain_memory_is_fed_as_it_is(uploads, monkeypatch) -> None:
    monkeypatch.setattr(execution, "_MEMORIES", {})
    found = Session(parser.parse_model(SUM)).run(ResidentArrays(arrays()))
    np.testing.assert_array_equal(found["z"], [[6, 8], [10, 12]])
    assert not uploads


def test_a_device_without_room_is_fed(uploads, monkeypatch) -> None:
    def full(array, *place):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(full))
    found = Session(parser.parse_model(SUM)).run(ResidentArrays(arrays()))
    np.testing.assert_array_equal(found["z"], [[6, 8], [10, 12]])


def test_faults_are_told_as_ever(uploads) -> None:
    session = Session(parser.parse_model(SUM))
    with pytest.raises(ModelError, match="cannot run"):
        session.run(ResidentArrays({"x": np.zeros((2, 2), np.float32), "y": np.zeros((3, 2), np.float32)}))


def test_devices_with_a_memory() -> None:
    assert ExecutionConfig().memory is None
    assert ExecutionConfig("OpenVINOExecutionProvider").memory is None
    assert ExecutionConfig("CUDAExecutionProvider").memory == ("cuda", 0)
    assert ExecutionConfig("TensorrtExecutionProvider", {"device_id": "1"}).memory == ("cuda", 1)


@pytest.mark.slow
def test_ana_uploads_the_samples_of_a_cut_once(uploads, monkeypatch) -> None:
    runs, run = [], resident.run_resident

    def counted(session, names, feeds, *rest):
        runs.append(len(feeds))
        return run(session, names, feeds, *rest)

    monkeypatch.setattr("onnxprune.runtime.session.run_resident", counted)
    files = {path.name: path for path in bundled()}
    study = Ana(data=str(files["clothes_val.npz"]), metric="kl", ratios=(0.25, 0.5), samples=16, batch_size=8)
    model = load(files["fashion_mobile.onnx"])
    found = study(model).analysis
    assert 0 < len(uploads) <= sum(runs) / 2
    monkeypatch.setattr(execution, "_MEMORIES", {})
    plain = study(load(files["fashion_mobile.onnx"])).analysis
    assert found.curves == plain.curves
