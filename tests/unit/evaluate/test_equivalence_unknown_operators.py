"""Models are compared up to operators that the runtime does not know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from judging import QUICK, judged
from onnx import TensorProto, helper, numpy_helper
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.errors import VerificationError
from onnxprune.evaluate.equivalence import examine, verify
from onnxprune.ir import Model, load
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform


@pytest.mark.parametrize(
    ("name", "said"), [("trtnms", "EfficientNMS_TRT"), ("fakequant", "FakeQuantize"), ("mlhead", "'probs'")]
)
def test_models_are_compared_up_to_unknown_operators(name, said):
    given = load(CASES / f"{name}.onnx")
    verdict = examine(given, given, budget=QUICK)
    assert verdict.status == "agree", verdict.explanation
    assert any(said in note for note in verdict.notes)
    changed = given.copy()
    weight = next(n.input[1] for n in changed.nodes if n.op_type in ("Conv", "MatMul"))
    changed.set_array(weight, changed.array(weight) * np.float32(1.01))
    with pytest.raises(VerificationError):
        verify(given, changed, budget=QUICK)


def test_an_unknown_operator_that_is_another_is_a_difference():
    given = load(CASES / "trtnms.onnx")
    changed = given.copy()
    last = changed.proto.graph.node[-1]
    last.attribute[0].CopyFrom(helper.make_attribute(last.attribute[0].name, 77.0))
    assert examine(given, changed, budget=QUICK).status == "differ"


def test_weights_that_an_unknown_operator_reads_may_shrink():
    """The weight of a layer behind a FakeQuantize is compared without its removed channels."""
    sparse = Prune(reduce_channels=0.5, round_to=1, criterion="l2")(load(CASES / "fakequant.onnx")).model
    dense = Transform()(sparse).model
    assert find_channels(dense).groups[0].size < find_channels(sparse).groups[0].size
    assert verify(sparse, dense).status == "agree"
    assert verify(sparse, sparse.copy()).status == "agree"
    made = {t.name: t for t in dense.proto.graph.initializer}["c6"]
    made.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(made)[::-1].copy(), "c6"))
    dense.edited()
    with pytest.raises(VerificationError, match="relative error"):
        verify(sparse, dense)


def test_an_unknown_operator_in_a_branch_that_is_resolved():
    """Two models are compared in canonical form if one of them has taken a branch."""
    given = load(CASES / "fakequant.onnx")
    node = next(n for n in given.proto.graph.node if n.op_type == "FakeQuantize")
    branches = []
    for suffix in ("then", "else"):
        inner = onnx.NodeProto()
        inner.CopyFrom(node)
        inner.output[0] = f"{node.output[0]}_{suffix}"
        result = onnx.ValueInfoProto(name=inner.output[0])
        result.type.tensor_type.elem_type = TensorProto.FLOAT
        branches.append(helper.make_graph([inner], suffix, [], [result]))
    choice = helper.make_node(
        "If", ["yes"], list(node.output), "choice", then_branch=branches[0], else_branch=branches[1]
    )
    node.CopyFrom(choice)
    given.proto.graph.initializer.append(numpy_helper.from_array(np.asarray(True), "yes"))
    given.edited()
    taken = canonicalise(given)[0]
    assert not any(n.op_type == "If" for n in taken.nodes)
    assert examine(given, taken, budget=QUICK).status == "agree"
    changed = taken.copy()
    weight = next(n.input[1] for n in changed.nodes if n.op_type == "Conv")
    changed.set_array(weight, changed.array(weight) * np.float32(1.01))
    assert examine(given, changed, budget=QUICK).status == "differ"


def choice_of(name: str, scale: float) -> Model:
    """A choice of two bodies with an unknown operator, both of which read an outer tensor."""
    ones = ", ".join(["1"] * 16)
    text = f"""
    <ir_version: 9, opset_import: ["" : 17, "plugin" : 1]>
    agraph (float[n,4] x) => (float[n,4] y) <float[4,4] w = {{{ones}}}, float s = {{{scale}}}> {{
        h = MatMul (x, w)
        k = Mul (h, s)
        sum = ReduceSum <keepdims = 0> (x)
        positive = Cast <to = 9> (sum)
        y = If (positive) <
            then_branch = first () => (float[n,4] {name}) {{ {name} = plugin.Unknown (k) }},
            else_branch = second () => (float[n,4] z) {{ z = plugin.Unknown (k) }}
        >
    }}
    """
    return Model(onnx.parser.parse_model(text))


def test_bodies_that_differ_in_names_alone_are_the_same():
    assert examine(choice_of("z", 2.0), choice_of("inner", 2.0), budget=QUICK).status == "agree"


def test_a_function_that_calls_an_unknown_one_is_compared_up_to_its_call():
    text = """
    <ir_version: 9, opset_import: ["" : 17, "local" : 1]>
    agraph (float[n,4] x) => (float[n,4] y) { h = Relu (x) g = local.outer (h) y = Relu (g) }
    <domain: "local", opset_import: ["" : 17, "local" : 1]>
    outer (a) => (b) { c = Relu (a) b = local.missing (c) }
    """
    given = Model(onnx.parser.parse_model(text))
    verdict = examine(given, canonicalise(given)[0], budget=QUICK)
    assert verdict.status == "agree", verdict.reason


@pytest.mark.parametrize(("scale", "status"), [(0.0, "agree"), (0.5, "differ")])
def test_an_unknown_operator_may_be_missing_where_its_result_does_not_matter(scale, status):
    text = """
    <ir_version: 9, opset_import: ["" : 17, "plugin" : 1]>
    agraph (float[n,4] x) => (float[n,4] y) <float[4] s = {%s, %s, %s, %s}, float[4] none = {0, 0, 0, 0}> {
        u = plugin.Unknown (x)
        z = Mul (u, s)
        y = Add (x, z)
    }
    """ % ((scale,) * 4)
    given = onnx.parser.parse_model(text)
    without = onnx.ModelProto()
    without.CopyFrom(given)
    del without.graph.node[:2]
    without.graph.node[0].input[1] = "none"
    assert examine(Model(given), Model(without), budget=QUICK).status == status
    assert examine(Model(without), Model(given), budget=QUICK).status == "differ"


UNKNOWN = """
<ir_version: 9, opset_import: ["" : 17, "plugin" : 1]>
agraph (float[n,3] x) => (float[n,%(width)d] y)
<float[3] w = {1, 2, %(w)s}, float[%(rows)d,2] v = {%(v)s}, float[3] u = {1, 2, %(u)s}> {
    r = Relu (x)
    %(made)s
    z = plugin.Unknown (r, %(read)s)
    %(behind)s
}
"""


ALONE = "y = Exp (z)"


FITTING = "y = MatMul (z, v)"


CHAIN = "q = MatMul (z, v) t = plugin.Other (q, u) y = Exp (t)"


def unknown(behind=ALONE, rows=3, last=9, w=3, u=3, made="", read="w"):
    """A network with an unknown operator; its second operand is a constant."""
    v = ", ".join(map(str, [*range(1, 2 * rows), last]))
    facts = {"behind": behind, "rows": rows, "w": w, "u": u, "v": v, "made": made, "read": read}
    facts["width"] = 3 if behind == ALONE else 2
    return Model(onnx.parser.parse_model(UNKNOWN % facts))


@pytest.mark.parametrize("behind", [ALONE, FITTING, CHAIN])
def test_constants_that_an_unknown_operator_reads_are_compared(behind):
    given = unknown(behind)
    assert examine(given, given.copy(), budget=QUICK).status == "agree"
    assert examine(given, unknown(behind, w=4), budget=QUICK).status == "differ"
    computed = unknown(behind, w=-3, made="o = Abs (w)", read="o")
    assert examine(given, computed, budget=QUICK).status == "agree"
    assert examine(unknown(behind, w=4), computed, budget=QUICK).status == "differ"


def test_an_input_that_an_unknown_operator_reads_is_compared():
    given, changed = unknown(), unknown()
    for model, name in ((given, "x"), (changed, "r")):
        next(n for n in model.proto.graph.node if n.op_type == "Unknown").input[1] = name
    assert examine(given, given.copy(), budget=QUICK).status == "agree"
    assert examine(given, changed, budget=QUICK).status == "differ"


@pytest.mark.parametrize("rows", [3, 5])
@pytest.mark.parametrize("behind", [FITTING, CHAIN])
def test_nodes_behind_an_unknown_operator_are_compared(behind, rows):
    """With five rows the network does not take a tensor of the operand's shape."""
    given = unknown(behind, rows)
    assert examine(given, given.copy(), budget=QUICK).status == "agree"
    changed = [unknown(behind, rows, last=10), *([unknown(behind, rows, u=4)] if behind == CHAIN else [])]
    for other in changed:
        status = examine(given, other, budget=QUICK).status
        assert status == ("differ" if rows == 3 else "not shown")


