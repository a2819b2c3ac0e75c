"""The verifier: models it certifies, models it refuses, and its independence of the package."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import single_nodes
from certify_mutants import Table, subjects
from helpers import Net
from places import ROOT
from pruned_ideas import IDEAS, half

from onnxprune.certify import CertifyResult, certify, to_json
from onnxprune.certify.__main__ import main
from onnxprune.certify.certificate import from_json
from onnxprune.decisions.plan import PLAN_KEY
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Transform
from onnxprune.passes.base import PassResult

PACKAGE = ROOT / "onnxprune" / "certify"
EXACT = sorted(name for name, idea in IDEAS.items() if not idea.inexact)


def verdict(sparse: Model, result: PassResult, original: Model | None = None) -> CertifyResult:
    """Certify a model and the result of ``transform``."""
    before = None if original is None else original.proto
    return certify(sparse.proto, result.model.proto, result.kept, before)


@cache
def by_evidence(name: str) -> tuple[Model, PassResult]:
    sparse = half(name).sparse.model.copy()
    sparse.set_metadata(PLAN_KEY, None)
    return sparse, Transform()(sparse)


def constant_rows(model: Model, seed: int = 0) -> Model:
    """Set half the rows of each weight to zero and leave biases: those channels are then constant."""
    places = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}
    model, random = model.copy(), np.random.default_rng(seed)
    for node in model.all_nodes:
        name = node.input[1] if node.op_type in places else ""
        if name in model.constants and model.constants[name].data_type == onnx.TensorProto.FLOAT:
            values = model.array(name).copy()
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            rows = np.moveaxis(values, 0 if turned else places[node.op_type], 0)
            rows[random.permutation(len(rows))[: len(rows) // 2]] = 0
            model.set_array(name, values)
    return model


# --- certified models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_ideas_by_plan_from_the_original_on(name: str) -> None:
    pruned = half(name)
    assert verdict(pruned.sparse.model, pruned.dense, pruned.model).explanation == ""
    assert pruned.dense.facts["certificate"]["certified"]


REORDERED = "an axis is cut in one operand and whole in another"
"""Expand repeats a norm along an axis whose channels lie in another order in the dense model."""
UNSHOWN = dict.fromkeys(
    ("cosine_attention_bounded_then_repeated", "cosine_attention_repeated_then_bounded"), REORDERED
)


@pytest.mark.parametrize("name", EXACT)
def test_ideas_by_evidence(name: str) -> None:
    said = verdict(*by_evidence(name)).explanation
    assert said.partition(": ")[2] == UNSHOWN.get(name, "")


@pytest.mark.parametrize(
    "name", ["plain", "residual", "resnext", "vit_exact", "inception", "unet_transposed"]
)
def test_constant_channels(name: str) -> None:
    sparse = constant_rows(check(Model(IDEAS[name].build())))
    found = Transform()(sparse)
    assert verdict(sparse, found).explanation == ""


@pytest.mark.parametrize("name", sorted(set(IDEAS) - set(EXACT)))
def test_inexact_models_are_refused(name: str) -> None:
    pruned = half(name)
    found = verdict(pruned.sparse.model, pruned.dense)
    assert not found.certified
    assert found.tensor
    assert found.operator


# --- refused models ----------------------------------------------------------------------------------------


def two_layers(operator: str = "Relu", domain: str = "", **attributes: float) -> Net:
    net = Net(opset=17)
    x = net.input("image", ["N", 3, "H", "W"])
    y = net.conv(x, 16)
    (y,) = net.ops(operator, y, domain=domain, **attributes)
    y = net.conv(net.sized(y, ["N", 16, "H", "W"]), 8)
    net.result = y
    return net


def pruned_by_hand(net: Net, keep: list[int]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a model with channels of its first layer zero, and without them."""
    sparse = Model(net.proto(net.result))
    first, second = (n for n in sparse.nodes if n.op_type == "Conv")
    dense = Model(net.proto(net.result))
    gone = np.setdiff1d(np.arange(16), keep)
    for name in first.input[1:]:
        values = sparse.array(name).copy()
        dense.set_array(name, values[keep])
        values[gone] = 0
        sparse.set_array(name, values)
    dense.set_array(second.input[1], sparse.array(second.input[1])[:, keep])
    return sparse.proto, dense.proto


def test_two_layers_by_hand() -> None:
    assert certify(*pruned_by_hand(two_layers(), [0, 2, 3, 9])).explanation == ""


def test_an_operator_without_a_rule_is_refused_by_name() -> None:
    found = certify(*pruned_by_hand(two_layers("Strange", "other"), [0, 2, 3, 9]))
    assert found.operator == "Strange"
    assert "no rule" in found.reason


def test_a_function_that_does_not_keep_zero_is_refused() -> None:
    found = certify(*pruned_by_hand(two_layers("Sigmoid"), [0, 2, 3, 9]))
    assert found.operator == "Conv"
    assert "removed" in found.reason


