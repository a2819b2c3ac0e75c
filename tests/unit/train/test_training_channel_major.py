"""Stretches laid out by channel: where they begin and end, and that they compute and learn the same."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.runtime import Session
from onnxprune.train import channel_major
from onnxprune.train.engine import train
from onnxprune.train.settings import TrainSettings
from onnxprune.train.training_copy import make_training_copy

SAMPLES = np.random.default_rng(0).normal(size=(6, 3, 7, 7)).astype(np.float32)

BLOCKS = """
    e = Conv(s, w1, b1)
    n = BatchNormalization(e, scale, shift, mean, variance)
    r = Relu(n)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, w2)
    c = Clip(d, low, high)
    p = Conv(c, w3)
    a = Add(s, p)
    y = Conv<pads = [1, 1, 1, 1]>(a, w4)
"""


def network(body: str = BLOCKS, head: str = "") -> onnx.ModelProto:
    """A body from `s`, the result of a 3×3 convolution of the input, to `y`."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 3, 7, 7] x) => (float y{head}) {{
        s = Conv<pads = [1, 1, 1, 1]>(x, w0)
        {body}
    }}""")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    random = np.random.default_rng(1)
    shapes = {"w0": (4, 3, 3, 3), "w1": (8, 4, 1, 1), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (4, 8, 1, 1)}
    values = {name: random.normal(size=shape) / 2 for name, shape in shapes.items()}
    values |= {"w4": random.normal(size=(2, 4, 3, 3)), "low": np.array(-1.0), "high": np.array(1.0)}
    values |= {"f": random.normal(size=(1, 8, 1, 1)), "half": np.array([[[[0.5]]]]), "map": np.ones((7, 7))}
    values |= {name: random.uniform(0.5, 1.5, 8) for name in ("scale", "shift", "mean", "variance")}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items() if name in read
    )
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in make_training_copy(model, {"x": SAMPLES}).model().graph.node]


def test_nothing_is_turned_around_but_at_the_ends() -> None:
    found = operators(network())
    assert (found.count("Transpose"), found.count("Conv")) == (2, 2)
    assert found.count("MatMul") == 4  # three convolutions, and the matrices of the depthwise one


SHORT = """
    e = Conv(s, w1, b1)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(e, w2)
    m = Mul(d, map)
    y = Conv(m, w3)
"""


@pytest.mark.parametrize(
    ("body", "turned"), [(SHORT, 2), ("e = Conv(s, w1)\nr = Relu(e)\ny = Conv(r, w3)", 0)]
)
def test_stretches_that_would_not_pay_stay(body: str, turned: int) -> None:
    """Stretches of one depthwise convolution, which becomes products by itself, or of none."""
    found = operators(network(body))
    assert (found.count("Conv"), found.count("Transpose")) == (3, turned)


@pytest.mark.parametrize(("pictures", "convolutions"), [(8, 5), (32, 2)])
def test_of_larger_maps_many_pictures_pay(pictures: int, convolutions: int) -> None:
    """All five convolutions stay for a few."""
    sample = np.ones((pictures, 3, 14, 14), np.float32)
    model = network()
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_value = 14
    copied = make_training_copy(model, {"x": sample}).model()
    assert sum(node.op_type == "Conv" for node in copied.graph.node) == convolutions


BETWEEN: dict[str, str] = {
    "a number for each channel": "m = Mul(d, f)",
    "a single number": "m = Sub(d, half)",
    "another of its own": "h = Tanh(d)\nm = Mul(d, h)",
    "the average of each picture": "g = GlobalAveragePool(d)\nq = Sigmoid(g)\nm = Mul(d, q)",
    "side by side": "j = Concat<axis = -3>(d, d)\nm = Conv(j, wide)",
    "read outside": "z = ReduceMax<axes = [2, 3], keepdims = 0>(d)\nm = Neg(d)",
}


@pytest.mark.parametrize("between", BETWEEN)
def test_the_same_forward(between: str) -> None:
    body = f"""
    e = Conv(s, w1, b1)
    d = Conv<group = 8, pads = [1, 1, 1, 1]>(e, w2)
    {BETWEEN[between]}
    k = Conv<group = 8, pads = [1, 1, 1, 1]>(m, w2)
    y = Conv(k, w3)"""
    model = network(body, ", float z" if between == "read outside" else "")
    wide = np.random.default_rng(2).normal(size=(8, 16, 1, 1)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(wide, "wide"))
    copied = make_training_copy(model, {"x": SAMPLES}).model()
    expected = Session(model, optimize=False).run({"x": SAMPLES})
    computed = Session(copied, optimize=False).run({"x": SAMPLES})
    assert sum(node.op_type == "Conv" for node in copied.graph.node) == 1
    for name, wanted in expected.items():
        np.testing.assert_allclose(computed[name], wanted, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_the_same_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, and the running statistics of BatchNormalization."""
    laid_out = learnt()
    monkeypatch.setattr(channel_major, "LEAST_GAIN", math.inf)
    plain = learnt()
    assert laid_out.keys() == plain.keys()
    assert {"w0", "w1", "b1", "w2", "w3", "w4", "scale", "shift", "mean", "variance"} <= plain.keys()
    for name, wanted in plain.items():
        np.testing.assert_allclose(laid_out[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def learnt() -> dict[str, np.ndarray]:
    settings = TrainSettings(loss="mse", optimizer="sgd", learning_rate=0.05, schedule="constant")
    targets = {"y": np.random.default_rng(3).normal(size=(6, 2, 7, 7)).astype(np.float32)}
    batches: Callable[[int], object] = lambda _: [({"x": SAMPLES}, targets)] * 3  # noqa: E731
    return train(network(), batches, settings=settings, total_steps=3).weights
