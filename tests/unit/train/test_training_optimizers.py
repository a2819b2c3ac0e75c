"""The numpy optimisers: against their formulas in double precision, and exact under masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.train.optimizers import AdamW, Sgd, Trainable, make_optimizer

STEPS, RATE, DECAY = 5, 0.1, 0.2


def _gradients(shape: tuple[int, ...]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for _ in range(STEPS)]


def _trained(optimizer_of, shape: tuple[int, ...], mask: np.ndarray | None = None) -> np.ndarray:
    tensor = Trainable(np.ones(shape, np.float32), np.zeros(shape, np.float32), mask)
    optimizer = optimizer_of([tensor])
    for gradient in _gradients(shape):
        tensor.gradient[...] = gradient
        optimizer.step(RATE)
    return tensor.weight


def test_sgd_is_heavy_ball_momentum():
    weight, velocity = np.ones((2, 3)), 0.0
    for gradient in _gradients((2, 3)):
        velocity = 0.9 * velocity + gradient + DECAY * weight
        weight = weight - RATE * velocity
    np.testing.assert_allclose(_trained(lambda t: Sgd(t, DECAY), (2, 3)), weight, rtol=1e-5)


def test_adamw_is_the_paper_s_algorithm():
    weight, first, second = np.ones((2, 3)), 0.0, 0.0
    for step, gradient in enumerate(_gradients((2, 3)), 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        unbiased = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weight = weight - RATE * (unbiased + DECAY * weight)
    np.testing.assert_allclose(_trained(lambda t: AdamW(t, DECAY), (2, 3)), weight, rtol=1e-5)


@pytest.mark.parametrize("kind", [Sgd, AdamW])
def test_vectors_do_not_decay(kind):
    decayed, free = (_trained(lambda t, d=decay: kind(t, d), (6,)) for decay in (DECAY, 0.0))
    np.testing.assert_array_equal(decayed, free)


def test_clipping_bounds_the_global_norm():
    tensors = [Trainable(np.zeros(n, np.float32), np.full(n, 3.0, np.float32)) for n in (4, 12)]
    norm = Sgd(tensors, clip_norm=1.0, momentum=0.0).step(1.0)
    assert norm == pytest.approx(12.0)
    moved = np.concatenate([tensor.weight for tensor in tensors])
    assert np.linalg.norm(moved) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_gradient_that_is_not_finite_moves_nothing(name):
    tensor = Trainable(np.ones(2, np.float32), np.array([1.0, np.nan], np.float32))
    optimizer = make_optimizer(name, [tensor], {"weight_decay": 0.1, "clip_norm": 1.0, "momentum": 0.9})
    assert np.isnan(optimizer.step(0.1))
    np.testing.assert_array_equal(tensor.weight, [1, 1])


@settings(deadline=None)
@given(
    name=st.sampled_from(["sgd", "adamw"]),
    mask=st.lists(st.booleans(), min_size=3, max_size=3),
    decay=st.floats(0, 1),
    clip=st.none() | st.floats(0.01, 10),
    rate=st.floats(1e-6, 10),
)
def test_masked_entries_stay_exactly_zero(name, mask, decay, clip, rate):
    kept = np.array(mask)[:, None]
    tensor = Trainable(np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32), kept)
    options = {"weight_decay": decay, "clip_norm": clip, "momentum": 0.9}
    optimizer = make_optimizer(name, [tensor], options)
    for gradient in _gradients((3, 2)):
        tensor.gradient[...] = gradient
        optimizer.step(rate)
        assert not tensor.weight[~np.array(mask)].any()
    assert (tensor.weight[np.array(mask)] != 1).all()