def test_other_channels_in_the_reader_are_refused() -> None:
    sparse, dense = pruned_by_hand(two_layers(), [0, 2, 3, 9])
    model = Model(dense)
    second = [n for n in model.nodes if n.op_type == "Conv"][1]
    model.set_array(second.input[1], model.array(second.input[1])[:, [1, 0, 2, 3]])
    assert not certify(sparse, model.proto).certified


@pytest.mark.parametrize("place", [0, 1])
def test_one_last_place_is_refused(place: int) -> None:
    sparse, dense = pruned_by_hand(two_layers(), [0, 2, 3, 9])
    model = Model(dense)
    name = [n for n in model.nodes if n.op_type == "Conv"][place].input[1]
    values = model.array(name).copy()
    values.ravel()[5] = np.nextafter(values.ravel()[5], np.float32(np.inf))
    model.set_array(name, values)
    assert not certify(sparse, model.proto).certified


def test_a_size_taken_for_a_constant_is_refused() -> None:
    """A Reshape to a fixed size is right for one size of picture and for no other."""

    def network(target: list[int]) -> onnx.ModelProto:
        net = Net(opset=17)
        x = net.input("image", ["N", 3, "H", "W"])
        y = net.op("Reshape", x, net.const(np.asarray(target, np.int64)))
        return net.proto(net.sized(y, ["N", 3, "S"]))

    assert certify(network([0, 3, -1]), network([-1, 3, 0])).certified is False
    assert certify(network([0, 3, -1]), network([0, 3, -1])).certified


def test_a_wrong_hint_proves_nothing() -> None:
    sparse, dense = pruned_by_hand(two_layers(), [0, 2, 3, 9])
    name = dense.graph.node[0].input[1]
    wrong = {name: {0: np.asarray([1, 2, 3, 9]).reshape(-1, 1, 1, 1)}}
    model = Model(dense)
    values = model.array(name).copy()
    values[0] += 1
    model.set_array(name, values)
    assert not certify(sparse, model.proto, wrong).certified
    assert certify(sparse, pruned_by_hand(two_layers(), [0, 2, 3, 9])[1], wrong).certified  # found without it


def test_a_sparse_model_with_other_weights_is_not_the_original() -> None:
    pruned = half("plain")
    changed = pruned.model.copy()
    name = next(n for n in changed.constants if len(changed.constants[n].dims) == 4)
    changed.set_array(name, changed.array(name) + np.float32(0.01))
    found = verdict(pruned.sparse.model, pruned.dense, changed)
    assert found.step == "sparse"
    assert found.operator == "Conv"


def test_nonsense_is_refused_and_raises_nothing() -> None:
    assert not certify(onnx.ModelProto(), half("plain").dense.model.proto).certified


def scan(opset: int, of: str) -> onnx.ModelProto:
    """A Scan that hands its elements on, and the sizes of a tensor; in old opsets lengths come first."""
    lengths = '"", ' if opset < 9 else ""
    return onnx.parser.parse_model(f"""<ir_version: 7, opset_import: ["": {opset}]>
        net (float[b, 4] h, float[b, t, 4] x) => (float[b, t, 4] y, int64[k] s) {{
            f, y = Scan <num_scan_inputs = 1, body =
                step (float[4] a, float[4] e) => (float[4] c, float[4] d) {{
                c = Add (a, e)
                d = Identity (e) }}> ({lengths}h, x)
            s = Shape ({of})
        }}""")


def test_sizes_of_a_scan_over_samples_are_not_those_of_one_without() -> None:
    assert certify(scan(8, "y"), scan(8, "y")).certified
    assert not certify(scan(8, "y"), scan(8, "h")).certified


def test_a_scan_over_a_number_is_refused() -> None:
    model = scan(9, "y")
    del model.graph.input[1].type.tensor_type.shape.dim[:]
    found = certify(model, model)
    assert (found.certified, found.operator, found.tensor) == (False, "Scan", "f")
    assert found.reason == "'x' has no axis 0 to go along"


SHAPES = {
    "without ranks": lambda kind: kind.ClearField("shape"),
    "of numbers": lambda kind: kind.shape.ClearField("dim"),
}


@pytest.mark.parametrize("change", SHAPES)
@pytest.mark.parametrize("operator", single_nodes.operators())
def test_refusals_have_reasons_in_words(operator: str, change: str) -> None:
    """Onnx's example of each operator, with inputs of unknown rank, or of none."""
    for case in single_nodes.examples_of(operator)[:1]:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value in model.graph.input:
            if value.type.HasField("tensor_type"):
                SHAPES[change](value.type.tensor_type)
        reason = certify(model, model).reason
        assert not re.search("Error|out of range|object", reason), reason


