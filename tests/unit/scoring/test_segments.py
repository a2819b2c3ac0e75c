"""A model as consecutive sessions."""

from __future__ import annotations

import numpy as np
import pytest
from deep_networks import plain
from helpers import Net
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import Model
from onnxprune.runtime import Session
from onnxprune.scoring.criteria import activations
from onnxprune.scoring.layerwise.segments import Segments

X = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)


def residual() -> Model:
    """Values that cross several cuts, and an output in the middle."""
    net = Net()
    x = net.cbr(net.input("image", ["N", 3, 4, 4]), 8, 1)
    y = net.relu(net.conv(net.relu(net.conv(x, 8)), 8))
    middle = net.add(x, y)
    return net.model(middle, net.head(net.relu(net.add(x, net.relu(net.conv(middle, 8))))))


def cut(model: Model, nodes: int) -> Segments:
    channels = find_channels(model)
    return Segments(channels.model, channels.typing.shapes.types, 1, nodes)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_parts_give_the_outputs_of_the_whole(nodes: int) -> None:
    model = residual()
    parts = cut(model, nodes)
    whole = Session(find_channels(model).model.proto, threads=1).run({"image": X})
    found = parts.run({"image": X})
    assert len(parts) > 2
    assert found.keys() == whole.keys()
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-6)


def test_a_small_model_is_one_session() -> None:
    assert len(cut(residual(), 100)) == 1


def test_no_cut_crosses_a_value_without_a_type() -> None:
    """A sequence is no array, so its producer and its readers are in one part."""
    net = Net()
    x = net.relu(net.input("image", ["N", 3, 4, 4]))
    parts = net.op("SplitToSequence", x, axis=1)
    y = net.relu(net.relu(x))
    joined = net.op("ConcatFromSequence", parts, axis=1)
    model = net.model(net.relu(net.add(joined, y)))
    types = {o: TensorProto.FLOAT for node in model.nodes for o in node.output if o != parts}
    found = Segments(model, types, 1, 1)
    assert len(found) == len(model.nodes) - 3
    out = model.outputs[0].name
    np.testing.assert_array_equal(
        found.run({"image": X})[out], Session(model.proto, threads=1).run({"image": X})[out]
    )


def test_an_output_that_no_node_makes_leaves_the_model_whole() -> None:
    net = Net()
    image = net.input("image", ["N", 3, 4, 4])
    model = net.model(net.relu(net.relu(net.relu(image))))
    model.proto.graph.output.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, None))
    model.edited()
    found = Segments(model, {}, 1, 1)
    assert len(found) == 1
    np.testing.assert_array_equal(found.run({"image": X})["image"], X)


def test_norms_of_a_deep_network_do_not_depend_on_the_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = find_channels(plain(60))
    whole = activations.observe(channels, [{"image": X}], 1).norms
    made: list[int] = []

    def small(model: Model, types: dict[str, int], threads: int | None) -> Segments:
        found = Segments(model, types, threads, 40)
        made.append(len(found))
        return found

    monkeypatch.setattr(activations, "Segments", small)
    parts = activations.observe(channels, [{"image": X}], 1).norms
    assert made == [-(-(len(channels.model.nodes) + 3 * len(whole)) // 40)]
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-5)
