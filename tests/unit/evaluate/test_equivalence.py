"""Models that differ are told apart, models that are equal agree, and runs that show nothing are no proof."""

from __future__ import annotations

import equivalence_pairs as pairs
import node_pairs
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import Net
from onnx import TensorProto, helper, numpy_helper
from places import CASES

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.inputs.ladder import Trial, estimated_bytes
from onnxprune.errors import NotShownError, VerificationError
from onnxprune.evaluate.equivalence import CheckBudget, Verdict, examine, runs, tensor_comparison, verify
from onnxprune.evaluate.equivalence.draws import APART, feeds_of
from onnxprune.evaluate.equivalence.judgement import is_beyond_measure
from onnxprune.evaluate.equivalence.measure import Record
from onnxprune.evaluate.equivalence.noise import shaken
from onnxprune.ir import Model, check, load
from onnxprune.ir.canonical.canonicalise import canonicalise
from onnxprune.passes.prune import Prune
from onnxprune.passes.transform import Transform
from onnxprune.support.processors import ProcessorClock

QUICK = CheckBudget(seconds=4.0)


def model(proto: onnx.ModelProto) -> Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return check(Model(copy))


def judged(one: onnx.ModelProto, two: onnx.ModelProto) -> Verdict:
    return examine(model(one), model(two), budget=QUICK)


def really_differ(one: onnx.ModelProto, two: onnx.ModelProto) -> bool:
    """Run both by onnxruntime alone, on many inputs, and compare all outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        first, second = (onnxruntime.InferenceSession(p.SerializeToString(), options) for p in (one, two))
    except Exception:
        return True
    random = np.random.default_rng(7)
    for _ in range(6):
        sizes = {"n": 64, "t": 16, "h": 9, "w": 10}
        feed = {}
        for i in first.get_inputs():
            shape = [sizes.get(d, d) for d in i.shape]
            high = 2 if i.name == "mask" else pairs.ROWS
            ints = random.integers(0, high, shape)
            feed[i.name] = ints if i.type == "tensor(int64)" else random.normal(size=shape).astype(np.float32)
        try:
            made, other = first.run(None, feed), second.run(None, feed)
        except Exception:
            return True
        if len(made) != len(other) or [o.name for o in first.get_outputs()] != [
            o.name for o in second.get_outputs()
        ]:
            return True
        for a, b in zip(made, other, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype or np.abs(a - b).max() > 1e-3 * np.abs(a).max():
                return True
    return False


@pytest.mark.parametrize("name", pairs.NETWORKS)
def test_a_model_agrees_with_itself(name):
    proto = pairs.NETWORKS[name]()
    assert judged(proto, proto).status == "agree"


LONG = ("picture", "attention", "detector")
"""Networks of many mutants."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in pairs.NETWORKS]
)
def test_a_change_of_one_thing_is_seen(name):
    proto = pairs.NETWORKS[name]()
    tried, missed = 0, []
    for change, mutant in pairs.mutants(proto):
        if really_differ(proto, mutant):
            tried += 1
            missed += [change] if judged(proto, mutant).status == "agree" else []
    assert not missed
    assert tried >= 15


@pytest.mark.parametrize("name", ["attention", "recurrent", "quantised"])
def test_another_order_of_the_hidden_channels_agrees(name):
    proto = pairs.NETWORKS[name]()
    other = pairs.permuted(proto)
    assert other != proto
    verdict = judged(proto, other)
    assert verdict.status == "agree", verdict.explanation
    assert verdict.max_rel_error > 0 or name == "quantised"


# --- outputs that show nothing


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


def over(threshold):
    """A network that is zero unless its sums are over a threshold."""
    bent = (node("Sub", "h k", "a"), node("Relu", "a", "y"))
    return net(H, *bent, k=np.float32(threshold))


def test_an_output_that_is_always_zero_shows_nothing():
    verdict = judged(over(1e12), over(2e12))
    assert verdict.status == "not shown"
    assert "same for all inputs" in verdict.explanation
    with pytest.raises(NotShownError, match=r"'y'.*--data"):
        verify(model(over(1e12)), model(over(2e12)))
    assert judged(over(1000), over(2000)).status == "differ"  # larger inputs are tried


