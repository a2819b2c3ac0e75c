"""Every loss against its formula in numpy: its value, and its gradient against finite differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import parser
from training_networks import Arrays, cnn, parsed, stripe_batches, stripes, weight, with_weights

from onnxprune.errors import DataError, UsageError
from onnxprune.runtime import Session
from onnxprune.train.engine import train
from onnxprune.train.gradients import gradients_of
from onnxprune.train.settings import TrainSettings, parse_loss

pytestmark = pytest.mark.usefixtures("each_engine")
SAMPLES = 6
HEADS = """
<ir_version: 8, opset_import: ["" : 17]>
heads (float[N, 5] x) => (float[N, 4] a, float[N, 3, 2] dense, float[N, 2] likely, float[N, 2, 3] classes) {
    h0 = Gemm(x, w)
    h = Tanh(h0)
    a = Gemm(h, wa)
    d = Gemm(h, wd)
    dense = Reshape(d, shape_d)
    l = Gemm(h, wl)
    likely = Sigmoid(l)
    c = Reshape(d, shape_c)
    classes = Softmax<axis = -1>(c)
}"""


def network() -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weights = {n: random.normal(size=s) for n, s in (("w", (5, 6)), ("wa", (6, 4)), ("wl", (6, 2)))}
    shapes = {"shape_d": np.array([0, 3, 2]), "shape_c": np.array([0, 2, 3])}
    return parsed(HEADS, **weights, **shapes, wd=random.normal(size=(6, 6)))


@dataclass(frozen=True)
class Given:
    inputs: Arrays
    targets: Arrays


class Samples:
    """One batch, the same in every pass."""

    def __init__(self, targets: Arrays) -> None:
        x = np.random.default_rng(5).normal(size=(SAMPLES, 5)).astype(np.float32)
        self.batch = Given({"x": x}, targets)

    def batches(self, batch_size, *, shuffle=False, seed=0, epoch=0):
        yield self.batch


def outputs(model: onnx.ModelProto) -> Arrays:
    return {n: v.astype(np.float64) for n, v in Session(model).run(Samples({}).batch.inputs).items()}


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    moved = x - x.max(axis=axis, keepdims=True)
    return moved - np.log(np.exp(moved).sum(axis=axis, keepdims=True))


RANDOM = np.random.default_rng(11)
LABELS = RANDOM.integers(0, 4, SAMPLES)
TEACHER = {
    "a": RANDOM.normal(size=(SAMPLES, 4)),
    "dense": RANDOM.normal(size=(SAMPLES, 3, 2)) * 5,
    "likely": RANDOM.uniform(0.1, 0.9, size=(SAMPLES, 2)),
    "classes": np.exp(log_softmax(RANDOM.normal(size=(SAMPLES, 2, 3)))),
    "h": RANDOM.uniform(-1, 1, size=(SAMPLES, 6)),
}
EVEN = np.ones(4)
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])


def cross_entropy(y, factor=EVEN, ignore=None):
    counted = np.ones(SAMPLES) if ignore is None else (ignore != LABELS).astype(float)
    factors = factor[LABELS] * counted
    return -(log_softmax(y["a"])[np.arange(SAMPLES), LABELS] * factors).sum() / factors.sum()


def divergence(teacher, student, temperature=4.0):
    wanted, given = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return temperature**2 * (np.exp(wanted) * (wanted - given)).sum(axis=-1).mean()


def channel_error(wanted, given, axes):
    """The squared error of each channel over its own mean square, with a small part of the mean of all."""
    size = (wanted**2).mean(axes)
    floor = min(1e-3 * size.mean(), 1e-3)
    return (((given - wanted) ** 2).mean(axes) / (size + floor + 1e-12)).mean()


def distill(y):
    t = TEACHER
    likely = -(t["likely"] * np.log(y["likely"]) + (1 - t["likely"]) * np.log(1 - y["likely"])).mean()
    dense = channel_error(t["dense"], y["dense"], axes=(0, 1))
    classes = divergence(np.log(t["classes"]), np.log(y["classes"]))
    return divergence(t["a"], y["a"]) + dense + likely + classes


def told(*names: str) -> Arrays:
    return {f"teacher:{name}": TEACHER[name].astype(np.float32) for name in names}


@dataclass(frozen=True)
class Case:
    """A loss, its targets and its formula."""

    loss: str
    targets: Arrays
    formula: object
    options: object = None


OWN = """
<ir_version: 8, opset_import: ["" : 17]>
huber (float[N, 4] a, float[N, 4] a_target, int64[N] labels) => (float[1] loss) {
    error = Sub(a, a_target)
    size = Elu(error)
    each = Mul(size, size)
    picked = GatherElements<axis = 1>(each, column)
    chosen = ReduceMean<keepdims = 0>(picked)
    all = ReduceMean<keepdims = 0>(each)
    sum = Add(chosen, all)
    loss = Reshape(sum, one)
    }"""


def own_formula(y):
    error = y["a"] - TEACHER["a"]
    each = np.where(error > 0, error, np.exp(error) - 1) ** 2
    return each[np.arange(SAMPLES), LABELS].mean() + each.mean()


def own_loss() -> onnx.ModelProto:
    text = OWN.replace("picked = Gather", "column = Unsqueeze(labels, one)\n    picked = Gather")
    return with_weights(parser.parse_model(text), {"one": np.array([1])})


def build_own(infos):
    """A user's callable: it looks at the outputs and returns a graph."""
    assert [i.name for i in infos] == ["a", "dense", "likely", "classes"]
    assert infos[0].type.tensor_type.shape.dim[1].dim_value == 4
    return own_loss()


