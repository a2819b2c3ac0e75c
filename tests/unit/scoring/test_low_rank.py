"""Kernels of low rank: the chains, their errors, and the best error there is."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.scoring.layerwise.low_rank_kernels import Unfolding, composed, damped, power

SHAPES = {
    "matrix": ((1, 9, 14), [()]),
    "stack": ((3, 5, 7), [()]),
    "conv1d": ((1, 8, 6, 5), [(0,), ()]),
    "conv2d": ((1, 8, 6, 3, 5), [(0, 1), (0,), (1,), ()]),
    "grouped": ((2, 6, 4, 3, 3), [(0, 1), (0,), ()]),
    "depthwise": ((4, 1, 1, 5, 5), [(0, 1), (0,)]),
    "conv3d": ((1, 6, 4, 3, 2, 3), [(0, 1, 2), (1,), (0, 2), ()]),
}
CASES = [(name, first) for name, (_, firsts) in SHAPES.items() for first in firsts]


def drawn(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A kernel, rows of correlated inputs, and their Gram matrices."""
    random = np.random.default_rng(seed)
    inputs = int(np.prod(shape[2:]))
    mixing = random.normal(size=(shape[0], inputs, inputs)) * np.geomspace(1, 0.01, inputs)
    rows = random.normal(size=(shape[0], 40 * inputs, inputs)) @ mixing
    return random.normal(size=shape), rows, rows.swapaxes(1, 2) @ rows / rows.shape[1]


def squared_error(kernel: np.ndarray, low: np.ndarray, rows: np.ndarray) -> float:
    """The mean squared error of the results, row by row, over all groups."""
    lost = (kernel - low).reshape(*kernel.shape[:2], -1)
    return float(np.square(rows @ lost.swapaxes(1, 2)).sum(2).mean(1).sum())


@pytest.mark.parametrize(("name", "first"), CASES)
def test_errors_are_those_of_the_results(name: str, first: tuple[int, ...]) -> None:
    kernel, rows, gram = drawn(SHAPES[name][0])
    unfolding = Unfolding(kernel, gram, first, 100)
    size = power(kernel, gram)
    for rank in {1, max(1, unfolding.most // 2), unfolding.most}:
        found = unfolding.factored(rank)
        assert squared_error(kernel, composed(found.kernels), rows) == pytest.approx(
            found.error, abs=1e-6 * size
        )
        assert found.kernels[0].shape[1] == found.kernels[1].shape[2] == rank
        outer = unfolding.factored(rank, 1)
        assert squared_error(kernel, composed(outer.kernels), rows) == pytest.approx(
            outer.error, abs=1e-6 * size
        )
        assert unfolding.error(rank) == pytest.approx(unfolding.errors(rank)[-1], abs=1e-6 * size)
        assert unfolding.errors(rank)[1] == pytest.approx(outer.error, abs=1e-6 * size)
    assert unfolding.factored(unfolding.most).error <= 1e-6 * size


def test_no_matrix_of_the_rank_is_nearer() -> None:
    """The bound of Eckart and Young for ``W G^½``; the plain singular values lose more."""
    kernel, rows, gram = drawn((1, 9, 14))
    values, axes = np.linalg.eigh(gram[0])
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    bound = np.square(np.linalg.svd(kernel[0] @ root)[1])
    for rank in (1, 3, 6):
        found = Unfolding(kernel, gram, (), 9).factored(rank)
        assert found.error == pytest.approx(bound[rank:].sum(), rel=1e-4)
        plain = Unfolding(kernel, np.eye(14)[None], (), 9).factored(rank)
        assert found.error < squared_error(kernel, composed(plain.kernels), rows)


def test_kernels_that_are_of_low_rank_lose_nothing() -> None:
    random = np.random.default_rng(3)
    parts = random.normal(size=(1, 3, 5, 3, 1)), random.normal(size=(1, 6, 3, 1, 3))
    kernel = composed(parts)
    gram = np.eye(45)[None]
    assert Unfolding(kernel, gram, (0,), 99).factored(3).error <= 1e-8 * power(kernel, gram)
    assert Unfolding(kernel, gram, (1,), 99).factored(3).error > 1e-3 * power(kernel, gram)


def test_inputs_that_never_vary_are_no_obstacle() -> None:
    kernel = np.random.default_rng(0).normal(size=(1, 4, 6))
    gram = np.zeros((1, 6, 6))
    assert np.allclose(damped(gram), np.eye(6))
    gram[0, 0, 0] = 1.0
    low = Unfolding(kernel, damped(gram), (), 4).factored(1)
    assert np.allclose(composed(low.kernels)[0, :, 0], kernel[0, :, 0], rtol=0.05)