def test_equal_nodes_behind_shown_tensors_are_enough():
    """The output is zero, but both make it of the same tensor by the same nodes."""
    sums = (node("Add", "x x", "d"), node("Mul", "d half", "e"), node("MatMul", "e w", "h"))
    bent = (node("Sub", "h k", "a"), node("Relu", "a", "y"))
    constants = {"k": np.float32(1e12), "half": np.float32(0.5)}
    verdict = judged(net(H, *bent, k=np.float32(1e12)), net(*sums, *bent, **constants))
    assert verdict.status == "agree"
    assert verdict.outputs[0].by == ("h",)


def test_an_output_that_is_no_number_shows_nothing():
    def root(sign):
        chain = (node("Mul", "x x", "s"), node("Sub", "low s", "l"), node("Sqrt", "l", "r"))
        w2 = sign * np.ones((4, 6), np.float32)
        return net(*chain, node("MatMul", "r w2", "y"), low=np.float32(-1), w2=w2)

    verdict = judged(root(1), root(2))
    assert verdict.status == "not shown"
    assert "finite" in verdict.explanation


def test_masks_are_drawn_so_that_something_is_left():
    one, two = (load(CASES / f"nan_mask_{k}.onnx") for k in "ab")
    assert examine(one, two).status == "differ"
    assert examine(one, one).status == "agree"


def test_an_output_of_no_input_need_not_vary():
    grid = node("Identity", "g", "z")
    outputs = (("y", 1, ["N", 6]), ("z", 1, [3]))
    one, two = (
        net(node("MatMul", "x w", "y"), grid, outputs=outputs, g=np.arange(3, dtype=np.float32) * k)
        for k in (1, 2)
    )
    assert judged(one, one).status == "agree"
    assert judged(one, two).status == "differ"


# --- before saturation and picks


def test_operands_of_a_selection_are_compared():
    def label(scale):
        pick = node("ArgMax", "g", "y", axis=1, keepdims=0)
        outputs = (("y", TensorProto.INT64, ["N"]),)
        return net(H, node("Mul", "h s", "g"), pick, s=np.float32(scale), outputs=outputs)

    verdict = judged(label(1), label(1.01))
    assert verdict.status == "differ"
    assert "'g', which it picks from" in verdict.explanation


def test_saturation_hides_nothing():
    def gate(scale):
        return net(H, node("Mul", "h s", "g"), node("Sigmoid", "g", "y"), s=np.float32(scale))

    assert judged(gate(1e4), gate(1.1e4)).status == "differ"
    assert judged(net(H, node("Sigmoid", "h", "y")), net(H, node("Tanh", "h", "y"))).status == "differ"


def test_numbers_far_below_the_last_place_of_one_have_a_tolerance_of_their_own():
    """Sigmoid is good to the last place of 1.0: small results have a large relative error."""
    once = net(H, node("Add", "h a", "g"), node("Sigmoid", "g", "y"), a=np.float32(-13.3))
    halves = (node("Add", "h a", "f"), node("Add", "f b", "g"), node("Sigmoid", "g", "y"))
    twice = net(H, *halves, a=np.float32(-6.1), b=np.float32(-7.2))
    verdict = judged(once, twice)
    assert verdict.status == "agree"
    assert 1e-5 < verdict.max_rel_error <= verdict.allowed


def test_ties_are_judged_before_the_pick():
    """Two sums that are equal but for rounding: which of them is larger is left to the last digit."""

    def tied(order):
        random = np.random.default_rng(3)
        wide = random.standard_normal((64, 1)).astype(np.float32)
        w = np.concatenate([wide, wide[::1]], axis=1)
        w = np.concatenate([w] * 8, axis=1)
        w2 = w[order]
        x2 = node("Gather", "x order", "p", axis=1)
        return net(x2, node("MatMul", "p w2", "h"), node("Mul", "h s", "g"),
                   node("TopK", "g k", "y places", axis=1), s=np.linspace(1, 1 + 2e-7, 16).astype(np.float32),
                   w2=w2, order=order.astype(np.int64), k=np.asarray([4], np.int64),
                   inputs=(("x", 1, ["N", 64]),),
                   outputs=(("y", 1, ["N", 4]), ("places", TensorProto.INT64, ["N", 4])))  # fmt: skip

    verdict = judged(tied(np.arange(64)), tied(np.random.default_rng(1).permutation(64)))
    assert verdict.status == "agree", verdict.explanation


