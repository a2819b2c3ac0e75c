"""Sequences and optional values, which the verifier reads as their elements."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxprune.certify import certify
from onnxprune.certify.reading import known_elements
from onnxprune.certify.reading.definitions import DEFINITIONS
from onnxprune.certify.reading.graph import Graph
from onnxprune.runtime import Session

FED = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
START = "a = Relu (x)  b = Neg (x)  c = Exp (x)"
USES = {
    "taken": "s = SequenceConstruct (a, b, c)  y = SequenceAt (s, one)",
    "taken from behind": "s = SequenceConstruct (a, b, c)  y = SequenceAt (s, minus)",
    "end to end": "s = SequenceConstruct (a, b, c)  y = ConcatFromSequence <axis = 1> (s)",
    "along a new axis": "s = SequenceConstruct (a, b)  y = ConcatFromSequence <axis = -1, new_axis = 1> (s)",
    "put in": "s = SequenceConstruct (a, b)  t = SequenceInsert (s, c)"
    "  y = ConcatFromSequence <axis = 0> (t)",
    "put in at a place": "s = SequenceConstruct (a, b)  t = SequenceInsert (s, c, minus)"
    "  y = ConcatFromSequence <axis = 0> (t)",
    "put in front": "s = SequenceConstruct (a, b)  t = SequenceInsert (s, c, zero)  y = SequenceAt (t, zero)",
    "put into none": "s = SequenceEmpty ()  t = SequenceInsert (s, c, zero)  y = SequenceAt (t, minus)",
    "left out": "s = SequenceConstruct (a, b, c)  t = SequenceErase (s, zero)  y = SequenceAt (t, zero)",
    "left out at the end": "s = SequenceConstruct (a, b, c)"
    "  t = SequenceErase (s)  y = SequenceAt (t, minus)",
    "counted": "s = SequenceConstruct (a, b, c)"
    "  n = SequenceLength (s)  f = Cast <to = 1> (n)  y = Mul (f, x)",
    "cut": "s = SplitToSequence <axis = 1> (a, two)  y = SequenceAt (s, one)",
    "cut with a rest": "s = SplitToSequence <axis = -1> (a, four)  y = SequenceAt (s, one)",
    "cut into given parts": "s = SplitToSequence <axis = 1> (a, parts)  y = SequenceAt (s, minus)",
    "cut into lines": "s = SplitToSequence <axis = 0> (a)  y = SequenceAt (s, minus)",
    "cut into rows": "s = SplitToSequence <axis = 0, keepdims = 0> (a)  y = SequenceAt (s, one)",
    "an element": "o = Optional (a)  h = OptionalHasElement (o)"
    "  e = OptionalGetElement (o)  y = Where (h, e, b)",
    "a tensor": "h = OptionalHasElement (a)  e = OptionalGetElement (a)  y = Where (h, e, b)",
    "a sequence": "s = SequenceConstruct (a, b)  o = Optional (s)  t = OptionalGetElement (o)"
    "  y = SequenceAt (t, one)",
}


def network(use: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 18]>
        net (float[3,6] x) => (float[p,q] y) <int64 zero = {{0}}, int64 one = {{1}}, int64 minus = {{-1}},
            int64 two = {{2}}, int64 four = {{4}}, int64[3] parts = {{1, 3, 2}}> {{ {START} {use} }}""")


def as_elements(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the nodes that the verifier reads, without those that make sequences."""
    read = Graph(model, "sparse")
    nodes = list(read.flattened(read.main))
    followed = read.lists.keys() | read.contents.keys()
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(
        n for n in nodes if n.output[0] not in followed and n.output[0] not in read.constants
    )
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), k) for k, v in read.constants.items()
    )
    return made


@pytest.mark.parametrize("use", USES)
def test_elements_are_those_of_the_runtime(use: str) -> None:
    model = network(USES[use])
    read = as_elements(model)
    assert not any(word in n.op_type for n in read.graph.node for word in ("Sequence", "Optional"))
    for proto in (model, read):
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    expected, found = (Session(proto, optimize=False).run({"x": FED})["y"] for proto in (model, read))
    np.testing.assert_array_equal(expected, found)


def test_every_operator_of_sequences_has_a_use() -> None:
    written = {word for use in USES.values() for word in use.split()}
    defined = {name for (_, name), how in DEFINITIONS.items() if how.__module__ == known_elements.__name__}
    assert defined <= written


def results(use: str) -> np.ndarray:
    model = network(USES[use])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return np.asarray(Session(model, optimize=False).run({"x": FED})["y"])


def test_another_use_is_certified_where_it_computes_the_same_alone() -> None:
    """Such as two ways to take the same element."""
    made = {use: results(use) for use in USES}
    alike = {(a, b) for a in USES for b in USES if certify(network(USES[a]), network(USES[b])).certified}
    assert all(np.array_equal(made[a], made[b]) for a, b in alike)
    assert {("taken", "left out"), ("put in front", "put into none")} <= alike
    assert {(use, use) for use in USES} <= alike
    assert len(alike) < len(USES) ** 2 / 4


def test_an_unknown_position_is_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> net (float[3,6] x, int64 k) => (float[3,6] y) {
        a = Relu (x)  b = Neg (x)  s = SequenceConstruct (a, %s)  y = SequenceAt (s, k) }"""
    one, other = (onnx.parser.parse_model(text % second) for second in "bx")
    assert certify(one, one).certified
    assert not certify(one, other).certified
