"""Optional values of which it is known whether they have an element."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import half_of_each, prune_exactly
from onnx import helper, numpy_helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.reach import staying_axes
from onnxprune.ir import Model, check

FLOAT = onnx.TensorProto.FLOAT


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, ["N", 12])
    return helper.make_graph(nodes, name, [], [result])


def network(
    *between: onnx.NodeProto,
    opset: int = 18,
    asked: str = "maybe",
    given: tuple[onnx.ValueInfoProto, ...] = (),
) -> Model:
    """Return products with a choice between: the element of an optional value, or another product."""
    random = np.random.default_rng(0)
    shapes = {"w": (6, 10), "inner": (10, 12), "other": (10, 12), "last": (12, 3)}
    weights = [
        numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in shapes.items()
    ]
    make = helper.make_node
    held = branch("held", make("OptionalGetElement", [asked], ["e"]), make("MatMul", ["e", "inner"], ["one"]))
    absent = branch("absent", make("MatMul", ["h", "other"], ["two"]))
    nodes = [
        make("MatMul", ["x", "w"], ["a"]),
        make("Relu", ["a"], ["h"]),
        *between,
        make("OptionalHasElement", [asked], ["has"]),
        make("If", ["has"], ["m"], then_branch=held, else_branch=absent),
        make("Relu", ["m"], ["r"]),
        make("MatMul", ["r", "last"], ["y"]),
    ]
    data = helper.make_tensor_value_info("x", FLOAT, ["N", 6])
    result = helper.make_tensor_value_info("y", FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "net", [data, *given], [result], weights)
    return check(
        Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))
    )


def assert_prunes(model: Model, *weights: str) -> None:
    channels = find_channels(model)
    assert sorted(g.size for g in channels.groups) == [10, 12], channels.blocked
    floats = {n for n, tensor in channels.model.constants.items() if tensor.data_type == FLOAT}
    assert floats == {"w", "last", *weights}
    outcome = prune_exactly(model, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3


@pytest.mark.parametrize("opset", [15, 18])
def test_a_value_that_has_an_element(opset: int) -> None:
    assert_prunes(network(helper.make_node("Optional", ["h"], ["maybe"]), opset=opset), "inner")


@pytest.mark.parametrize("opset", [15, 18])
def test_a_value_that_has_none(opset: int) -> None:
    kind = helper.make_tensor_type_proto(FLOAT, ["N", 10])
    assert_prunes(network(helper.make_node("Optional", [], ["maybe"], type=kind), opset=opset), "other")


def test_a_tensor_is_its_own_element() -> None:
    assert_prunes(network(asked="h"), "inner")


def test_a_sequence_as_an_element() -> None:
    make = helper.make_node
    first = numpy_helper.from_array(np.array(0))
    between = (
        make("SequenceConstruct", ["h", "h"], ["listed"]),
        make("Optional", ["listed"], ["some"]),
        make("OptionalGetElement", ["some"], ["list"]),
        make("Constant", [], ["first"], value=first),
        make("SequenceAt", ["list", "first"], ["maybe"]),
    )
    assert_prunes(network(*between), "inner")


def test_a_choice_of_the_caller_stays() -> None:
    """A branch chosen at run time makes the value: nothing is pruned."""
    make = helper.make_node
    tensor = helper.make_tensor_type_proto(FLOAT, ["N", 10])

    def made(name: str, node: onnx.NodeProto) -> onnx.GraphProto:
        kind = helper.make_optional_type_proto(tensor)
        return helper.make_graph([node], name, [], [helper.make_value_info(node.output[0], kind)])

    positive = make("ReduceMax", ["x"], ["top"], keepdims=0)
    choice = make("Cast", ["top"], ["choice"], to=onnx.TensorProto.BOOL)
    node = make(
        "If",
        ["choice"],
        ["maybe"],
        then_branch=made("full", make("Optional", ["h"], ["o1"])),
        else_branch=made("empty", make("Optional", [], ["o2"], type=tensor)),
    )
    channels = find_channels(network(positive, choice, node))
    assert {"If", "OptionalHasElement"} <= {n.op_type for n in channels.model.all_nodes}
    assert channels.groups == ()


def test_an_optional_input_is_named_as_the_reason() -> None:
    maybe = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, ["N", 10]))
    channels = find_channels(network(given=(helper.make_value_info("maybe", maybe),)))
    assert [g.size for g in channels.groups] == [10]  # that of the branch without the value
    reasons = {b.reason for axis in staying_axes(channels) for b in axis.reasons}
    assert "the shape of 'e' is not known: it is the element of an optional value" in reasons
