"""Axes whose sizes are equal for reasons that no expression holds: they stay, the channels beside them go."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly
from open_networks import OpenNet, cropped

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model


def two_batches(heads: int, width: int) -> Model:
    """Cross attention whose memory has a batch of its own name, viewed by the batch of the queries."""
    net = Net()
    x, memory = net.input("x", ["N", "L", 12]), net.input("memory", ["M", "K", 20])
    batch = net.slice(net.op("Shape", x), 0, 1, axis=0)
    split = [
        net.transpose(
            net.sized(
                net.op(
                    "Reshape",
                    net.linear(y, heads * width),
                    net.concat(batch, net.ints(-1, heads, width), axis=0),
                ),
                ["", "", heads, width],
            ),
            0,
            2,
            1,
            3,
        )
        for y in (x, memory, memory)
    ]
    q, k, v = (net.sized(y, ["", heads, "", width]) for y in split)
    scores = net.op("MatMul", q, net.sized(net.transpose(k, 0, 1, 3, 2), ["", heads, width, ""]))
    rows = net.sized(net.op("Softmax", net.sized(scores, ["", heads, "", ""]), axis=-1), ["", heads, "", ""])
    y = net.transpose(net.sized(net.op("MatMul", rows, v), ["", heads, "", width]), 0, 2, 1, 3)
    y = net.reshape(net.sized(y, ["", "", heads, width]), 0, 0, heads * width)
    return net.model(net.linear(net.sized(y, ["", "", heads * width]), 5))


@pytest.mark.parametrize(("heads", "width"), [(4, 8), (3, 5)])
def test_a_view_by_the_batch_of_another_input(heads: int, width: int) -> None:
    """Heads and their width line up from the minor end; the batches do not."""
    model = two_batches(heads, width)
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == sorted([heads, width, width])
    random = np.random.default_rng(0)
    feeds = [
        {
            "x": random.normal(size=(n, length, 12)).astype(np.float32),
            "memory": random.normal(size=(m, k, 20)).astype(np.float32),
        }
        for n, length, m, k in ((2, 3, 2, 5), (1, 4, 3, 2), (2, 1, 1, 4))
    ]
    outcome = prune_exactly(model, half_of_each(channels, optional=True), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


@pytest.mark.parametrize("opset", [10, 13, 18])
def test_a_skip_cropped_to_the_size_that_it_is_joined_with(opset: int) -> None:
    net = OpenNet(opset=opset)
    x = net.relu(net.picture(net.conv(net.input("x", ["N", 3, "H", "W"]), 16), 16))
    y = net.picture(net.conv(cropped(net, x), 5), 5)
    model = net.model(y)
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == [6, 8, 16]
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.normal(size=(n, 3, h, w)).astype(np.float32)}
        for n, h, w in ((1, 8, 8), (2, 9, 7), (3, 6, 13))
    ]
    outcome = prune_exactly(model, half_of_each(channels), channels, feeds=feeds)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
