"""Criteria that are more than a norm: distances, adaptive magnitudes, activations and gradients, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.errors import DataError, UsageError
from onnxprune.ir import Model
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import CRITERIA, NEED_DATA, CalibrationStatistics, comparable, observe, score
from onnxprune.scoring.criteria.gradients import slopes_of
from onnxprune.scoring.criteria.weights import lamp

RANDOM = np.random.default_rng(0)


def perceptron(a: np.ndarray, b: np.ndarray, kind: str = "MatMul") -> tuple[Channels, Group]:
    """Two matrices with a group between them."""
    net = Net()
    x = net.input("x", ["N", len(a)])
    if kind == "Gemm":
        hidden = net.op("Gemm", x, net.const(a.T), transB=1)
        y = net.op("Gemm", net.relu(hidden), net.const(b))
    else:
        y = net.op("MatMul", net.relu(net.op("MatMul", x, net.const(a))), net.const(b))
    channels = find_channels(net.model(y))
    return channels, channels.groups[0]


def test_the_geometric_median_is_the_channel_in_the_midst() -> None:
    """He et al.: a channel near all others is replaceable, small or not."""
    points = np.array([[4.0, 4.0], [5.0, 4.0], [4.0, 5.0], [4.3, 4.3], [0.0, 0.0]])
    channels, group = perceptron(points.T, np.ones((5, 3)))
    scores = score(channels, group, "geometric-median")
    assert scores.argmin() == 3
    assert scores.argmax() == 4
    assert score(channels, group, "l2").argmin() == 4
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1).sum(1)
    by_hand = (apart / apart.mean() + 1) / 2  # the second matrix has equal shares
    assert scores == pytest.approx(by_hand, rel=1e-5)


def test_adaptive_magnitudes() -> None:
    """Lee et al., equation 2: the square over the squares of all that are not smaller."""
    assert lamp(np.array([3.0, 1.0, 2.0])) == pytest.approx([9 / 9, 1 / 14, 4 / 13])
    assert lamp(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_adaptive_magnitudes_compare_groups_as_they_are() -> None:
    channels, group = perceptron(RANDOM.normal(size=(4, 9)), RANDOM.normal(size=(9, 3)))
    found = comparable(channels, [group], "lamp")[group.name]
    assert found.max() == pytest.approx(1.0)
    assert np.array_equal(np.argsort(found), np.argsort(score(channels, group, "l2")))


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_activations_weigh_the_weights(kind: str) -> None:
    """Sun et al.: |w| · ‖x‖, over the weights that read a channel."""
    a, b = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(6, 3))
    channels, group = perceptron(a, b, kind)
    x = RANDOM.normal(size=(50, 4)).astype(np.float32)
    evidence = observe(channels, [{"x": x[:20]}, {"x": x[20:]}])
    after = np.sqrt(np.square(np.maximum(x @ a, 0)).mean(0))
    by_hand = np.sqrt(np.square(b * after[:, None]).sum(1))
    found = score(channels, group, "activation", evidence=evidence)
    assert found == pytest.approx(by_hand / by_hand.mean(), rel=1e-4)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_norms_of_convolutions_in_groups(opset: int, group: int) -> None:
    """Every element of a weight is given the norm of the very channel it multiplies."""
    net = Net(opset=opset)
    x = net.conv(net.input("x", ["N", 3, 5, 5]), 8)
    y = net.conv(x, 8, group=group)
    model = net.model(net.op("ConvTranspose", y, net.weight(8, 4, 2, 2, fan=8)))
    channels = find_channels(model)
    feeds = [{"x": RANDOM.normal(size=(n, 3, 5, 5)).astype(np.float32)} for n in (2, 3)]
    norms = observe(channels, feeds).norms
    seen = model.copy()
    for name in (x, y):
        seen.proto.graph.output.add(name=name)
    session = Session(seen.proto)
    runs = [session.run(f, [x, y]) for f in feeds]
    per_channel = {
        n: np.sqrt(np.square(np.concatenate([r[n] for r in runs])).mean((0, 2, 3))) for n in (x, y)
    }
    second, third = (node.input[1] for node in model.nodes[1:3])
    shape = model.array(second).shape
    for out in range(8):
        for inner in range(shape[1]):
            source = out // (8 // group) * shape[1] + inner
            spread = np.broadcast_to(norms[second], shape)
            assert spread[out, inner, 0, 0] == pytest.approx(per_channel[x][source], rel=1e-4)
    assert np.broadcast_to(norms[third], model.array(third).shape)[:, 0, 0, 0] == pytest.approx(
        per_channel[y], rel=1e-4
    )


def test_activations_that_are_no_numbers() -> None:
    channels, _ = perceptron(np.ones((2, 4)), np.ones((4, 3)))
    with pytest.raises(DataError, match="NaN or infinite"):
        observe(channels, [{"x": np.full((1, 2), np.inf, np.float32)}])
    with pytest.raises(DataError, match="no samples"):
        observe(channels, [])


@pytest.mark.parametrize("criterion", NEED_DATA)
def test_criteria_that_look_at_data_ask_for_it(criterion: str) -> None:
    channels, group = perceptron(np.ones((2, 4)), np.ones((4, 3)))
    with pytest.raises(UsageError, match="looks at samples"):
        score(channels, group, criterion)


def gradients() -> tuple[Channels, Group, list[dict[str, Any]]]:
    channels, group = perceptron(RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(6, 3)))
    names = [p.tensor for p in group.places]
    shapes = {n: tuple(channels.model.constants[n].dims) for n in names}
    return channels, group, [{n: RANDOM.normal(size=s) for n, s in shapes.items()} for _ in range(5)]


def test_slopes_by_hand() -> None:
    """Molchanov et al.: |Σ w·g| over the weights that read a channel; the mean over the batches."""
    channels, group, batches = gradients()
    evidence = slopes_of(channels, iter(batches))
    for name, power in (("taylor", 1), ("fisher", 2)):
        (reader,) = [p.tensor for p in group.places if p.axis == 0]
        w = channels.model.array(reader).astype(np.float64)
        by_hand = np.mean([np.abs((w * g[reader]).sum(1)) ** power for g in batches], axis=0)
        found = score(channels, group, name, evidence=evidence)
        assert found == pytest.approx(by_hand / np.mean(by_hand), rel=1e-6)


def test_no_gradients() -> None:
    channels, _, _ = gradients()
    with pytest.raises(DataError, match="no weight of any group has a gradient"):
        slopes_of(channels, [])


# --- between groups ----------------------------------------------------------------------------------------


def stages(*scales: float) -> Model:
    """Three layers of one structure and one of another, with weights of some sizes."""
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 3, 6, 6]), 8))
    for scale in scales:
        w = net.random.normal(size=(8, 8, 3, 3)) * scale
        x = net.relu(net.conv(x, 8, w=net.const(w.astype(np.float32))))
    return net.model(net.head(x))


def test_groups_of_one_structure_are_compared_by_their_magnitudes() -> None:
    channels = find_channels(stages(1.0, 1.0, 0.01, 0.01, 1.0))
    groups = channels.groups
    found = comparable(channels, groups, "l2")
    assert found[groups[3].name].mean() < 0.1 * found[groups[1].name].mean()
    alone = {g.name: score(channels, g, "l2") for g in groups}
    assert all(s.mean() == pytest.approx(1) for s in alone.values())


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c not in NEED_DATA])
def test_a_structure_of_its_own_has_a_mean_of_one(criterion: str) -> None:
    channels = find_channels(stages(1.0))
    last = channels.groups[-1]
    found = comparable(channels, channels.groups, criterion)
    assert set(found) == {g.name for g in channels.groups}
    if criterion != "lamp":
        assert found[last.name].mean() == pytest.approx(1)


def test_evidence_is_empty_by_default() -> None:
    assert not CalibrationStatistics().norms