# --- tolerances


def test_small_channels_beside_large_ones_count():
    def scaled(*scales):
        return net(H, node("Mul", "h s", "y"), s=np.asarray(scales, np.float32))

    assert judged(scaled(1e8, 1, 1, 1, 1, 1), scaled(1e8, -5, 7, 0, 3, 2)).status == "differ"


def test_a_float16_constant_elsewhere_loosens_nothing():
    def beside(scale):
        half = node("Cast", "f", "z", to=TensorProto.FLOAT)
        return net(H, node("Mul", "h s", "y"), half, f=np.ones(3, np.float16), s=np.float32(scale),
                   outputs=(("y", 1, ["N", 6]), ("z", 1, [3])))  # fmt: skip

    assert judged(beside(1), beside(1.001)).status == "differ"


def test_quantisation_beside_loosens_nothing():
    def beside(scale):
        rounded = node("QuantizeLinear", "x qs qz", "q")
        constants = {"qs": np.float32(1), "qz": np.uint8(128), "s": np.float32(scale)}
        outputs = (("y", 1, ["N", 6]), ("q", TensorProto.UINT8, ["N", 4]))
        return net(H, node("Mul", "h s", "y"), rounded, outputs=outputs, **constants)

    assert judged(beside(1), beside(1.009)).status == "differ"


def test_half_precision_has_its_own_tolerance():
    narrow = Net(seed=6, dtype=np.float16)
    narrow.linear(narrow.relu(narrow.linear(narrow.input("x", ["n", 8]), 64)), 4)
    proto = narrow.proto(narrow.nodes[-1].output[0])
    assert judged(proto, pairs.permuted(proto)).status == "agree"
    mutant = pairs.copied(proto)
    bias = numpy_helper.to_array(mutant.graph.initializer[-1]) + np.float16(0.3)
    mutant.graph.initializer[-1].CopyFrom(numpy_helper.from_array(bias, mutant.graph.initializer[-1].name))
    assert judged(proto, mutant).status == "differ"


def test_bfloat16_is_judged_as_float32():
    proto = pairs.NETWORKS["recurrent"]()
    plain = Net(seed=6)
    plain.linear(plain.relu(plain.linear(plain.input("x", ["n", 8]), 64)), 4)
    proto = plain.proto(plain.nodes[-1].output[0])
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.ravel()))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    verdict = judged(proto, proto)
    assert verdict.status == "agree"
    assert any("float32" in note for note in verdict.notes)
    changed = pairs.copied(proto)
    tensor = changed.graph.initializer[0]
    values = np.asarray(numpy_helper.to_array(tensor), np.float32) * 1.1
    tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.ravel()))
    assert judged(proto, changed).status == "differ"


def test_types_that_do_not_fit_are_told():
    """Computed as float32 it would run, with other numbers than the analysis folds."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 4] y) <float16 half = {2}> { r = Sqrt(half) y = Div(x, r) }
    """
    proto = onnx.parser.parse_model(text)
    verdict = examine(Model(proto), Model(proto), budget=QUICK)
    assert verdict.status == "not shown"
    assert "bound to different types" in verdict.explanation


def test_every_row_of_a_table_is_fed():
    def table(changed):
        values = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)
        values[changed] *= 1.01
        return net(node("Gather", "e x", "y"), e=values, inputs=(("x", 7, ["N"]),))

    assert judged(table([]), table([2345])).status == "differ"
    assert judged(table([]), table([])).notes == ()


# --- sizes


def frozen(proto: onnx.ModelProto, tensor: str, **sizes: tuple[int, ...]) -> onnx.ModelProto:
    """Return a copy in which a tensor is the constant that it is at one size of the inputs."""
    probe = pairs.copied(proto)
    probe.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    feed = {name: np.zeros(shape, np.float32) for name, shape in sizes.items()}
    values = session.run([tensor], feed)[0]
    copy = pairs.copied(proto)
    maker = next(n for n in copy.graph.node if tensor in n.output)
    maker.output[list(maker.output).index(tensor)] = f"{tensor}_unused"
    copy.graph.initializer.append(numpy_helper.from_array(values, tensor))
    return copy


