"""Options of a training run, and the step size over its course."""

from __future__ import annotations

import math

import onnx.parser
import pytest

from onnxprune.errors import UsageError
from onnxprune.train.settings import TrainSettings
from onnxprune.train.step_sizes import default_step_size, holds_attention


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"momentum": 1.0},
        {"warmup": 1.0},
        {"clip_norm": 0.0},
        {"temperature": 0.0},
        {"threads": 0},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        TrainSettings(**options)


def test_defaults_suit_the_optimizer():
    sgd, adamw = TrainSettings(), TrainSettings(optimizer="adamw")
    assert (sgd.optimizer, sgd.peak, sgd.largest_norm) == ("sgd", 0.02, 1.0)
    assert (adamw.peak, adamw.largest_norm) == (0.0005, math.inf)
    assert TrainSettings(clip_norm=math.inf).largest_norm == math.inf


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("linear", [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * step / 6) for step in range(6)]),
        ("step", [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_schedules(schedule, expected):
    settings = TrainSettings(learning_rate=1.0, schedule=schedule)
    assert [settings.learning_rate_at(step, 6) for step in range(6)] == pytest.approx(expected)
    assert settings.learning_rate_at(7, 6) == pytest.approx(expected[-1])


def test_warm_up_rises_to_the_peak_and_hands_over():
    settings = TrainSettings(learning_rate=1.0, schedule="linear", warmup=0.4)
    rates = [settings.learning_rate_at(step, 10) for step in range(10)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize(
    ("body", "attention"),
    [
        ("y = LayerNormalization<axis = -1>(x, s)", True),
        ("p = Softmax<axis = -1>(x)\n v = Transpose<perm = [0, 2, 1]>(x)\n y = MatMul(p, v)", True),
        ("p = Softmax<axis = -1>(x)\n y = MatMul(p, w)", False),  # a table of classes behind a Softmax
        ("y = MatMul(x, w)", False),
    ],
)
def test_step_sizes_follow_the_operators(body, attention):
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 3, 3] x) => (float[N, 3, 3] y) <float[3] s = {{1, 1, 1}}, float[3, 3] w = {{{"1," * 8}1}}>
        {{ {body} }}""")
    assert holds_attention(model) == attention
    for optimizer in ("sgd", "adamw"):
        usual = TrainSettings(optimizer=optimizer).peak
        found = default_step_size(model, optimizer)
        assert found < usual if attention and optimizer == "adamw" else found == usual
