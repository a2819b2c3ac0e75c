"""Models that differ are told apart, and models that are equal agree."""

from __future__ import annotations

import equivalence_pairs as pairs
import node_pairs
import numpy as np
import onnx
import onnxruntime
import pytest
from judging import QUICK, judged, model
from onnx import numpy_helper
from places import CASES

from onnxprune.evaluate.equivalence import examine, verify
from onnxprune.ir import load


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


LONG = ("picture", "attention", "detector", "recurrent")


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


def test_dropout_in_training_mode_is_off_in_both():
    given = load(CASES / "droptrain.onnx")
    verdict = verify(given, given, budget=QUICK)
    assert any("Dropout" in note for note in verdict.notes)


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


@pytest.mark.parametrize("operator", ["Softmax", "ThresholdedRelu", "QLinearMatMul", "GRU", "TopK", "Mod"])
def test_one_operator_changed_in_one_thing_is_seen(operator: str) -> None:
    found = list(node_pairs.verdicts(operator, each=6))
    assert found
    assert [change for status, change in found if status == "agree"] == []