@pytest.mark.parametrize(
    ("name", "operator", "sizes"),
    [
        ("same_pad", "Pad", {"x": (2, 3, 224, 224)}),
        ("tsm", "Reshape", {"x": (8, 3, 32, 32)}),
        ("unetpad2d", "Pad", {"img": (1, 1, 16, 16)}),
        ("winpad_ceil", "Pad", {"img": (1, 3, 32, 32)}),
    ],
)
def test_sizes_that_are_folded_wrongly_are_caught(name, operator, sizes):
    given = load(CASES / f"{name}.onnx")
    for maker in given.nodes:
        if maker.op_type == operator and maker.input[1] not in given.constants:
            wrong = frozen(given.proto, maker.input[1], **sizes)
            verdict = examine(given, model(wrong), budget=QUICK)
            assert verdict.status == "differ", maker.name
    assert examine(given, given, budget=QUICK).status == "agree"


def test_sizes_are_reported():
    verdict = judged(*[pairs.picture_net()] * 2)
    shapes = [tuple(sizes["x"]) for sizes in verdict.sizes]
    assert any(h != w for _, _, h, w in shapes)
    assert any(h % 2 for _, _, h, _ in shapes)
    assert (1, 1) in {s[2:] for s in shapes}
    assert len({s[0] for s in shapes}) > 2
    assert verdict.facts()["sizes"]


# --- models that the runtime cannot run


def test_dropout_in_training_mode_is_off_in_both():
    given = load(CASES / "droptrain.onnx")
    verdict = verify(given, given, budget=QUICK)
    assert any("Dropout" in note for note in verdict.notes)


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


def test_full_accuracy_is_compared():
    given = load(CASES / "nbits_acc4.onnx")
    verdict = verify(given, given, budget=QUICK)
    assert any("accuracy_level" in note for note in verdict.notes)


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


def test_a_network_that_takes_no_input_is_given_up_within_the_budget():
    """The error of the runtime is the same at all sizes: no further sizes are searched for."""
    text = """
    <ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,c,h,w] x, float[m] z) => (float[n,c,h,w] y) <int64[1] far = {9}> {
        odd = Gather <axis = 0> (z, far)
        none = Sub (odd, odd)
        deep = Log (none)
        place = Cast <to = 7> (deep)
        row = Gather (z, place)
        y = Add (x, row)
    }
    """
    given = Model(onnx.parser.parse_model(text))
    clock = ProcessorClock()
    assert examine(given, given.copy(), budget=CheckBudget(seconds=1.0)).status == "not shown"
    assert clock.seconds < 20


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


# --- values that usual inputs do not reach

FLOATS, WHOLE = "float[n,3]", "int64[n,3]"
RARE = {
    "upper bound": (FLOATS, FLOATS, "float a = {-900}, float b = {%d}", "y = Clip (x, a, b)", (100, 101)),
    "threshold": (
        FLOATS,
        FLOATS,
        "float a = {%d}",
        "c = Less (x, a) z = Abs (x) y = Where (c, x, z)",
        (-50, -80),
    ),
    "divisor": (WHOLE, WHOLE, "int64 a = {%d}", "y = Mod (x, a)", (400, 401)),
}


def rare(name, number):
    given, made, constants, nodes, _ = RARE[name]
    text = f"""<ir_version: 9, opset_import: ["" : 17]>
    agraph ({given} x) => ({made} y) <{constants % number}> {{ {nodes} }}"""
    return Model(onnx.parser.parse_model(text))


@pytest.mark.parametrize("name", RARE)
def test_constants_that_matter_for_large_numbers_only_are_told_apart(name):
    one, two = (rare(name, number) for number in RARE[name][-1])
    assert examine(one, one, budget=QUICK).status == "agree"
    assert examine(one, two, budget=QUICK).status == "differ"


