"""Rounding is told apart from a difference, by measurement."""

from __future__ import annotations

import equivalence_pairs as pairs
import numpy as np
import onnx
import pytest
from helpers import Net
from judging import QUICK, H, judged, net, node
from onnx import TensorProto, helper, numpy_helper
from places import CASES

from onnxprune.evaluate.equivalence import examine, runs, tensor_comparison, verify
from onnxprune.evaluate.equivalence.conclusion import Conclusion
from onnxprune.evaluate.equivalence.judgement import is_beyond_measure
from onnxprune.evaluate.equivalence.measure import Record
from onnxprune.evaluate.equivalence.noise import shaken
from onnxprune.evaluate.equivalence.runs import EquivalenceCheck
from onnxprune.evaluate.equivalence.subjects import subjects
from onnxprune.ir import Model, load


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


def test_full_accuracy_is_compared():
    given = load(CASES / "nbits_acc4.onnx")
    verdict = verify(given, given, budget=QUICK)
    assert any("accuracy_level" in note for note in verdict.notes)


def test_infinite_numbers_of_the_reference_are_no_evidence():
    """The logarithm of 1 + exp(x) is infinite in one spelling only."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    agraph (float[n,3] x) => (float[n,3] y) <float a = {1}> { %s }"""
    one, two = (
        Model(onnx.parser.parse_model(text % nodes))
        for nodes in ("e = Exp (x) s = Add (e, a) y = Log (s)", "y = Softplus (x)")
    )
    assert examine(one, two, budget=QUICK).status == "agree"


def gated(order: np.ndarray, other: float = 1.0) -> Model:
    """The last states of an LSTM of many cells, the terms of its sums in some order."""
    net, random = Net(), np.random.default_rng(3)
    x = net.op("Gather", net.input("x", (6, 1, 64)), net.const(order), axis=2)
    weights = [random.normal(size=(1, 2048, width)).astype(np.float32) for width in (64, 512)]
    states = [net.input(name, (1, 1, 512)) for name in ("h", "c")]
    made = [net.const(weights[0][:, :, order]), net.const(weights[1] * np.float32(0.1 * other))]
    return net.model(*net.ops("LSTM", x, *made, "", "", *states, outputs=3, hidden_size=512)[1:])


def test_gates_of_large_sums_are_zero_by_rounding() -> None:
    """A gate of -110 is exactly zero, one of -90 is not; both are sums of numbers near 1e6."""
    order = np.random.default_rng(0).permutation(64)
    verdict = examine(gated(np.arange(64)), gated(order), budget=QUICK)
    assert verdict.status == "agree", verdict.explanation
    assert examine(gated(np.arange(64)), gated(order, 1.001), budget=QUICK).status == "differ"


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
    assert made == [0]  # the same round for usual numbers and for each kind that is judged apart


@pytest.mark.parametrize(("drawn", "loads"), [(False, 1), (True, 4)])
def test_noise_loads_no_model_twice(monkeypatch: pytest.MonkeyPatch, drawn: bool, loads: int) -> None:
    """The reference is loaded already, and its changed form kept, unless random generators start anew."""
    more = [node("RandomNormalLike", "y0", "r", seed=1.0)] if drawn else [node("Identity", "y0", "r")]
    scale = np.float32([1, 2, 3, 4, 5, 6])
    given = Model(net(H, node("Mul", "h s", "y0"), *more, node("Add", "y0 r", "y"), s=scale))
    check = EquivalenceCheck(given, given, subjects(given, given), QUICK)
    check.try_shapes(None)
    made: list[object] = []
    session = tensor_comparison.Session

    def loaded(proto: onnx.ModelProto, **how: bool) -> object:
        made.append(proto)
        return session(proto, **how)

    monkeypatch.setattr(tensor_comparison, "Session", loaded)
    for _ in range(2):
        noises = check.comparison.noise(check.runs, lambda noises: True)
        assert all(0 < noise.worst.max_rel_error < 1e-5 for noise in noises.values())
    assert len(made) == loads


def test_runs_of_the_largest_differences_are_kept_to_measure_their_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "_KEPT_RUNS", 0)
    order = np.random.default_rng(5).permutation(64)
    verdict = examine(cancelling(np.arange(64)), cancelling(order))
    assert verdict.status == "agree", verdict.explanation
    assert verdict.max_rel_error > 1e-5


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


