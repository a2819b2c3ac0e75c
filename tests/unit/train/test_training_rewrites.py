"""Every entry of the rewrite table: the same forward, and gradients equal to finite differences.

Each case is an operator behind a 1×1 convolution whose weight is trained. All cases of an operator set sit
side by side in one network, so that one step of plain gradient descent yields every gradient.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from training_cases import BATCH, CASES, CHANNELS, SIZE, network_of

from onnxprune.runtime import Session, WeightSession
from onnxprune.train.engine import train
from onnxprune.train.rewrites import REWRITES
from onnxprune.train.settings import TrainSettings
from onnxprune.train.training_copy import make_training_copy

pytestmark = pytest.mark.slow


OPSETS = sorted({case.opset for case in CASES.values()})


@pytest.fixture(scope="module", params=OPSETS, ids=lambda opset: f"opset{opset}")
def opset(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def network(opset: int) -> onnx.ModelProto:
    return network_of(opset)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(BATCH, CHANNELS, SIZE, SIZE)).astype(np.float32)


def test_every_rewrite_has_a_case():
    written = "\n".join(case.body for case in CASES.values())
    assert {operator for operator in REWRITES if f"= {operator}" not in written} == set()


def test_forward_is_the_same(network, image):
    copied = make_training_copy(network, {"image": image}).model()
    expected = Session(network, optimize=False).run({"image": image})
    computed = Session(copied, optimize=False).run({"image": image})
    for name, wanted in expected.items():
        np.testing.assert_allclose(computed[name], wanted, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("engine", ["stock", pytest.param("ort-training", marks=pytest.mark.training)])
def test_gradients_equal_finite_differences(network, image, opset, engine):
    outputs = Session(network, optimize=False).run({"image": image})
    targets = {name: np.cos(np.arange(v.size)).reshape(v.shape).astype("f4") for name, v in outputs.items()}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    descent = TrainSettings(
        loss="mse",
        optimizer="sgd",
        learning_rate=1.0,
        momentum=0.0,
        schedule="constant",
        clip_norm=math.inf,
        engine=engine,
    )
    result = train(network, lambda _: [({"image": image}, targets)], settings=descent, total_steps=1)
    checked = {
        f"{name}_{key}": name
        for name, case in CASES.items()
        for key in ("weight", *case.trained)
        if case.opset == opset
    }
    session = WeightSession(network, list(checked), optimize=False)
    wrong = {}
    for weight, output in checked.items():
        gradient = weights[weight].astype(np.float64) - result.weights[weight]
        length = np.linalg.norm(gradient)
        assert length > 1e-6, weight
        for direction in (gradient / length, _direction(weights[weight].shape, gradient)):
            slope = _slope(session, image, targets[output], output, weight, weights[weight], direction)
            error = abs(slope - float((gradient * direction).sum())) / length
            if error > 1e-3:
                wrong[weight] = error
    assert wrong == {}


def _direction(shape: tuple[int, ...], gradient: np.ndarray) -> np.ndarray:
    """A random unit direction that is not at a right angle to the gradient."""
    direction = np.random.default_rng(3).normal(size=shape) + 2 * gradient / np.linalg.norm(gradient)
    return direction / np.linalg.norm(direction)


def _slope(session, image, target, output: str, weight: str, values, direction) -> float:
    """Central difference of the mean squared error of an output along a direction of a weight."""
    step = 5e-4
    losses = []
    for sign in (1, -1):
        moved = (values + sign * step * direction).astype(np.float32)
        result = session.run({"image": image, weight: moved}, [output])[output].astype(np.float64)
        losses.append(((result - target) ** 2).mean())
    return float(losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize(("size", "made", "products"), [(4, 4, 1), (8, 4, 1), (9, 4, 0), (4, 8, 0)])
def test_depthwise_convolutions_over_small_maps_become_products(size, made, products):
    """Not those over larger ones, nor those that make several channels of each."""
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 4, {size}, {size}] x) => (float[N, {made}, {size}, {size}] y)
        <float[{made}, 1, 3, 3] w = {{{", ".join(["1"] * 9 * made)}}}> {{
        y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)
    }}"""
    sample = np.ones((2, 4, size, size), np.float32)
    copied = make_training_copy(onnx.parser.parse_model(text), {"x": sample}).model()
    operators = [node.op_type for node in copied.graph.node]
    assert (operators.count("MatMul"), operators.count("Conv")) == (2 * products, 1 - products)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "products"),
    [(4, 3, [1, 1], 2), (8, 3, [1, 1], 2), (9, 3, [1, 1], 0), (4, 1, [1, 1], 1), (4, 1, [2, 2], 0)],
)
def test_convolutions_over_small_maps_become_products(size, kernel, strides, products):
    """Of two: one lays out the windows, the other has the weights; single taps need no laying out."""
    taps, pad = kernel**2, kernel // 2
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 2, {size}, {size}] x) => (float[N, 64, H, W] y)
        <float[64, 2, {kernel}, {kernel}] w = {{{", ".join(["1"] * 128 * taps)}}}> {{
        y = Conv<pads = [{pad}, {pad}, {pad}, {pad}], strides = {strides}>(x, w)
    }}"""
    sample = np.ones((2, 2, size, size), np.float32)
    copied = make_training_copy(onnx.parser.parse_model(text), {"x": sample}).model()
    operators = [node.op_type for node in copied.graph.node]
    assert operators.count("MatMul") + operators.count("Gemm") == products
    assert operators.count("Conv") == (products == 0)