A = TEACHER["a"].astype(np.float32)
CASES = {
    "cross-entropy": Case("cross-entropy", {"labels": LABELS}, cross_entropy),
    "class weights": Case(
        "cross-entropy",
        {"labels": LABELS},
        lambda y: cross_entropy(y, WEIGHTS),
        {"class_weights": tuple(WEIGHTS)},
    ),
    "ignored": Case(
        "cross-entropy",
        {"labels": np.where(LABELS == 2, -100, LABELS)},
        lambda y: cross_entropy(y, ignore=2),
        {"ignore_index": -100},
    ),
    "mse": Case("mse", {"a": A}, lambda y: ((y["a"] - TEACHER["a"]) ** 2).mean()),
    "l1": Case("l1", {"a": A}, lambda y: np.abs(y["a"] - TEACHER["a"]).mean()),
    "distill": Case("distill", told("a", "dense", "likely", "classes"), distill),
    "cosine": Case(
        "cosine",
        told("a", "dense"),
        lambda y: sum(
            (
                1 - (y[n] * TEACHER[n]).sum(-1) / np.sqrt((y[n] ** 2).sum(-1) * (TEACHER[n] ** 2).sum(-1))
            ).mean()
            for n in ("a", "dense")
        ),
    ),
    "numbers": Case(
        "distill",
        told("a"),
        lambda y: channel_error(TEACHER["a"], y["a"], axes=0),
        {"meaning": "numbers"},
    ),
    "classes": Case(
        "distill",
        told("dense"),
        lambda y: divergence(TEACHER["dense"], y["dense"]),
        {"meaning": "classes"},
    ),
    "distill one": Case("distill", told("a"), lambda y: divergence(TEACHER["a"], y["a"])),
    "features": Case(
        "features",
        told("h"),
        lambda y: ((y["h"] - TEACHER["h"]) ** 2).mean() / (TEACHER["h"] ** 2).mean(),
        {"features": ("h",)},
    ),
    "mixed": Case(
        "0.25*cross-entropy + 2*distill + l1",
        {"labels": LABELS, "a": A} | told("a"),
        lambda y: (
            0.25 * cross_entropy(y)
            + 2 * divergence(TEACHER["a"], y["a"])
            + np.abs(y["a"] - TEACHER["a"]).mean()
        ),
    ),
    "own file": Case("own.onnx", {"labels": LABELS, "a": A}, own_formula),
    "own callable": Case(
        f"0.5*{__name__}:build_own", {"labels": LABELS, "a": A}, lambda y: own_formula(y) / 2
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_is_that_of_the_formula(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(own_loss(), "own.onnx")
    batch = Samples(case.targets).batch
    settings = TrainSettings(loss=case.loss, learning_rate=1e-12, threads=1, **(case.options or {}))
    model = network()
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    probed.graph.output.append(onnx.ValueInfoProto(name="h"))
    result = train(model, lambda _: [(batch.inputs, batch.targets)], settings=settings, total_steps=1)
    assert result.losses[0] == pytest.approx(case.formula(outputs(probed)), rel=1e-5)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.options is None])
def test_gradient_is_the_slope_of_the_formula(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(own_loss(), "own.onnx")
    case, model = CASES[name], network()
    (found,) = gradients_of(model, Samples(case.targets), case.loss, names=["w"], threads=1)
    gradient = found["w"].astype(np.float64)
    length = np.linalg.norm(gradient)
    step = 1e-3 * gradient / length
    up, down = (
        case.formula(outputs(with_weights(model, {"w": weight(model, "w") + s * step}))) for s in (1, -1)
    )
    assert (up - down) / 2e-3 == pytest.approx(length, rel=2e-3)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("mse", [("mse", 1.0)]),
        ("0.3*cross-entropy + 0.7 * distill", [("cross-entropy", 0.3), ("distill", 0.7)]),
        ("1e-2*l1+ my.losses:focal", [("l1", 0.01), ("my.losses:focal", 1.0)]),
        ("some/loss.onnx", [("some/loss.onnx", 1.0)]),
    ],
)
def test_losses_are_read(text, terms):
    assert [(term.name, term.weight) for term in parse_loss(text)] == terms


