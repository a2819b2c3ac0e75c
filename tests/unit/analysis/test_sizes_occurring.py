"""Sizes of axes are never negative: lengths that short inputs would make negative are known all the same."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net

from onnxprune.algebra.sizes.algebra import number_of
from onnxprune.algebra.sizes.facts import SizeFacts
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.ir import Model
from onnxprune.runtime import Session


def encoder() -> Model:
    """Windows over a sound; positions by a convolution, one too many, cut off; views by sizes read there."""
    net = Net()
    x = net.input("sound", ["N", 1, "L"])
    y = net.sized(net.op("Conv", x, net.weight(8, 1, 20), strides=[20], pads=[5, 5]), ["N", 8, ""])
    places = net.sized(net.op("Conv", y, net.weight(8, 8, 4), pads=[2, 2]), ["N", 8, ""])
    places = net.sized(net.op("Slice", places, net.ints(0), net.ints(-1), net.ints(2)), ["N", 8, ""])
    y = net.sized(net.transpose(net.sized(net.add(y, places), ["N", 8, ""]), 0, 2, 1), ["N", "", 8])
    n, t = (net.op("Gather", net.op("Shape", y), net.ints(k)) for k in (0, 1))
    heads = net.op("Reshape", y, net.concat(n, t, net.ints(2, 4), axis=0))
    y = net.op("Reshape", heads, net.concat(n, t, net.ints(8), axis=0))
    return net.model(net.linear(net.sized(y, ["N", "", 8]), 5))


def test_every_size_is_known_and_right() -> None:
    model = encoder()
    analysis = infer_sizes(model.proto)
    chosen = set(analysis.symbols)
    open_ = [s for shape in analysis.shapes.values() for s in shape if not isinstance(s, int)]
    assert all(size.symbols <= chosen for size in open_)
    (name,) = (o.name for o in model.outputs)
    for samples, length in ((1, 30), (2, 41), (3, 95), (1, 400)):
        made = Session(model.proto).run({"sound": np.zeros((samples, 1, length), np.float32)})[name]
        sizes = {"N": samples, "L": length}
        assert [number_of(s, sizes) for s in analysis.shapes[name]] == list(made.shape)


@pytest.mark.parametrize("sure", [True, False])
def test_only_nodes_that_certainly_run_give_equations(sure: bool) -> None:
    facts = SizeFacts()
    facts.sure = sure
    size = facts.algebra.symbol("L", 1) - 3
    facts.occurs(size)
    assert facts.is_nonnegative(size) is sure
    assert not facts.is_nonnegative(size - 1)
