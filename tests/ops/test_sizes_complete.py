"""Size rules: every operator of the axis rules has one, with the same results as onnxruntime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Net
from onnx import TensorProto, helper

from onnxprune.algebra.sizes.algebra import number_of
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.errors import ModelError
from onnxprune.ops.spec import SPECS, load
from onnxprune.runtime import Session

WITHOUT = {
    ("", "SequenceMap"): "its body makes sequences, which the tools of onnx know as long as it is a function",
}
"""Operators with an axes rule and without a size rule, by the reason."""
MICROSOFT = "com.microsoft"


def test_every_operator_with_an_axes_rule_has_a_size_rule() -> None:
    load()
    own = {key: spec for key, spec in SPECS.items() if not key[0].startswith("com.example")}
    missing = {key for key, spec in own.items() if spec.axes is not None and spec.sizes is None}
    assert missing == set(WITHOUT)


def test_every_operator_of_the_standard_has_a_rule() -> None:
    """All operators of onnx from opset 7 on; those that a model of today cannot hold are left out."""
    load()
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain and not s.deprecated}
    lost = {n for n in known if ("", n) not in SPECS or SPECS["", n].sizes is None}
    old = {n for n in lost if max(s.since_version for s in _versions(n)) < 7}
    assert lost - old - {n for _, n in WITHOUT} == set()


def _versions(name: str) -> list[Any]:
    return [s for s in onnx.defs.get_all_schemas_with_history() if not s.domain and s.name == name]


def model(
    node: onnx.NodeProto,
    inputs: dict[str, tuple[int, list[str | int]]],
    outputs: list[str],
    before: tuple[onnx.NodeProto, ...] = (),
    constants: tuple[onnx.TensorProto, ...] = (),
    opset: int = 21,
) -> onnx.ModelProto:
    """One node behind others, its inputs declared with open axes."""
    graph = helper.make_graph(
        [*before, node],
        "one",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def assert_as_run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], numbers: dict[str, int]) -> None:
    """Every derived size is the one of the run by onnxruntime."""
    shapes = infer_sizes(proto).shapes
    for name, made in Session(proto, optimize=False).run(feeds).items():
        assert [number_of(size, numbers) for size in shapes[name] or ()] == list(np.shape(made)), name


@pytest.mark.parametrize("past", [0, 1, 3, 9])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("computed", [False, True])
def test_the_present_of_group_query_attention(past: int, packed: bool, computed: bool) -> None:
    """As long as the past or the whole sequence, the longer of the two: the whole one may be computed."""
    rows, heads, groups, width = 1 if past else 4, 4, 2, 16
    total = past + rows
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "q": (TensorProto.FLOAT, ["N", "S", (heads + 2 * groups if packed else heads) * width]),
        "past_k": (TensorProto.FLOAT, ["N", groups, "P", width]),
        "past_v": (TensorProto.FLOAT, ["N", groups, "P", width]),
        "mask": (TensorProto.INT64, ["N", "T"]),
    }
    if not packed:
        inputs |= {n: (TensorProto.FLOAT, ["N", "S", groups * width]) for n in ("k", "v")}
    before, constants = [], []
    if computed:
        constants = [onnx.numpy_helper.from_array(np.asarray(1, np.int64), "one")]
        before = [
            helper.make_node("Shape", ["mask"], ["sizes"]),
            helper.make_node("Gather", ["sizes", "one"], ["length"]),
            helper.make_node("Cast", ["length"], ["total"], to=TensorProto.INT32),
        ]
    else:
        constants = [onnx.numpy_helper.from_array(np.asarray(total, np.int32), "total")]
    constants.append(onnx.numpy_helper.from_array(np.asarray([total - 1], np.int32), "seen"))
    operands = ["q", *(("", "") if packed else ("k", "v")), "past_k", "past_v", "seen", "total"]
    node = helper.make_node(
        "GroupQueryAttention",
        operands,
        ["y", "k2", "v2"],
        domain=MICROSOFT,
        num_heads=heads,
        kv_num_heads=groups,
    )
    proto = model(node, inputs, ["y", "k2", "v2"], tuple(before), tuple(constants))
    numbers = {"N": 1, "S": rows, "P": past, "T": total}
    random = np.random.default_rng(0)
    feeds = {
        name: np.ones([numbers.get(s, s) for s in shape], np.int64)
        if kind == TensorProto.INT64
        else random.normal(size=[numbers.get(s, s) for s in shape]).astype(np.float32)
        for name, (kind, shape) in inputs.items()
    }
    assert_as_run(proto, feeds, numbers)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [2], [0, 1, 2, 3]])
def test_resizing_that_keeps_proportions(policy: str, axes: list[int]) -> None:
    """Open sizes decide which axis leads; halves are rounded as the runtime does."""
    random = np.random.default_rng(len(axes))
    for _ in range(12):
        sizes = dict(zip("abcd", [1, 2, *random.integers(1, 40, 2).tolist()], strict=True))
        target = [*([1, 2] if len(axes) == 4 else []), *random.integers(1, 40, min(len(axes), 2)).tolist()]
        wanted = onnx.numpy_helper.from_array(np.asarray(target, np.int64), "target")
        node = helper.make_node(
            "Resize",
            ["x", "", "", "target"],
            ["y"],
            axes=axes,
            keep_aspect_ratio_policy=policy,
            mode="nearest",
        )
        proto = model(node, {"x": (TensorProto.FLOAT, list("abcd"))}, ["y"], (), (wanted,))
        assert_as_run(proto, {"x": np.zeros(list(sizes.values()), np.float32)}, sizes)


@pytest.mark.parametrize(("q", "kv"), [(4, 4), (4, 2), (2, 4)])
@pytest.mark.parametrize("past", [False, True])
def test_linear_attention(q: int, kv: int, past: bool) -> None:
    """A window of states is for other devices: its axis comes first, as the operator's description says."""
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "q": (TensorProto.FLOAT, ["N", "T", q * 8]),
        "k": (TensorProto.FLOAT, ["N", "T", kv * 8]),
        "v": (TensorProto.FLOAT, ["N", "T", kv * 6]),
    }
    if past:
        inputs["state"] = (TensorProto.FLOAT, ["N", kv, 8, 6])
    operands = ["q", "k", "v", *(["state"] if past else [])]
    node = helper.make_node(
        "LinearAttention",
        operands,
        ["y", "made"],
        domain=MICROSOFT,
        q_num_heads=q,
        kv_num_heads=kv,
        update_rule="linear",
    )
    numbers = {"N": 2, "T": 5}
    feeds = {n: np.ones([numbers.get(s, s) for s in shape], np.float32) for n, (_, shape) in inputs.items()}
    assert_as_run(model(node, inputs, ["y", "made"]), feeds, numbers)
    node.attribute.append(helper.make_attribute("state_window", 3))
    inputs |= {"state": (TensorProto.FLOAT, [3, "N", kv, 8, 6])} if past else {}
    made = infer_sizes(model(node, inputs, ["y", "made"])).shapes["made"]
    assert [number_of(size, numbers) for size in made or ()] == [3, 2, kv, 8, 6]