@pytest.mark.parametrize(("factor", "status"), [(1.0, "agree"), (1.001, "differ")])
def test_rounding_of_a_saturated_operand_decides_what_is_picked(factor: float, status: str) -> None:
    """A Sigmoid is good to the last place of 1.0: of numbers near zero that is many places of their own."""
    order, models = np.random.default_rng(1).permutation(64), []
    weights = np.random.default_rng(0).normal(0, 0.05, (64, 500)).astype(np.float32)
    for rows, factor_of_rows in ((np.arange(64), 1.0), (order, factor)):
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[N, 64] x, float[N, 500] boxes) => (float[N, 300] y)
            <int64[1] k = {300}, float bias = {-8.0}> {
                t = Gather<axis = 1>(x, rows)  h = MatMul(t, w)  s = Add(h, bias)  p = Sigmoid(s)
                v, i = TopK<axis = 1>(p, k)  y = GatherElements<axis = 1>(boxes, i)
            }""")
        values = {"w": weights[rows] * np.float32(factor_of_rows), "rows": rows}
        proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
        models.append(Model(proto))
    check = EquivalenceCheck(*models, subjects(*models), QUICK)
    random, evidence = np.random.default_rng(2), check.apart["whole"]
    feed = {n: random.normal(size=(20, size)).astype(np.float32) for n, size in (("x", 64), ("boxes", 500))}
    evidence.runs.append(tensor_comparison.ReferenceRun(feed, "one run"))
    check.comparison.run(evidence.runs[0], evidence.records)
    assert [output.status for output in Conclusion(check, evidence).outputs()] == [status]


@pytest.mark.parametrize(("factor", "status"), [(1.0, "agree"), (1.001, "differ")])
def test_picks_among_picks_are_judged_before_the_first(factor: float, status: str) -> None:
    """Forty sums of the same terms, each in an order of its own: the last place decides which are picked.

    One run is enough for numbers that are judged apart, which may show a difference only.
    """
    random, models = np.random.default_rng(0), []
    weights = random.normal(size=300).astype(np.float32)
    for other in (1.0, factor):
        rows = np.stack([random.permutation(300) for _ in range(40)])[:, None]
        proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 300] x, float[1, 40] boxes) => (float[1, 3] y)
            <int64[1] k = {5}, int64[1] l = {3}, int64[2] last = {2, 3}> {
                t = Gather<axis = 1>(x, rows)  m = MatMul(t, w)  s = Squeeze(m, last)
                v, i = TopK<axis = 1>(s, k)  b = GatherElements<axis = 1>(boxes, i)
                c = Add(b, v)  y, j = TopK<axis = 1>(c, l)
            }""")
        values = {"w": weights[rows].swapaxes(1, 2) * np.float32(other), "rows": rows}
        proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
        models.append(Model(proto))
    check = EquivalenceCheck(*models, subjects(*models), QUICK)
    feed = {n: random.normal(size=(1, size)).astype(np.float32) for n, size in (("x", 300), ("boxes", 40))}
    evidence = check.apart["whole"]
    evidence.runs.append(tensor_comparison.ReferenceRun(feed, "one run"))
    check.comparison.run(evidence.runs[0], evidence.records)
    assert [output.status for output in Conclusion(check, evidence).outputs()] == [status]


@pytest.mark.parametrize(("bias", "status"), [(np.nextafter(np.float32(0.5), 1), "agree"), (0.51, "differ")])
def test_a_step_that_the_last_place_decides_on_may_be_large(bias: float, status: str) -> None:
    """One column is halfway between two steps of a fourth of the output: its last place decides on one.

    A bias that differs by more takes the same step, and differs without the rounding.
    """

    def halfway(value, order):
        product, scaled, shifted = (
            node("MatMul", "x w", "h"),
            node("Mul", "h s", "z"),
            node("Add", "z v", "b"),
        )
        rounded = node("QuantizeLinear", "b qs qz", "q"), node("DequantizeLinear", "q qs qz", "r")
        last = node("MatMul", "r m", "y")
        weights = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)[:, order]
        scale = np.array([0, 0.5, 0.5, 0.5, 0.5, 0.5], np.float32)[order]
        bias = np.array([value, 3, 3, 3, 3, 3], np.float32)[order]
        return net(product, scaled, shifted, *rounded, last, w=weights, s=scale, v=bias,
                   m=np.eye(6, dtype=np.float32)[order], qs=np.float32(1), qz=np.uint8(128))  # fmt: skip

    verdict = judged(halfway(0.5, [0, 1, 2, 3, 4, 5]), halfway(bias, [5, 3, 0, 1, 2, 4]))
    assert verdict.status == status
    (output,) = verdict.outputs
    assert output.max_rel_error > 0.1
    assert status == "differ" or output.allowed >= output.max_rel_error
