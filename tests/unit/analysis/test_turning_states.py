"""States of loops that change from turn to turn: nothing found in the first turn holds for the others."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.sizes import infer_sizes
from onnxprune.ir import Model, check
from onnxprune.ir.canonical.canonicalise import canonicalise

WEIGHTS = {"first": (4, 16), "second": (16, 12), "last": (12, 5)}


def network(state: str, start: str, asked: str, added: str, taken: str, turns: str = "Squeeze(k)") -> Model:
    """Return a network with a loop whose body asks how long its state is.

    Args:
        state: The type of the state.
        start: The node that makes the first one.
        asked: The nodes that compute the condition ``asked`` of the state ``held``.
        added: The node that adds ``part`` to it.
        taken: The node that makes the tensor ``all`` of the last state ``kept``.
        turns: The expression of the number of turns.
    """
    proto = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 4] x, int64[1] k) => (float[N, 5] y)
        <bool true = {{1}}, int64 zero = {{0}}, int64 one = {{1}}, int64[1] zeros = {{0}}> {{
        a = MatMul(x, first)  r = Relu(a)  s = MatMul(r, second)  row = Unsqueeze(s, zeros)
        turns = {turns}  {start}
        kept = Loop(turns, true, state) <
            body = turn (int64 i, bool on, {state} held) => (bool go, {state} grown) {{
            go = Identity(on)  {asked}
            part = If(asked) <
                then_branch = first_turn () => (float[d1, d2, d3] d) {{ d = Relu(row) }},
                else_branch = later_turn () => (float[e1, e2, e3] e) {{ e = Exp(row) }}>
            {added} }}>
        {taken}  most = ReduceMax<axes = [0], keepdims = 0>(all)  y = MatMul(most, last) }}""")
    random = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return check(Model(proto))


def growing_tensor() -> Model:
    """A tensor that has one row in the first turn alone."""
    asked = "shape = Shape(held)  rows = Gather(shape, zero)  asked = Equal(rows, one)"
    added = "grown = Concat<axis = 0>(held, part)"
    return network("float[s1, s2, s3]", "state = Identity(row)", asked, added, "all = Identity(kept)")


def growing_sequence(turns: str = "Squeeze(k)") -> Model:
    """A sequence that is empty in the first turn alone."""
    return network(
        "seq(float[s1, s2, s3])",
        "state = SequenceEmpty<dtype = 1>()",
        "count = SequenceLength(held)  asked = Equal(count, zero)",
        "grown = SequenceInsert(held, part)",
        "all = ConcatFromSequence<axis = 0>(kept)",
        turns,
    )


def run(model: onnx.ModelProto, turns: int) -> np.ndarray:
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32), "k": np.array([turns])}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return np.asarray(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)[0])


@pytest.mark.parametrize("make", [growing_tensor, growing_sequence])
def test_a_condition_of_the_first_turn_decides_no_other(make) -> None:
    model = make()
    canonical, shapes = canonicalise(model)
    assert shapes.branches == {}
    assert "count" not in shapes.values
    assert [n.op_type for n in canonical.all_nodes].count("If") == 1
    for turns in (1, 3):
        np.testing.assert_array_equal(run(canonical.proto, turns), run(model.proto, turns))


def test_a_sequence_that_grows_by_one_has_as_many_elements_as_the_loop_has_turns() -> None:
    found = infer_sizes(growing_sequence("Size(x)").proto)
    kept = found.sequences["kept"]
    assert [str(size) for size in kept.common] == ["1", "N", "12"]
    assert str(kept.count) == "4*N"
    assert [str(size) for size in found.shapes["all"]] == ["4*N", "N", "12"]


NESTED = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x, int64[1] k) => (float[N, 5] y)
    <int64[1] zeros = {{0}}> {{
    a = MatMul(x, first)  r = Relu(a)  asked = Greater(k, zeros)  inner = {inner}
    z = If(asked) <
        then_branch = outer () => (float[p1, p2] z1) {{
            z1 = If(inner) <
                then_branch = t () => (float[q1, q2] b) {{ c = MatMul(r, second)  b = Tanh(c) }},
                else_branch = e () => (float[r1, r2] d) {{ f = MatMul(r, other)  d = Relu(f) }}> }},
        else_branch = plain () => (float[t1, t2] z2) {{ h = MatMul(r, second)  z2 = Relu(h) }}>
    y = MatMul(z, last) }}"""


@pytest.mark.parametrize(("inner", "taken"), [("Identity(asked)", True), ("Not(asked)", False)])
def test_a_condition_is_known_inside_its_own_branches(inner: str, taken: bool) -> None:
    proto = parser.parse_model(NESTED.format(inner=inner))
    random = np.random.default_rng(0)
    for name, shape in (WEIGHTS | {"other": (16, 12)}).items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    model = check(Model(proto))
    canonical, shapes = canonicalise(model)
    assert shapes.branches == {"z1": taken}
    assert [n.op_type for n in canonical.all_nodes].count("If") == 1
    assert ("other" in canonical.constants) == (not taken)
    for turns in (-1, 3):
        np.testing.assert_array_equal(run(canonical.proto, turns), run(model.proto, turns))
    assert len(find_channels(model).groups) == 2