@pytest.mark.parametrize(("last", "dilation"), list(itertools.product([0, 1], [1, 2])))
@pytest.mark.parametrize("past", [False, True])
def test_causal_convolution(last: int, dilation: int, past: bool) -> None:
    length = 3 * dilation
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "x": (TensorProto.FLOAT, ["N", "T", 6] if last else ["N", 6, "T"]),
        "w": (TensorProto.FLOAT, [6, 1, 4]),
    }
    if past:
        inputs["state"] = (TensorProto.FLOAT, ["N", length, 6] if last else ["N", 6, length])
    how = ({"channels_last": 1} if last else {}) | ({"dilation": dilation} if dilation > 1 else {})
    operands = ["x", "w", *(["", "state"] if past else [])]
    node = helper.make_node("CausalConvWithState", operands, ["y", "made"], domain=MICROSOFT, **how)
    numbers = {"N": 2, "T": 5}
    feeds = {n: np.ones([numbers.get(s, s) for s in shape], np.float32) for n, (_, shape) in inputs.items()}
    assert_as_run(model(node, inputs, ["y", "made"]), feeds, numbers)


def test_convolution_whose_borders_are_an_operand() -> None:
    pads = onnx.numpy_helper.from_array(np.asarray([1, 0, 0, 1], np.int64), "pads")
    node = helper.make_node(
        "ConvTransposeWithDynamicPads",
        ["x", "w", "pads"],
        ["y"],
        domain=MICROSOFT,
        strides=[2, 1],
        kernel_shape=[3, 3],
    )
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "x": (TensorProto.FLOAT, ["N", 2, "H", "W"]),
        "w": (TensorProto.FLOAT, [2, 5, 3, 3]),
    }
    numbers = {"N": 2, "H": 4, "W": 6}
    feeds = {n: np.ones([numbers.get(s, s) for s in shape], np.float32) for n, (_, shape) in inputs.items()}
    assert_as_run(model(node, inputs, ["y"], (), (pads,)), feeds, numbers)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("operator", ["NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"])
