"""The metric and the loss that are suggested for a model and its data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

from onnxprune.evaluate.data import open_data
from onnxprune.evaluate.suggestion import suggest
from onnxprune.ir import Model
from onnxprune.runtime import Session

COUNT = 120
RANDOM = np.random.default_rng(0)


def model(inputs: str, outputs: str, body: str) -> Model:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return Model(onnx.parser.parse_model(text))


def suggested(network: Model, **arrays: Any) -> tuple[str, str]:
    session = Session(network.proto)
    found = suggest(network, session, open_data(arrays, session.inputs, session.outputs))
    return found.metric, found.loss


def floats(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


WEIGHT = "w = Constant<value = float[3, 3] {1, 2, 3, 4, 5, 6, 7, 8, 1}>()\n"
LAYER = ("float[N, 3] x", "float[N, 3] y", WEIGHT + "y = MatMul(x, w)")
TWO = (
    "float[N, 3] x",
    "int64[N] best, float[N, 3] y",
    WEIGHT + "y = MatMul(x, w)\n best = ArgMax<axis = 1, keepdims = 0>(y)",
)
SCORE = ("float[N, 1] x", "float[N, 1] y", "y = Sigmoid(x)")
NUMBER = ("float[N, 1] x", "float[N, 1] y", "y = Neg(x)")
SOFTMAX = ("float[N, 3, 4, 4] x", "float[N, 3, 4, 4] y", "y = Softmax<axis = 1>(x)")
UNIT = (
    "float[N, 3] x",
    "float[N, 3] y",
    WEIGHT + "m = MatMul(x, w)\n y = LpNormalization<axis = 1, p = 2>(m)",
)
STATES = (
    "int64[N, T] input_ids",
    "float[N, T, 3] y",
    """t = Constant<value = float[4, 3] {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}>()
    s = Constant<value = float[3] {1, 1, 1}>()
    e = Gather(t, input_ids)
    y = LayerNormalization<axis = -1>(e, s)""",
)
LOGITS = (
    "int64[N, T] input_ids",
    "float[N, T, 3] y, float[N, T, 3] present",
    WEIGHT
    + """t = Constant<value = float[4, 3] {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}>()
    present = Gather(t, input_ids)
    y = MatMul(present, w)""",
)
FRAMES = ("float[N, T, 4] x", "float[N, T, 4] y", "y = Softmax<axis = -1>(x)")
BOXES = ("float[N, 7, 20] x", "float[N, 7, 20] y", "y = Identity(x)")
PICTURE = ("float[N, 3, 4, 4] x", "float[N, 3, 4, 4] y", "y = Neg(x)")


def boxes() -> Any:
    table = RANDOM.uniform(20, 60, (COUNT, 7, 20)).astype(np.float32)
    table[:, 4:] = RANDOM.uniform(0, 0.2, (COUNT, 3, 20))
    table[:, 5, 3] = 0.9
    return table


def frames() -> Any:
    scores = floats(COUNT, 9, 4)
    scores[..., 0] += 3
    return scores


IDS = RANDOM.integers(0, 4, (COUNT, 5))
CASES = {
    "labels": (
        LAYER,
        {"x": floats(COUNT, 3), "labels": RANDOM.integers(0, 3, COUNT)},
        ("top1", "0.5*cross-entropy + 0.5*distill"),
    ),
    "labels of the second output": (
        TWO,
        {"x": floats(COUNT, 3), "labels": RANDOM.integers(0, 3, COUNT)},
        ("top1", "0.5*cross-entropy + 0.5*distill"),
    ),
    "labels of one score": (
        SCORE,
        {"x": floats(COUNT, 1), "labels": RANDOM.integers(0, 2, COUNT)},
        ("agreement", "distill"),
    ),
    "values": (LAYER, {"x": floats(COUNT, 3), "y": floats(COUNT, 3)}, ("mse", "distill")),
    "one value": (NUMBER, {"x": floats(COUNT, 1), "y": floats(COUNT, 1)}, ("mse", "distill")),
    "probabilities": (
        ("float[N, 3] x", "float[N, 3] y", "y = Softmax<axis = 1>(x)"),
        {"x": floats(COUNT, 3), "y": np.full((COUNT, 3), 1 / 3, np.float32)},
        ("agreement", "distill"),
    ),
    "classes": (LAYER, {"x": floats(COUNT, 3)}, ("agreement", "distill")),
    "segmentation": (SOFTMAX, {"x": floats(COUNT, 3, 4, 4)}, ("agreement", "distill")),
    "unit vectors": (UNIT, {"x": floats(COUNT, 3)}, ("retrieval@10", "cosine")),
    "few unit vectors": (UNIT, {"x": floats(20, 3)}, ("cosine", "cosine")),
    "hidden states": (STATES, {"input_ids": IDS}, ("retrieval@10", "cosine")),
    "language model": (LOGITS, {"input_ids": IDS}, ("perplexity", "distill")),
    "recogniser": (FRAMES, {"x": frames()}, ("cer", "distill")),
    "texts": (FRAMES, {"x": frames(), "labels": RANDOM.integers(1, 4, (COUNT, 2))}, ("cer", "distill")),
    "detector": (BOXES, {"x": boxes()}, ("detections", "distill")),
    "numbers in a table like boxes": (BOXES, {"x": floats(COUNT, 7, 20)}, ("cosine", "distill")),
    "picture": (PICTURE, {"x": floats(COUNT, 3, 4, 4)}, ("cosine", "distill")),
}


@pytest.mark.parametrize("case", CASES)
def test_metric_and_loss_fit_the_output(case: str) -> None:
    network, arrays, wanted = CASES[case]
    assert suggested(model(*network), **arrays) == wanted


def test_without_data_the_declared_shapes_decide() -> None:
    for network, metric in ((LAYER, "top1"), (SOFTMAX, "agreement")):
        found = model(*network)
        assert suggest(found, Session(found.proto), None).metric == metric
