"""Losses of outputs that join several quantities, of embeddings, and of padded tokens."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from training_networks import parsed, weight, with_weights

from onnxprune.runtime import Session
from onnxprune.train.engine import train
from onnxprune.train.gradients import gradients_of
from onnxprune.train.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("each_engine")
RANDOM = np.random.default_rng(7)
SAMPLES = 5
DETECTOR = """
<ir_version: 8, opset_import: ["" : 17]>
detector (float[N, 6] x) => (float[N, 7, 8] y) {
    h0 = Gemm(x, w)
    h = Tanh(h0)
    b0 = Gemm(h, wb)
    b1 = Reshape(b0, shape_b)
    boxes = Mul(b1, stride)
    s0 = Gemm(h, ws)
    s1 = Reshape(s0, shape_s)
    scores = Sigmoid(s1)
    y = Concat<axis = 1>(boxes, scores)
}"""
ENCODER = """
<ir_version: 8, opset_import: ["" : 17]>
encoder (float[N, 4, 6] x, int64[N, 4] attention_mask) => (float[N, 4, 3] y) {
    h0 = MatMul(x, w)
    h = Tanh(h0)
    y = MatMul(h, wb)
}"""
EMBEDDING = """
<ir_version: 8, opset_import: ["" : 17]>
embedding (float[N, 6] x) => (float[N, 4] y) {
    h0 = Gemm(x, w)
    h = Tanh(h0)
    e = Gemm(h, wb)
    y = LpNormalization<axis = 1, p = 2>(e)
}"""


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


def detector() -> onnx.ModelProto:
    shapes = {"shape_b": np.array([0, 4, 8]), "shape_s": np.array([0, 3, 8])}
    weights = {"w": normal(6, 5), "wb": normal(5, 32), "ws": normal(5, 24)}
    return parsed(DETECTOR, **weights, **shapes, stride=np.array([32.0]))


def encoder() -> onnx.ModelProto:
    return parsed(ENCODER, w=normal(6, 5), wb=normal(5, 3))


class One:
    """One batch, the same in every pass."""

    def __init__(self, inputs, targets) -> None:
        self.inputs, self.targets = inputs, targets

    def batches(self, batch_size, *, shuffle=False, seed=0, epoch=0):
        yield self


def check(model: onnx.ModelProto, inputs, targets, loss: str, formula, **options) -> None:
    """Compare the value of a loss with its formula, and its gradient with finite differences."""
    settings = TrainSettings(loss=loss, learning_rate=1e-12, threads=1, **options)
    result = train(model, lambda _: [(inputs, targets)], settings=settings, total_steps=1)

    def value(at: onnx.ModelProto) -> float:
        return float(formula(Session(at).run(inputs)["y"].astype(np.float64)))

    assert result.losses[0] == pytest.approx(value(model), rel=1e-5)
    (found,) = gradients_of(model, One(inputs, targets), loss, names=["w"], threads=1)
    gradient = found["w"].astype(np.float64)
    length = np.linalg.norm(gradient)
    step = 1e-3 * gradient / length
    up, down = (value(with_weights(model, {"w": weight(model, "w") + s * step})) for s in (1, -1))
    assert (up - down) / 2e-3 == pytest.approx(length, rel=5e-3)


def channel_error(wanted, given, axes):
    size = (wanted**2).mean(axes)
    floor = min(1e-3 * size.mean(), 1e-3)
    return (((given - wanted) ** 2).mean(axes) / (size + floor)).mean()


def test_boxes_do_not_drown_scores():
    boxes, scores = 300 * RANDOM.random((SAMPLES, 4, 8)), RANDOM.uniform(0.01, 0.9, (SAMPLES, 3, 8))
    told = np.concatenate([boxes, scores], 1).astype(np.float32)

    def formula(y):
        s, t = y[:, 4:], scores
        entropy = -(t * np.log(s) + (1 - t) * np.log(1 - s)).mean()
        return (channel_error(boxes, y[:, :4], (0, 2)) + entropy) / 2

    x = normal(SAMPLES, 6).astype(np.float32)
    check(detector(), {"x": x}, {"teacher:y": told}, "distill", formula)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cosine", "distill", "mse"])
def test_padding_teaches_nothing(loss):
    mask = (np.arange(4) < np.array([4, 2, 3, 1, 4])[:, np.newaxis]).astype(np.int64)
    x, told = normal(SAMPLES, 4, 6).astype(np.float32), normal(SAMPLES, 4, 3).astype(np.float32)
    counted = mask == 1

    def formula(y):
        given, wanted = y[counted], told[counted].astype(np.float64)
        if loss == "cosine":
            norms = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
            return (1 - (given * wanted).sum(1) / norms).mean()
        if loss == "mse":
            return ((given - wanted) ** 2).mean()
        return channel_error(wanted, given, 0)

    targets = {"y" if loss == "mse" else "teacher:y": told}
    check(encoder(), {"x": x, "attention_mask": mask}, targets, loss, formula)


def test_labels_at_padding_teach_nothing():
    mask = (np.arange(4) < np.array([4, 2, 3, 1, 4])[:, np.newaxis]).astype(np.int64)
    labels, x = RANDOM.integers(0, 3, (SAMPLES, 4)), normal(SAMPLES, 4, 6).astype(np.float32)

    def formula(y):
        scores = y[mask == 1]
        loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), labels[mask == 1]]
        return loss.mean()

    check(encoder(), {"x": x, "attention_mask": mask}, {"labels": labels}, "cross-entropy", formula)


def test_unit_vectors_are_no_classes():
    model = parsed(EMBEDDING, w=normal(6, 5), wb=normal(5, 4))
    x, told = normal(SAMPLES, 6).astype(np.float32), normal(SAMPLES, 4)
    told = (told / np.linalg.norm(told, axis=1, keepdims=True)).astype(np.float32)
    check(model, {"x": x}, {"teacher:y": told}, "distill", lambda y: channel_error(told, y, 0))