@pytest.mark.parametrize(
    ("given", "made", "one", "two"),
    [
        (WHOLE, WHOLE, "y = Abs (x)", "y = Identity (x)"),
        (FLOATS, FLOATS, "y = Sign (x)", "a = Abs (x) y = Div (x, a)"),
        (
            FLOATS,
            "int64[n,1]",
            "y = ArgMax <axis = 1> (x)",
            "y = ArgMax <axis = 1, select_last_index = 1> (x)",
        ),
    ],
)
def test_negative_zero_and_equal_numbers_are_fed(given, made, one, two):
    text = """<ir_version: 9, opset_import: ["" : 17]> agraph (%s x) => (%s y) { %s }"""
    first, second = (Model(onnx.parser.parse_model(text % (given, made, nodes))) for nodes in (one, two))
    assert examine(first, first, budget=QUICK).status == "agree"
    assert examine(first, second, budget=QUICK).status == "differ"


def test_numbers_at_a_threshold_itself_are_fed():
    """The two differ only where the last place of an input decides."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,3] x) => (float[n,3] y) <float a = {%s}, float k = {1000}> {
        c = Equal (x, a) f = Cast <to = 1> (c) m = Mul (f, k) y = Add (x, m) }"""
    first, second = (Model(onnx.parser.parse_model(text % number)) for number in ("2.0", "2.5"))
    assert examine(first, first, budget=QUICK).status == "agree"
    assert examine(first, second, budget=QUICK).status == "differ"


THREE = "float[3]"


@pytest.mark.parametrize(
    ("given", "one", "two"),
    [
        (THREE, "y = ThresholdedRelu <alpha = 2.0> (x)", "y = ThresholdedRelu <alpha = 3.25> (x)"),
        (THREE, "z = Abs (x) y = Sqrt (z)", "z = Relu (x) y = Sqrt (z)"),
        ("float[1]", "y = HardSwish (x)", "y = HardSwish (x) "),
        (
            "uint8[6]",
            "d = Constant <value = uint8 {30}> () y = Mod (x, d)",
            "d = Constant <value = uint8 {29}> () y = Mod (x, d)",
        ),
    ],
)
def test_numbers_between_two_thresholds_are_fed_to_small_inputs(given, one, two):
    text = """<ir_version: 9, opset_import: ["" : 17]> agraph (%s x) => (%s y) { %s }"""
    first, second = (Model(onnx.parser.parse_model(text % (given, given, nodes))) for nodes in (one, two))
    assert examine(first, first, budget=QUICK).status == "agree"
    assert examine(first, second, budget=QUICK).status == ("agree" if one == two.strip() else "differ")


def qlinear(zero: int) -> onnx.ModelProto:
    """A product of eight bits with scales of half precision, whose last place moves many results."""
    one = ", ".join(["3, 100, 90, 1"] * 4)
    text = f"""<ir_version: 10, opset_import: ["": 21]>
        m (int8[N, 4] x) => (int8[N, 4] y)
        <int8 z = {{-7}}, int8[4, 4] w = {{{one}}}, int8 o = {{{zero}}}> {{
            f = Constant <value_float = 0.1> ()
            s = Cast <to = 10> (f)
            y = QLinearMatMul (x, s, z, w, s, z, s, o)
        }}"""
    return onnx.parser.parse_model(text)


def test_zero_points_of_quantised_products_are_compared() -> None:
    assert judged(qlinear(3), qlinear(3)).status == "agree"
    assert judged(qlinear(3), qlinear(4)).status == "differ"


def test_infinite_numbers_of_the_reference_are_no_evidence():
    """The logarithm of 1 + exp(x) is infinite in one spelling only."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,3] x) => (float[n,3] y) <float a = {1}> { %s }"""
    one, two = (
        Model(onnx.parser.parse_model(text % nodes))
        for nodes in ("e = Exp (x) s = Add (e, a) y = Log (s)", "y = Softplus (x)")
    )
    assert examine(one, two, budget=QUICK).status == "agree"


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


PADDED = "m (float[N, 2, 8, 8] x) => (float[N, 2, h, w] y) <int64[{n}] p = {{{p}}}> {{ {nodes} }}"


