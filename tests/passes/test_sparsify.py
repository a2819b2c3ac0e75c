"""Sparsity patterns: chosen after channels, valid as sparse kernels ask, and kept by every later step."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ideas_sequences  # noqa: F401  (enters its ideas)
import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net
from ideas import IDEAS
from ideas_control import CONTROL
from onnx import numpy_helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.decisions.elements import check_pattern, find_weights, pattern_note
from onnxprune.decisions.pattern import PATTERN_KEY, Pattern, PatternNote
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import Model, check, load
from onnxprune.passes import Finetune, Prune, Recover, Sparsify, Transform
from onnxprune.passes import prune as prune_module
from onnxprune.passes import sparsify as sparsify_module
from onnxprune.runtime import Session
from onnxprune.runtime.static_quantisation import quantised
from onnxprune.scoring.layerwise.elements import surgeon, wanda_scores
from onnxprune.scoring.layerwise.moments import Moments
from onnxprune.scoring.layerwise.ridge import fit, ridge

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (prune_module, sparsify_module):
        monkeypatch.setattr(module, "_CHECK", CheckBudget(seconds=0.1))


def tensors(proto: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def documented(proto: onnx.ModelProto, kept: int = 2, block: int = 4) -> dict[str, bool]:
    """Return which kernels and matrices pass the test in TensorRT's documentation, written out anew.

    For each output and each place of a kernel, of every four input channels two are zero; of a matrix the
    same along the axis that is summed over.
    """
    values, found = tensors(proto), {}
    for node in proto.graph.node:
        name = next((i for i in node.input[1:2] if i in values), "")
        if not name or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        w = values[name]
        turned = any(a.name == "transB" and a.i for a in node.attribute)
        rows = w if node.op_type == "Conv" or turned else w.swapaxes(-1, -2)
        rows = np.moveaxis(rows, 1, -1) if node.op_type == "Conv" else rows
        rows = rows.reshape(-1, rows.shape[-1])
        if rows.shape[1] % block == 0:
            counts = [np.count_nonzero(r[c : c + block]) for r in rows for c in range(0, len(r), block)]
            found[node.name or name] = max(counts) <= kept
    return found


CHOSEN = (
    "plain",
    "constants_in_nodes",
    "half_precision",
    "resnext",
    "grouped_transposed_convolution",
    "unet_transposed",
    "shufflenet_v1",
    "densenet",
    "siamese",
    "computed_weights",
    "scan_of_a_cell",
    "lstm_both_ways",
    "vit_layer_norm_op_exact",
)
"""Ideas that hold every layout of weights, and tensors that are cut in parts."""


@pytest.mark.parametrize("name", CHOSEN)
@pytest.mark.usefixtures("quick")
def test_blocks_are_whole_once_channels_are_gone(name: str) -> None:
    idea = (IDEAS | CONTROL)[name]
    model = check(Model(idea.build()))
    pruned = Prune(reduce_channels=0.4, allow_inexact=idea.inexact, round_to=4)(model)
    result = Sparsify()(pruned)
    dense = Transform()(result)
    assert result.facts["zeros"] * 2 == result.facts["elements"] > 0
    checked = check_pattern(dense.model)
    names = pattern_note(dense.model).weights
    assert dense.facts["pattern"]["zeros"] * 2 == dense.facts["pattern"]["elements"]
    assert {w.tensor for w in checked.weights if w.valid} >= set(names)
    assert len(names) == len(result.facts["weights"])
    assert all(documented(dense.model.proto).values())


@pytest.mark.parametrize("text", ["1:4", "4:16", "2:4", "6:8"])
def test_other_patterns_of_n_in_m(text: str) -> None:
    kept, block = map(int, text.split(":"))
    net = Net()
    x = net.relu(net.conv(net.input("x", ["N", 16, 6, 6]), 32))
    model = net.model(net.conv(x, 16, 1))
    result = Sparsify(pattern=text)(model)
    held = documented(result.model.proto, kept, block)
    assert len(held) == 2
    assert all(held.values())
    assert result.facts["zeros"] == round(result.facts["elements"] * (1 - kept / block))


def test_the_largest_elements_of_each_block_stay() -> None:
    net = Net()
    model = net.model(net.gemm(net.input("x", ["N", 8]), 4))
    (name,) = (w.tensor for w in find_weights(find_channels(model))[0])
    before, after = model.array(name), Sparsify()(model).model.array(name)
    blocks = np.abs(before).reshape(-1, 4)
    wanted = blocks >= np.sort(blocks, axis=1)[:, 2:3]
    np.testing.assert_array_equal(after.reshape(-1, 4), np.where(wanted, before.reshape(-1, 4), 0))


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("score", ["magnitude", "wanda", "sparsegpt"])
def test_unstructured_zeros_are_a_share_of_every_weight(score: str, share: float) -> None:
    model = mlp()
    data = None if score == "magnitude" else rows(100)
    result = Sparsify(pattern=f"unstructured:{share}", score=score, data=data)(model)
    assert [w["score"] for w in result.facts["weights"]] == [score] * 3
    for row in result.facts["weights"]:
        assert share <= row["zeros"] / row["elements"] < share + 0.1
    assert check_pattern(result.model).valid


# --- scores and repair


def mlp(width: int = 32, inputs: int = 16, seed: int = 0) -> Model:
    net = Net(seed=seed)
    x = net.relu(net.gemm(net.input("x", ["N", inputs]), width))
    return net.model(net.gemm(net.relu(net.gemm(x, width)), 8))


def rows(count: int, inputs: int = 16, rank: int = 6, seed: int = 3) -> dict[str, Array]:
    """Samples whose inputs depend on each other, as those of real networks do."""
    random = np.random.default_rng(seed)
    low = random.standard_normal((count, rank)) @ np.random.default_rng(9).standard_normal((rank, inputs))
    return {"x": (low + 0.1 * random.standard_normal((count, inputs))).astype(np.float32)}


def error(model: Model, other: Model, feed: Mapping[str, Array]) -> float:
    a, b = (next(iter(Session(m.proto).run(feed).values())) for m in (model, other))
    return float(np.square(a - b).mean())


def test_each_step_of_knowledge_loses_less() -> None:
    """Magnitude, then the same repaired, then elements chosen by their loss after repair."""
    model, data, fresh = mlp(), rows(400), rows(100, seed=4)
    ways: tuple[dict[str, Any], ...] = ({}, {"score": "magnitude", "data": data}, {"data": data})
    errors = [error(model, Sparsify(**way)(model).model, fresh) for way in ways]
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.7 * errors[1]


def test_the_surgeon_loses_less_than_magnitude_and_keeps_the_pattern() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 6)) @ random.standard_normal((6, 24))
    x += 0.2 * random.standard_normal((300, 24))
    weights, gram, pattern = random.standard_normal((5, 24)), x.T @ x, Pattern.of("2:4")
    made, mask = surgeon(weights, gram, 4, pattern.largest)
    assert (np.count_nonzero(made.reshape(-1, 4), axis=1) == 2).all()
    assert not made[~mask].any()
    plain = np.where(pattern.largest(np.abs(weights).reshape(-1, 4)).reshape(weights.shape), weights, 0)
    loss = [np.square(x @ (w - weights).T).sum() for w in (made, plain)]
    assert loss[0] < 0.3 * loss[1]


def test_wanda_weighs_elements_by_their_inputs() -> None:
    scores = wanda_scores(np.asarray([[1.0, -2.0]]), np.diag([100.0, 4.0]))
    np.testing.assert_allclose(scores, [[10, 4]])


def test_least_squares_with_fixed_zeros_is_the_best_there_is() -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((80, 6))
    wanted = x @ random.standard_normal((6, 3)) + random.standard_normal((80, 3))
    allowed = random.random((1, 3, 6)) > 0.4
    moments = Moments.empty(1, 6, 3)
    moments.add(x[None], wanted[None])
    start = np.zeros((1, 3, 6))
    solved, bias = ridge(moments, start, np.zeros((1, 3)), 1e-9, False, allowed)
    for k in range(3):
        free = allowed[0, k]
        best = np.linalg.lstsq(x[:, free], wanted[:, k], rcond=None)[0]
        np.testing.assert_allclose(solved[0, k, free], best, atol=1e-6)
        assert not solved[0, k, ~free].any()
    held = Moments.empty(1, 6, 3)
    held.add(x[None, :20], wanted[None, :20])
    fitted, _, strength = fit(moments, held, start, bias, np.ones((1, 3), bool), True, allowed)
    assert strength is not None
    assert not fitted[~allowed].any()


# --- later steps


def zeros_stay(before: Model, after: Model) -> None:
    """Check that the zeros of all noted weights are zero, and that something else has changed."""
    note = pattern_note(before)
    assert note == pattern_note(after) is not None
    changed = 0
    for name in note.weights:
        old, new = before.array(name), after.array(name)
        assert not new[old == 0].any()
        changed += int((new != old).sum())
    assert changed
    assert all(documented(after.proto).values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["stock", pytest.param("ort-training", marks=pytest.mark.training)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_keeps_the_pattern(engine: Any, optimizer: Any) -> None:
    data = disk.samples(64)
    model = check(Model(disk.network()))
    sparse = Sparsify()(Prune(reduce_macs=0.3, round_to=4)(model))
    how = {"epochs": 2, "lr": 0.01, "weight_decay": 0.01, "ema": 0.9, "threads": 1}
    tuned = Finetune(data, engine=engine, optimizer=optimizer, **how)(sparse)
    assert tuned.facts["engine"] == engine
    zeros_stay(sparse.model, tuned.model)
    dense = Transform()(tuned)
    assert dense.facts["pattern"]["valid"]
    if engine == "stock":
        zeros_stay(dense.model, Finetune(data, engine=engine, optimizer=optimizer, **how)(dense).model)


def test_training_with_normalisation_put_back_keeps_the_pattern() -> None:
    model = check(Model(disk.network()))
    sparse = Sparsify()(model)
    tuned = Finetune(disk.samples(32), unfold="always", threads=1)(sparse)
    assert tuned.facts["unfolded"]
    zeros_stay(sparse.model, tuned.model)


@pytest.mark.parametrize("methods", [("least-squares",), ("scale",), ("bias",)])
def test_recovery_keeps_the_pattern(methods: tuple[str, ...]) -> None:
    model, data = mlp(), rows(200)
    sparse = Sparsify()(model)
    repaired = Recover(model, data, methods)(sparse)
    assert error(model, repaired.model, data) < error(model, sparse.model, data)
    note = pattern_note(sparse.model)
    assert all(not repaired.model.array(n)[sparse.model.array(n) == 0].any() for n in note.weights)
    assert check_pattern(repaired.model).valid


def test_quantisation_keeps_the_pattern(tmp_path: Path) -> None:
    model, data = check(Model(disk.network())), disk.samples(32)
    sparse = Sparsify(data={"image": data["image"]}, exclude=["conv1"])(model).model
    made = check(Model(quantised(sparse.proto, [{"image": data["image"]}], tmp_path)))
    checked = check_pattern(made, "2:4")
    assert checked.valid
    assert {w.operator for w in checked.weights} == {"Conv", "Gemm"}
    assert all(2 * w.zeros >= w.elements for w in checked.weights)


def quantised_conv(net: Net, x: str, out: int, dtype: type, each: bool) -> str:
    """A convolution of integers that are dequantised, with zero points that are not zero."""
    count = (out,) if each else ()
    q = net.const(net.random.integers(0, 100, (out, net.shape(x)[1], 3, 3), dtype=dtype))
    zero = net.const((50 + net.random.integers(0, 3, count)).astype(dtype))
    scale = net.const(net.random.uniform(0.005, 0.02, count))
    weight = net.op("DequantizeLinear", q, scale, zero, axis=0)
    return net.op("Conv", x, weight, kernel_shape=[3, 3], pads=[1] * 4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("each", [False, True])
def test_zeros_of_quantised_weights_are_their_zero_points(dtype: type, each: bool) -> None:
    net = Net()
    x = net.relu(quantised_conv(net, net.input("x", [2, 4, 8, 8]), 16, dtype, each))
    model = net.model(quantised_conv(net, x, 4, dtype, each))
    result = Sparsify()(model)
    weights = {row["tensor"] for row in result.facts["weights"]}
    readers = [node for node in result.model.nodes if node.input[0] in weights]
    assert len(readers) == 2
    for node in readers:
        q, zero = result.model.array(node.input[0]), result.model.array(node.input[2])
        real = q.astype(int) - zero.astype(int).reshape(-1, 1, 1, 1)
        blocks = np.moveaxis(real, 1, -1).reshape(-1, 4)
        assert (np.count_nonzero(blocks, axis=1) <= 2).all()
        assert ((q == model.array(node.input[0])) | (real == 0)).all()


def test_zeros_of_a_pattern_are_no_evidence_of_dead_channels() -> None:
    """Every reader of one channel lets it go, yet cutting it would move all blocks behind it."""
    random = np.random.default_rng(0)
    w3 = random.normal(size=(4, 24)).astype(np.float32)
    w3[:, 5] *= 1e-3
    w2 = random.normal(size=(24, 16, 3, 3)).astype(np.float32)
    w2[:, 3] *= 1e-3
    model = check(Model(disk.network(w2=w2, w3=w3)))
    sparse = Sparsify()(model)
    assert not sparse.model.array("w3")[:, 5].any()
    assert not sparse.model.array("w2")[:, 3].any()
    with pytest.raises(NothingToDoError, match="the zeros of the pattern 2:4 stay"):
        Transform()(sparse)
    tuned = Finetune(disk.samples(16), threads=1)(sparse)
    zeros_stay(sparse.model, tuned.model)


def test_channels_that_are_dead_already_are_reported() -> None:
    w1 = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    w2 = np.random.default_rng(1).normal(size=(24, 16, 3, 3)).astype(np.float32)
    b1 = np.ones(16, np.float32)
    w1[2], b1[2], w2[:, 2] = 0, 0, 0
    assert Sparsify()(check(Model(disk.network(w1=w1, b1=b1, w2=w2)))).facts["dead_channels"] == 1


# --- refusals


def test_weights_that_something_else_reads_are_left_alone() -> None:
    net = Net()
    table = net.weight(12, 8, name="table")
    x = net.op("Gather", table, net.input("ids", ["N", 3], onnx.TensorProto.INT64))
    x = net.linear(x, 8)
    model = net.model(net.op("MatMul", x, net.transpose(table, 1, 0)))
    result = Sparsify()(model)
    assert "table" not in pattern_note(result.model).weights
    (left,) = (entry for entry in result.facts["left"] if entry["tensor"] == "table")
    assert "Gather" in left["reason"]
    np.testing.assert_array_equal(result.model.array("table"), model.array("table"))


def test_sizes_that_are_no_multiple_of_a_block_are_named() -> None:
    model = check(Model(disk.network()))
    result = Sparsify()(model)
    assert [(u["node"], u["reason"]) for u in result.facts["left"]] == [
        ("conv1", "the number of its inputs, 3, is no multiple of 4")
    ]
    with pytest.raises(NothingToDoError, match="no weight of"):
        Sparsify(only=["conv1"])(model)
    assert not Sparsify(only=["conv1"], allow_unchanged=True)(model).modified
    assert [w["node"] for w in Sparsify(only=["w2"])(model).facts["weights"]] == ["conv2"]


def test_channels_and_patterns_in_the_wrong_order_are_refused() -> None:
    model = check(Model(disk.network()))
    sparse = Sparsify()(model)
    with pytest.raises(PlanError, match="follows the pattern 2:4"):
        Prune(reduce_macs=0.3)(sparse)
    with pytest.raises(PlanError, match="follows the pattern 2:4 already"):
        Sparsify(pattern="1:4")(sparse)
    changed = sparse.model.copy()
    changed.set_array("w2", model.array("w2"))
    with pytest.raises(PlanError, match="'w2' does not follow the pattern 2:4"):
        Transform()(prune_with_note(changed, model))


def prune_with_note(changed: Model, model: Model) -> Model:
    """Return a pruned model with a note on a pattern that its weights do not follow."""
    pruned = Prune(reduce_macs=0.3)(model).model
    pruned.set_metadata(PATTERN_KEY, changed.metadata()[PATTERN_KEY])
    return pruned


@pytest.mark.parametrize("text", ["4:2", "2", "0:4", "unstructured:1.5", "two:four", "4:4", "unstructured"])
def test_patterns_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no sparsity pattern"):
        Sparsify(pattern=text)(mlp())


def test_damaged_notes_are_refused() -> None:
    sparse = Sparsify()(mlp()).model
    for text in ("{}", "here", '{"format":1,"pattern":"4:2","weights":[]}'):
        sparse.set_metadata(PATTERN_KEY, text)
        with pytest.raises(PlanError, match="the note on the sparsity pattern is damaged"):
            pattern_note(sparse)
    note = PatternNote(Pattern.of("2:4"), ("w",))
    assert PatternNote.from_json(note.to_json()) == note
    sparse.set_metadata(PATTERN_KEY, note.to_json())
    with pytest.raises(PlanError, match="names the weight 'w'"):
        Finetune({"x": rows(8)["x"], "labels": np.zeros(8, int)})(sparse)


def test_scores_that_look_at_samples_ask_for_them() -> None:
    with pytest.raises(UsageError, match="looks at samples"):
        Sparsify(score="wanda")(mlp())
    with pytest.raises(UsageError, match="`score` is 'taylor'"):
        Sparsify(score="taylor")(mlp())  # type: ignore[arg-type]


def test_kernels_that_take_a_weight_are_listed() -> None:
    net = Net()
    x = net.gemm(net.input("x", ["N", 64]), 32)
    checked = check_pattern(Sparsify()(net.model(net.gemm(x, 24))).model)
    assert [w.kernels for w in checked.weights] == [
        ("tensorrt", "cusparselt float16", "cusparselt int8"),
        ("tensorrt",),
    ]
    assert not check_pattern(mlp(), "2:4").valid


# --- the command


def shell(*words: object) -> disk.Outcome:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "onnxprune", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return disk.Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    model = disk.save(disk.network(), tmp_path / "model.onnx")
    data = disk.save_data(tmp_path / "data.npz", **disk.samples())
    pruned, sparse, dense = (tmp_path / f"{name}.onnx" for name in ("pruned", "sparse", "dense"))
    assert disk.run("prune", model, "--reduce-macs", 0.4, "-o", pruned).code == 0
    facts = shell("sparsify", pruned, "--pattern", "2:4", "--data", data, "-o", sparse, "--json").facts
    assert facts["score"] == "sparsegpt"
    assert facts["zeros"] * 2 == facts["elements"]
    done = disk.run("transform", sparse, "-o", dense, "--json").facts
    assert done["pattern"]["valid"]
    assert all(documented(onnx.load(dense)).values())
    zeros = disk.run("inspect", dense, "--json").facts["zeros"]
    assert zeros["pattern"] == "2:4"
    assert zeros["zeros"] == done["pattern"]["zeros"]
    assert "weights are zero, pattern 2:4" in disk.run("inspect", dense).out
    assert "sparse model:" in disk.run("sparsify", model, "-o", tmp_path / "b.onnx").out
    assert load(sparse).metadata()[PATTERN_KEY] == json.dumps(
        {"format": 1, "pattern": "2:4", "weights": [w["tensor"] for w in facts["weights"]]},
        separators=(",", ":"),
    )
    refused = shell("sparsify", model, "--pattern", "5:4", "-o", tmp_path / "c.onnx")
    assert refused.code == 2
    assert "hint:" in refused.err
