"""Local functions are inlined when a model is read; unchanged calls are written again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import half_of_each, prune_exactly
from onnx import numpy_helper, parser

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.ir import load
from onnxprune.ir.output import write_model
from onnxprune.passes import Prune, Transform
from onnxprune.runtime import Session

IMPORTS = '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
LAYER = "layer (p, w, c) => (z) { m = MatMul(p, w) s = Add(m, c) z = Relu(s) }"
SLOPE = "slope <alpha: float = 0.25> (p) => (z, n) { n = Neg(p) z = LeakyRelu<alpha: float = @alpha>(p) }"
PAIR = "pair (p, w, c) => (z) { a = local.layer(p, w, c) b = Tanh(a) z = Mul(a, b) }"
LISTED = "heads (p) => (z) { l = Constant<value_ints = [0, 2, 6]>() z = Reshape(p, l) }"


def network(body: str, *functions: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    declared = " ".join(f'<domain: "local", opset_import: ["" : 17, "local" : 1]> {f}' for f in functions)
    proto = parser.parse_model(f"{IMPORTS} g (float[n, 6] x) => (float[n, 4] y) {{ {body} }} {declared}")
    random = np.random.default_rng(3)
    for name, shape in weights.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return proto


TWO_LAYERS = network(
    "h = local.layer(x, a, d) q = local.layer(h, b, e) y = MatMul(q, o)",
    LAYER, a=(6, 10), d=(10,), b=(10, 14), e=(14,), o=(14, 4),
)  # fmt: skip
WITH_ATTRIBUTES = network(
    "h = MatMul(x, a) s, t = local.slope<alpha = 0.5>(h) u, v = local.slope(t) w = Add(s, u) r = Add(w, v) "
    "y = MatMul(r, o)",
    SLOPE, a=(6, 12), o=(12, 4),
)  # fmt: skip
NESTED = network(
    "h = local.pair(x, a, d) q = local.layer(h, b, e) y = MatMul(q, o)",
    LAYER, PAIR, a=(6, 8), d=(8,), b=(8, 16), e=(16,), o=(16, 4),
)  # fmt: skip
CASES = {"two layers": TWO_LAYERS, "attributes": WITH_ATTRIBUTES, "nested": NESTED}


def calls(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node if node.domain == "local"]


@pytest.mark.parametrize("proto", CASES.values(), ids=CASES)
def test_a_file_that_is_read_and_written_is_equal(proto: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "given.onnx")
    model = load(tmp_path / "given.onnx")
    assert not model.proto.functions
    write_model(model.copy(), tmp_path / "made.onnx")
    assert onnx.load(tmp_path / "made.onnx") == proto


@pytest.mark.parametrize("proto", CASES.values(), ids=CASES)
def test_sparse_and_dense_models_keep_the_calls(proto: onnx.ModelProto, tmp_path: Path) -> None:
    onnx.save(proto, tmp_path / "given.onnx")
    sparse = Prune(reduce_channels=0.5)(load(tmp_path / "given.onnx")).model
    write_model(sparse, tmp_path / "sparse.onnx")
    dense = Transform()(load(tmp_path / "sparse.onnx")).model
    write_model(dense, tmp_path / "dense.onnx")
    written = [onnx.load(tmp_path / f"{name}.onnx") for name in ("sparse", "dense")]
    assert [calls(found) for found in written] == [calls(proto)] * 2
    assert all(list(found.functions) == list(proto.functions) for found in written)
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    one, other = (Session(load(tmp_path / f"{n}.onnx").proto).run({"x": x})["y"] for n in ("sparse", "dense"))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_an_attribute_with_a_default_is_that_of_the_function(tmp_path: Path) -> None:
    onnx.save(WITH_ATTRIBUTES, tmp_path / "given.onnx")
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(tmp_path / "given.onnx")).run(None, {"x": x})[0]
    made = Session(load(tmp_path / "given.onnx").proto).run({"x": x})["y"]
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-6)


def test_a_call_whose_constant_counts_removed_channels_stays_inlined(tmp_path: Path) -> None:
    body = "h = MatMul(x, a) k = local.heads(h) i = local.slope(k) f = Reshape(i, flat) y = MatMul(f, o)"
    body = body.replace("i = local.slope(k)", "i, j = local.slope(k)")
    proto = network(body, LISTED, SLOPE, a=(6, 12), o=(12, 4))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0, 12]), "flat"))
    onnx.save(proto, tmp_path / "given.onnx")
    model = load(tmp_path / "given.onnx")
    channels = find_channels(model)
    outcome = prune_exactly(model, half_of_each(channels), channels)
    write_model(outcome.dense, tmp_path / "dense.onnx")
    written = onnx.load(tmp_path / "dense.onnx")
    assert "heads" not in calls(written)
    assert all(f.name != "heads" for f in written.functions)


def test_an_inner_tensor_that_another_node_reads_keeps_the_nodes(tmp_path: Path) -> None:

    onnx.save(TWO_LAYERS, tmp_path / "given.onnx")
    model = load(tmp_path / "given.onnx")
    inner = next(n.output[0] for n in model.proto.graph.node if n.op_type == "Add")
    twice = onnx.helper.make_node("Tanh", [inner], ["watched"])
    model.proto.graph.node.insert(len(model.proto.graph.node) - 1, twice)
    model.proto.graph.output.append(onnx.helper.make_tensor_value_info("watched", 1, ["n", 10]))
    model.edited()
    write_model(model, tmp_path / "made.onnx")
    assert len(calls(onnx.load(tmp_path / "made.onnx"))) == 1