def padded(places: int, *, folded: bool) -> Model:
    """A network that pads by as many numbers; where they are computed, the runtime reads them in the run."""
    numbers = ", ".join("1" * places)
    nodes = "y = Pad(x, p)" if folded else "q = Identity(p) y = Pad(x, q)"
    text = PADDED.format(n=places, p=numbers, nodes=nodes)
    return check(Model(onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text)))


def test_two_networks_that_take_no_inputs_are_no_difference() -> None:
    """The runtime finds the fault of the first in its runs, that of the second when it loads it."""
    found = examine(padded(3, folded=False), padded(3, folded=True), budget=QUICK)
    assert (found.status, found.unloadable) == ("not shown", True)
    assert "takes no drawn inputs" in found.explanation
    assert "only the first model can be run" in found.explanation
    with pytest.raises(VerificationError, match="not shown") as raised:
        verify(padded(3, folded=False), padded(3, folded=True), budget=QUICK)
    assert not isinstance(raised.value, NotShownError)


def test_a_network_that_cannot_be_loaded_differs_from_one_that_runs() -> None:
    found = examine(padded(8, folded=False), padded(3, folded=True), budget=QUICK)
    assert found.status == "differ"
    assert "only the first model can be run" in found.explanation


def test_inputs_beyond_the_memory_are_drawn_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object, **__: object) -> list[dict[str, np.ndarray]]:
        drawn.append(None)
        raise MemoryError

    drawn: list[None] = []
    monkeypatch.setattr(runs, "drawn", without_memory)
    found = examine(padded(8, folded=True), padded(8, folded=True), budget=QUICK)
    assert (found.status, len(drawn)) == ("not shown", 1)
    assert "the memory does not suffice for inputs of x=" in found.explanation
    assert "--memory" in found.hint


def test_large_shapes_are_not_tried_with_a_stand_in_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stand-in keeps the shape of the weight, which an unknown Reshape would change."""
    net = Net(seed=3)
    x = net.input("x", [1, 3, "h", "w"])
    rows = net.op("MatMul", net.op("Flatten", net.gap(x)), net.weight(3, 108))
    weight = net.sized(net.op("Reshape", rows, net.ints(4, 3, 3, 3), domain="other"), [4, 3, 3, 3])
    proto = net.proto(net.op("Relu", net.op("Conv", x, weight, kernel_shape=[3, 3])))
    sizes: list[int] = []
    monkeypatch.setattr(runs.EquivalenceCheck, "_is_too_large", lambda _, shapes, elements: elements > 5000)
    tried = runs.EquivalenceCheck._try

    def noted(self: runs.EquivalenceCheck, trial: Trial) -> bool:
        sizes.append(trial.elements)
        return tried(self, trial)

    monkeypatch.setattr(runs.EquivalenceCheck, "_try", noted)
    assert judged(proto, proto).status == "agree"
    assert max(sizes) <= 5000


def test_no_large_shapes_are_run_once_a_small_one_has_shown_something(monkeypatch):
    net = Net()
    model = net.model(net.relu(net.input("x", ("N", "T"))))
    trials = [Trial("solved 0", {"x": (1, 4)}), Trial("small", {"x": (1, 1 << 20)})]
    monkeypatch.setattr(runs, "trial_shapes", lambda model, given: iter(trials))
    verdict = examine(model, model.copy())
    assert verdict.status == "agree"
    assert list(verdict.sizes) == [{"x": (1, 4)}]


def test_shapes_that_contradict_the_network_have_no_estimate():
    net = Net()
    x = net.add(net.input("x", ("N", "T")), net.input("y", ("N", "T")))
    proto = net.proto(x)
    assert estimated_bytes(proto, {"x": (2, 3), "y": (2, 3)}) == 24
    assert estimated_bytes(proto, {"x": (2, 3), "y": (2, 5)}) == np.inf


def cancelling(order: np.ndarray) -> Model:
    """A difference of two sums that are almost equal, their terms added in some order."""
    net = Net()
    x = net.op("Gather", net.input("x", ("N", 64)), net.const(order), axis=1)
    weights = net.random.normal(size=(64, 8)).astype(np.float32)
    one, other = (net.op("MatMul", x, net.const(w[order])) for w in (weights, weights * 1.003))
    return net.model(net.op("Sub", other, one))


def test_noise_is_measured_until_it_explains_the_differences(monkeypatch):
    made = []
    monkeypatch.setattr(
        tensor_comparison, "shaken", lambda proto, seed: made.append(seed) or shaken(proto, seed)
    )
    order = np.random.default_rng(5).permutation(64)
    verdict = examine(cancelling(np.arange(64)), cancelling(order))
    assert verdict.status == "agree"
    assert verdict.max_rel_error > 1e-5
    assert made == [0, 0, 0]  # one round for usual numbers, one for each kind that is judged apart


def test_rounded_sums_of_dequantised_rows_are_no_difference() -> None:
    """Rows whose numbers nearly cancel, added in two orders: no weight is a float, the sums are rounded."""
    random = np.random.default_rng(7)
    half = random.integers(1, 120, (50, 32))
    rows = np.concatenate([127 + half, 127 - half], axis=1)
    rows[:, 0] += 1

    def total(order: np.ndarray) -> Model:
        net = Net()
        ids = net.input("ids", ["N", 3], kind=onnx.TensorProto.INT64)
        table = net.const(rows[:, order].astype(np.uint8))
        scale, zero = net.const(np.float32(0.0041)), net.const(np.uint8(127))
        floats = net.op("DequantizeLinear", net.op("Gather", table, ids), scale, zero)
        return net.model(net.op("ReduceSum", floats, net.const(np.array([2])), keepdims=0))

    verdict = examine(total(np.arange(64)), total(random.permutation(64)), budget=QUICK)
    assert verdict.status == "agree"
    assert verdict.max_rel_error > 1e-5


def sums(text: str) -> onnx.ModelProto:
    """A network of the same sum, in the order that a text gives."""
    return onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 4] y)
            <float large = {{3e38}}, float less = {{-3e38}}, float none = {{0}}> {{ {text} }}
        """
    )


