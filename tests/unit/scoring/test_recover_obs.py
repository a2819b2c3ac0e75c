"""The criterion obs on networks: redundant channels go first, and least squares compensates for them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Net
from onnx import numpy_helper, parser

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.channels.planned import stored_plan
from onnxprune.errors import DataError, UsageError
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Recover, Transform
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import eliminations, score
from onnxprune.scoring.criteria.eliminations import operate

CHANNELS = 12
MAKE = "c = Conv <kernel_shape = [1, 1]> (x, w1)  h = Relu (c)"
READERS = {
    "Conv": ("y = Conv <kernel_shape = [3, 3]> (h, w2)", (5, 12, 3, 3)),
    "ConvTranspose": ("y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (h, w2)", (12, 5, 2, 2)),
    "behind a depthwise one": (
        "d = Conv <kernel_shape = [3, 3], group = 12> (h, w3)  y = Conv (d, w2)",
        (5, 12, 1, 1),
    ),
    "Gemm": ("f = Flatten (h)  y = Gemm (f, w2)", (12 * 36, 5)),
}


def network(body: str, seed: int = 0, **shapes: tuple[int, ...]) -> Model:
    """Make a network whose channels 6 to 11 are 0 to 5 once more, and larger."""
    y = "N, 5" if "Gemm" in body else "N, 5, P, Q"
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3, 6, 6] x) => (float[{y}] y) {{ {body} }}'
    proto, random = parser.parse_model(text), np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        if name == "w1":
            values[6:] = values[:6] * np.float32(3)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return check(Model(proto))


def reader(kind: str) -> Model:
    body, shape = READERS[kind]
    more = {"w3": (12, 1, 3, 3)} if "w3" in body else {}
    return network(f"{MAKE} {body}", w1=(CHANNELS, 3, 1, 1), w2=shape, **more)


def pictures(count: int = 100) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("kind", [k for k in READERS if k != "behind a depthwise one"])
def test_of_channels_that_say_the_same_one_goes_and_nothing_is_lost(kind):
    model, data = reader(kind), {"x": pictures(600 if kind == "Gemm" else 100)}
    options = {"reduce_channels": 0.49, "round_to": 1, "data": data}
    found = Prune(**options, criterion="obs", recover=["least-squares"])(model)
    (removed,) = stored_plan(found.model).removed.values()
    assert len({channel % 6 for channel in removed}) == len(removed) >= 5
    wanted, after = (
        Session(m.proto, optimize=False).run({"x": pictures(9)})["y"] for m in (model, found.model)
    )
    assert np.square(after - wanted).mean() < 1e-6 * np.square(wanted).mean()
    Transform()(found.model)


def test_small_channels_go_where_channels_are_uncorrelated():
    model = reader("behind a depthwise one")
    weights = model.array("w1").copy()
    weights[[2, 9]] *= np.float32(1e-2)
    model.set_array("w1", weights)
    channels = find_channels(model)
    (group,) = channels.groups
    evidence = operate(channels, [{"x": pictures()}], threads=1)
    scores = score(channels, group, "obs", evidence=evidence)
    assert set(np.argsort(scores)[:2]) == {2, 9}
    assert scores.mean() == pytest.approx(1)


def test_whole_groups_are_weighed_by_all_their_readers():
    """Channels that one reader has no use for, but another one has, stay."""
    body = f"{MAKE} a = Conv <kernel_shape = [1, 1]> (h, w2)  b = Conv <kernel_shape = [1, 1]> (h, w3)"
    shapes = {"w1": (CHANNELS, 3, 1, 1), "w2": (5, 12, 1, 1), "w3": (5, 12, 1, 1)}
    model = network(f"{body} y = Add (a, b)", **shapes)
    first, second = (model.array(name).copy() for name in ("w2", "w3"))
    first[:, :6], second[:, 4:10] = 0, 0
    model.set_array("w2", first)
    model.set_array("w3", second)
    spread = model.array("w1").copy()
    spread[6:] = np.random.default_rng(5).standard_normal((6, 3, 1, 1))
    model.set_array("w1", spread)
    channels = find_channels(model)
    evidence = operate(channels, [{"x": pictures()}], threads=1)
    costs = evidence.eliminations[channels.groups[0].name]
    assert set(np.argsort(costs)[:2]) == {4, 5}  # neither reads them


def test_one_group_alone_costs_as_much_as_among_all():
    body = f"{MAKE} a = Conv <kernel_shape = [1, 1]> (h, w2)  b = Relu (a)"
    body += "  y = Conv <kernel_shape = [1, 1]> (b, w3)"
    model = network(body, w1=(CHANNELS, 3, 1, 1), w2=(8, 12, 1, 1), w3=(5, 8, 1, 1))
    channels = find_channels(model)
    whole = operate(channels, [{"x": pictures()}], threads=1).eliminations
    assert len(whole) == 2
    for name, costs in whole.items():
        found = operate(channels, [{"x": pictures()}], threads=1, names={name}).eliminations
        assert found.keys() == {name}
        np.testing.assert_array_equal(found[name], costs)


def test_groups_of_a_convolution_are_weighed_apart():
    body = f"{MAKE} g = Conv <kernel_shape = [1, 1], group = 2> (h, w2)  y = Conv (g, w3)"
    model = network(body, w1=(CHANNELS, 3, 1, 1), w2=(8, 6, 1, 1), w3=(5, 8, 1, 1))
    data = {"x": pictures()}
    found = Prune(reduce_channels=0.3, round_to=1, criterion="obs", data=data)(model)
    Transform()(Recover(model, data)(found.model).model)


def test_groups_whose_readers_find_no_room_are_ranked_by_their_weights(monkeypatch):
    monkeypatch.setattr(eliminations, "HELD_BYTES", 0)
    model = reader("Conv")
    channels = find_channels(model)
    evidence = operate(channels, [{"x": pictures()}], threads=1)
    found, plain = (
        score(channels, channels.groups[0], name, evidence=evidence) ** power
        for name, power in (("obs", 0.5), ("l2", 1))
    )
    np.testing.assert_array_equal(np.argsort(found), np.argsort(plain))


def test_samples_are_needed():
    model = reader("Conv")
    with pytest.raises(UsageError, match="'obs' looks at samples"):
        Prune(reduce_channels=0.3, criterion="obs")(model)
    with pytest.raises(DataError, match="no samples"):
        operate(find_channels(model), [])


@pytest.mark.parametrize("seed", range(8))
def test_inputs_that_do_not_vary_have_no_rounding_for_variance(seed):
    body = f"{MAKE} y = Conv <kernel_shape = [1, 1]> (h, w2)"
    model = network(body, seed, w1=(CHANNELS, 3, 1, 1), w2=(5, 12, 1, 1))
    still = np.random.default_rng(seed).uniform(0.5, 1.5, (1, 3, 1, 1)).astype(np.float32)
    data = {"x": np.broadcast_to(still, (50, 3, 6, 6)).copy()}
    found = Prune(reduce_channels=0.3, round_to=1, criterion="obs", data=data)(model)
    assert sum(map(len, stored_plan(found.model).removed.values())) >= 3


def test_gram_matrices_are_given_back_after_the_last_reader_of_their_group(monkeypatch):
    """Of five layers in a row, each reads a group of its own: the memory of one matrix is enough for all."""
    net = Net()
    x = net.relu(net.gemm(net.input("x", ["N", 12]), 16))
    for _ in range(4):
        x = net.relu(net.gemm(x, 16))
    channels = find_channels(net.model(net.gemm(x, 3)))
    feeds = [{"x": np.random.default_rng(0).standard_normal((80, 12)).astype(np.float32)}]
    whole = operate(channels, feeds).eliminations
    monkeypatch.setattr(eliminations, "HELD_BYTES", 16 * 16 * 8)
    found = operate(channels, feeds).eliminations
    assert set(found) == {g.name for g in channels.groups}
    assert all(np.array_equal(found[name], costs) for name, costs in whole.items())