def test_an_unknown_operator_with_fewer_operands_is_another():
    given, fewer = unknown(), unknown()
    del next(n for n in fewer.proto.graph.node if n.op_type == "Unknown").input[1]
    assert examine(given, fewer, budget=QUICK).status == "differ"


def test_an_unknown_operator_is_not_taken_for_a_copy():
    given = unknown()
    without = given.copy()
    del without.proto.graph.node[1]
    without.proto.graph.node[1].input[0] = "r"
    without.edited()
    assert examine(given, without, budget=QUICK).status == "differ"


def test_generators_without_a_seed_share_one_beside_other_nodes():
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,4] x) => (float[n,4] y) { %s g = RandomUniformLike (x) y = Add (h, g) }
    """
    plain = onnx.parser.parse_model(text % "h = Relu (x)")
    longer = onnx.parser.parse_model(text % "a = Identity (x) h = Relu (a)")
    assert examine(Model(plain), Model(longer), budget=QUICK).status == "agree"


def test_outer_tensors_of_bodies_are_compared():
    assert examine(choice_of("z", 2.0), choice_of("z", 2.1), budget=QUICK).status == "differ"


def test_nothing_before_an_operand_of_an_unknown_operator_is_compared() -> None:
    """Channels that are zero are gone from the second network, behind nodes that have no constants."""

    def summed(weights: np.ndarray) -> onnx.ModelProto:
        given = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N, 4] x) => (float[N] y)
        <int64[1] axes = {1}>
        { h = MatMul (x, w)  r = Relu (h)  s = ReduceSum <keepdims = 0> (r, axes)  y = own.Unheard (s) }""")
        given.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        return given

    weights = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    weights[:, 3:] = 0
    assert judged(summed(weights), summed(weights[:, :3])).status == "agree"
    assert judged(summed(weights), summed(2 * weights[:, :3])).status == "differ"