def test_infinity_by_the_order_of_a_sum_is_no_difference() -> None:
    """Results that overflow in one order of a sum only show nothing, whichever of the two is infinite."""
    over = sums("a = Add(x, large) b = Add(a, large) y = Add(b, less)")
    within = sums("a = Add(large, less) b = Add(x, a) y = Add(b, large)")
    for one, two in ((over, within), (within, over)):
        verdict = judged(one, two)
        assert verdict.status == "not shown"
        assert "is no number, or next to infinity, in both models" in verdict.explanation


def test_infinity_without_large_numbers_is_a_difference() -> None:
    one, two = sums("a = Div(x, none) y = Tanh(a)"), sums("a = Mul(x, none) b = Div(a, none) y = Tanh(b)")
    assert judged(one, two).status == "differ"


def test_a_difference_behind_numbers_that_are_none_shows_nothing() -> None:
    """Relu makes zero of NaN, or leaves it, as its vectors are cut."""
    one = sums("r = Sqrt(less) a = Add(x, r) b = Relu(a) y = Add(b, x)")
    two = sums("r = Sqrt(less) a = Add(x, r) b = Relu(a) c = Add(b, x) d = Relu(x) y = Sub(c, d)")
    assert judged(one, two).status != "agree"
    assert "'r'" in judged(one, two).explanation or judged(one, two).status == "not shown"


@pytest.mark.parametrize(("size_bytes", "expected"), [(1e9, 7), (1e5, 2)])
def test_fixed_sizes_beyond_the_budget_are_run_no_more_than_needed(size_bytes: float, expected: int) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[40000, 4] x) => (float[40000, 4] y) { a = Tanh(x) y = Mul(a, x) }
    """
    model = Model(onnx.parser.parse_model(text))
    verdict = examine(model, model, budget=CheckBudget(seconds=60.0, size_bytes=int(size_bytes)))
    assert verdict.status == "agree"
    assert verdict.runs == expected


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, [2, 2, 2]), (6.0, [2, 1, 1])])
def test_sizes_come_before_further_draws_once_half_of_the_time_is_gone(
    seconds: float, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        def __init__(self) -> None:
            self.seconds = seconds

    monkeypatch.setattr(runs, "ProcessorClock", Clock)
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x) => (float[N, 4] y) { a = Tanh(x) y = Mul(a, x) }
    """
    model = Model(onnx.parser.parse_model(text))
    trials = [Trial(f"solved {n}", {"x": (n, 4)}) for n in (1, 3, 5)]
    monkeypatch.setattr(runs, "trial_shapes", lambda model, given: iter(trials))
    drawn: list[str] = []
    run = runs.EquivalenceCheck._run

    def noted(self: runs.EquivalenceCheck, feed: runs.ReferenceRun) -> None:
        drawn.append(feed.where)
        run(self, feed)

    monkeypatch.setattr(runs.EquivalenceCheck, "_run", noted)
    assert examine(model, model, budget=CheckBudget(seconds=10.0)).status == "agree"
    assert [drawn.count(f"x={n}×4") for n in (1, 3, 5)] == expected
    further = sum(feeds_of(kind, trials[-1].shapes) for kind in APART)
    assert len(drawn) == sum(expected) + (further if seconds == 1.0 else 0)


