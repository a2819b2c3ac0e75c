"""Inputs that are no rows of samples: settings, and states with another batch axis; so are some results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from places import CASES

from onnxprune.errors import DataError
from onnxprune.evaluate.data import open_data
from onnxprune.runtime import TensorSpec
from onnxprune.runtime.batch_axes import batch_name, fixed_batch, made_axis, sample_axes

FLOAT = np.dtype(np.float32)


def specs(**shapes: tuple[Any, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, FLOAT, shape) for name, shape in shapes.items())


VOICE = specs(x=("n", "t"), scales=(3,))
STATE = specs(x=("n", "t"), state=(2, "n", 16))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


# --- the axis of samples


def test_the_name_of_most_first_axes_counts_samples() -> None:
    assert batch_name(STATE) == "n"
    assert batch_name(specs(x=("T", "N", 4), lengths=("N",))) == "N"
    assert batch_name(specs(x=(1, 3))) is None


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        (specs(x=(4, 3), y=(4, 5)), 4),
        (specs(x=(1, 80, 50), scales=(3,)), 1),
        (specs(state=(2, 1, 16), x=(1, 160)), 1),
        (specs(x=("n", 3), h=(1, 1, 16)), 1),
        (specs(x=("n", 3), scales=(3,)), None),
        (specs(x=("n", 3), mean=(1, 3, 1, 1)), None),
        (specs(x=(None, 3)), None),
    ],
)
def test_a_fixed_batch(inputs: tuple[TensorSpec, ...], size: int | None) -> None:
    assert fixed_batch(inputs) == size


@pytest.mark.parametrize(
    ("inputs", "shapes", "axes"),
    [
        (VOICE, {"x": (9, 7), "scales": (3,)}, {"x": 0, "scales": None}),
        (VOICE, {"x": (3, 7), "scales": (3,)}, {"x": 0, "scales": None}),
        (STATE, {"x": (9, 7), "state": (2, 9, 16)}, {"x": 0, "state": 1}),
        (specs(x=(None, 5), state=(2, None, 16)), {"x": (9, 5), "state": (2, 9, 16)}, {"x": 0, "state": 1}),
        (specs(x=(1, 5), state=(2, 1, 16)), {"x": (9, 5), "state": (2, 9, 16)}, {"x": 0, "state": 1}),
        (specs(x=(1, 5), scales=(3,)), {"x": (9, 5), "scales": (3,)}, {"x": 0, "scales": None}),
        (specs(x=("n", 8), h=(1, 1, 16)), {"x": (9, 8), "h": (1, 1, 16)}, {"x": 0, "h": None}),
        (specs(x=("n", 8), h=(1, 1, 16)), {"x": (9, 8), "h": (9, 1, 16)}, {"x": 0, "h": 0}),
        (specs(x=("n", 8), rate=()), {"x": (9, 8), "rate": ()}, {"x": 0, "rate": None}),
        (specs(x=("T", "N", 4), lengths=("N",)), {"x": (7, 9, 4), "lengths": (9,)}, {"x": 1, "lengths": 0}),
        (specs(x=(4, 3), y=(4, 5)), {"x": (9, 3), "y": (9, 5)}, {"x": 0, "y": 0}),
    ],
)
def test_the_axis_of_the_samples(inputs: Any, shapes: Any, axes: Any) -> None:
    assert sample_axes(inputs, (), shapes) == axes


def test_the_axis_of_the_samples_of_a_result() -> None:
    assert made_axis((8, "N", 11), (8, 8, 11), 8, "N") == 1
    assert made_axis((), (5, 8, 11), 8, "N") == 1
    assert made_axis((), (8, 5), 8, None) == 0
    assert made_axis((), (8, 8), 8, None) == 0
    assert made_axis((3,), (3,), 8, "N") is None


# --- batches


def test_settings_are_the_same_in_every_batch() -> None:
    x, scales = random(5, 7), random(3)
    data = open_data({"x": x, "scales": scales}, VOICE, ())
    batches = list(data.batches(2))
    assert [b.size for b in batches] == [2, 2, 1]
    for k, batch in enumerate(batches):
        assert np.array_equal(batch.inputs["x"], x[2 * k : 2 * k + 2])
        assert np.array_equal(batch.inputs["scales"], scales)
    assert batches[-1].filled(4)["scales"].shape == (3,)
    assert batches[-1].filled(4)["x"].shape == (4, 7)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shuffle", [False, True])
def test_states_have_their_samples_on_another_axis(save: Any, shuffle: bool, tmp_path: Path) -> None:
    """Two shards, in pieces, shuffled or not: every sample keeps its state."""
    for k, rows in enumerate((5, 4)):
        x = np.repeat(np.arange(rows, dtype=np.float32)[:, None] + 10 * k, 7, 1)
        state = np.broadcast_to(x[None, :, :1], (2, rows, 16))
        save(tmp_path / f"{k}.npz", x=x, state=state)
    data = open_data(tmp_path, STATE, ())
    assert data.samples == 9
    seen = []
    for batch in data.batches(4, shuffle=shuffle):
        assert batch.inputs["state"].shape == (2, batch.size, 16)
        assert batch.inputs["state"].flags.c_contiguous
        assert np.array_equal(batch.inputs["state"][1, :, 0], batch.inputs["x"][:, 0])
        seen += batch.inputs["x"][:, 0].tolist()
    assert sorted(seen) == [0, 1, 2, 3, 4, 10, 11, 12, 13]
    assert [b.size for b in data.take(6).batches(4)] == [4, 2]


def test_shards_with_other_settings_share_no_batch(tmp_path: Path) -> None:
    for k in range(2):
        np.savez(tmp_path / f"{k}.npz", x=random(3, 7), scales=np.full(3, k, np.float32))
    data = open_data(tmp_path, VOICE, ())
    assert [(b.size, b.inputs["scales"][0]) for b in data.batches(4)] == [(3, 0), (3, 1)]


def test_a_digest_does_not_depend_on_the_batch_axis_layout(tmp_path: Path) -> None:
    arrays = {"x": random(5, 7), "state": random(2, 5, 16)}
    np.savez(tmp_path / "data.npz", **arrays)
    assert open_data(arrays, STATE, ()).digest() == open_data(tmp_path / "data.npz", STATE, ()).digest()


@pytest.mark.parametrize(
    ("inputs", "arrays"),
    [
        (VOICE, {"x": random(5, 7), "scales": random(4)}),
        (STATE, {"x": random(5, 7), "state": random(2, 4, 16)}),
        (STATE, {"x": random(5, 7), "state": random(5, 2, 16)}),
    ],
)
def test_operands_that_do_not_fit_are_refused(inputs: Any, arrays: Any) -> None:
    with pytest.raises(DataError):
        list(open_data(arrays, inputs, ()).batches(2))


# --- commands


def test_a_voice_with_scales_is_measured_and_recovered(tmp_path: Path) -> None:
    model, sparse = CASES / "vitsin.onnx", tmp_path / "sparse.onnx"
    ids = np.random.default_rng(0).integers(0, 30, (10, 12))
    data = disk.save_data(
        tmp_path / "data.npz", input=ids, input_lengths=np.full(10, 12), scales=np.float32([0.6, 1, 0.8])
    )
    amount = ("--reduce-channels", 0.5, "--round-to", 1, "--data", data, "--criterion", "activation")
    for words in (
        ("ana", model, "--data", data, "--metric", "mse", "--ratios", 0.5, "-o", tmp_path / "a.json"),
        ("ana", model, "--data", data, "--metric", "cosine", "--ratios", 0.5, "-o", tmp_path / "b.json"),
        ("prune", model, *amount, "-o", sparse),
        ("recover", sparse, "--original", model, "--data", data, "-o", tmp_path / "recovered.onnx"),
        ("transform", sparse, "--data", data, "-o", tmp_path / "dense.onnx"),
        ("bench", model, "--data", data, "--runs", 1),
    ):
        outcome = disk.run(*words)
        if words[-1] == tmp_path / "a.json":  # mse needs targets
            assert "target values" in outcome.refused()
        else:
            assert outcome.code == 0, f"{words[0]}: {outcome.err}"


def test_a_state_with_another_batch_axis_is_measured(tmp_path: Path) -> None:
    model, sparse = CASES / "statelstm.onnx", tmp_path / "sparse.onnx"
    data = disk.save_data(tmp_path / "data.npz", input=random(10, 400), state=random(2, 10, 16))
    for words in (
        ("ana", model, "--data", data, "--metric", "cosine", "--batch-size", 4, "--ratios", 0.5),
        ("prune", model, "--reduce-channels", 0.5, "--round-to", 1),
        ("transform", sparse, "--data", data),
    ):
        out = {"ana": tmp_path / "a.json", "prune": sparse, "transform": tmp_path / "dense.onnx"}[words[0]]
        outcome = disk.run(*words, "-o", out)
        assert outcome.code == 0, f"{words[0]}: {outcome.err}"


@pytest.mark.parametrize("metric", ["kl", "cosine", "mse"])
def test_a_metric_of_results_that_begin_with_time_does_not_depend_on_the_batch(
    metric: str, tmp_path: Path
) -> None:
    data = disk.save_data(tmp_path / "data.npz", x=random(12, 1, 8, 32), y=random(8, 12, 11))
    found = []
    for size in (1, 5, 8, 12):
        out = tmp_path / f"{size}.json"
        words = ("--data", data, "--metric", metric, "--batch-size", size, "--ratios", 0.5)
        facts = disk.run("ana", CASES / "time_major.onnx", *words, "-o", out, "--json").facts
        found.append([curve["values"][0] for curve in facts["groups"].values()])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(("loss", "named"), [("distill", True), ("mse", True), ("distill", False)])
def test_results_that_begin_with_time_are_learnt(loss: str, named: bool, tmp_path: Path) -> None:
    """The axes of the result have the names of the input, or names of their own."""
    proto, model, sparse = (
        onnx.load(CASES / "time_major.onnx"),
        tmp_path / "model.onnx",
        tmp_path / "sparse.onnx",
    )
    if not named:
        for number, size in enumerate(proto.graph.output[0].type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_param = f"axis_{number}"
    onnx.save(proto, model)
    targets = {"y": random(8, 12, 11)} if loss == "mse" else {}
    data = disk.save_data(tmp_path / "data.npz", x=random(12, 1, 8, 32), **targets)
    assert disk.run("prune", model, "--reduce-channels", 0.5, "--round-to", 1, "-o", sparse).code == 0
    teacher = ("--teacher", model) if loss == "distill" else ()
    words = ("--data", data, "--loss", loss, *teacher, "--batch-size", 5, "--epochs", 2)
    outcome = disk.run("finetune", sparse, *words, "-o", tmp_path / "tuned.onnx")
    assert outcome.code == 0, outcome.err


def test_a_state_of_one_sample_is_measured_sample_by_sample(tmp_path: Path) -> None:
    data = disk.save_data(tmp_path / "data.npz", x=random(6, 5, 8), h0=random(1, 1, 16))
    words = ("--data", data, "--metric", "cosine", "--ratios", 0.5, "-o", tmp_path / "a.json")
    outcome = disk.run("ana", CASES / "batch_fixed_by_state.onnx", *words)
    assert outcome.code == 0, outcome.err


def test_a_voice_with_scales_is_trained(tmp_path: Path) -> None:
    model, sparse = CASES / "vitsin.onnx", tmp_path / "sparse.onnx"
    ids = np.random.default_rng(0).integers(0, 30, (10, 12))
    data = disk.save_data(
        tmp_path / "data.npz", input=ids, input_lengths=np.full(10, 12), scales=np.float32([0.6, 1, 0.8])
    )
    assert disk.run("prune", model, "--reduce-channels", 0.5, "--round-to", 1, "-o", sparse).code == 0
    words = ("--data", data, "--loss", "distill", "--teacher", model, "--batch-size", 4)
    outcome = disk.run("finetune", sparse, *words, "-o", tmp_path / "tuned.onnx")
    assert outcome.code == 0, outcome.err


def test_strings_of_the_data_are_fed(tmp_path: Path) -> None:
    model, sparse = CASES / "strinput.onnx", tmp_path / "sparse.onnx"
    data = disk.save_data(tmp_path / "data.npz", x=random(5, 12), id=np.array(list("abcde")))
    amount = ("--reduce-channels", 0.5, "--round-to", 1, "--criterion", "activation")
    for words in (
        ("prune", model, *amount, "--data", data, "-o", sparse),
        ("transform", sparse, "--data", data, "-o", tmp_path / "dense.onnx"),
    ):
        assert disk.run(*words).code == 0
