"""Training end to end, through the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from places import CASES
from training_networks import CLASSES, cnn, parsed, stripe_batches, stripes, weight, with_weights

from onnxprune.errors import DataError, PlanError, TrainingError
from onnxprune.runtime import Session
from onnxprune.train import client, engine, preparation
from onnxprune.train.engine import train, trainable_names
from onnxprune.train.forward import check_forward
from onnxprune.train.settings import TrainSettings
from onnxprune.train.training_copy import make_training_copy

pytestmark = pytest.mark.usefixtures("each_engine")

ADAMW = TrainSettings(learning_rate=0.02, threads=1)
TRAINED = {"w1", "scale", "bias", "w2", "b2", "w3", "b3"}


def accuracy(model: onnx.ModelProto, samples: int = 400) -> float:
    images, labels = stripes(samples, seed=99)
    return float((Session(model).run({"image": images})["logits"].argmax(axis=1) == labels).mean())


def test_training_learns():
    model, reports = cnn(), []
    settings = TrainSettings(learning_rate=0.02, epochs=2, warmup=0.1, weight_decay=0.01, threads=1)
    result = train(model, stripe_batches(25), settings=settings, total_steps=50, on_step=reports.append)
    assert accuracy(model) < 0.5
    assert accuracy(with_weights(model, result.weights)) > 0.95
    assert result.losses[1] < 0.5 * result.losses[0]
    assert set(result.weights) == TRAINED | {"mean", "var"}
    assert [report.step for report in reports] == list(range(1, 51))
    assert [report.epoch for report in reports] == [0] * 25 + [1] * 25
    assert max(report.learning_rate for report in reports) == pytest.approx(0.02, rel=0.01)
    assert reports[-1].learning_rate < 0.001
    assert result.steps == 50


def test_model_is_not_changed():
    model = cnn()
    before = model.SerializeToString()
    train(model, stripe_batches(1), settings=ADAMW, total_steps=1)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_entries_are_exactly_zero_after_every_epoch(optimizer):
    model, seen = cnn(), []
    channels = np.arange(8) % 3 > 0
    columns = np.ones((8, 8, 3, 3), bool)
    columns[:, ~channels] = False
    masks = {"w1": channels[:, None, None, None], "scale": channels, "bias": channels, "w2": columns}
    settings = TrainSettings(
        optimizer=optimizer, epochs=3, weight_decay=0.1, clip_norm=1.0, learning_rate=0.02, threads=1
    )
    train(
        model,
        stripe_batches(5),
        settings=settings,
        total_steps=15,
        masks=masks,
        on_epoch=lambda _, weights: seen.append(weights),
    )
    assert len(seen) == 3
    for weights in seen:
        for name, mask in masks.items():
            kept = np.broadcast_to(mask, weights[name].shape)
            assert not weights[name][~kept].any(), name
            assert (weights[name][kept] != weight(model, name)[kept]).any(), name
        assert all(np.isfinite(values).all() for values in weights.values())


def test_running_statistics_follow_the_batches():
    model = cnn()
    images, labels = stripes(32, seed=1)
    frozen = TrainSettings(optimizer="sgd", learning_rate=1e-12, schedule="constant", threads=1)
    batch = ({"image": images}, {"labels": labels})
    result = train(model, lambda _: [batch] * 3, settings=frozen, total_steps=3)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.append(helper.make_tensor_value_info("c1", TensorProto.FLOAT, None))
    activations = Session(probed, optimize=False).run({"image": images})["c1"]
    kept = 0.8**3  # momentum 0.8 for three steps, from mean 0 and variance 1
    mean, variance = activations.mean(axis=(0, 2, 3)), activations.var(axis=(0, 2, 3))
    np.testing.assert_allclose(result.weights["mean"], (1 - kept) * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.weights["var"], kept + (1 - kept) * variance, rtol=1e-4)


@pytest.mark.slow
def test_weights_written_in_place_change_the_next_loss():
    images, labels = stripes(32, seed=1)
    batch = ({"image": images}, {"labels": labels})
    losses = {}
    for rate in (1e-12, 0.02):
        reports = []
        settings = TrainSettings(learning_rate=rate, schedule="constant", threads=1)
        train(cnn(), lambda _: [batch] * 3, settings=settings, total_steps=3, on_step=reports.append)
        losses[rate] = [report.loss for report in reports]
    assert losses[1e-12][2] == pytest.approx(losses[1e-12][0], rel=1e-6)
    assert losses[0.02][2] < losses[0.02][1] < losses[0.02][0]


def test_fading_momentum_ends_in_zero():
    # Masked weights have no gradient; a velocity below the smallest normal number would never quite end.
    batch = next(stripe_batches(1)(0))
    settings = TrainSettings(optimizer="sgd", threads=1)
    masked = np.arange(8) > 3
    prepared = preparation.prepare(cnn(), batch, settings, {"w1": masked[:, None, None, None]})
    with client.Worker(prepared.engine) as worker:
        worker.send("load", prepared.fields, prepared.arrays)
        worker.receive("ready")
        worker.send("state")
        state = worker.receive("state")
        tiny = {n: np.full_like(a, 1e-39) if n == "slot 0:w1" else a for n, a in state.arrays.items()}
        worker.send("restore", state.fields, tiny)
        worker.receive("restored")
        worker.send("step", {"learning_rate": 0.1}, prepared.batch(batch)[0])
        worker.receive("stepped")
        worker.send("state")
        velocity = worker.receive("state").arrays["slot 0:w1"]
    assert velocity[masked].all()
    assert not velocity[~masked].any()


def test_same_seed_gives_the_same_bits():
    runs = [train(cnn(), stripe_batches(5), settings=ADAMW, total_steps=5) for _ in range(2)]
    assert runs[0].losses == runs[1].losses
    for name, values in runs[0].weights.items():
        np.testing.assert_array_equal(values, runs[1].weights[name])


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax"])
def test_final_softmax_is_taken_off(last):
    plain = train(cnn(), stripe_batches(3), settings=ADAMW, total_steps=3)
    model = cnn()
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(helper.make_node(last, ["scores"], ["logits"], axis=1))
    ended = train(model, stripe_batches(3), settings=ADAMW, total_steps=3)
    assert ended.losses == plain.losses
    np.testing.assert_array_equal(ended.weights["w1"], plain.weights["w1"])


def test_last_partial_batch_and_single_samples_are_fine():
    images, labels = stripes(9, seed=1)
    cut = [slice(0, 4), slice(4, 8), slice(8, 9)]
    batches = [({"image": images[at]}, {"labels": labels[at]}) for at in cut]
    result = train(cnn(), lambda _: batches, settings=ADAMW, total_steps=3)
    assert result.steps == 3
    assert np.isfinite(result.losses[0])


@pytest.mark.slow
def test_distillation_learns_the_outputs_of_another_network():
    student, teacher = cnn(0), cnn(1)
    settings = TrainSettings(loss="distill", optimizer="adamw", epochs=4, learning_rate=0.02, threads=1)

    def batches(epoch):
        for step in range(25):
            images, _ = stripes(32, seed=100 * epoch + step)
            yield {"image": images}, Session(teacher).run({"image": images})

    result = train(student, batches, settings=settings, total_steps=100)
    images, _ = stripes(400, seed=99)
    wanted = Session(teacher).run({"image": images})["logits"].argmax(axis=1)
    tuned = Session(with_weights(student, result.weights)).run({"image": images})["logits"].argmax(axis=1)
    before = Session(student).run({"image": images})["logits"].argmax(axis=1)
    assert (tuned == wanted).mean() > max(0.8, (before == wanted).mean() + 0.2)


TWO_HEADS = """
<ir_version: 8, opset_import: ["" : 17]>
heads (float[N, 3] x) => (float[N, 2] a, float[N, 1] b) {
    a = Gemm(x, wa)
    h = Gemm(x, wb)
    b = Sigmoid(h)
}"""


@pytest.mark.parametrize(("loss", "trained"), [("mse", {"wa"}), ("l1", {"wa"}), ("bce", {"wb"})])
def test_losses_on_some_outputs_train_the_weights_they_depend_on(loss, trained):
    random = np.random.default_rng(0)
    model = parsed(TWO_HEADS, wa=random.normal(size=(3, 2)), wb=random.normal(size=(3, 1)))
    x = random.normal(size=(16, 3)).astype(np.float32)
    targets = {"bce": {"b": (x[:, :1] > 0).astype(np.float32)}}.get(loss, {"a": x[:, :2]})
    settings = TrainSettings(loss=loss, epochs=10, learning_rate=0.05, threads=1)
    result = train(model, lambda _: [({"x": x}, targets)] * 5, settings=settings, total_steps=50)
    assert set(result.weights) == trained
    assert result.losses[-1] < 0.5 * result.losses[0]


def test_first_mse_is_the_mean_squared_error():
    random = np.random.default_rng(0)
    model = parsed(TWO_HEADS, wa=random.normal(size=(3, 2)), wb=random.normal(size=(3, 1)))
    x = random.normal(size=(16, 3)).astype(np.float32)
    outputs = Session(model).run({"x": x})
    targets = {name: np.ones_like(values) for name, values in outputs.items()}
    settings = TrainSettings(loss="mse", threads=1)
    result = train(model, lambda _: [({"x": x}, targets)], settings=settings, total_steps=1)
    assert result.losses[0] == pytest.approx(sum(((v - 1) ** 2).mean() for v in outputs.values()), rel=1e-5)


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_half_precision_models_keep_their_type():
    model = _half(cnn())

    def batches(epoch):
        for inputs, targets in stripe_batches(20)(epoch):
            yield {"image": inputs["image"].astype(np.float16)}, targets

    result = train(model, batches, settings=ADAMW, total_steps=20)
    assert {values.dtype for values in result.weights.values()} == {np.dtype(np.float16)}
    images, labels = stripes(200, seed=99)
    logits = Session(with_weights(model, result.weights)).run({"image": images.astype(np.float16)})["logits"]
    assert (logits.argmax(axis=1) == labels).mean() > 0.8


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, CLASSES]), "4 classes"),
        (np.array([0, -1, 1]), "-1 to 1"),
        (np.array([0.0, 1.0, 2.0]), "integers"),
        (np.array([[0], [1], [2]]), r"\(3, 1\), expected \(3,\)"),
        (np.array([0, 1]), r"\(2,\), expected \(3,\)"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    images, _ = stripes(3, seed=0)
    with pytest.raises(DataError, match=message):
        train(cnn(), lambda _: [({"image": images}, {"labels": labels})], settings=ADAMW, total_steps=1)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        ({"picture": np.zeros((2, 1, 8, 8), np.float32)}, {"labels": np.zeros(2, int)}, "no input 'image'"),
        ({"image": np.zeros((2, 1, 8, 8), np.int32)}, {"labels": np.zeros(2, int)}, "must be float32"),
        (
            {"image": np.zeros((2, 1, 8, 8), np.float32)},
            {"classes": np.zeros(2, int)},
            "needs targets named labels",
        ),
    ],
)
def test_data_that_does_not_fit_is_refused(inputs, targets, message):
    with pytest.raises(DataError, match=message):
        train(cnn(), lambda _: [(inputs, targets)], settings=ADAMW, total_steps=1)


def test_samples_of_several_shapes_are_trained_one_shape_a_batch(each_engine):
    images, labels = stripes(4, seed=0)
    batches = [({"image": images[..., :width]}, {"labels": labels}) for width in (8, 7, 8, 6, 5, 4, 3, 7)]
    settings = TrainSettings(
        learning_rate=0.02, threads=1, optimizer="sgd", momentum=0.0, schedule="constant"
    )
    model = cnn()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "width"
    if each_engine != "stock":
        with pytest.raises(TrainingError, match="the first had"):
            train(model, lambda _: batches, settings=settings, total_steps=8)
        return
    found = train(model, lambda _: batches, settings=settings, total_steps=8)
    for batch in batches:
        step = train(model, lambda _, one=batch: [one], settings=settings, total_steps=1)
        model = with_weights(model, step.weights)
    alone = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, array in found.weights.items():
        np.testing.assert_allclose(array, alone[name], rtol=1e-4, atol=1e-6)


def test_no_data_is_refused():
    with pytest.raises(DataError, match="no batch"):
        train(cnn(), lambda _: [], settings=ADAMW, total_steps=1)


def test_mask_of_another_shape_is_refused():
    with pytest.raises(PlanError, match="mask of w1"):
        train(cnn(), stripe_batches(1), settings=ADAMW, total_steps=1, masks={"w1": np.ones(7, bool)})


def _poisoned(steps: int, bad: set[int]):
    """Batches of stripes, some of them with a NaN in one image."""
    for step, (inputs, targets) in enumerate(stripe_batches(steps)(0), 1):
        images = inputs["image"].copy()
        if step in bad:
            images[0] = np.nan
        yield {"image": images}, targets


def test_a_bad_batch_is_stepped_back_from():
    reports = []
    settings = TrainSettings(learning_rate=0.02, schedule="constant", threads=1)
    batches = list(_poisoned(60, bad={3}))
    result = train(cnn(), lambda _: batches, settings=settings, total_steps=60, on_step=reports.append)
    assert [report.step for report in reports if report.went_back] == [3]
    assert result.went_back == 1
    assert [report.learning_rate for report in reports] == [0.02] * 3 + [0.01] * 57
    assert all(np.isfinite(values).all() for values in result.weights.values())
    assert np.isfinite(result.losses[0])
    assert accuracy(with_weights(cnn(), result.weights)) > 0.9


def test_going_back_undoes_the_steps_since_the_last_good_place():
    # Nothing is remembered before step 50, so a failure at step 5 leads back to the beginning.
    few = list(_poisoned(5, bad={5}))
    result = train(cnn(), lambda _: few, settings=ADAMW, total_steps=5)
    for name, values in result.weights.items():
        np.testing.assert_array_equal(values, weight(cnn(), name), err_msg=name)


def test_divergence_is_named():
    batches = list(_poisoned(10, bad={3, 5, 6, 8}))
    with pytest.raises(TrainingError, match="loss is not finite at step 8") as caught:
        train(cnn(), lambda _: batches, settings=ADAMW, total_steps=10)
    assert "learning rate" in caught.value.hint


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch():
    images, labels = stripes(48, seed=1)
    model = cnn()
    del model.graph.node[1]  # BatchNormalization depends on the size of batches, accumulated or not
    model.graph.node[1].input[0] = "c1"
    settings = {"learning_rate": 0.02, "optimizer": "sgd", "schedule": "constant", "threads": 1}
    whole = [({"image": images[at : at + 24]}, {"labels": labels[at : at + 24]}) for at in (0, 24)]
    parts = [({"image": images[at : at + 8]}, {"labels": labels[at : at + 8]}) for at in range(0, 48, 8)]
    large, small, reports = TrainSettings(**settings), TrainSettings(accumulate=3, **settings), []
    expected = train(model, lambda _: whole, settings=large, total_steps=2)
    result = train(model, lambda _: parts, settings=small, total_steps=2, on_step=reports.append)
    assert result.steps == 2
    assert [report.samples for report in reports] == [24, 24]
    assert result.losses == pytest.approx(expected.losses, rel=1e-6)
    for name, values in expected.weights.items():
        np.testing.assert_allclose(result.weights[name], values, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_average_of_the_weights_is_returned():
    images, labels = stripes(32, seed=1)
    batch = ({"image": images}, {"labels": labels})
    live = []
    settings = {"optimizer": "sgd", "learning_rate": 0.02, "schedule": "constant", "threads": 1}
    train(
        cnn(),
        lambda _: [batch],
        settings=TrainSettings(epochs=4, **settings),
        total_steps=4,
        on_epoch=lambda _, weights: live.append({n: np.array(w) for n, w in weights.items()}),
    )
    result = train(cnn(), lambda _: [batch] * 4, settings=TrainSettings(ema=0.3, **settings), total_steps=4)
    for name, values in result.weights.items():
        expected = weight(cnn(), name).astype(np.float64)
        for step, seen in enumerate(live, 1):
            decay = min(0.3, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * seen[name]
        np.testing.assert_allclose(values, expected, atol=1e-6, err_msg=name)


def test_training_stops_on_request():
    settings = TrainSettings(epochs=5, learning_rate=0.02, threads=1)
    result = train(cnn(), stripe_batches(2), settings=settings, total_steps=10, on_epoch=lambda e, _: e == 1)
    assert (result.steps, len(result.losses)) == (4, 2)


def test_operators_without_a_gradient_are_named_before_training(monkeypatch):
    model = cnn()
    model.graph.node[2].op_type = "Floor"
    model.graph.node[2].name = "the_floor"
    monkeypatch.setattr(engine, "Worker", None)
    with pytest.raises(TrainingError, match=r"'the_floor' \(Floor\) cannot be trained"):
        train(model, stripe_batches(1), settings=ADAMW, total_steps=1)


def test_copy_that_would_compute_something_else_is_refused():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    folded (float[1, 4] x) => (float[2, 3] y) {
        t = Transpose(x)
        r = Reshape(t, shape)
        y = MatMul(r, w)
    }"""
    model = parsed(text, w=np.ones((2, 3)), shape=np.array([2, 2]))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    settings = TrainSettings(loss="mse")
    with pytest.raises(TrainingError, match="something else in training"):
        train(model, lambda _: [({"x": x}, {"y": np.zeros((6, 3), "f4")})], settings=settings, total_steps=1)


