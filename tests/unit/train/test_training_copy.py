"""The training copy of models as files really are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, version_converter
from training_networks import cnn, parsed, stripe_batches, stripes

from onnxprune.errors import TrainingError
from onnxprune.runtime import Session
from onnxprune.train.dialect import IR_VERSION, opset_of
from onnxprune.train.engine import train
from onnxprune.train.forward import check_forward
from onnxprune.train.settings import TrainSettings
from onnxprune.train.training_copy import make_training_copy


def _copied(model: onnx.ModelProto, sample: dict[str, np.ndarray]):
    """The copy, which has been compared with the model and can take any batch size."""
    copied = make_training_copy(model, sample)
    check_forward(model, copied.model(), sample)
    session = Session(copied.model(), optimize=False)
    for batch in (1, 3):
        output = session.run({name: np.repeat(array[:1], batch, 0) for name, array in sample.items()})
        assert all(len(values) == batch for values in output.values())
    return copied


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def test_initializers_listed_as_inputs_of_an_old_operator_set():
    text = """
    <ir_version: 3, opset_import: ["" : 9]>
    old (float[N, 1, 4, 4] x, float[2, 1, 3, 3] w, float[2] s, float[2] b, float[2] m, float[2] v)
        => (float[N, 2] y) {
        c = Conv<auto_pad = "SAME_UPPER">(x, w)
        n = BatchNormalization(c, s, b, m, v)
        r = Clip<min = 0.0, max = 6.0>(n)
        p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(r)
        g = GlobalAveragePool(p)
        y = Flatten(g)
    }"""
    weights = {"w": _random(2, 1, 3, 3), "s": np.ones(2), "b": np.zeros(2), "m": np.zeros(2), "v": np.ones(2)}
    copied = _copied(parsed(text, **weights), {"x": _random(2, 1, 4, 4)})
    assert copied.trainables == ("w", "s", "b")
    assert copied.statistics == ("m", "v")
    assert opset_of(copied.model()) == 17
    assert copied.model().ir_version <= IR_VERSION


@pytest.mark.parametrize("opset", [15, 22, 24])
def test_other_operator_sets(opset):
    model = version_converter.convert_version(cnn(), opset)
    images, _ = stripes(2, seed=0)
    copied = _copied(model, {"image": images})
    assert set(copied.trainables) == {"w1", "scale", "bias", "w2", "b2", "w3", "b3"}


def test_batch_baked_into_reshapes():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    baked (float[1, 6, 4] x) => (float[1, 12] y) {
        q = MatMul(x, w)
        heads = Reshape(q, four)
        swapped = Transpose<perm = [0, 2, 1, 3]>(heads)
        merged = Reshape(swapped, three)
        t = Tanh(merged)
        y = Reshape(t, two)
    }"""
    shapes = {"four": [1, 6, 2, 1], "three": [2, 6, 1], "two": [1, -1]}
    model = parsed(text, w=_random(4, 2), **{name: np.array(shape) for name, shape in shapes.items()})
    assert _copied(model, {"x": _random(5, 6, 4)}).trainables == ("w",)


def test_weights_in_constant_nodes_are_trained_by_name():
    model = cnn()
    for tensor in list(model.graph.initializer):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
    del model.graph.initializer[:]
    images, _ = stripes(2, seed=0)
    assert set(_copied(model, {"image": images}).trainables) >= {"w1", "scale", "w3"}


def test_functions_are_inlined():
    text = """
    <ir_version: 8, opset_import: ["" : 17, "local" : 1]>
    outer (float[N, 3] x) => (float[N, 3] y) {
        h = MatMul(x, w)
        y = local.Swish(h)
    }
    <domain: "local", opset_import: ["" : 17]>
    Swish (a) => (b) {
        s = Sigmoid(a)
        b = Mul(a, s)
    }"""
    copied = _copied(parsed(text, w=_random(3, 3)), {"x": _random(2, 3)})
    assert [node.op for node in copied.graph.nodes] == ["MatMul", "Sigmoid", "Mul"]


def test_wrong_declared_shapes_are_not_believed():
    model = cnn()
    model.graph.value_info.append(helper.make_tensor_value_info("r1", 1, ["N", 77, 2, 2]))
    images, _ = stripes(2, seed=0)
    _copied(model, {"image": images})


def test_node_names_become_unique_and_good_ones_stay():
    model = cnn()
    for index, name in enumerate(["a", "", "", "b", "", "Conv_0", "c", ""]):
        model.graph.node[index].name = name
    images, _ = stripes(2, seed=0)
    names = [node.name for node in _copied(model, {"image": images}).graph.nodes]
    assert len(set(names)) == len(names)
    assert {"a", "b", "Conv_0", "c"} <= set(names)


