"""Constants behind Identity are read where they are."""

from __future__ import annotations

import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.group_symmetry import symmetries
from onnxprune.ir import Model
from onnxprune.ir.canonical.copied_constants import without_copies
from onnxprune.ops.symmetry import Symmetry


def copied(net: Net, times: int) -> Model:
    """Two products whose weights and biases come by copies of copies."""

    def copy(name: str) -> str:
        for _ in range(times):
            name = net.op("Identity", name)
        return name

    x = net.input("x", ["N", 6])
    y = net.add(net.op("MatMul", x, copy(net.weight(6, 8))), copy(net.vector(8)))
    return net.model(net.op("MatMul", y, copy(net.weight(8, 3))))


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("constants", ["initializer", "node"])
def test_copies_change_nothing(times: int, constants: str) -> None:
    model = copied(Net(constants=constants), times)
    channels = find_channels(model)
    assert "Identity" not in {n.op_type for n in channels.model.nodes}
    assert [(a.group.size, a.symmetry) for a in symmetries(channels)] == [(8, Symmetry.LINEAR)]
    assert prune_exactly(model, half_of_each(channels)).error <= 1e-5
    assert (without_copies(model) is model) == (times == 0)


def test_a_copy_that_is_returned_stays() -> None:
    net = Net()
    table = net.op("Identity", net.weight(6, 8))
    product = net.op("MatMul", net.input("x", ["N", 6]), table)
    model = net.model(product, table)
    assert without_copies(model) is model


def test_one_constant_copied_for_two_layers() -> None:
    net = Net()
    shared = net.weight(6, 6)
    x = net.relu(net.op("MatMul", net.input("x", ["N", 6]), shared))
    x = net.relu(net.op("MatMul", x, net.op("Identity", shared)))
    model = net.model(net.linear(x, 3))
    channels = find_channels(model)
    plain = Net()
    weight = plain.weight(6, 6)
    y = plain.relu(plain.op("MatMul", plain.input("x", ["N", 6]), weight))
    y = plain.relu(plain.op("MatMul", y, weight))
    expected = find_channels(plain.model(plain.linear(y, 3)))
    assert [g.size for g in channels.groups] == [g.size for g in expected.groups]
    if channels.groups:
        assert prune_exactly(model, half_of_each(channels)).error <= 1e-5