def hardmax(opset: int) -> onnx.ModelProto:
    """Before opset 13, Hardmax picks one of all elements behind its axis."""
    text = f"""<ir_version: 7, opset_import: ["": {opset}]>
        m (float[N, 3, 4] x) => (float[N, 3, 4] y) {{ y = Hardmax <axis = 1> (x) }}"""
    return onnx.parser.parse_model(text)


def test_operators_of_other_versions_are_no_common_tail() -> None:
    assert judged(hardmax(12), hardmax(13)).status == "differ"
    assert judged(hardmax(13), hardmax(17)).status == "agree"


def picking(operator: str, calls: str = "pick") -> onnx.ModelProto:
    """A network that picks by a local function, or by one that this one calls."""
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
        m (float[N, 5] x) => (int64[N] y) {{ a = Neg (x) y = own.{calls} (a) }}
        <domain: "own", opset_import: ["": 17]> pick (a) => (b)
            {{ b = {operator} <axis = 1, keepdims = 0> (a) }}
        <domain: "own", opset_import: ["": 17, "own": 1]> outer (a) => (b) {{ b = own.pick (a) }}"""
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("calls", ["pick", "outer"])
def test_other_functions_of_the_same_name_are_no_common_tail(calls: str) -> None:
    assert judged(picking("ArgMax", calls), picking("ArgMin", calls)).status == "differ"
    assert judged(picking("ArgMax", calls), picking("ArgMax", calls)).status == "agree"


@pytest.mark.parametrize(
    ("one", "two", "status"),
    [
        (
            "a = Mul (x, large)  s = Sin (a)",
            "a = Div (x, small)  b = Neg (a)  c = Sin (b)  s = Neg (c)",
            "not shown",
        ),
        ("s = Exp (x)", "s = Neg (x)", "differ"),
    ],
)
def test_picks_by_rounding_show_no_difference(one: str, two: str, status: str) -> None:
    """One last place of the inputs makes other scores of angles so large."""

    def with_scores(scores: str) -> onnx.ModelProto:
        return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[8, 64] x) => (float[8, 5] y)
        <float large = {{1e6}}, float small = {{1e-6}}, int64[1] k = {{5}}>
        {{ {scores}
           v, i = TopK (s, k)
           y = GatherElements <axis = 1> (x, i) }}""")

    assert judged(with_scores(one), with_scores(two)).status == status


@pytest.mark.parametrize(("changed", "explained"), [(0.4, True), (0.001, False)])
def test_other_integers_are_explained_by_rounding_that_changes_as_many(
    changed: float, explained: bool
) -> None:
    drawn = np.arange(1000)

    def record(fraction: float) -> Record:
        other, made = drawn.copy(), Record("i", 4, False)
        other[: round(1000 * fraction)] += 1
        made.add(drawn, other, "usual inputs")
        return made

    assert is_beyond_measure(record(0.6), record(changed)) == explained


@pytest.mark.parametrize("operator", ["Softmax", "ThresholdedRelu", "QLinearMatMul", "GRU", "TopK", "Mod"])
def test_one_operator_changed_in_one_thing_is_seen(operator: str) -> None:
    found = list(node_pairs.verdicts(operator, each=6))
    assert found
    assert [change for status, change in found if status == "agree"] == []


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
