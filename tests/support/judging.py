"""Judgements of small networks of a test, and the nodes they are built of."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.evaluate.equivalence import CheckBudget, Verdict, examine
from onnxprune.ir import Model, check

QUICK = CheckBudget(seconds=4.0)


def model(proto: onnx.ModelProto) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return check(Model(copy))


def judged(one: onnx.ModelProto, two: onnx.ModelProto) -> Verdict:
    return examine(model(one), model(two), budget=QUICK)


def net(*nodes, outputs=(("y", 1, ["N", 6]),), inputs=(("x", 1, ["N", 4]),), **constants):
    random = np.random.default_rng(0)
    constants = {"w": random.standard_normal((4, 6)).astype(np.float32), **constants}
    graph = helper.make_graph(
        [helper.make_node(op, list(ins), list(outs), **how) for op, ins, outs, how in nodes],
        "net",
        [helper.make_tensor_value_info(*i) for i in inputs],
        [helper.make_tensor_value_info(*o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op, inputs, outputs, **how):
    return op, inputs.split(), outputs.split(), how


H = node("MatMul", "x w", "h")
