"""Runs that show nothing are no proof; inputs that show a difference are drawn."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from judging import QUICK, H, judged, model, net, node
from onnx import TensorProto
from places import CASES

from onnxprune.errors import NotShownError
from onnxprune.evaluate.equivalence import examine, verify
from onnxprune.ir import Model, load


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


def test_every_row_of_a_table_is_fed():
    def table(changed):
        values = np.random.default_rng(0).standard_normal((3000, 6)).astype(np.float32)
        values[changed] *= 1.01
        return net(node("Gather", "e x", "y"), e=values, inputs=(("x", 7, ["N"]),))

    assert judged(table([]), table([2345])).status == "differ"
    assert judged(table([]), table([])).notes == ()


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
