"""Every entry of the rewrite table: the same forward, and gradients equal to finite differences.

Each case is an operator behind a 1×1 convolution whose weight is trained. All cases of an operator set sit
side by side in one network, so that one step of plain gradient descent yields every gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnxprune.runtime import Session, WeightSession
from onnxprune.training.engine import train
from onnxprune.training.rewrites import REWRITES
from onnxprune.training.settings import TrainSettings
from onnxprune.training.training_copy import make_training_copy

BATCH, CHANNELS, SIZE = 3, 4, 6


@dataclass(frozen=True)
class Case:
    """`body` reads {x}, float [N, 4, 6, 6], and writes {y}; {n} is a prefix for names in between."""

    body: str
    opset: int = 17
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    trained: tuple[str, ...] = ()


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


SCALES = np.array([1, 1, 2, 1.5], np.float32)
SIZES = np.array([0, 4, 9, 4], np.int64)
INTS = {
    name: np.array(values, np.int64)
    for name, values in {
        "four": [4],
        "split": [1, 2, 1],
        "hw": [2, 3],
        "pads": [0, 0, 1, 2, 0, 0, 2, 0],
        "mixed": [0, 0, -1, 2, 0, 0, 2, -1],
        "side": [1, 2],
        "minus": [-1],
    }.items()
}

CASES = {
    "elu": Case("{y} = Elu<alpha=0.7>({x})"),
    "selu": Case("{y} = Selu({x})"),
    "celu": Case("{y} = Celu<alpha=0.6>({x})"),
    "softplus": Case("{y} = Softplus({x})"),
    "softsign": Case("{y} = Softsign({x})"),
    "mish": Case("{y} = Mish({x})", 21),
    "hard_sigmoid": Case("{y} = HardSigmoid<alpha=0.3, beta=0.4>({x})"),
    "hard_swish": Case("{y} = HardSwish({x})"),
    "thresholded_relu": Case("{y} = ThresholdedRelu<alpha=0.2>({x})"),
    "prelu": Case("{y} = PRelu({x}, {n}slope)", constants={"slope": _random(4, 1, 1)}, trained=("slope",)),
    "dropout": Case("{y} = Dropout({x})"),
    "conv_same_upper": Case(
        '{y} = Conv<auto_pad="SAME_UPPER", strides=[2, 2]>({x}, {n}w)', constants={"w": _random(2, 4, 3, 4)}
    ),
    "conv_same_lower": Case(
        '{y} = Conv<auto_pad="SAME_LOWER">({x}, {n}w)', constants={"w": _random(2, 4, 2, 4)}, trained=("w",)
    ),
    "conv_valid": Case('{y} = Conv<auto_pad="VALID">({x}, {n}w)', constants={"w": _random(2, 4, 3, 3)}),
    "conv_transpose": Case(
        "{y} = ConvTranspose<strides=[2, 3], pads=[1, 0, 2, 1], output_padding=[1, 2]>({x}, {n}w, {n}b)",
        constants={"w": _random(4, 5, 3, 4), "b": _random(5)},
        trained=("w", "b"),
    ),
    "conv_transpose_grouped": Case(
        "{y} = ConvTranspose<group=2, dilations=[2, 1]>({x}, {n}w)",
        constants={"w": _random(4, 3, 3, 2)},
        trained=("w",),
    ),
    "conv_transpose_shape": Case(
        "{y} = ConvTranspose<strides=[2, 2], output_shape=[12, 12]>({x}, {n}w)",
        constants={"w": _random(4, 2, 3, 3)},
    ),
    "average_pool": Case("{y} = AveragePool<kernel_shape=[2, 3], strides=[2, 1]>({x})"),
    "average_pool_padded": Case("{y} = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>({x})"),
    "average_pool_with_pads": Case(
        "{y} = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1, strides=[2, 2]>({x})"
    ),
    "average_pool_ceil": Case("{y} = AveragePool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>({x})"),
    "average_pool_same": Case(
        '{y} = AveragePool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER">({x})'
    ),
    "average_pool_whole": Case("{y} = AveragePool<kernel_shape=[6, 6]>({x})"),
    "global_max_pool": Case("{y} = GlobalMaxPool({x})"),
    "reduce_max": Case("{y} = ReduceMax<axes=[1, -1], keepdims=0>({x})"),
    "reduce_min": Case("{y} = ReduceMin<axes=[2]>({x})"),
    "reduce_max_18": Case("{y} = ReduceMax<keepdims=0>({x}, hw)", 21),
    "reduce_l1": Case("{y} = ReduceL1<axes=[1], keepdims=0>({x})"),
    "reduce_sum_square": Case("{y} = ReduceSumSquare<axes=[2, 3]>({x})"),
    "reduce_log_sum": Case("{n}a = Abs({x})\n{n}e = Exp({n}a)\n{y} = ReduceLogSum<axes=[1]>({n}e)"),
    "reduce_l2": Case("{y} = ReduceL2<axes=[1], keepdims=0>({x})"),
    "reduce_log_sum_exp": Case("{y} = ReduceLogSumExp<axes=[2, 3], keepdims=0>({x})"),
    "sum": Case("{n}a = Sigmoid({x})\n{y} = Sum({x}, {n}a, {x})"),
    "mean": Case("{n}a = Sigmoid({x})\n{y} = Mean({x}, {n}a, {n}a)"),
    "split_unused": Case("{n}a, {n}b, {n}c = Split<axis=1>({x}, split)\n{y} = Tanh({n}b)"),
    "split_equal_unused": Case("{n}a, {n}b = Split<axis=-1>({x})\n{y} = Tanh({n}b)"),
    "where": Case(
        "{n}c = Greater({x}, zero)\n{n}m = ReduceMean<axes=[1]>({x})\n{y} = Where({n}c, {x}, {n}m)"
    ),
    "transpose": Case("{n}t = Transpose({x})\n{n}s = Tanh({n}t)\n{y} = Transpose<perm=[3, 2, 1, 0]>({n}s)"),
    "pad_reflect": Case('{y} = Pad<mode="reflect">({x}, pads)'),
    "pad_edge": Case('{y} = Pad<mode="edge">({x}, mixed)'),
    "pad_axes": Case("{y} = Pad({x}, side, , minus)", 21),
    "depth_to_space": Case("{y} = DepthToSpace<blocksize=2>({x})"),
    "depth_to_space_crd": Case('{y} = DepthToSpace<blocksize=2, mode="CRD">({x})'),
    "space_to_depth": Case("{y} = SpaceToDepth<blocksize=2>({x})"),
    "matmul_vector": Case("{y} = MatMul({x}, {n}v)", constants={"v": _random(6)}, trained=("v",)),
    "power": Case("{y} = Pow({x}, two)"),
    "resize_nearest": Case('{y} = Resize<mode="nearest">({x}, , scales)'),
    "resize_asymmetric": Case(
        '{y} = Resize<mode="nearest", nearest_mode="floor", '
        'coordinate_transformation_mode="asymmetric">({x}, , scales)'
    ),
    "resize_linear": Case('{y} = Resize<mode="linear">({x}, , scales)'),
    "resize_corners": Case(
        '{y} = Resize<mode="linear", coordinate_transformation_mode="align_corners">({x}, , , sizes)'
    ),
    "resize_cubic": Case('{y} = Resize<mode="cubic">({x}, , scales)'),
    "instance_norm": Case(
        "{y} = InstanceNormalization({x}, {n}s, {n}b)",
        constants={"s": _random(4), "b": _random(4)},
        trained=("s", "b"),
    ),
    "group_norm": Case(
        "{y} = GroupNormalization<num_groups=2>({x}, {n}s, {n}b)",
        21,
        constants={"s": _random(4), "b": _random(4)},
        trained=("s", "b"),
    ),
    "layer_norm": Case(
        "{y} = LayerNormalization<axis=-1>({x}, {n}s)", constants={"s": _random(6)}, trained=("s",)
    ),
    "lp_norm": Case("{y} = LpNormalization<axis=1, p=2>({x})"),
    "l1_norm": Case("{y} = LpNormalization<axis=1, p=1>({x})"),
    "lrn": Case("{y} = LRN<size=3, alpha=0.5, beta=0.6, bias=1.5>({x})"),
    "repeated_parameter": Case(
        "{n}m = MatMul({n}v, {n}v)\n{y} = MatMul({x}, {n}m)", constants={"v": _random(6, 6)}
    ),
}
OPSETS = sorted({case.opset for case in CASES.values()})


def _network(opset: int) -> onnx.ModelProto:
    """All cases of one operator set, each with a weight and an output of its own."""
    cases = {name: case for name, case in CASES.items() if case.opset == opset}
    lines = []
    constants = {**INTS, "scales": SCALES, "sizes": SIZES, "zero": np.float32(0), "two": np.int64(2)}
    constants["sizes"][0] = BATCH
    for name, case in cases.items():
        lines.append(f"{name}_x = Conv(image, {name}_weight)")
        lines.append(case.body.format(x=f"{name}_x", y=name, n=f"{name}_"))
        constants[f"{name}_weight"] = np.random.default_rng(len(name)).normal(size=(4, 4, 1, 1)) / 2
        constants |= {f"{name}_{key}": value for key, value in case.constants.items()}
    outputs = ", ".join(f"float {name}" for name in cases)
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]>\n'
        f"cases (float[N, {CHANNELS}, {SIZE}, {SIZE}] image) => ({outputs}) {{\n" + "\n".join(lines) + "\n}"
    )
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, values in constants.items():
        array = values.astype(np.float32) if np.asarray(values).dtype.kind == "f" else np.asarray(values)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture(scope="module", params=OPSETS, ids=lambda opset: f"opset{opset}")
def opset(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def network(opset: int) -> onnx.ModelProto:
    return _network(opset)


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


@pytest.mark.training
def test_gradients_equal_finite_differences(network, image, opset):
    outputs = Session(network, optimize=False).run({"image": image})
    targets = {name: np.cos(np.arange(v.size)).reshape(v.shape).astype("f4") for name, v in outputs.items()}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    descent = TrainSettings(loss="mse", optimizer="sgd", learning_rate=1.0, momentum=0.0, schedule="constant")
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
