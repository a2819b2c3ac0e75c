"""Sizes and values known before the run, and which of them follow the input."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import Net

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.shapes import infer
from onnxprune.errors import ModelError
from onnxprune.ir import Model, check
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.runtime import Session


def test_sizes_and_tensors_that_follow_the_input() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, "H", 8]), 6, stride=2)
    flat = net.op("Flatten", x)
    shapes = infer(net.model(flat))
    n, c, h, w = shapes.sizes[x]
    assert (c, w) == (6, 4)
    assert str(n) == "N"
    assert not isinstance(h, int)
    assert h.symbols == {"H"}
    assert shapes.sizes[flat] == (n, c * h * w)
    assert shapes.numbers(flat) == (shapes.number(n), 24 * shapes.number(h))


def test_symbols_of_one_name_have_one_size() -> None:
    net = Net()
    a, b = net.input("a", ["N", "L", 4]), net.input("b", ["N", "L", 4])
    shapes = infer(net.model(net.add(a, b)))
    assert shapes.sizes[a] == shapes.sizes[b]


def test_question_marks_are_no_names() -> None:
    net = Net()
    x = net.input("x", ["N", 3, "?", "?"])  # as paddle2onnx writes
    height, width = infer(net.model(net.op("Relu", x))).sizes[x][2:]
    assert height != width


def test_values_computed_from_shapes() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    shape = net.op("Shape", x)
    channels = net.op("Gather", shape, net.ints(1))
    half = net.op("Div", channels, net.ints(2))
    target = net.concat(net.op("Gather", shape, net.ints(0)), half, net.ints(2, 16), axis=0)
    y = net.op("Reshape", x, target)
    shapes = infer(net.model(net.sized(y, ["N", 4, 2, 16])))
    assert shapes.values[half].tolist() == [4]
    assert target not in shapes.values
    assert [str(n) for n in shapes.integers(target) or ()] == ["N", "4", "2", "16"]
    assert shapes.sizes[y][1:] == (4, 2, 16)
    assert {shape, channels, half, target} <= shapes.derived


@pytest.mark.parametrize(
    ("node", "rank"), [("Reshape(x, target)", 3), ("com.microsoft.ExpandDims(x, place)", 4)]
)
def test_a_shape_that_depends_on_data_stays_unknown(node: str, rank: int) -> None:
    """Zeros are no answer: to Reshape they mean sizes that stay, to ExpandDims the first place."""
    text = f"""<ir_version: 8, opset_import: ["": 11, "com.microsoft": 1]>
    net (float[2, 3, 4] x, int64[3] target, int32 place) => (int64[{rank}] size) {{
        y = {node}
        size = Shape(y)
    }}"""
    model = onnx.parser.parse_model(text)
    shapes = infer(check(Model(model)))
    sizes = shapes.sizes.get("y", ())
    assert not any(isinstance(size, int) for size in sizes)
    assert len(sizes) in (0, rank)
    assert "size" not in shapes.values


def test_unread_numbers_may_be_infinite() -> None:
    """As in T5: places far off are counted by logarithms, near ones are not, both for all."""
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 4, 4]), 8)
    places = net.op("Gather", net.op("Shape", x), net.ints(1, 2))
    distance = net.op("Cast", net.op("Sub", places, net.ints(4, 4)), to=onnx.TensorProto.FLOAT)
    counted = net.op("Where", net.op("Greater", distance, net.const(0.0)), net.op("Log", distance), distance)
    bias = net.op("ReduceMax", counted, keepdims=0)
    shapes = infer(net.model(net.add(x, bias)))
    assert np.allclose(shapes.values[counted], [np.log(4), 0])


def test_declared_shapes_are_not_trusted() -> None:
    net = Net()
    x = net.conv(net.input("x", [1, 3, 4, 4]), 8)
    model = net.model(net.relu(x))
    wrong = onnx.helper.make_tensor_value_info(x, onnx.TensorProto.FLOAT, [1, 99, 4, 4])
    model.proto.graph.value_info.append(wrong)
    assert infer(model).sizes[x] == (1, 8, 4, 4)


def test_shapes_that_do_not_fit_name_the_node() -> None:
    net = Net()
    x = net.input("x", [1, 3, 4, 4])
    node = onnx.helper.make_node("MatMul", [x, net.weight(5, 2)], ["y"], name="the product")
    net.nodes.append(node)
    with pytest.raises(ModelError, match=r"sizes do not fit at node 'the product' \(MatMul\)"):
        infer(Model(net.proto(net.sized("y", [1, 3, 4, 2]))))


def test_an_empty_tensor_joined_with_others_has_to_fit() -> None:
    """Its part of the result would hold no numbers: onnxruntime leaves it as the memory was."""
    net = Net()
    x = net.input("x", [4, 6])
    rest = net.op("Slice", x, net.ints(6), net.ints(12), net.ints(1))
    parts = [net.reshape(x, -1, 3), net.sized(net.op("Reshape", rest, net.ints(-1, 3)), [0, 3])]
    net.nodes.append(onnx.helper.make_node("Concat", parts, ["y"], name="the pair", axis=1))
    with pytest.raises(ModelError, match=r"sizes do not fit at node 'the pair' \(Concat\)"):
        infer(Model(net.proto(net.sized("y", [8, 6]))))


@pytest.mark.parametrize("operator", ["Hardmax", "LogSoftmax", "LpNormalization", "Softmax"])
@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_a_tensor_has_not_names_the_node(operator: str, axis: int) -> None:
    net = Net()
    node = onnx.helper.make_node(operator, [net.input("x", [2, 3])], ["y"], name="last", axis=axis)
    net.nodes.append(node)
    with pytest.raises(ModelError, match=r"at node 'last' \(\w+\): axis -?\d of a tensor of 2 axes"):
        infer(Model(net.proto(net.sized("y", [2, 3]))))


def test_an_order_of_no_axes_names_the_node() -> None:
    net = Net()
    node = onnx.helper.make_node("Transpose", [net.input("x", [2, 3])], ["y"], name="turned")
    node.attribute.append(onnx.helper.make_attribute("perm", [], attr_type=onnx.AttributeProto.INTS))
    net.nodes.append(node)
    with pytest.raises(ModelError, match=r"at node 'turned' \(Transpose\): the order \[\]"):
        infer(Model(net.proto(net.sized("y", [3, 2]))))


def chained(batch: object = "N") -> tuple[Net, Model]:
    """A network that reads its batch off the input, for a Reshape."""
    net = Net()
    x = net.conv(net.input("x", [batch, 3, 4, 4]), 8)  # type: ignore[list-item]
    sizes = net.concat(net.op("Gather", net.op("Shape", x), net.ints(0)), net.ints(4, 2, 16), axis=0)
    y = net.sized(net.op("Reshape", x, sizes), [batch, 4, 2, 16])  # type: ignore[list-item]
    return net, net.model(net.gemm(net.op("Flatten", net.relu(y)), 3))


@pytest.mark.parametrize("given", [None, {"x": (1, 3, 4, 4)}, {"x": (5, 3, 4, 4)}])
def test_an_open_batch_stays_open(given: dict[str, tuple[int, ...]] | None) -> None:
    """Shapes to analyse with say nothing of the shapes the model will be run with."""
    _, model = chained()
    canonical = find_channels(model, given=given).model
    session = Session(canonical.proto, optimize=False)
    for batch in (1, 2, 7):
        images = np.ones((batch, 3, 4, 4), np.float32)
        (output,) = session.run({"x": images}).values()
        assert output.shape == (batch, 3)


def test_chains_that_never_change_become_constants() -> None:
    _, model = chained(batch=2)
    canonical, _ = canonicalise(model)
    assert [n.op_type for n in canonical.nodes] == ["Conv", "Reshape", "Relu", "Flatten", "Gemm"]
    target = canonical.nodes[1].input[1]
    assert canonical.array(target).tolist() == [2, 4, 2, 16]
    assert [n.op_type for n in model.nodes].count("Shape") == 1  # the model given stays as it is


def test_vectors_read_by_several_nodes_get_a_copy_each() -> None:
    net = Net()
    ones, zeros = net.const(np.ones(8)), net.const(np.zeros(8))
    x = net.conv(net.input("x", [1, 3, 4, 4]), 8)
    for _ in range(2):
        x = net.op("BatchNormalization", net.relu(x), ones, zeros, zeros, ones)
    canonical, shapes = canonicalise(net.model(x))
    norms = [n for n in canonical.nodes if n.op_type == "BatchNormalization"]
    read = [name for n in norms for name in n.input[1:]]
    assert len(set(read)) == 8
    assert all(shapes.sizes[name] == (8,) for name in read)


def test_matrices_stay_shared() -> None:
    net = Net()
    w = net.weight(8, 8, 3, 3)
    x = net.conv(net.input("x", [1, 8, 4, 4]), 8, w=w)
    canonical, _ = canonicalise(net.model(net.conv(x, 8, w=w)))
    assert {n.input[1] for n in canonical.nodes} == {w}


def test_the_canonical_form_of_itself_is_itself() -> None:
    net = Net()
    zeros = net.op("ConstantOfShape", net.ints(8))
    x = net.conv(net.input("x", [1, 3, 4, 4]), 8)
    x = net.op("BatchNormalization", x, net.const(np.ones(8)), zeros, zeros, net.const(np.ones(8)))
    canonical, _ = canonicalise(net.model(x))
    again, _ = canonicalise(canonical)
    assert again is canonical


def test_an_output_that_is_known_before_the_run_stays() -> None:
    net = Net()
    x = net.relu(net.input("x", [2, 3]))
    shape = net.op("Shape", x)
    canonical, _ = canonicalise(net.model(x, shape))
    assert [n.op_type for n in canonical.nodes] == ["Relu", "Shape"]


def test_large_computed_constants_are_not_followed() -> None:
    net = Net()
    filled = net.op("ConstantOfShape", net.ints(100, 100))
    x = net.op("MatMul", net.input("x", [1, 100]), net.sized(filled, [100, 100]))
    canonical, _ = canonicalise(check(Model(net.proto(x))))
    assert [n.op_type for n in canonical.nodes] == ["MatMul"]
    assert canonical.array(filled).shape == (100, 100)


def test_a_shape_that_is_not_known_is_not_taken_for_that_of_a_number() -> None:
    """onnx passes an unknown shape through pointwise operators as one without axes."""
    net = Net()
    x = net.input("x", [2, 6])
    target = net.op("Cast", net.input("target", [2]), to=onnx.TensorProto.INT64)
    y = net.relu(net.sized(net.op("Reshape", x, target), ["a", "b"]))
    model = net.model(net.op("Flatten", net.sized(y, ["a", "b"])))
    shapes = infer(model)
    assert len(shapes.sizes[y]) == 2
    assert not any(isinstance(size, int) for size in shapes.sizes[y])


def test_an_operand_of_unknown_sizes_leaves_those_of_the_sum_open() -> None:
    net = Net()
    x = net.input("x", [2, 6])
    target = net.op("Cast", net.input("target", [2]), to=onnx.TensorProto.INT64)
    y = net.sized(net.op("Reshape", x, target), ["a", "b"])
    z = net.add(y, net.const(np.ones((1, 3))))
    rows, columns = infer(net.model(net.sized(z, ["a", "b"]))).sizes[z]
    assert not isinstance(rows, int)
    assert columns == 3


def test_sizes_that_a_given_one_makes_fractions_are_refused() -> None:
    """Two rows of one input are one of the other; the first is given three."""
    net = Net()
    pairs = net.sized(net.reshape(net.input("x", ["N", 4]), -1, 8), ["M", 8])
    y = net.concat(net.linear(net.input("y", ["M", 8]), 8), pairs, axis=1)
    model = net.model(net.sized(y, ["M", 16]))
    assert infer(model, {"x": [6, 4]}).inputs == {"x": (6, 4), "y": (3, 8)}
    with pytest.raises(ModelError, match="whole number"):
        infer(model, {"x": [3, 4]})


def test_numbers_that_are_none_are_no_sizes() -> None:
    """The root of a negative number, computed from a shape."""
    net = Net()
    x = net.linear(net.input("x", ["N", 4]), 8)
    width = net.op("Gather", net.op("Shape", x), net.ints(1))
    root = net.op("Sqrt", net.op("Sub", net.op("Cast", width, to=onnx.TensorProto.FLOAT), net.const([99.0])))
    model = net.model(net.sized(net.op("Div", x, root), ["N", 8]))
    assert infer(model).integers(root) == [None]
    assert find_channels(model) is not None