def test_a_body_that_uses_the_name_of_an_output_is_another_tensor() -> None:
    """Outputs of the main graph are compared, not tensors of those names inside a branch."""

    def network(factor: float) -> onnx.ModelProto:
        text = f"""<ir_version: 8, opset_import: ["" : 17]>
        net (float[4] x, bool c) => (float[4] y) <float[1] f = {{{factor}}}> {{
            a = If (c) <then_branch = one () => (float[4] y) {{ y = Identity (x) }},
                        else_branch = two () => (float[4] z) {{ z = Neg (x) }}>
            y = Mul (a, f)
        }}"""
        return onnx.parser.parse_model(text)

    assert certify(network(2.0), network(2.0)).certified
    assert not certify(network(2.0), network(3.0)).certified


def test_an_identity_of_another_domain_hands_no_state_on() -> None:
    def net(operator: str) -> onnx.ModelProto:
        text = """
        <ir_version: 8, opset_import: ["" : 17, "plugin" : 1]>
        net (float[n,3] x, int64 turns) => (float[n,3] y, float[n,3] z) {
            go = Constant <value = bool {1}> ()
            y, z = Loop (turns, go, x, x) <body = turn
                (int64 turn, bool on, float[n,3] a, float[n,3] b)
                => (bool onward, float[n,3] c, float[n,3] d) {
                onward = Identity (on)
                c = %s (a)
                d = Add (b, a)
            }>
        }"""
        return onnx.parser.parse_model(text % operator)

    plain, other = net("Identity"), net("plugin.Identity")
    assert certify(plain, plain, None).certified
    assert not certify(plain, other, None).certified
    assert not certify(other, plain, None).certified


@pytest.mark.parametrize("pattern", ["plain", "opset_7", pytest.param("*", marks=pytest.mark.slow)])
def test_no_mutant_is_certified_that_computes_something_else(pattern: str) -> None:
    table = Table()
    for subject in subjects(pattern):
        table.add(subject, each=1)
    assert not table.wrong
    assert table.refused.total() > 10


# --- on its own --------------------------------------------------------------------------------------------


def test_the_verifier_imports_numpy_and_onnx_alone() -> None:
    names = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    outside = {name.split(".")[0] for name in names if not name.startswith("onnxprune.certify")}
    assert outside - set(sys.stdlib_module_names) == {"numpy", "onnx"}


def test_its_import_loads_no_other_module_of_the_program() -> None:
    code = "import sys, onnxprune.certify.__main__; print(*sorted(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = {name for name in ran.stdout.split() if name.startswith("onnxprune")}
    assert {name for name in own if not name.startswith("onnxprune.certify")} == {"onnxprune"}
    assert "onnxruntime" not in ran.stdout.split()


# --- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    pruned = half("plain")
    models = {"original": pruned.model, "sparse": pruned.sparse.model, "dense": pruned.dense.model}
    for name, model in models.items():
        onnx.save(model.proto, tmp_path / f"{name}.onnx")
    (tmp_path / "kept.json").write_text(to_json(pruned.dense.kept, "0", "0"))
    return {name: str(tmp_path / f"{name}.onnx") for name in models} | {"kept": str(tmp_path / "kept.json")}


def test_command(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([files["sparse"], files["dense"], files["kept"], "--original", files["original"]]) == 0
    assert capsys.readouterr().out.startswith("certified for all inputs")
    assert main([files["sparse"], files["original"], "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert not facts["certified"]
    assert {"tensor", "operator", "reason"} <= set(facts)


def test_wrong_usage(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([files["sparse"], files["kept"]]) == 2
    assert main([files["sparse"], files["dense"], files["sparse"]]) == 2
    assert "error:" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([files["sparse"]])
    assert ended.value.code == 2


def test_certificates_are_read_as_they_are_written() -> None:
    kept = {"w": {0: np.asarray([[2], [5]]), 1: np.asarray([[0, 3]])}}
    found, digests = from_json(to_json(kept, "one", "two"))
    assert {axis: m.tolist() for axis, m in found["w"].items()} == {0: [[2], [5]], 1: [[0, 3]]}
    assert digests == {"sparse": "one", "dense": "two"}
    with pytest.raises(ValueError, match="axes"):
        from_json('{"format": 1, "kept": {"w": {"3": [1]}}}')


def test_transform_reports_the_extent_of_its_proof() -> None:
    from onnxprune.app.figures import certified

    pruned = half("plain")
    assert certified(pruned.dense.facts) == "; certified for all inputs"
    refused = {"certificate": {"certified": False, "reason": "why"}, "sizes": [{}, {}]}
    assert certified(refused) == "; compared at 2 sizes, not certified for all inputs (why)"


def test_prune_and_transform_again() -> None:
    """Models pruned in two rounds are certified in each."""
    first = half("residual").dense.model
    sparse = Prune(reduce_channels=0.3, strategy="uniform", round_to=1)(first)
    found = Transform()(sparse)
    assert verdict(sparse.model, found, first).explanation == ""
