"""Parts of joined tensors are read where they were before: the Concat couples them no more."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net, half_of_each, prune_exactly

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.certify import certify
from onnxprune.ir import Model
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session


def joined(net: Net) -> tuple[str, str]:
    """Two layers of eight channels, joined along a new first axis: ``[3, N, 8]``; and the second."""
    x = net.input("x", ["N", 6])
    first = net.relu(net.linear(x, 8))
    second = net.relu(net.linear(first, 8))
    layers = [net.unsqueeze(y, 0) for y in (first, second, net.op("Tanh", second))]
    return net.concat(*layers, axis=0), second


def sizes(model: Model) -> list[int]:
    return sorted(g.size for g in find_channels(model).groups)


def is_exact(model: Model) -> bool:
    outcome = prune_exactly(model, half_of_each(find_channels(model)))
    return outcome.error <= 1e-5 and outcome.change > 1e-3


@pytest.mark.parametrize(("opset", "index"), [(9, 1), (11, 1), (11, -2), (13, -2), (18, 1), (18, -2)])
def test_an_element_picked_by_number(opset: int, index: int) -> None:
    net = Net(opset)
    both, _ = joined(net)
    y = net.op("Gather", both, net.const(np.int64(index)), axis=0)
    model = net.model(net.gemm(y, 3))
    assert sizes(model) == [8, 8]
    assert is_exact(model)


@pytest.mark.parametrize("opset", [9, 10, 13, 18])
@pytest.mark.parametrize(("first", "last"), [(1, 3), (-2, 2**31)])
def test_a_slice_across_parts_stays_coupled(opset: int, first: int, last: int) -> None:
    net = Net(opset)
    both, _ = joined(net)
    y = (
        net.op("ReduceMean", net.slice(both, first, last, axis=0), axes=[0], keepdims=0)
        if opset < 18
        else None
    )
    y = y or net.op("ReduceMean", net.slice(both, first, last, axis=0), net.ints(0), keepdims=0)
    model = net.model(net.gemm(y, 3))
    assert is_exact(model)


@pytest.mark.parametrize("opset", [9, 10, 13, 18])
@pytest.mark.parametrize(("first", "last"), [(1, 2), (-2, -1)])
def test_a_slice_of_one_part(opset: int, first: int, last: int) -> None:
    net = Net(opset)
    both, second = joined(net)
    y = net.reshape(net.slice(both, first, last, axis=0), -1, 8)
    model = net.model(net.gemm(net.add(y, second), 3))
    assert sizes(model) == [8, 8]
    assert is_exact(model)


def test_the_last_state_of_stacked_recurrent_layers() -> None:
    """``h[-1]``: the widths of the layers are independent."""
    net = Net()
    x = net.input("x", [7, "N", 5])
    states = []
    for width in (6, 6):
        size = net.shape(x)[-1]
        made = net.ops(
            "GRU",
            x,
            net.weight(1, 3 * width, size, fan=size),
            net.weight(1, 3 * width, width, fan=width),
            outputs=2,
            hidden_size=width,
        )
        x = net.op("Squeeze", made[0], net.ints(1))
        states.append(made[1])
    last = net.op("Gather", net.concat(*states, axis=0), net.const(np.int64(-1)), axis=0)
    model = net.model(net.gemm(last, 3))
    assert sizes(model) == [6, 6]
    assert is_exact(model)


def test_the_verifier_reads_parts_too() -> None:
    net = Net()
    both, _ = joined(net)
    picked = net.op("Gather", both, net.const(np.int64(-2)), axis=0)
    sliced = net.reshape(net.slice(both, 2, 3, axis=0), -1, 8)
    model = net.model(net.gemm(net.add(picked, sliced), 3))
    sparse = Prune(reduce_macs=0.3)(model).model
    result = Transform()(sparse)
    assert result.report.certificate["certified"]
    assert len(result.model.nodes) < len(model.nodes)
    wrong = result.model.copy()
    read = next(n for n in wrong.nodes if n.op_type == "Gather").input
    read[0] = next(n.output[0] for n in wrong.nodes if n.op_type == "Unsqueeze" and n.output[0] != read[0])
    assert not certify(sparse.proto, wrong.proto).certified


def test_a_slice_of_a_very_long_axis() -> None:
    """Its places are counted, not listed."""
    net = Net()
    both = net.concat(*(net.input(name, [2, 1 << 60]) for name in "xy"), axis=1)
    model = net.model(net.sized(net.op("Slice", both, net.ints(1), net.ints(4), net.ints(1)), [2, 3]))
    assert "Concat" not in {n.op_type for n in find_channels(model).model.nodes}


@pytest.mark.parametrize("axes", [None, 1])
def test_the_certificate_knows_the_axis_of_a_slice(axes: int | None) -> None:
    """Without axes a slice is of the first: other weights of the second part are another model."""

    def model(scale: float) -> Model:
        net = Net()
        x = net.input("x", [4, 6])
        first = net.linear(x, 8)
        both = net.concat(first, net.mul(net.linear(x, 8), net.const(scale)), axis=1)
        given = "" if axes is None else net.ints(axes)
        picked = net.op("Slice", both, net.ints(0), net.ints(2), given, net.ints(1))
        return net.model(net.sized(picked, [2, 16] if axes is None else [4, 2]))

    assert certify(model(1.0).proto, model(1.0).proto).certified
    assert certify(model(1.0).proto, model(2.0).proto).certified == (axes == 1)


def test_elements_of_two_parts_within_a_part() -> None:
    """The part that holds both is read, and its own parts stay joined."""
    net = Net()
    x = net.input("x", ["N", 6])
    inner = net.concat(*(net.relu(net.linear(x, 8)) for _ in range(3)), axis=1)
    outer = net.concat(inner, net.linear(x, 8), axis=1)
    model = net.model(net.sized(net.op("Gather", outer, net.ints(9, 17), axis=1), ["N", 2]))
    changed = find_channels(model).model
    feed = {"x": np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)}
    before, after = (Session(m.proto).run(feed) for m in (model, changed))
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=1e-6)
