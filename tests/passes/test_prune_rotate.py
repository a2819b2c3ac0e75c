"""The rotation as a part of pruning: the better plan is kept, and bases are never mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net
from numpy.typing import NDArray

from onnxprune import verify
from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.cli import program
from onnxprune.certify import certify
from onnxprune.decisions.plan import PLAN_KEY, Plan
from onnxprune.decisions.rotation import BASIS_KEY, MAPS_KEY, Bases, Rotation, basis_of
from onnxprune.errors import PlanError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import Model
from onnxprune.passes import Ana, Finetune, Prune, Recover, Rotate, Transform, basis_choice
from onnxprune.passes import prune as prune_module
from onnxprune.passes import rotate as rotate_module
from onnxprune.search.plan_files import PlanFile

Array = NDArray[Any]
WIDTH, TOKENS, FEATURES = 16, 5, 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rotate_module, prune_module):
        monkeypatch.setattr(module, "_CHECK", CheckBudget(seconds=0.1))


def pre_norm() -> Model:
    """A residual stream that is normalised wherever it is read."""
    net = Net(opset=17)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(2):
        y = net.linear(normalised(net, x), 2 * WIDTH)
        x = net.add(x, net.linear(net.relu(y), WIDTH))
    return net.model(net.linear(normalised(net, x), 3))


def normalised(net: Net, x: str) -> str:
    return net.op("LayerNormalization", x, net.vector(WIDTH, 0.5, 1.5), net.vector(WIDTH), axis=-1)


def bottleneck() -> Model:
    """A linear stream whose graph stays as it is when it is rotated."""
    net = Net(opset=17)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(2):
        x = net.add(x, net.linear(net.relu(net.linear(x, 2 * WIDTH)), WIDTH))
    return net.model(net.linear(x, 3))


def perceptron() -> Model:
    """Layers with nothing to rotate."""
    net = Net(opset=17)
    x = net.relu(net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH))
    return net.model(net.linear(x, 3))


def samples(count: int = 60) -> dict[str, Array]:
    random = np.random.default_rng(5)
    low = random.standard_normal((count, TOKENS, 3)) @ random.standard_normal((3, FEATURES))
    return {"x": (low + 0.05 * random.standard_normal((count, TOKENS, FEATURES))).astype(np.float32)}


def test_the_better_plan_is_kept() -> None:
    result = Prune(reduce_macs=0.5, data=samples(), metric="cosine", rotate="auto")(pre_norm())
    found = result.facts["rotation"]
    assert found["kept"]
    assert found["score_rotated"] > found["score_unrotated"]
    assert found["score_rotated"] == result.facts["recovery"]["score"]
    own = Prune(reduce_macs=0.5, data=samples(), metric="cosine", rotate="never")(pre_norm())
    assert own.facts["recovery"]["score"] == pytest.approx(found["score_unrotated"])
    assert "rotation" not in own.facts
    assert found["max_rel_error"] <= 1e-5
    assert result.facts["macs_before"] == own.facts["macs_before"]
    assert result.facts["params_before"] == own.facts["params_before"]


@pytest.mark.slow
def test_sparse_and_dense_are_the_rotated_model_with_zeros() -> None:
    model = pre_norm()
    result = Prune(reduce_macs=0.5, data=samples(), metric="cosine", rotate="auto", recover=["bias"])(model)
    rotated = result.original
    assert rotated is not None
    basis = basis_of(rotated.metadata())
    assert basis is not None
    assert basis_of(result.model.metadata()) == basis
    assert verify(model, rotated).equal
    dense = Transform()(result)
    assert dense.facts["max_rel_error"] <= 1e-4
    assert basis_of(dense.model.metadata()) == basis
    bare = Prune(reduce_macs=0.5, data=samples(), metric="cosine", rotate="always", recover=())(model)
    cut = Transform()(bare)
    assert bare.original is not None
    proofs: list[Any] = [bare.model.proto, cut.model.proto, cut.kept]
    assert certify(*proofs, original=bare.original.proto).certified
    refused = certify(*proofs, original=model.proto)
    assert not refused.certified
    assert "rotate ORIGINAL --like SPARSE" in refused.reason
    assert certify(*proofs, original=Rotate(like=bare.model)(model).model.proto).certified


def test_the_report_gives_the_reason() -> None:
    found = Prune(reduce_macs=0.3, data=samples(), rotate="auto")(perceptron()).facts["rotation"]
    assert found == {"kept": False, "reason": "no axis can be rotated"}


def test_a_plan_or_an_analysis_stays_in_its_basis() -> None:
    model, data = bottleneck(), samples()
    rotated = Rotate(data=data)(model).model
    for one, other in ((model, rotated), (rotated, model)):
        analysis = Ana(data=data, metric="cosine", ratios=[0.5])(one).analysis
        plan = PlanFile.of(Plan.from_json(Prune(reduce_macs=0.3)(one).model.metadata()[PLAN_KEY]))
        with pytest.raises(PlanError, match="the analysis belongs to a model"):
            Prune(reduce_macs=0.3, analysis=analysis)(other)
        with pytest.raises(PlanError, match="the plan belongs to a model"):
            Prune(plan=plan)(other)
        Prune(reduce_macs=0.3, analysis=analysis)(one)
        Prune(plan=PlanFile.from_json(plan.to_json()))(one)
    with pytest.raises(UsageError, match="basis"):
        Prune(reduce_macs=0.3, analysis=analysis, rotate="always")(rotated)


@pytest.mark.slow
@pytest.mark.parametrize("network", [bottleneck, pre_norm])
def test_an_analysis_makes_no_worse_plan(network: Callable[[], Model]) -> None:
    """The rotated model, of which there is no analysis, competes with the plan by the analysis."""
    model, data = network(), samples()
    analysis = Ana(data=data, metric="cosine", ratios=[0.5])(model).analysis
    without = Prune(reduce_macs=0.5, data=data, metric="cosine")(model).facts["rotation"]
    result = Prune(reduce_macs=0.5, data=data, analysis=analysis)(model)
    found = result.facts["rotation"]
    assert found["score_rotated"] == without["score_rotated"]
    assert found["kept"] == (found["score_rotated"] > found["score_unrotated"])
    assert max(found["score_rotated"], found["score_unrotated"]) >= without["score_rotated"]
    assert (basis_of(result.model.metadata()) is not None) == found["kept"]
    Transform()(result)


@pytest.mark.slow
def test_an_analysis_of_the_step_before() -> None:
    model, data = pre_norm(), samples()
    measured = Ana(data=data, metric="cosine", ratios=[0.5])(model)
    result = Prune(reduce_macs=0.5, data=data)(measured)
    assert result.facts["rotation"]["kept"]
    assert result.facts["rotation"]["score_rotated"] > result.facts["rotation"]["score_unrotated"]


def test_a_rotation_is_the_default_where_samples_judge_it() -> None:
    assert Prune(reduce_macs=0.5).rotate == "auto"
    assert Prune(reduce_macs=0.5, data=samples(), metric="cosine")(pre_norm()).facts["rotation"]["kept"]
    assert "rotation" not in Prune(reduce_macs=0.5)(pre_norm()).facts


def test_the_comparison_is_left_out_after_a_long_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis_choice, "MOST_S", 0.0)
    found = Prune(reduce_macs=0.5, data=samples(), metric="cosine")(pre_norm()).facts["rotation"]
    assert not found["kept"]
    assert "`rotate = always`" in found["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("network", [pre_norm, bottleneck])
def test_the_original_is_put_into_the_basis_of_the_sparse_model(network: Callable[[], Model]) -> None:
    model, data = network(), samples()
    sparse = Prune(reduce_macs=0.5, data=data, metric="cosine", rotate="always", recover=())(model)
    rotated = sparse.original
    assert rotated is not None
    again = Rotate(like=sparse.model)(model)
    assert again.facts["max_rel_error"] <= 1e-5
    assert constants(again.model) == constants(rotated)
    assert [n.SerializeToString() for n in again.model.nodes] == [
        n.SerializeToString() for n in rotated.nodes
    ]
    repaired = [Recover(original=o, data=data, metric="cosine")(sparse) for o in (model, rotated)]
    assert repaired[0].facts["score"] > repaired[0].facts["score_before"]
    assert constants(repaired[0].model) == constants(repaired[1].model)


def constants(model: Model) -> dict[str, bytes]:
    return {name: model.array(name).tobytes() for name in model.constants}


def test_only_the_model_that_was_rotated_is_put_into_a_basis() -> None:
    model, data = bottleneck(), samples()
    sparse = Prune(reduce_macs=0.5, data=data, rotate="always", recover=())(model)
    assert sparse.original is not None
    other = Net(opset=17)
    x = other.linear(other.input("x", ["N", TOKENS, FEATURES]), 2 * WIDTH)
    wider = other.model(other.linear(other.add(x, other.linear(other.relu(x), 2 * WIDTH)), 3))
    for wrong in (perceptron(), wider):
        with pytest.raises(PlanError, match="cannot be put into the basis"):
            Recover(original=wrong, data=data)(sparse)
    with pytest.raises(PlanError, match="rotated already"):
        Rotate(like=sparse.model)(sparse.original)
    plain = Prune(reduce_macs=0.5, data=data, recover=(), rotate="never")(model)
    with pytest.raises(PlanError, match="is rotated, and this one is not"):
        Recover(original=sparse.original, data=data)(plain)
    with pytest.raises(PlanError, match="is not rotated"):
        Rotate(like=plain.model)(model)
    elsewhere = Rotate(data={"x": data["x"][:9]})(model).model
    with pytest.raises(PlanError, match="another basis"):
        Recover(original=elsewhere, data=data)(sparse)
    with pytest.raises(UsageError, match="like"):
        Rotate(like=sparse.model, only=["*"])(model)


def test_training_takes_the_original_as_it_was_given() -> None:
    model, data = bottleneck(), samples()
    sparse = Prune(reduce_macs=0.5, data=data, metric="cosine", rotate="always")(model)
    how: dict[str, Any] = {"data": data, "loss": "distill", "engine": "stock", "batch_size": 30}
    tuned = Finetune(teacher=model, original=model, **how)(sparse)
    assert basis_of(tuned.model.metadata()) == basis_of(sparse.model.metadata())
    with pytest.raises(PlanError, match="cannot be put into the basis"):
        Finetune(teacher=model, original=perceptron(), **how)(sparse)


def test_the_dense_model_carries_no_maps() -> None:
    sparse = Prune(reduce_macs=0.5, data=samples(), rotate="always")(bottleneck())
    assert MAPS_KEY in sparse.model.metadata()
    dense = Transform()(sparse).model
    assert MAPS_KEY not in dense.metadata()
    with pytest.raises(PlanError, match="the digest of its bases"):
        Rotate(like=dense)(bottleneck())


def test_a_plan_of_the_rotated_model_rotates_the_given_one() -> None:
    model, data = bottleneck(), samples()
    first = Prune(reduce_macs=0.5, data=data, rotate="always", recover=())(model)
    metadata = first.model.metadata()
    plan = PlanFile.from_json(PlanFile.of(Plan.from_json(metadata[PLAN_KEY]), metadata).to_json())
    again = Prune(plan=plan)(model)
    assert again.facts["rotation"]["kept"]
    assert again.original is not None
    assert constants(again.model) == constants(first.model)


def attention() -> Model:
    """One head width of queries and keys, one of values, in each of two heads."""
    net = Net(opset=17)
    x = net.input("x", ["N", TOKENS, FEATURES])
    q, k, v = (_heads(net, net.op("MatMul", x, net.weight(FEATURES, 2 * WIDTH))) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2)), axis=-1)
    merged = net.op(
        "Reshape", net.transpose(net.op("MatMul", weights, v), 0, 2, 1, 3), net.const(np.array([0, 0, -1]))
    )
    return net.model(net.op("MatMul", merged, net.weight(2 * WIDTH, 3)))


def _heads(net: Net, x: str) -> str:
    return net.transpose(net.op("Reshape", x, net.const(np.array([0, 0, 2, WIDTH]))), 0, 2, 1, 3)


def test_head_widths_are_pruned_where_their_basis_is_chosen() -> None:
    model, data = attention(), samples()
    assert [g.size for g in find_channels(model).groups if not g.optional] == [2]
    rotated = Rotate(data=data)(model).model
    assert sorted(g.size for g in find_channels(rotated).groups if not g.optional) == [2, WIDTH, WIDTH]
    result = Prune(reduce_macs=0.5, data=data, metric="cosine", rotate="auto")(model)
    found = result.facts["rotation"]
    assert found["kept"]
    assert found["score_rotated"] > found["score_unrotated"]
    assert Transform()(result).facts["max_rel_error"] <= 1e-4


def test_a_note_of_a_rotation_is_read_back() -> None:
    note = Rotation("a" * 32, ("one", "two"))
    assert Rotation.stored({BASIS_KEY: note.to_text()}) == note
    assert Rotation.stored({}) is None
    for damaged in ("{", '{"format":1}', note.to_text().replace('"format":1', '"format":9')):
        with pytest.raises(PlanError, match="rotation"):
            Rotation.stored({BASIS_KEY: damaged})


def test_maps_are_read_back_or_refused() -> None:
    random = np.random.default_rng(0)
    maps = {"a": random.random((2, 3, 3), np.float32), "b": random.random((1, 2, 2))}
    stored = Bases.of(maps, ("a",)).to_metadata()
    found = Bases.stored(stored)
    assert found is not None
    assert found.note.absorbed == ("a",)
    assert {n: (m.dtype, m.tolist()) for n, m in found.maps.items()} == {
        n: (m.dtype, m.tolist()) for n, m in maps.items()
    }
    assert Bases.stored({BASIS_KEY: stored[BASIS_KEY]}) is None
    text = stored[MAPS_KEY]
    content = json.loads(text)
    other = Bases.of({"a": maps["a"] + 1, "b": maps["b"]}).to_metadata()[MAPS_KEY]
    damaged = ["{", text.replace('"format":1', '"format":9'), text.replace("[2,3,3]", "[2,3,4]"), other]
    damaged += [json.dumps(content | {"values": content["values"][:-40]}), text.replace("<f8", "|O")]
    damaged += [text.replace("[2,3,3]", "[200000,300000,300000]")]
    for bad in damaged:
        with pytest.raises(PlanError, match="maps of the rotation"):
            Bases.stored(stored | {MAPS_KEY: bad})


@pytest.mark.slow
def test_the_command_writes_the_rotated_model(tmp_path: Path) -> None:
    onnx.save(pre_norm().proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **samples())
    names = {name: str(tmp_path / f"{name}.onnx") for name in ("model", "sparse", "rotated", "better")}
    data = ["--data", str(tmp_path / "data.npz")]
    words = ["prune", names["model"], *data, "--reduce-macs", "0.5", "--metric", "cosine", "--rotate", "auto"]
    words += ["--rotated-output", names["rotated"], "-o", names["sparse"]]
    told = CliRunner().invoke(program, [*words, "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["rotation"]["kept"]
    said = CliRunner().invoke(program, words).output
    assert "another basis" in said
    assert "in the basis of the model" in said
    for more in ([], ["--original", names["rotated"]]):
        again = CliRunner().invoke(program, ["recover", names["sparse"], *data, *more, "-o", names["better"]])
        assert again.exit_code == 0, again.output
    before = onnx.load(names["better"]).SerializeToString(deterministic=True)
    words = ["recover", names["sparse"], *data, "--original", names["model"], "-o", names["better"]]
    again = CliRunner().invoke(program, words)
    assert again.exit_code == 0, again.output
    assert onnx.load(names["better"]).SerializeToString(deterministic=True) == before
    words = ["rotate", names["model"], "--like", names["sparse"], "-o", names["rotated"]]
    again = CliRunner().invoke(program, words)
    assert again.exit_code == 0, again.output
    shown = CliRunner().invoke(program, ["verify", names["model"], names["rotated"]])
    assert shown.exit_code == 0, shown.output
