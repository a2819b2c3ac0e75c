"""Real architectures from onnx's own test data, which has no weights: filled at random, then pruned."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.ir import Model, load
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session, sample_feeds

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
LARGE = ["resnet50", "densenet121", "inception_v1", "inception_v2", "vgg19", "shufflenet"]
networks = pytest.mark.parametrize(
    "name", ["squeezenet", *(pytest.param(n, marks=[pytest.mark.real, pytest.mark.slow]) for n in LARGE)]
)


@cache
def filled(name: str) -> Model:
    """Fold what makes the weights, and draw them so that signals neither vanish nor grow."""
    folded, _ = canonicalise(load(FOLDER / f"light_{name}.onnx"))
    model, random = folded.copy(), np.random.default_rng(0)
    norms = [n for n in model.nodes if n.op_type == "BatchNormalization"]
    scales, variances = {n.input[1] for n in norms}, {n.input[4] for n in norms}
    for tensor, proto in model.constants.items():
        if proto.data_type != onnx.TensorProto.FLOAT:
            continue
        shape = tuple(proto.dims)
        if tensor in scales | variances:
            values = random.uniform(0.8, 1.2, shape)
        elif len(shape) > 1:
            values = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            values = random.normal(size=shape) * 0.05
        model.set_array(tensor, values.astype(np.float32))
    _damp_residuals(model, scales)
    return model


def _damp_residuals(model: Model, scales: set[str]) -> None:
    """Scale down the branch that is added to what it started from, or sums would double with every block."""
    makers = {o: n for n in model.nodes for o in n.output}
    for node in model.nodes:
        branches = [makers[i] for i in node.input if i in makers] if node.op_type in ("Add", "Sum") else []
        for maker in branches[:1]:
            if maker.op_type == "BatchNormalization":
                model.set_array(maker.input[1], model.array(maker.input[1]) * np.float32(0.3))


@networks
@pytest.mark.parametrize("reduction", [0.3, 0.5, 0.7])
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
    """What goes into the classifier's last function is of a size at which errors show."""
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
