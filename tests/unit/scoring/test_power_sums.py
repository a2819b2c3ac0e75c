"""Sums of powers of weights: their precision, and the number of times that a weight is read for them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net

from onnxprune.ir import Model
from onnxprune.passes import Prune
from onnxprune.scoring.criteria import power_sums as module
from onnxprune.scoring.criteria.power_sums import power_sums

SHAPES = [(300, 41), (7, 600), (40, 12, 3, 3), (5, 900, 1), (4000,), (1, 3000)]


def sums_of(values, power):
    """Return the sums of a constant."""
    tensor = onnx.numpy_helper.from_array(values, "w")
    graph = onnx.helper.make_graph([], "one", [], [], [tensor])
    return power_sums(Model(onnx.helper.make_model(graph)), "w", power)


def expected(values, power):
    """Return the same in float64, −∞ as 0."""
    wide = values.astype(np.float64)
    powers = np.abs(np.where(np.isneginf(wide), 0, wide)) ** power
    others = (tuple(b for b in range(values.ndim) if b != a) for a in range(values.ndim))
    return [powers.sum(axis=axes) for axes in others]


@pytest.fixture(params=[1 << 18, 500], ids=["whole", "blocks"])
def block(request, monkeypatch):
    """Let tensors be added up in one part, or in many."""
    monkeypatch.setattr(module, "BLOCK", request.param)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_those_in_float64(shape, kind, power, block):
    values = (np.random.default_rng(0).standard_normal(shape) * 20).astype(kind)
    for found, right in zip(sums_of(values, power), expected(values, power), strict=True):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1e19, 1e30])
def test_squares_beyond_the_range_of_float32_are_not_lost(scale, block):
    values = (np.random.default_rng(0).standard_normal((60, 30)) * np.float32(1)).astype(np.float32)
    values[10] *= np.float32(scale)
    values[11] = 0
    values[:, 5] = 0
    for found, right in zip(sums_of(values, 2), expected(values, 2), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5)
        assert ((found == 0) == (right == 0)).all()


def test_minus_infinity_counts_as_zero_and_other_values_are_passed_on(block):
    values = np.ones((60, 30), np.float32)
    values[3, 4] = -np.inf
    assert sums_of(values, 1)[0][3] == 29
    values[3, 4] = np.inf
    assert not np.isfinite(sums_of(values, 1)[0][3])


def test_equal_channels_have_equal_sums(block):
    values = np.random.default_rng(0).standard_normal((90, 50)).astype(np.float32)
    values[70], values[:, 40] = values[3], values[:, 2]
    values[70, 40], values[3, 40] = values[70, 2], values[3, 2]
    rows, columns = sums_of(values, 2)
    assert rows[70] == rows[3]
    assert columns[40] == columns[2]


def test_a_weight_is_read_once_for_all_groups_and_scores(monkeypatch):
    net = Net()
    x = net.input("x", ["N", 16])
    model = net.model(net.gemm(net.relu(net.gemm(net.relu(net.gemm(x, 24)), 24)), 4))
    read, powers = [], module._powers
    monkeypatch.setattr(module, "_powers", lambda values, power: read.append(1) or powers(values, power))
    Prune(reduce_params=0.4, criterion="l2", strategy="global")(model)
    assert len(read) == 3
