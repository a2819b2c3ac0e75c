"""The table of trainable operators is true."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import pytest
from training_cases import CASES, FUNCTIONS
from training_networks import CLASSES, cnn, stripes, with_weights
from training_table import OWN, SPELLED, TABLE, operators, table, verdict, verdict_of_stock

from onnxprune.ops.spec import SPECS, find_spec
from onnxprune.train.engine import train
from onnxprune.train.gradient_support import DIFFERENTIABLE, REASONS
from onnxprune.train.pullbacks import PULLBACKS
from onnxprune.train.rewrites.registry import qualified
from onnxprune.train.settings import TrainSettings

ELSEWHERE = {"BatchNormalization"}  # below, for it has no forward that could be run twice


def test_the_table_is_up_to_date():
    assert TABLE.read_text("utf-8").startswith(table()), "python tests/support/training_table.py writes it"


def test_every_operator_that_is_trained_is_compared_with_finite_differences():
    written = "\n".join(case.body for case in CASES.values())
    compared = set(re.findall(r"= ([\w.]+)[<(]", written)) | ELSEWHERE
    trained = {operator for operator in operators() if verdict(operator)[0] in (OWN, SPELLED)}
    assert trained - compared == set()
    stock = {operator for operator in operators() if verdict_of_stock(operator) in (OWN, SPELLED)}
    assert stock - compared - FUNCTIONS == set()
    assert trained <= stock


def test_pullbacks_are_the_gradients_of_specs():
    for operator, rule in PULLBACKS.items():
        domain, _, name = operator.rpartition(".")
        assert find_spec(domain, name).gradient is rule


def test_no_operator_is_in_two_lists():
    stops = {qualified(spec.name, spec.domain) for spec in SPECS.values() if spec.discrete}
    assert not DIFFERENTIABLE & stops
    assert not (DIFFERENTIABLE | stops) & set(REASONS)
    assert all(verdict(operator)[1] for operator in operators() if not verdict(operator)[0])


SPELLED_OUT = """
    m = ReduceMean<axes = [0, 2, 3]>(c1)
    d = Sub(c1, m)
    q = Mul(d, d)
    v = ReduceMean<axes = [0, 2, 3]>(q)
    e = Add(v, epsilon)
    r = Sqrt(e)
    s = Div(d, r)
    t = Reshape(scale, shape)
    u = Mul(s, t)
    w = Reshape(bias, shape)
    b1 = Add(u, w)
"""


def test_batch_normalization_has_the_gradient_of_its_mode():
    fused, spelled = cnn(), cnn()
    nodes = onnx.parser.parse_graph(
        f"g (float[N, 8, 8, 8] c1, float epsilon) => (float[N, 8, 8, 8] b1) {{{SPELLED_OUT}}}"
    ).node
    rest = [*spelled.graph.node]
    del spelled.graph.node[:]
    spelled.graph.node.extend([rest[0], *nodes, *rest[2:]])
    random = np.random.default_rng(1)
    own = {"scale": random.uniform(0.5, 1.5, 8), "bias": random.normal(size=8)}
    fused = with_weights(fused, own)
    spelled = with_weights(spelled, own | {"epsilon": np.float32(1e-5), "shape": np.array([1, 8, 1, 1])})
    images, labels = stripes(16, seed=3)
    assert labels.max() < CLASSES
    batch = ({"image": images}, {"labels": labels})
    settings = TrainSettings(
        optimizer="sgd", learning_rate=1.0, momentum=0.0, schedule="constant", clip_norm=math.inf, threads=1
    )
    found = train(fused, lambda _: [batch], settings=settings, total_steps=1)
    wanted = train(spelled, lambda _: [batch], settings=settings, total_steps=1)
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    for name in ("w1", "scale", "bias", "w2", "b2", "w3", "b3"):
        np.testing.assert_allclose(found.weights[name], wanted.weights[name], atol=2e-5, err_msg=name)
