"""Loops that have no end on drawn inputs: every command ends with a message and a hint."""

from __future__ import annotations

import time
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.analysis.inputs import feeds_that_run
from onnxprune.errors import EndlessError, LimitError, NotShownError
from onnxprune.evaluate.equivalence import CheckBudget, verify
from onnxprune.ir import Model
from onnxprune.runtime import Session, TensorSpec, runs_within, sample_feeds

SHORT = 0.5


def looped(trips: int | None) -> onnx.ModelProto:
    """A network that multiplies by a matrix until the mean of its input is below -1000, or so many times."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(4, 8)), "u": np.eye(8) * 0.5, "v": random.normal(size=(8, 3))}
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    tensors.append(numpy_helper.from_array(np.asarray(True), "begin"))
    tensors.append(numpy_helper.from_array(np.asarray(-1000, np.float32), "least"))
    if trips is not None:
        tensors.append(numpy_helper.from_array(np.asarray(trips, np.int64), "trips"))
    floats = lambda n, s: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s)  # noqa: E731
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "u"], ["moved"]),
            helper.make_node("Sigmoid", ["moved"], ["next"]),
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Less", ["least", "mean"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", onnx.TensorProto.BOOL, []),
            floats("state", ["N", 8]),
        ],
        [helper.make_tensor_value_info("goes_on", onnx.TensorProto.BOOL, []), floats("next", ["N", 8])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["hidden"], name="first"),
        helper.make_node("Loop", ["trips" if trips else "", "begin", "hidden"], ["end"], "loop", body=body),
        helper.make_node("MatMul", ["end", "v"], ["y"], name="last"),
    ]
    graph = helper.make_graph(nodes, "looped", [floats("x", ["N", 4])], [floats("y", ["N", 3])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("trips", [None, 2**40], ids=["no end", "many trips"])
def test_a_comparison_ends(trips: int | None) -> None:
    model = Model(looped(trips))
    began = time.monotonic()
    with pytest.raises(NotShownError) as caught:
        verify(model, model.copy(), budget=CheckBudget(run_seconds=SHORT))
    assert time.monotonic() - began < 20 * SHORT
    assert "had not ended after" in caught.value.message
    assert "--data" in caught.value.hint


def test_inputs_for_a_loop_without_end_are_not_looked_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxprune.analysis.inputs.feed_trials.RUN_S", SHORT)
    model = Model(looped(None))
    began = time.monotonic()
    with pytest.raises(EndlessError):
        feeds_that_run(model, Session(model.proto))
    assert time.monotonic() - began < 10 * SHORT


def test_commands_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of `prune` cannot be shown to run: it is kept beside its place, with a message."""
    monkeypatch.setattr("onnxprune.analysis.inputs.feed_trials.RUN_S", SHORT)
    monkeypatch.setattr("onnxprune.ir.output.RUN_S", SHORT)
    path = disk.save(looped(None), tmp_path / "model.onnx")
    done = disk.run("prune", path, "--reduce-channels", "0.5", "--round-to", "1", "-o", tmp_path / "out.onnx")
    assert done.code == 1
    assert "had not ended after" in done.err
    assert "hint:" in done.err
    assert not (tmp_path / "out.onnx").exists()


def test_runs_that_end_in_time_are_left_alone() -> None:
    session = Session(disk.network())
    feed = sample_feeds(session.inputs, batch=2)[0]
    with runs_within(60.0):
        made = session.run(feed)
    assert all(np.array_equal(made[n], a) for n, a in session.run(feed).items())


def test_inputs_larger_than_the_memory_are_not_drawn() -> None:
    spec = TensorSpec("x", np.dtype(np.float32), (1 << 40, 3))
    with pytest.raises(LimitError, match="memory"):
        sample_feeds([spec])
