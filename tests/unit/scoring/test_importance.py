"""Scores: the ranking of channels, each spread over several tensors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net
from places import CASES

from onnxprune.analysis.groups.channels import Channels, Group, find_channels
from onnxprune.errors import UsageError
from onnxprune.ir import Model, load
from onnxprune.passes import Prune, Transform
from onnxprune.scoring.criteria import CRITERIA, NEED_DATA, comparable, score
from onnxprune.scoring.criteria.criteria import structure


def network(normalised: bool = True) -> Model:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    x = net.relu(net.bn(x) if normalised else x)
    return net.model(net.gemm(net.op("Flatten", net.conv(x, 6)), 3))


def first_group(model: Model) -> tuple[Channels, Group]:
    channels = find_channels(model)
    return channels, channels.groups[0]


def scaled(model: Model, channel: int, by: float) -> Model:
    """Make all weights of one channel of the first group larger or smaller."""
    changed = model.copy()
    _, group = first_group(model)
    for place in group.places:
        values = changed.array(place.tensor).copy()
        np.moveaxis(values, place.axis, 0)[channel] *= by
        changed.set_array(place.tensor, values)
    return changed


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c not in NEED_DATA])
def test_scores_have_a_mean_of_one(criterion: str) -> None:
    channels, _ = first_group(network())
    for group in channels.groups:
        scores = score(channels, group, criterion)
        assert scores.shape == (group.size,)
        assert scores.mean() == pytest.approx(1)
        assert (scores > 0).all()


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn"])
def test_small_weights_matter_little(criterion: str) -> None:
    model = network()
    assert score(*first_group(scaled(model, 5, 0.01)), criterion).argmin() == 5
    assert score(*first_group(scaled(model, 2, 100.0)), criterion).argmax() == 2


def test_l1_and_l2_by_hand() -> None:
    """One matrix makes the channels and one reads them: the shares of both are averaged."""
    net = Net()
    a, b = net.random.normal(size=(2, 5)), net.random.normal(size=(5, 3))
    x = net.op("MatMul", net.input("x", ["N", 2]), net.const(a))
    channels, group = first_group(net.model(net.op("MatMul", net.relu(x), net.const(b))))
    columns, rows = np.abs(a).sum(0), np.abs(b).sum(1)
    by_hand = (columns / columns.mean() + rows / rows.mean()) / 2
    assert score(channels, group, "l1") == pytest.approx(by_hand / by_hand.mean(), rel=1e-5)
    columns, rows = (a**2).sum(0), (b**2).sum(1)
    by_hand = np.sqrt((columns / columns.mean() + rows / rows.mean()) / 2)
    assert score(channels, group, "l2") == pytest.approx(by_hand / by_hand.mean(), rel=1e-5)


def test_bn_reads_the_scale_alone() -> None:
    model = network()
    norm = next(n for n in model.nodes if n.op_type == "BatchNormalization")
    scale = np.array([0.5, -2.0, 1.0, 0.25, 3.0, 1.0, 1.0, 1.0], np.float32)
    model.set_array(norm.input[1], scale)
    channels, group = first_group(model)
    assert score(channels, group, "bn") == pytest.approx(np.abs(scale) / np.abs(scale).mean())


def test_bn_without_a_normalisation_is_l2() -> None:
    channels, group = first_group(network(normalised=False))
    assert np.array_equal(score(channels, group, "bn"), score(channels, group, "l2"))


def test_one_channel_of_several_columns() -> None:
    """After Flatten every channel has sixteen columns; all of them count."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 4, bias=False)
    w = np.ones((3, 64))
    w[:, 32:48] = 0.001
    y = net.op("Gemm", net.op("Flatten", x), net.const(w), transB=1)
    channels, group = first_group(net.model(y))
    assert score(channels, group, "l1").argmin() == 2


def test_random_is_seeded_and_differs_by_group() -> None:
    channels, group = first_group(network())
    one = score(channels, group, "random", 1)
    assert np.array_equal(one, score(channels, group, "random", 1))
    assert not np.array_equal(one, score(channels, group, "random", 2))
    other = score(channels, channels.groups[1], "random", 1)
    assert not np.array_equal(one[:6], other)


def test_all_zero_weights_are_all_alike() -> None:
    model = network(normalised=False)
    channels, group = first_group(model)
    for place in group.places:
        model.set_array(place.tensor, np.zeros_like(model.array(place.tensor)))
    assert score(channels, group, "l2").tolist() == [1.0] * 8


def test_an_unknown_criterion() -> None:
    channels, group = first_group(network())
    with pytest.raises(UsageError, match="unknown criterion 'best'") as caught:
        score(channels, group, "best")
    assert "l1" in caught.value.hint


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn", "geometric-median", "lamp"])
def test_places_that_are_forbidden_do_not_stop_the_ranking(criterion: str) -> None:
    """A table of attention biases has −∞ at masked positions: it is ranked by its other entries."""
    path = CASES / "inf_bias.onnx"
    sparse = Prune(reduce_channels=0.5, round_to=1, criterion=criterion)(load(path))
    assert Transform()(sparse).facts["params_reduction"] >= 0.45


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_a_bias_in_another_shape_makes_no_other_structure(criterion: str) -> None:
    """Biases added as ``[1, c, 1, 1]``, reshaped before they are, or a part of the convolution's own."""

    def network(shaped: bool) -> Model:
        net = Net(seed=3)
        x = net.input("x", [1, 3, 8, 8])
        for width, first in ((8, True), (96, False)):
            x = net.conv(x, width, bias=False)
            bias = net.random.normal(size=width)
            if shaped and first:
                bias = net.const(bias.reshape(1, width, 1, 1))
            else:
                bias = net.reshape(net.const(bias), 1, width, 1, 1)
            x = net.relu(net.add(x, bias))
        return net.model(net.head(net.conv(x, 4)))

    scores = []
    for shaped in (False, True):
        channels = find_channels(network(shaped))
        scores.append(comparable(channels, channels.groups, criterion))
        assert len({structure(channels, g) for g in channels.groups[:2]}) == 1
    for one, two in zip(*(s.values() for s in scores), strict=True):
        assert np.allclose(one, two)
