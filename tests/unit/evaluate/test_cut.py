"""Both halves of a network, one after the other, compute the outputs of the whole one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from onnxprune.analysis.shapes import Shapes, infer
from onnxprune.evaluate.sensitivity.cut import Cut, cut, extract
from onnxprune.ir import Model, check
from onnxprune.runtime import Session, sample_feeds

BRANCHES = """
<ir_version: 8, opset_import: ["" : 17]>
branches (float[N,3] x) => (float[N,3] left, float[N,3] y, float[N,3] z)
<float[3,3] u = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3,3] v = {1, -1, 2, 1, 0, 1, 2, 1, 1},
 float[3,3] w = {2, 1, 0, 1, 1, 1, 0, 3, 1}, float[3] b = {1, 2, 3}> {
  left = MatMul(x, u)
  t = Transpose(w)
  middle = MatMul(x, v)
  right = MatMul(left, t)
  s = Add(middle, b)
  y = Add(right, s)
  z = Mul(y, left)
}
"""


def model(text: str) -> Model:
    return check(Model(onnx.parser.parse_model(text)))


class Halves(NamedTuple):
    at: Cut
    before: Model | None
    after: Model


def split(whole: Model, *changing: str, shapes: Shapes | None = None) -> Halves:
    """Cut a model, and take both parts out of it."""
    shapes = shapes or infer(whole)
    at = cut(whole, shapes, changing)
    inputs = {i.name for i in whole.inputs}
    made = [n for n in dict.fromkeys((*at.carried, *at.unreached)) if n not in inputs]
    before = extract(whole, shapes, made, inputs) if made else None
    return Halves(at, before, extract(whole, shapes, at.reached, at.carried))


def halves(whole: Model, *changing: str) -> Halves:
    """Split a model, and check that the halves compute its outputs."""
    found = split(whole, *changing)
    session = Session(whole.proto, optimize=False)
    for feed in sample_feeds(session.inputs, batch=4, samples=2):
        expected = session.run(feed)
        known: dict[str, Any] = dict(feed)
        if found.before is not None:
            onnx.checker.check_model(found.before.proto)
            known |= run(found.before, feed)
        onnx.checker.check_model(found.after.proto)
        after = Session(found.after.proto, optimize=False)
        assert [i.name for i in after.inputs] == list(found.at.carried)
        made = {n: known[n] for n in found.at.unreached} | after.run({n: known[n] for n in found.at.carried})
        assert made.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(made[name], values)
    return found


def run(part: Model, known: dict[str, Any]) -> dict[str, Any]:
    session = Session(part.proto, optimize=False)
    return session.run({i.name: known[i.name] for i in session.inputs})


def operators(half: Model | None) -> list[str]:
    return [node.op_type for node in half.nodes] if half else []


class TestSplit:
    def test_a_weight_at_the_beginning(self) -> None:
        found = halves(model(BRANCHES), "u")
        assert operators(found.before) == ["MatMul", "Add"]  # the branch beside it
        assert found.at.carried == ("s", "x")
        assert found.at.unreached == ()

    def test_a_weight_at_the_end(self) -> None:
        found = halves(model(BRANCHES), "w")
        assert found.at.carried == ("left", "s")
        assert found.at.unreached == ("left",)
        assert operators(found.after) == ["Transpose", "MatMul", "Add", "Mul"]

    def test_several_weights(self) -> None:
        assert operators(halves(model(BRANCHES), "b", "w").before) == ["MatMul", "MatMul"]
        assert halves(model(BRANCHES), "u", "v").before is None

    def test_constants_stay_constants(self) -> None:
        """Arithmetic on weights alone is not handed over as a value: the runtime could not fold it then."""
        found = halves(model(BRANCHES), "u")
        assert "t" not in found.at.carried
        assert "Transpose" in operators(found.after)
        assert {t.name for t in found.after.proto.graph.initializer} == {"u", "w"}

    def test_only_tensors_that_are_read_are_carried(self) -> None:
        found = halves(model(BRANCHES), "w")
        assert found.before is not None
        assert {t.name for t in found.before.proto.graph.initializer} == {"u", "v", "b"}
        assert {t.name for t in found.after.proto.graph.initializer} == {"w"}

    def test_weights_that_reach_no_output(self) -> None:
        found = split(model(BRANCHES))
        assert found.after.nodes == []
        assert found.at.unreached == ("left", "y", "z")

    def test_the_model_is_not_changed(self) -> None:
        whole = model(BRANCHES)
        before = whole.proto.SerializeToString(deterministic=True)
        found = split(whole, "w")
        found.after.set_array("w", np.zeros((3, 3), np.float32))
        assert whole.proto.SerializeToString(deterministic=True) == before


class TestForms:
    def test_constant_nodes(self) -> None:
        whole = model("""
        <ir_version: 8, opset_import: ["" : 17]>
        constants (float[N,3] x) => (float[N,2] y) {
          a = Constant<value = float[3,3] {1, 2, 3, 4, 5, 6, 7, 8, 9}>()
          h = MatMul(x, a)
          b = Constant<value = float[3,2] {1, 2, 3, 4, 5, 6}>()
          y = MatMul(h, b)
        }
        """)
        found = halves(whole, "b")
        assert found.at.carried == ("h",)
        found.after.set_array("b", np.zeros((3, 2), np.float32))
        assert not Session(found.after.proto).run({"h": np.ones((1, 3), np.float32)})["y"].any()

    def test_initializers_listed_as_inputs(self) -> None:
        whole = model(
            """
        <ir_version: 3, opset_import: ["" : 9]>
        old (float[N,3] x, float[3,3] a, float[3,2] b) => (float[N,2] y) { h = MatMul(x, a) y = MatMul(h, b) }
        """
        )
        for name, shape in (("a", (3, 3)), ("b", (3, 2))):
            values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
            whole.proto.graph.initializer.append(numpy_helper.from_array(values, name))
        whole.edited()
        assert halves(whole, "b").at.carried == ("h",)
        assert halves(whole, "a").at.carried == ("x",)

    def test_subgraphs_read_from_outside(self) -> None:
        whole = model("""
        <ir_version: 8, opset_import: ["" : 17]>
        inner (float[N,3] x, bool flag) => (float[N,3] y)
        <float[3,3] a = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3,3] b = {1, 0, 1, 2, 0, 1, 0, 0, 1}> {
          h = MatMul(x, a)
          g = If(flag) <then_branch = yes () => (float[N,3] t) { t = MatMul(h, b) },
                        else_branch = no () => (float[N,3] e) { e = Relu(h) }>
          y = Relu(g)
        }
        """)
        feed = {"x": np.ones((2, 3), np.float32), "flag": np.array(True)}
        found = split(whole, "b")
        assert set(found.at.carried) == {"flag", "h"}
        assert found.before is not None
        known = feed | run(found.before, feed)
        made = Session(found.after.proto).run({n: known[n] for n in found.at.carried})
        np.testing.assert_array_equal(made["y"], Session(whole.proto).run(feed)["y"])

    @pytest.mark.parametrize("weight", ["u", "w"])
    def test_several_results_of_a_node(self, weight: str) -> None:
        whole = model(
            """
        <ir_version: 8, opset_import: ["" : 17]>
        several (float[N,4] x) => (float[N,2] y)
        <float[4,4] u = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}, float[2,2] w = {1, 2, 3, 4}> {
          h = MatMul(x, u)
          p, q = Split<axis = 1>(h)
          r = MatMul(q, w)
          y = Add(p, r)
        }
        """
        )
        assert halves(whole, weight).at.carried == {"u": ("x",), "w": ("p", "q")}[weight]

    def test_sequences_are_computed_behind_the_cut(self) -> None:
        """A sequence is no input a session takes here, so the cut lies before it."""
        whole = model("""
        <ir_version: 8, opset_import: ["" : 17]>
        sequence (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}, int64 first = {0}> {
          a = Relu(x)
          s = SequenceConstruct(a, x)
          b = SequenceAt(s, first)
          c = MatMul(b, w)
          d = SequenceAt(s, first)
          y = Add(c, d)
        }
        """)
        shapes = infer(whole)
        for name in ("b", "d", "c", "y"):
            shapes.sizes.pop(name, None)
        found = split(whole, "w", shapes=shapes)
        assert found.at.carried == ("a", "x")
        assert found.before is not None
        feed = {"x": np.ones((2, 2), np.float32)}
        known = feed | run(found.before, feed)
        made = Session(found.after.proto).run({n: known[n] for n in found.at.carried})
        np.testing.assert_array_equal(made["y"], Session(whole.proto).run(feed)["y"])
