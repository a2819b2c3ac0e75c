"""An If whose branch is decided by sizes stays in the sparse file: the dense file has the branch alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session

WIDTHS = (16, 12)


def network(*, same_names: bool, width: int) -> Model:
    """An If that asks for the width of the features; each branch has a weight of its own."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(0, 0.3, shape).astype(np.float32), name)

    def branch(number: int, activation: str) -> onnx.GraphProto:
        w, t, o = (f"{name}{'' if same_names else number}" for name in "wto")
        nodes = [helper.make_node("MatMul", ["r", w], [t]), helper.make_node(activation, [t], [o])]
        made = helper.make_tensor_value_info(o, TensorProto.FLOAT, ["N", WIDTHS[1]])
        return helper.make_graph(nodes, f"branch{number}", [], [made], [weight(w, *WIDTHS)])

    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "place"], ["g"]),
        helper.make_node("Equal", ["g", "width"], ["c"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch(1, "Relu"), else_branch=branch(2, "Tanh")),
        helper.make_node("MatMul", ["z", "last"], ["y"]),
    ]
    fixed = [numpy_helper.from_array(np.int64(n), name) for name, n in (("place", 1), ("width", width))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [weight("first", 8, WIDTHS[0]), weight("last", WIDTHS[1], 5), *fixed],
    )
    return check(Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))


@pytest.mark.parametrize("same_names", [False, True])
@pytest.mark.parametrize(("width", "taken"), [(16, "then_branch"), (17, "else_branch")])
def test_the_sparse_file_keeps_both_branches(width: int, taken: str, same_names: bool) -> None:
    model = network(same_names=same_names, width=width)
    sparse = Prune(reduce_macs=0.3, round_to=1)(model).model
    dense = Transform()(sparse).model
    operators = [node.op_type for node in model.nodes]
    assert [node.op_type for node in sparse.nodes] == operators
    assert "If" not in [node.op_type for node in dense.nodes]
    (given, own) = (next(n for n in m.nodes if n.op_type == "If") for m in (model, sparse))
    for before, after in zip(given.attribute, own.attribute, strict=True):
        weights = [numpy_helper.to_array(a.g.initializer[0]) for a in (before, after)]
        assert np.array_equal(*weights) == (before.name != taken)
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    one, two = (Session(m.proto).run({"x": x})["y"] for m in (sparse, dense))
    assert np.allclose(one, two, rtol=1e-5, atol=1e-6)
    whole = {t.name: numpy_helper.to_array(t) for t in sparse.proto.graph.initializer}
    inner = {a.name: numpy_helper.to_array(a.g.initializer[0]) for a in own.attribute}[taken]
    hidden = np.maximum(x @ whole["first"], 0) @ inner
    made = np.maximum(hidden, 0) if taken == "then_branch" else np.tanh(hidden)
    assert np.allclose(one, made @ whole["last"], rtol=1e-4, atol=1e-5)
