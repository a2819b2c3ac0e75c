"""Layers as linear maps: rows of the operand times the matrices are the rows of onnxruntime's result."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper, parser

from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Recover
from onnxprune.runtime import Session
from onnxprune.scoring.layerwise.layer_recognition import linear_of

NODES = {  # the node, the shapes of x and w
    "Conv": ("y = Conv <kernel_shape = [3, 2], pads = [1, 0, 2, 1]> (x, w)", (2, 4, 7, 6), (6, 4, 3, 2)),
    "grouped": ("y = Conv <kernel_shape = [3], group = 2, strides = [2]> (x, w)", (2, 4, 9), (6, 2, 3)),
    "depthwise": ("y = Conv <kernel_shape = [3], group = 4, dilations = [2]> (x, w)", (2, 4, 9), (4, 1, 3)),
    "pointwise": ("y = Conv <kernel_shape = [1, 1, 1]> (x, w)", (2, 3, 2, 3, 4), (5, 3, 1, 1, 1)),
    "same upper": (
        'y = Conv <kernel_shape = [4, 2], strides = [2, 3], auto_pad = "SAME_UPPER"> (x, w)',
        (2, 3, 8, 8),
        (5, 3, 4, 2),
    ),
    "transposed": ("y = ConvTranspose <kernel_shape = [3, 2]> (x, w)", (2, 4, 3, 5), (4, 6, 3, 2)),
    "transposed, strided": (
        "y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w)",
        (2, 4, 3, 5),
        (4, 6, 2, 2),
    ),
    "transposed, all at once": (
        "y = ConvTranspose <kernel_shape = [3, 4], strides = [2, 3], dilations = [2, 1], group = 2, "
        "pads = [1, 2, 3, 0], output_padding = [1, 2]> (x, w)",
        (2, 4, 5, 4),
        (4, 3, 3, 4),
    ),
    "transposed, to a shape": (
        "y = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2], output_shape = [8, 10]> (x, w)",
        (2, 2, 4, 5),
        (2, 3, 3, 3),
    ),
    "transposed, same upper": (
        'y = ConvTranspose <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x, w)',
        (2, 2, 4, 5),
        (2, 3, 3, 3),
    ),
    "transposed, same lower": (
        'y = ConvTranspose <kernel_shape = [4, 3], strides = [3, 2], auto_pad = "SAME_LOWER"> (x, w)',
        (2, 2, 4, 5),
        (2, 3, 4, 3),
    ),
    "transposed, gaps": (
        "y = ConvTranspose <kernel_shape = [2], strides = [4], output_padding = [3]> (x, w)",
        (2, 2, 4),
        (2, 3, 2),
    ),
    "Gemm": ("y = Gemm (x, w)", (7, 4), (4, 5)),
    "Gemm, both transposed": ("y = Gemm <transA = 1, transB = 1, alpha = 0.5> (x, w)", (4, 7), (5, 4)),
    "Gemm, weights left": ("y = Gemm <alpha = 2.0> (w, x)", (4, 7), (5, 4)),
    "Gemm, weights left, transposed": ("y = Gemm <transA = 1, transB = 1> (w, x)", (7, 4), (4, 5)),
    "MatMul": ("y = MatMul (x, w)", (3, 7, 4), (4, 5)),
    "MatMul, weights left": ("y = MatMul (w, x)", (3, 4, 7), (5, 4)),
    "stack": ("y = MatMul (x, w)", (2, 3, 7, 4), (3, 4, 5)),
    "stack, of stacks": ("y = MatMul (x, w)", (2, 2, 3, 7, 4), (2, 3, 4, 5)),
    "stack, one input for all": ("y = MatMul (x, w)", (2, 1, 7, 4), (3, 4, 5)),
    "stack, no batch": ("y = MatMul (x, w)", (3, 7, 4), (3, 4, 5)),
    "stack, repeated": ("y = MatMul (x, w)", (2, 3, 7, 4), (1, 4, 5)),
    "stack, repeated outside": ("y = MatMul (x, w)", (2, 3, 7, 4), (2, 1, 4, 5)),
}


def model_of(body: str, x: tuple[int, ...], w: tuple[int, ...]) -> Model:
    sizes = ", ".join(map(str, x))
    names = ", ".join(f"p{k}" for k in range(len(x)))
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{sizes}] x) => (float[{names}] y) {{ {body} }}'
    proto = parser.parse_model(text)
    values = np.random.default_rng(0).standard_normal(w).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    return Model(proto)


@pytest.mark.parametrize("kind", NODES)
def test_rows_times_matrices_are_the_result(kind):
    body, shape, weights = NODES[kind]
    model = model_of(body, shape, weights)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    y = Session(model.proto, optimize=False).run({"x": x})["y"]
    layer = linear_of(model, model.nodes[0])
    matrices = layer.matrices(model.array("w"))
    rows = layer.rows(y)
    for picked in (np.arange(rows), np.array([0, rows - 1])):
        made = layer.inputs(x, y, picked) @ matrices.swapaxes(1, 2)
        np.testing.assert_allclose(made, layer.results(y, picked), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.tensor(matrices), model.array("w"), rtol=1e-6)
    assert layer.columns(y).shape[-1] == layer.groups * layer.outputs
    assert (layer.weight, layer.flow) == ("w", "x")


def test_layers_without_weights_of_their_own_are_named():
    model = model_of("h = MatMul (x, x)  y = Add (h, w)", (4, 4), (4, 4))
    assert linear_of(model, model.nodes[0]) == "its weights are not a constant"
    assert "is not a linear map" in linear_of(model, model.nodes[1])
    shared = model_of("h = MatMul (x, w)  y = MatMul (h, w)", (4, 4), (4, 4))
    assert linear_of(shared, shared.nodes[0]) == "other nodes share its weights"
    left = model_of("y = MatMul (w, x)", (3, 4, 7), (3, 5, 4))
    assert "stands on the right" in linear_of(left, left.nodes[0])


BEHIND = {  # a reader of twelve channels that two inputs make
    "transposed": (
        "h = Conv <kernel_shape = [1]> (x, w1, b1)  "
        "y = ConvTranspose <kernel_shape = [3], strides = [2], pads = [1, 1]> (h, w2, b2)",
        {"w1": (12, 2, 1), "b1": (12,), "w2": (12, 4, 3), "b2": (4,)},
    ),
    "transposed and grouped": (
        "h = Conv <kernel_shape = [1]> (x, w1, b1)  "
        "y = ConvTranspose <kernel_shape = [2], group = 2> (h, w2)",
        {"w1": (12, 2, 1), "b1": (12,), "w2": (12, 4, 2)},
    ),
    "weights left": (
        "h = Conv <kernel_shape = [1]> (x, w1, b1)  y = MatMul (w2, h)",
        {"w1": (12, 2, 1), "b1": (12,), "w2": (5, 12)},
    ),
    "stack": (
        "t = Transpose <perm = [0, 2, 1]> (x)  m = MatMul (t, w1)  h = Add (m, b1)  "
        "u = Unsqueeze (h, one)  y = MatMul (u, w2)",
        {"w1": (2, 12), "b1": (12,), "w2": (3, 12, 4)},
    ),
}


@pytest.mark.parametrize("kind", BEHIND)
def test_least_squares_repairs_every_kind_exactly(kind):
    body, shapes = BEHIND[kind]
    random = np.random.default_rng(2)
    rank = 4 if kind == "stack" else 3
    sizes = ", ".join(f"p{k}" for k in range(rank))
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2, 9] x) => (float[{sizes}] y) {{ {body} }}'
    proto = parser.parse_model(text)
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    if kind == "stack":
        proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model = check(Model(proto))
    sparse = Prune(reduce_channels=0.3, round_to=1)(model).model
    x, fresh = (random.standard_normal((n, 2, 9)).astype(np.float32) for n in (60, 9))
    result = Recover(model, {"x": x}, samples=60)(sparse)
    wanted, before, after = (
        Session(m.proto, optimize=False).run({"x": fresh})["y"] for m in (model, sparse, result.model)
    )
    assert [layer["node"] for layer in result.facts["layers"]] == ["y"], result.facts["skipped"]
    assert np.square(after - wanted).mean() < 1e-3 * np.square(before - wanted).mean()
