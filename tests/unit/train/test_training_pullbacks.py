"""Pullbacks against onnxruntime's own result and central differences, form by form."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser
from training_cases import FUNCTIONS

from onnxprune.errors import TrainingError
from onnxprune.train.engine import train
from onnxprune.train.pullbacks.tensor_facts import StaticFacts
from onnxprune.train.settings import TrainSettings
from onnxprune.train.step import GRADIENT, step_graph

Arrays = dict[str, np.ndarray]


def model_of(body: str, inputs: str, constants: Arrays, opset: int = 21) -> onnx.ModelProto:
    """`body` reads the inputs and constants and writes y, whose squares the loss is the mean of."""
    text = f"""<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>
    net ({inputs}) => (float[] loss) {{
        {body}
        square = Mul(y, y)
        loss = ReduceMean<keepdims=0>(square)
    }}"""
    model = parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return model


def run(model: onnx.ModelProto, feeds: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(None, {n: a for n, a in feeds.items() if n in wanted}), strict=True))


def loss_of(model: onnx.ModelProto, feeds: Arrays, name: str, values: np.ndarray) -> float:
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    kept = [t for t in moved.graph.initializer if t.name != name]
    del moved.graph.initializer[:]
    moved.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(values, name)])
    return float(run(moved, feeds)["loss"])


def check(
    model: onnx.ModelProto, feeds: Arrays, constants: Arrays, tolerance: float = 2e-3
) -> onnx.ModelProto:
    """Compare loss, and each gradient along itself and along another direction."""
    sizes = {name: array.shape for name, array in feeds.items()}
    graph = step_graph(model, list(constants), [], sizes)
    found = run(graph, feeds | constants)
    assert found["loss"] == pytest.approx(run(model, feeds)["loss"], rel=1e-5)
    random = np.random.default_rng(1)
    for name, values in constants.items():
        gradient = found[GRADIENT + name].astype(np.float64)
        assert gradient.shape == values.shape
        length = np.linalg.norm(gradient)
        assert length > 1e-7, name
        other = random.normal(size=values.shape) + 2 * gradient / length
        for direction in (gradient / length, other / np.linalg.norm(other)):
            step = 2e-3 * max(1.0, float(np.linalg.norm(values)) / 10)
            up, down = (
                loss_of(model, feeds, name, (values + s * step * direction).astype(np.float32))
                for s in (1, -1)
            )
            slope = (up - down) / (2 * step)
            assert slope == pytest.approx(float((gradient * direction).sum()), abs=tolerance * length), name
    return graph


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).normal(size=shape) * scale).astype(np.float32)


CONVOLUTIONS = {
    "winograd_small": ((2, 32, 6, 7), (40, 32, 3, 3), "pads=[1,1,1,1]"),
    "winograd_large": ((2, 32, 9, 12), (33, 32, 3, 3), "pads=[1,0,0,1]"),
    "winograd_unpadded": ((1, 32, 8, 8), (32, 32, 3, 3), ""),
    "strided": ((2, 8, 9, 8), (5, 8, 3, 3), "strides=[2,2], pads=[1,0,1,1]"),
    "strided_unread": ((2, 3, 8, 9), (5, 3, 3, 2), "strides=[3,2], pads=[0,1,0,0]"),
    "dilated": ((2, 9, 9, 9), (4, 9, 3, 3), "dilations=[2,1], pads=[2,1,2,1]"),
    "dilated_strided": ((2, 4, 11, 9), (4, 4, 3, 2), "dilations=[2,3], strides=[2,1]"),
    "grouped": ((2, 6, 7, 7), (4, 3, 3, 3), "group=2, pads=[1,1,1,1]"),
    "grouped_wide": ((2, 18, 5, 5), (4, 9, 3, 3), "group=2, strides=[2,2]"),
    "grouped_points": ((2, 6, 5, 5), (8, 3, 1, 1), "group=2"),
    "depthwise": ((2, 5, 9, 8), (5, 1, 3, 3), "group=5, pads=[1,1,1,1]"),
    "depthwise_strided": ((2, 5, 9, 8), (5, 1, 5, 3), "group=5, strides=[2,2], pads=[2,1,2,1]"),
    "depthwise_dilated": ((2, 5, 9, 9), (5, 1, 3, 3), "group=5, dilations=[2,2]"),
    "depthwise_several": ((2, 4, 9, 9), (8, 1, 3, 3), "group=4, pads=[1,1,1,1]"),
    "points": ((2, 6, 8, 8), (5, 6, 1, 1), ""),
    "points_few": ((2, 6, 3, 3), (5, 6, 1, 1), ""),
    "points_strided": ((2, 6, 8, 7), (5, 6, 1, 1), "strides=[2,2]"),
    "points_padded": ((2, 6, 5, 5), (5, 6, 1, 1), "pads=[1,1,1,1]"),
    "line": ((2, 9, 12), (4, 9, 3), "pads=[1,1], strides=[2]"),
    "line_grouped": ((2, 6, 12), (6, 1, 4), "group=6"),
    "volume": ((2, 3, 5, 4, 5), (4, 3, 2, 3, 2), "strides=[2,1,1], pads=[0,1,0,1,1,0]"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    data, weight, attributes = CONVOLUTIONS[name]
    made, sizes = weight[0], ", ".join(map(str, data))
    scale = float(np.prod(weight[1:])) ** -0.5
    ones, given = ", ".join("1" * (len(data) - 2)), f"<{attributes}>" if attributes else ""
    constants = {
        "first": normal(data[1], data[1], *[1] * (len(data) - 2), scale=data[1] ** -0.5),
        "w": normal(*weight, scale=scale),
        "b": normal(made),
    }
    body = f"h = Conv<kernel_shape=[{ones}]>(x, first)\nt = Tanh(h)\nz = Conv{given}(t, w, b)\ny = Tanh(z)"
    model = model_of(body, f"float[{sizes}] x", constants)
    graph = check(model, {"x": normal(*data)}, constants)
    assert ("MatMul" in {n.op_type for n in graph.graph.node[:12]}) == name.startswith("winograd")


def test_factor_of_a_normalisation_reaches_the_weights():
    """BatchNormalization behind convolutions of every kind: its factor is carried, and never lost."""
    constants = {
        "w1": normal(6, 3, 3, 3, scale=0.3),
        "s1": normal(6) + 1,
        "b1": normal(6),
        "w2": normal(6, 1, 3, 3, scale=0.5),
        "s2": normal(6) + 1,
        "b2": normal(6),
        "w3": normal(8, 6, 1, 1),
        "s3": normal(8) + 1,
        "b3": normal(8),
    }
    running = {
        f"{k}{n}": np.full(c, v, np.float32)
        for n, c in ((1, 6), (2, 6), (3, 8))
        for k, v in (("m", 0), ("v", 1))
    }
    body = """
        c1 = Conv<pads=[1,1,1,1]>(x, w1)
        n1 = BatchNormalization(c1, s1, b1, m1, v1)
        t1 = Tanh(n1)
        c2 = Conv<group=6, pads=[1,1,1,1]>(t1, w2)
        n2 = BatchNormalization(c2, s2, b2, m2, v2)
        a2 = Add(n2, n1)
        k2 = Concat<axis=1>(a2, t1)
        g2, h2 = Split<axis=1, num_outputs=2>(k2)
        f2 = Mul(g2, h2)
        c3 = Conv(f2, w3)
        n3 = BatchNormalization(c3, s3, b3, m3, v3)
        p3 = GlobalAveragePool(n3)
        r3 = Transpose<perm=[0,2,3,1]>(n3)
        q3 = Transpose<perm=[0,3,1,2]>(r3)
        u3 = Sub(q3, p3)
        y = Sigmoid(u3)"""
    model = model_of(body, "float[4, 3, 5, 6] x", constants | running)
    sizes = {"x": (4, 3, 5, 6)}
    graph = step_graph(model, list(constants), list(running), sizes)
    feeds = {"x": normal(4, 3, 5, 6)} | constants | running
    found, step = run(graph, feeds), 1e-3
    for name, values in constants.items():
        gradient = found[GRADIENT + name].astype(np.float64)
        length = np.linalg.norm(gradient)
        up, down = (
            float(run(graph, feeds | {name: (values + s * step * gradient / length).astype("f4")})["loss"])
            for s in (1, -1)
        )
        assert (up - down) / (2 * step) == pytest.approx(length, rel=5e-3, abs=1e-4), name


def test_running_statistics_follow_as_the_specification_has_it():
    constants = {"s": np.ones(3, "f4"), "b": np.zeros(3, "f4")}
    running = {"m": normal(3), "v": np.full(3, 2, "f4")}
    body = "y = BatchNormalization<momentum=0.75>(x, s, b, m, v)"
    model = model_of(body, "float[4, 3, 5] x", constants | running)
    x = normal(4, 3, 5)
    graph = step_graph(model, list(constants), list(running), {"x": x.shape})
    found = run(graph, {"x": x} | constants | running)
    wanted = 0.75 * running["m"] + 0.25 * x.mean((0, 2))
    np.testing.assert_allclose(found["statistic:m"], wanted, rtol=1e-5, atol=1e-6)
    wanted = 0.75 * running["v"] + 0.25 * x.var((0, 2))
    np.testing.assert_allclose(found["statistic:v"], wanted, rtol=1e-5)


def test_sizes_pass_operators_that_onnx_does_not_infer():
    """A network of scikit-learn begins with one; a broadcast behind it needs its sizes."""
    head = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 1]> g (float[N, 2] x) => (float[N, 2] y) '
    model = parser.parse_model(head + "{ y = ai.onnx.ml.Scaler<offset = [0.0, 1.0], scale = [1.0, 2.0]>(x) }")
    assert StaticFacts.of(model, {"x": (4, 2)}, ()).shapes["y"] == (4, 2)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions(name):
    constants = {"w": normal(5, 4, scale=0.4)}
    body = f"h = MatMul(x, w)\nt = Tanh(h)\ny = {name}(t)"
    check(model_of(body, "float[3, 5] x", constants), {"x": normal(3, 5)}, constants)


SMOOTH = """
    c = Conv<pads=[1,1,1,1]>(x, w1, b1)
    n = BatchNormalization(c, s, b, m, v)
    t = Sigmoid(n)
    d = Conv<group=32, pads=[1,1,1,1], strides=[2,2]>(t, w2)
    g = Tanh(d)
    e = Conv<pads=[1,1,1,1]>(g, w3)
    k = Softplus(e)
    p = GlobalAveragePool(k)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w4, b4)"""


@pytest.mark.training
def test_both_engines_have_the_same_gradients():
    """The whole gradient; activations are smooth, for at a kink rounding decides."""
    weights = {
        "w1": normal(32, 3, 3, 3, scale=0.2),
        "b1": normal(32),
        "s": normal(32) + 1,
        "b": normal(32),
        "w2": normal(32, 1, 3, 3, scale=0.3),
        "w3": normal(40, 32, 3, 3, scale=0.06),
        "w4": normal(6, 40, scale=0.2),
        "b4": normal(6),
    }
    running = {"m": np.zeros(32, "f4"), "v": np.ones(32, "f4")}
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    net (float[N, 3, 16, 14] x) => (float[N, 6] y) {{ {SMOOTH} }}"""
    model = parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in (weights | running).items())
    batch = ({"x": normal(8, 3, 16, 14)}, {"labels": np.arange(8) % 6})
    found = {}
    for engine in ("stock", "ort-training"):
        settings = TrainSettings(
            learning_rate=1.0, momentum=0.0, schedule="constant", clip_norm=math.inf, engine=engine
        )
        result = train(model, lambda _: [batch], settings=settings, total_steps=1)
        assert result.engine == engine
        steps = [(values - result.weights[name]).ravel() for name, values in weights.items()]
        found[engine] = np.concatenate(steps).astype(np.float64)
        assert set(result.weights) == {*weights, *running}
    apart = np.linalg.norm(found["stock"] - found["ort-training"])
    assert apart < 1e-4 * np.linalg.norm(found["ort-training"])


def test_refusal_names_node_and_operator():
    constants = {"w": normal(4, 4)}
    body = "h = MatMul(x, w)\n[dice] y = Det(h)"
    model = model_of(body, "float[2, 4, 4] x", constants)
    with pytest.raises(TrainingError, match=r"node 'dice' \(Det\) cannot be trained through"):
        step_graph(model, ["w"], [], {"x": (2, 4, 4)})