def test_losses(operator: str, reduction: str) -> None:
    made = ["y"] if operator.startswith("Neg") else ["y", "log"]
    node = helper.make_node(operator, ["x", "t"], made, reduction=reduction)
    inputs: dict[str, tuple[int, list[str | int]]] = {
        "x": (TensorProto.FLOAT, ["N", 3, "L"]),
        "t": (TensorProto.INT64, ["N", "L"]),
    }
    feeds = {"x": np.zeros((2, 3, 5), np.float32), "t": np.zeros((2, 5), np.int64)}
    assert_as_run(model(node, inputs, made, opset=17), feeds, {"N": 2, "L": 5})


LIMITS = [0, 2, 5, -1, -3, -9, 2**31 - 1, 2**63 - 1, -(2**31), -(2**63)]
"""Bounds of a Slice: of three elements, beyond them, and those that stand for the end of the axis."""


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_a_slice_of_sizes_has_the_elements_that_a_run_has(step: int) -> None:
    for start, end in itertools.product(LIMITS, LIMITS):
        net = Net()
        cut = [net.const(np.array([number])) for number in (start, end, 0, step)]
        y = net.op("Slice", net.op("Shape", net.input("x", ["n", "m", "k"])), *cut)
        proto = net.proto(y)
        proto.graph.output[0].type.tensor_type.ClearField("shape")
        (expected,) = Session(proto, optimize=False).run({"x": np.zeros((3, 5, 7), np.float32)}).values()
        found = infer_sizes(proto)
        numbers = [int(number_of(size, {"n": 3, "m": 5, "k": 7})) for size in found.values[y]]
        assert (found.shapes[y], numbers) == (expected.shape, expected.tolist()), (start, end)


@pytest.mark.parametrize("operator", ["Slice", "Split", "TopK", "Pad", "Unsqueeze", "Reshape", "Tile"])
@pytest.mark.parametrize("kind", [np.float32, np.uint64])
def test_lists_of_other_types_are_refused(operator: str, kind: type) -> None:
    """No runtime takes bounds, axes, borders, sizes or counts of them."""
    net = Net()
    x, listed = net.input("x", [2, 2]), net.const(np.array([1], kind))
    operands = [x, listed, net.ints(1)] if operator == "Slice" else [x, listed]
    node = helper.make_node(operator, operands, ["y", *(["z"] if operator == "TopK" else [])])
    net.nodes.append(node)
    net.types["y"] = helper.make_tensor_type_proto(net.kind, ["a", "b"])
    with pytest.raises(ModelError, match=r"lists numbers of type (float|uint64), not int64"):
        infer_sizes(net.proto("y"))


@pytest.mark.parametrize(
    "operator", ["LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"]
)
def test_scales_of_more_axes_than_the_operand_are_refused(operator: str) -> None:
    net = Net(opset=23)
    net.nodes.append(helper.make_node(operator, [net.input("x", [2, 8]), net.weight(4, 2, 8)], ["y"]))
    net.types["y"] = helper.make_tensor_type_proto(net.kind, ["a", "b"])
    with pytest.raises(ModelError, match="has more axes than the tensor that it scales"):
        infer_sizes(net.proto("y"))


def test_a_zero_of_a_reshape_stands_for_an_axis_that_is_there() -> None:
    net = Net()
    net.nodes.append(helper.make_node("Reshape", [net.input("x", ["n", 6]), net.ints(0, -1, 0)], ["y"]))
    net.types["y"] = helper.make_tensor_type_proto(net.kind, ["a", "b", "c"])
    with pytest.raises(ModelError, match="a 0 for axis 2 stands for an axis that the operand has not"):
        infer_sizes(net.proto("y"))


def test_products_beyond_the_range_of_floats_are_not_followed() -> None:
    """The mask of a padded place is the least float times a number above one."""
    net = Net()
    places = net.op("Cast", net.op("Shape", net.input("x", ["n", 6])), to=TensorProto.FLOAT)
    y = net.mul(net.add(places, net.const(2.0)), net.const(np.float32(-3.4e38)))
    found = infer_sizes(net.proto(y))
    assert found.shapes[y] == (2,)
    assert y not in found.values