def test_trainable_names_are_chosen_by_role():
    images, _ = stripes(2, seed=0)
    assert set(trainable_names(cnn(), {"image": images})) == TRAINED


class RecordedWorker(client.Worker):
    """A worker whose process id the test can see."""

    latest: client.Worker

    def __init__(self, engine: str) -> None:
        super().__init__(engine)
        RecordedWorker.latest = self


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_worker_is_reported(monkeypatch, number):
    monkeypatch.setattr(engine, "Worker", RecordedWorker)
    started = time.monotonic()

    def kill(report):
        if report.step == 3:
            os.kill(RecordedWorker.latest.pid, number)

    with pytest.raises(TrainingError, match=number.name) as caught:
        train(cnn(), stripe_batches(500), settings=ADAMW, total_steps=500, on_step=kill)
    assert caught.value.hint
    assert time.monotonic() - started < 60
    assert not Path(RecordedWorker.latest._folder.name).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(RecordedWorker.latest.pid, 0)


def test_failing_callback_ends_the_worker(monkeypatch):
    monkeypatch.setattr(engine, "Worker", RecordedWorker)

    def interrupt(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cnn(), stripe_batches(50), settings=ADAMW, total_steps=50, on_step=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(RecordedWorker.latest.pid, 0)


def test_worker_ends_with_its_parent():
    script = """
from onnxprune.train.client import Worker
worker = Worker("stock")
print(worker.pid, worker._folder.name, flush=True)
input()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, folder = parent.stdout.readline().split()
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while _alive(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not Path(folder).exists()


def _alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_batch_that_lies_on_another_axis_is_reported():
    """A convolution with weights of its own for each sample has the samples among its channels."""
    model = onnx.load(CASES / "condconvB.onnx")
    sample = {"img": np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    copied = make_training_copy(model, sample)
    with pytest.raises(TrainingError, match="fixes a batch of 2 and node 'Reshape_12'") as caught:
        check_forward(model, copied.model(), sample)
    assert "open batch axis" in caught.value.hint