def test_constants_that_are_no_parameters_stay():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    roles (float[N, 3, 4] x) => (float[N, 3, 4] y) {
        centred = Sub(x, average)
        scaled = Mul(centred, spread)
        q = MatMul(scaled, w1)
        biased = Add(q, b1)
        shrunk = Mul(biased, root)
        masked = Add(shrunk, mask)
        placed = Add(masked, positions)
        p = MatMul(placed, w2)
        last = Add(p, b2)
        decoded = Mul(last, strides)
        y = Add(decoded, grid)
    }"""
    parameters = {"w1": _random(4, 4), "b1": _random(4), "positions": _random(3, 4), "w2": _random(4, 4)}
    others = {"average": _random(4), "spread": _random(4), "root": np.array(0.5, np.float32)}
    others |= {"mask": np.full((3, 4), -1e9, np.float32), "strides": _random(3, 1), "grid": _random(3, 4)}
    model = parsed(text, b2=_random(4), **parameters, **others)
    copied = make_training_copy(model, {"x": _random(2, 3, 4)})
    assert set(copied.trainables) == {*parameters, "b2"}


def test_statistics_that_are_computed_are_refused():
    model = cnn()
    model.graph.node.insert(0, helper.make_node("Abs", ["var"], ["positive"]))
    model.graph.node[2].input[4] = "positive"
    images, _ = stripes(2, seed=0)
    with pytest.raises(TrainingError, match="positive"):
        make_training_copy(model, {"image": images})


def test_operator_set_that_cannot_be_converted_is_named():
    text = """
    <ir_version: 8, opset_import: ["" : 9]>
    odd (float[N, 3] x) => (float[N, 3] y) { y = NoSuchOperator(x) }"""
    with pytest.raises(TrainingError, match="operator set 9"):
        make_training_copy(parsed(text), {"x": _random(2, 3)})


def test_views_and_shared_weights_are_trained():
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    tied (float[N, 3] x) => (float[N, 3] logits) {
        turned = Transpose<perm = [1, 0]>(w)
        h = MatMul(x, turned)
        r = Tanh(h)
        logits = Gemm(r, w)
    }"""
    model = parsed(text, w=_random(3, 3))
    x = _random(30, 3)
    batch = ({"x": x}, {"labels": x.argmax(axis=1)})
    settings = TrainSettings(epochs=40, learning_rate=0.05, threads=1)
    result = train(model, lambda _: [batch], settings=settings, total_steps=40)
    assert set(result.weights) == {"w"}
    assert result.losses[-1] < 0.5 * result.losses[0]


def test_model_with_a_fixed_batch_of_one_is_trained_in_larger_batches():
    model = cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.node[6].op_type = "Reshape"
    model.graph.node[6].input.append("flat")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "flat"))
    settings = TrainSettings(learning_rate=0.02, threads=1)
    result = train(model, stripe_batches(10), settings=settings, total_steps=10)
    free = train(cnn(), stripe_batches(10), settings=settings, total_steps=10)
    assert result.losses == pytest.approx(free.losses, rel=1e-5)


def test_model_with_a_fixed_batch_is_compared_on_whole_batches():
    model = cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    images, _ = stripes(2, seed=0)
    copied = make_training_copy(model, {"image": images})
    check_forward(model, copied.model(), {"image": images})
    spoiled = copied.model()
    next(n for n in spoiled.graph.node if n.op_type == "Greater").op_type = "Less"
    with pytest.raises(TrainingError, match=r"\(Relu\) would compute something else"):
        check_forward(model, spoiled, {"image": images})


@pytest.mark.parametrize("changed", ["sizes", "Add(sizes, nothing)", "Where(whole, sizes, nothing)"])
def test_sizes_that_hold_the_batch_too_are_those_of_the_sample(changed: str):
    """A picture is resized to the size of a skip: the list is known but for the batch, which stays."""
    final = "same = Identity(sizes)" if changed == "sizes" else f"same = {changed}"
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    skip (float[N, 2, H, W] x) => (float[N, 2, H, W] y) {{
        small = Conv<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x, w)
        most = Shape<start = 0, end = 2>(small)
        rest = Shape<start = 2>(x)
        sizes = Concat<axis = 0>(most, rest)
        {final}
        large = Resize<mode = "linear">(small, , , same)
        y = Add(large, x)
    }}"""
    whole = np.array([True] * 4)
    model = parsed(text, w=_random(2, 2, 3, 3), nothing=np.zeros(4, np.int64), whole=whole)
    copied = _copied(model, {"x": _random(4, 2, 6, 5)})
    assert "Resize" not in {node.op_type for node in copied.model().graph.node}