@pytest.mark.parametrize(
    "text", ["hinge", "mse + ", "", "0*mse", "-1*mse", "two*mse", "1.2.3*mse", "mse + hinge"]
)
def test_unknown_losses_are_refused(text):
    with pytest.raises(UsageError, match="no loss"):
        parse_loss(text)


def first_step(targets: Arrays, **settings) -> None:
    batch = Samples(targets).batch
    how = TrainSettings(threads=1, **settings)
    train(network(), lambda _: [(batch.inputs, batch.targets)], settings=how, total_steps=1)


def test_operands_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "own.onnx"
    onnx.save(own_loss(), path)
    labels = {"labels": LABELS}
    with pytest.raises(UsageError, match="3 class weights and 4 classes"):
        first_step(labels, class_weights=(1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="all labels of a batch are 7"):
        first_step({"labels": np.full(SAMPLES, 7)}, ignore_index=7)
    with pytest.raises(DataError, match=r"own.onnx needs targets named 'a'; the data has labels"):
        first_step(labels, loss=str(path))
    with pytest.raises(UsageError, match="no tensor 'nowhere' in both"):
        first_step(labels | {"teacher:nowhere": np.ones((6, 2))}, loss="features", features=("nowhere",))
    with pytest.raises(UsageError, match="go together"):
        TrainSettings(loss="features")
    with pytest.raises(DataError, match="the data has labels"):
        first_step(labels, loss="distill")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(UsageError, match="cannot read the loss"):
        first_step(labels, loss=str(tmp_path / "text.onnx"))


def test_a_loss_with_unknown_inputs_is_refused(tmp_path):
    model = own_loss()
    model.graph.input[1].name = "other"
    model.graph.node[0].input[1] = "other"
    onnx.save(model, tmp_path / "own.onnx")
    with pytest.raises(UsageError, match="an input 'other'"):
        first_step({"labels": LABELS, "a": A}, loss=str(tmp_path / "own.onnx"))


def test_ignored_labels_teach_nothing():
    images, labels = stripes(32, seed=1)
    some = np.where(np.arange(32) < 16, labels, -1)
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "threads": 1}
    model = cnn()
    del model.graph.node[1]
    model.graph.node[1].input[0] = "c1"
    whole = [({"image": images}, {"labels": some})]
    half = [({"image": images[:16]}, {"labels": labels[:16]})]
    given = train(model, lambda _: whole, settings=TrainSettings(ignore_index=-1, **settings), total_steps=1)
    wanted = train(model, lambda _: half, settings=TrainSettings(**settings), total_steps=1)
    for name, values in wanted.weights.items():
        np.testing.assert_allclose(given.weights[name], values, atol=1e-6, err_msg=name)


def test_mixed_losses_learn():
    def batches(epoch):
        for inputs, targets in stripe_batches(25)(epoch):
            said = 4 * np.eye(4, dtype=np.float32)[targets["labels"]]
            yield inputs, {**targets, "teacher:logits": said}

    settings = TrainSettings(loss="0.5*cross-entropy + distill", learning_rate=0.02, epochs=2, threads=1)
    result = train(cnn(), batches, settings=settings, total_steps=50)
    assert result.losses[1] < 0.5 * result.losses[0]
