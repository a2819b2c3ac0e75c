"""Real architectures from onnx's own test data, which has no weights: filled at random, then pruned."""

from __future__ import annotations

import onnx
import pytest
from light_models import filled

from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, sample_feeds

LARGE = ["resnet50", "densenet121", "inception_v1", "inception_v2", "vgg19", "shufflenet"]
LARGE_MARKS = [pytest.mark.real, pytest.mark.slow]
networks = pytest.mark.parametrize(
    "name", ["squeezenet", *(pytest.param(n, marks=LARGE_MARKS) for n in LARGE)]
)
REDUCTIONS = (0.3, 0.5, 0.7)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        *(("squeezenet", r) for r in REDUCTIONS),
        *(pytest.param(n, REDUCTIONS[k % 3], marks=LARGE_MARKS) for k, n in enumerate(LARGE)),
    ],
)
def test_a_budget_of_work(name: str, reduction: float) -> None:
    model = filled(name)
    sparse = Prune(reduce_macs=reduction)(model)
    dense = Transform()(sparse)
    assert abs(sparse.facts["macs_reduction"] - reduction) <= 0.01
    assert dense.facts["max_rel_error"] <= 1e-5
    assert dense.facts["macs"] == sparse.facts["macs"] < dense.facts["macs_before"]
    size = [sum(t.ByteSize() for t in m.constants.values()) for m in (model, dense.model)]
    assert size[1] < (1 - reduction / 4) * size[0]


@networks
def test_signals_neither_vanish_nor_grow(name: str) -> None:
    """Logits have a standard deviation at which errors show."""
    model = filled(name).copy()
    last = model.proto.graph.node[-1]
    logits = last.input[0] if last.op_type == "Softmax" else last.output[0]
    info = onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None)
    if last.op_type == "Softmax":
        model.proto.graph.output.append(info)
    session = Session(model.proto, optimize=False)
    (feed,) = sample_feeds(session.inputs)
    deviation = session.run(feed, [logits])[logits].std()
    assert 0.02 < deviation < 100
