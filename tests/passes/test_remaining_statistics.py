"""Statistics of sparse models over the remaining channels: one function with the dense model."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.errors import ModelError
from onnxprune.evaluate.equivalence.verification import is_exact
from onnxprune.ir import STATISTICS_KEY, Model, check, noted_statistics
from onnxprune.passes.base import PassResult
from onnxprune.passes.finetune import Finetune
from onnxprune.passes.prune import Prune
from onnxprune.passes.recover import Recover
from onnxprune.passes.transform import Transform
from onnxprune.runtime import Session

WIDTH = 24


def stream(kind: str, opset: int = 17) -> Model:
    """A pre-norm residual stream, the mean of which is far from zero, with one kind of statistic."""
    net = Net(opset=opset)
    x = net.linear(net.input("x", ["N", 5, 12]), WIDTH)
    x = net.op("Add", x, net.vector(WIDTH, 1.0, 3.0))
    for _ in range(2):
        branch = net.linear(net.op("Relu", net.linear(STATISTICS[kind](net, x), 16)), WIDTH)
        x = net.op("Add", x, branch)
    return check(Model(net.model(net.linear(STATISTICS[kind](net, x), 6)).proto))


def _mean_and_variance(net: Net, x: str) -> str:
    y = net.op("MeanVarianceNormalization", x, axes=[2])
    net.types[y] = net.types[x]
    return y


STATISTICS = {
    "layer norm": lambda net, x: net.layer_norm(x, spelled_out=False),
    "mean and variance": _mean_and_variance,
    "mean": lambda net, x: net.op("Sub", x, net.reduce("ReduceMean", net.op("Sigmoid", x), [-1])),
    "norm": lambda net, x: net.op("Mul", x, net.op("LpNormalization", net.op("Sigmoid", x), axis=-1)),
}


def pruned(model: Model, reduction: float = 0.4) -> PassResult:
    return Prune(reduce_channels=reduction, strategy="uniform", round_to=1, allow_inexact=True)(model)


def drawn(count: int = 96) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(count, 5, 12)).astype("f4")}


def answered(model: Model) -> np.ndarray:
    return Session(model.proto).run(drawn())[model.outputs[0].name]


def apart(one: Model, other: Model) -> float:
    """Return the largest difference of two models on samples."""
    a, b = answered(one), answered(other)
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("kind", STATISTICS)
def test_sparse_and_dense_are_one_function(kind: str) -> None:
    model = stream(kind)
    assert WIDTH in {g.size for g in find_channels(model, allow_inexact=True).groups}
    sparse = pruned(model)
    assert noted_statistics(sparse.model)
    assert is_exact(sparse.model)
    dense = Transform()(sparse)
    assert dense.facts["exact"]
    assert apart(sparse.model, dense.model) <= 1e-5
    assert apart(model, dense.model) > 1e-3
    assert STATISTICS_KEY not in dense.model.metadata()
    assert not [name for name in dense.model.names if "__remaining" in name]


@pytest.mark.parametrize("opset", [9, 13, 17, 18, 21])
def test_axes_of_the_mean_are_written_in_the_form_of_the_opset(opset: int) -> None:
    sparse = pruned(stream("mean and variance", opset))
    assert apart(sparse.model, Transform()(sparse).model) <= 1e-5


def test_a_second_cut_takes_the_place_of_the_first() -> None:
    first = pruned(stream("layer norm"), 0.2)
    second = pruned(first.model, 0.5)
    assert len(second.model.nodes) == len(first.model.nodes)
    assert apart(second.model, Transform()(second).model) <= 1e-5
    assert apart(first.model, second.model) > 1e-3


def test_repair_and_training_keep_them_one_function() -> None:
    model, sparse = stream("layer norm"), pruned(stream("layer norm"))
    repaired = Recover(original=model, data=drawn(), samples=96, threads=1)(sparse)
    assert apart(repaired.model, Transform()(repaired).model) <= 1e-5
    tuned = Finetune(drawn(), loss="distill", teacher=model, epochs=1, lr=0.01, threads=1)(repaired)
    assert apart(tuned.model, Transform()(tuned).model) <= 1e-5
    assert noted_statistics(tuned.model) == noted_statistics(sparse.model)


def test_a_repair_counts_in_the_dense_model() -> None:
    model, sparse = stream("layer norm"), pruned(stream("layer norm"))
    repaired = Recover(original=model, data=drawn(), samples=96, threads=1)(sparse)
    before, after = (apart(model, Transform()(m).model) for m in (sparse, repaired))
    assert after < 0.5 * before
    (error,) = repaired.facts["outputs"].values()
    found = np.square(answered(Transform()(repaired).model) - answered(model)).mean()
    assert error["mse_after"] == pytest.approx(found, rel=1e-3)


def test_a_damaged_note_is_named() -> None:
    sparse = pruned(stream("layer norm")).model
    sparse.set_metadata(STATISTICS_KEY, "[1]")
    with pytest.raises(ModelError, match="is damaged"):
        find_channels(sparse)
