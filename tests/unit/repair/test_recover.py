"""Recovery without training: every claim of every method, on models small enough to check by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

import onnxprune
from onnxprune.app.cli import program
from onnxprune.decisions.channels.masks import keep_masks
from onnxprune.decisions.channels.planned import planned_channels, removed_channels, stored_plan
from onnxprune.errors import DataError, NothingToDoError, PlanError, UsageError
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Recover, Transform
from onnxprune.repair import METHODS, ModelPair, Settings, sweep
from onnxprune.repair.synthetic import SyntheticPair, noise
from onnxprune.runtime import Session


def network(body: str, x: str, y: str, seed: int = 0, **shapes: tuple[int, ...]) -> Model:
    """Make a network from text; its weights are random, those called ``var`` positive."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{x}] x) => (float[{y}] y) {{ {body} }}'
    random = np.random.default_rng(seed)
    proto = parser.parse_model(text)
    for name, shape in shapes.items():
        fan = max(int(np.prod(shape[1:])), 1)
        values = (
            random.standard_normal(shape) / np.sqrt(fan) if len(shape) > 1 else random.normal(0.3, 0.5, shape)
        )
        values = np.abs(values) + 0.5 if name.startswith("var") else values
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return check(Model(proto))


CONVOLUTIONS = {
    "plain": ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", (8, 12, 3, 3)),
    "pointwise": ("kernel_shape = [1, 1]", (8, 12, 1, 1)),
    "strided": ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]", (8, 12, 3, 3)),
    "dilated": ("kernel_shape = [3, 3], dilations = [2, 1], pads = [2, 1, 2, 1]", (8, 12, 3, 3)),
    "asymmetric": ("kernel_shape = [2, 3], pads = [1, 0, 0, 2]", (8, 12, 2, 3)),
    "same upper": ('kernel_shape = [3, 2], strides = [2, 1], auto_pad = "SAME_UPPER"', (8, 12, 3, 2)),
    "same lower": ('kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_LOWER"', (8, 12, 2, 2)),
    "grouped": ("kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 2", (8, 6, 3, 3)),
}


def convolution(kind: str) -> Model:
    """Two convolutions; the inner channels are pruned, the second one's weights are to be repaired."""
    attributes, shape = CONVOLUTIONS[kind]
    body = f"h = Conv <kernel_shape = [1, 1]> (x, w1, b1)  y = Conv <{attributes}> (h, w2, b2)"
    return network(body, "N, 2, 9, 8", "N, 8, P, Q", w1=(12, 2, 1, 1), b1=(12,), w2=shape, b2=(8,))


def pruned(model: Model, ratio: float = 0.3, **options: object) -> Model:
    return Prune(reduce_channels=ratio, round_to=1, **options)(model).model


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    return Session(model.proto, optimize=False).run({"x": x})["y"].astype(np.float64)


def tensors(model: Model, x: np.ndarray, name: str) -> np.ndarray:
    """Return an inner tensor."""
    proto = model.copy().proto
    proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return Session(proto, optimize=False).run({"x": x}, [name])[name].astype(np.float64)


def removed_weights(model: Model) -> np.ndarray:
    channels, removed = removed_channels(model, stored_plan(model))
    masks = keep_masks(channels, removed)
    return np.concatenate([channels.model.array(n)[~m].ravel() for n, m in masks.items()])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_least_squares_is_exact_where_the_kept_channels_tell_everything(kind):
    """Two inputs make twelve channels linearly, so those that remain hold all there is to know."""
    model = convolution(kind)
    sparse = pruned(model)
    x = np.random.default_rng(1).standard_normal((60, 2, 9, 8)).astype(np.float32)
    fresh = np.random.default_rng(2).standard_normal((5, 2, 9, 8)).astype(np.float32)
    result = Recover(model, {"x": x}, ["least-squares"], samples=60)(sparse)
    wanted, before, after = (outputs(m, fresh) for m in (model, sparse, result.model))
    assert np.square(after - wanted).mean() < 2e-4 * np.square(before - wanted).mean()
    assert not removed_weights(result.model).any()
    assert result.facts["skipped"] == []


HIDDEN = "h = Gemm <transB = 1> (x, w1, b1)"
PRODUCTS = {
    "Gemm": ("y = Gemm (h, w2, b2)", (12, 5), (5,)),
    "scaled Gemm": ("y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (h, w2, b2)", (5, 12), (1, 5)),
    "MatMul": ("m = MatMul (h, w2)  y = Add (m, b2)", (12, 5), (5,)),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_least_squares_repairs_matrix_products(kind):
    body, w2, b2 = PRODUCTS[kind]
    model = network(f"{HIDDEN} {body}", "N, 4", "N, 5", w1=(12, 4), b1=(12,), w2=w2, b2=b2)
    sparse = pruned(model)
    x = np.random.default_rng(1).standard_normal((200, 4)).astype(np.float32)
    result = Recover(model, {"x": x}, ["least-squares"], samples=200)(sparse)
    wanted, before, after = (outputs(m, x[:50] + 1) for m in (model, sparse, result.model))
    assert np.square(after - wanted).mean() < 1e-4 * np.square(before - wanted).mean()
    assert not removed_weights(result.model).any()


def test_least_squares_finds_the_ridge_solution():
    """The repaired weights are those of the closed form on all samples, at the reported strength."""
    body = "h = Gemm <transB = 1> (x, w1, b1)  r = Relu (h)  y = Gemm <transB = 1> (r, w2, b2)"
    model = network(body, "N, 6", "N, 3", w1=(10, 6), b1=(10,), w2=(3, 10), b2=(3,))
    sparse = pruned(model)
    x = np.random.default_rng(3).standard_normal((300, 6)).astype(np.float32)
    result = Recover(model, {"x": x}, ["least-squares"], samples=300)(sparse)
    layer = result.facts["layers"][-1]
    kept = np.flatnonzero(sparse.array("w2").any(0))
    inputs = tensors(result.model, x, "r")[:, kept]
    old, wanted = sparse.array("w2")[:, kept].astype(np.float64), outputs(model, x)
    inputs, missing = inputs - inputs.mean(0), wanted - wanted.mean(0)
    gram = inputs.T @ inputs
    ridge = layer["ridge"] * np.trace(gram) / len(kept) * np.eye(len(kept))
    expected = np.linalg.solve(gram + ridge, inputs.T @ missing + ridge @ old.T).T
    np.testing.assert_allclose(result.model.array("w2")[:, kept], expected, rtol=1e-4, atol=1e-5)
    assert layer["mse_after"] == pytest.approx(np.square(outputs(result.model, x) - wanted).mean(), rel=1e-3)
    assert layer["mse_before"] > layer["mse_after"]


def test_least_squares_keeps_weights_it_cannot_improve():
    """Noise is not fitted: the samples held back, one in five, decide."""
    body = "h = Gemm <transB = 1> (x, w1, b1)  r = Relu (h)  y = Gemm <transB = 1> (r, w2, b2)"
    model = network(body, "N, 6", "N, 3", w1=(40, 6), b1=(40,), w2=(3, 40), b2=(3,))
    sparse = pruned(model)
    x = np.random.default_rng(3).standard_normal((12, 6)).astype(np.float32)
    fresh = np.random.default_rng(4).standard_normal((500, 6)).astype(np.float32)
    result = Recover(model, {"x": x}, ["least-squares"], samples=12)(sparse)
    wanted, before, after = (outputs(m, fresh) for m in (model, sparse, result.model))
    assert np.square(after - wanted).mean() < 1.1 * np.square(before - wanted).mean()


BATCHNORM = """
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1)
    n = BatchNormalization (c, scale, offset, mean, var)
    r = Relu (n)
    d = Conv <kernel_shape = [1, 1]> (r, w2)
    m = BatchNormalization (d, scale2, offset2, mean2, var2)
    s = Relu (m)
    p = GlobalAveragePool (s)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
"""


def with_batchnorm() -> Model:
    vectors = {f"{n}{k}": (12,) for k in ("", "2") for n in ("scale", "offset", "mean", "var")}
    matrices = {"w1": (12, 3, 3, 3), "w2": (12, 12, 1, 1), "w3": (5, 12), "b3": (5,)}
    return network(BATCHNORM, "N, 3, 6, 6", "N, 5", **matrices, **vectors)


def images(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 6, 6)).astype(np.float32)


def kept_channels(sparse: Model, weight: str) -> np.ndarray:
    return sparse.array(weight).reshape(len(sparse.array(weight)), -1).any(1)


def test_batchnorm_statistics_are_those_of_the_operand():
    model = with_batchnorm()
    sparse, x = pruned(model), images(70)
    repaired = Recover(model, {"x": x}, ["batchnorm"], samples=70, batch_size=16)(sparse).model
    arriving, kept = tensors(repaired, x, "d"), kept_channels(sparse, "w2")
    np.testing.assert_allclose(repaired.array("mean2")[kept], arriving.mean((0, 2, 3))[kept], atol=1e-5)
    np.testing.assert_allclose(repaired.array("var2")[kept], arriving.var((0, 2, 3))[kept], rtol=1e-4)
    assert not np.allclose(sparse.array("mean2")[kept], repaired.array("mean2")[kept], atol=1e-2)


def test_nodes_that_pruning_did_not_touch_stay_as_they_are():
    """The first BatchNormalization receives the same values as before, on the channels that remain."""
    model = with_batchnorm()
    sparse = pruned(model)
    methods = ["least-squares", "bias", "scale", "batchnorm"]
    result = Recover(model, {"x": images(70)}, methods, samples=70)(sparse)
    for name in ("w1", "mean", "var", "scale", "offset"):
        np.testing.assert_array_equal(result.model.array(name), sparse.array(name))
    assert {layer["node"] for layer in result.facts["layers"]} == {"d", "m", "y"}


def test_bias_gives_every_channel_the_mean_of_the_original():
    model = with_batchnorm()
    sparse, x = pruned(model), images(70)
    result = Recover(model, {"x": x}, ["bias"], samples=70)(sparse)
    kept = kept_channels(sparse, "w2")
    ours, theirs = (tensors(m, x, "m").mean((0, 2, 3))[kept] for m in (result.model, model))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # in the mean of the BatchNormalization that follows
    np.testing.assert_allclose(outputs(result.model, x).mean(0), outputs(model, x).mean(0), atol=1e-5)
    assert [list(n.input) for n in result.model.nodes] == [list(n.input) for n in model.nodes]


def folded() -> Model:
    """A network without biases and without BatchNormalization."""
    body = """
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1)
        r = Relu (c)
        d = Conv <kernel_shape = [1, 1]> (r, w2)
        s = Relu (d)
        p = GlobalAveragePool (s)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w3)
    """
    return network(body, "N, 3, 6, 6", "N, 5", w1=(12, 3, 3, 3), w2=(12, 12, 1, 1), w3=(5, 12))


@pytest.mark.parametrize("make", [with_batchnorm, folded])
def test_scale_gives_every_channel_mean_and_deviation_of_the_original(make):
    model = make()
    sparse, x = pruned(model), images(70)
    repaired = Recover(model, {"x": x}, ["scale"], samples=70)(sparse).model
    kept = kept_channels(sparse, "w2")
    place = "m" if make is with_batchnorm else "d"
    ours, theirs = (tensors(m, x, place)[:, kept] for m in (repaired, model))
    np.testing.assert_allclose(ours.mean((0, 2, 3)), theirs.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(ours.std((0, 2, 3)), theirs.std((0, 2, 3)), rtol=1e-4)
    assert not removed_weights(repaired).any()


@pytest.mark.parametrize("methods", [["least-squares"], ["bias"], ["scale"], ["least-squares", "batchnorm"]])
@pytest.mark.parametrize("make", [with_batchnorm, folded])
def test_repaired_models_shrink_exactly_and_can_be_repaired_again(make, methods):
    model = make()
    x = images(70)
    once = Recover(model, {"x": x}, methods, samples=70)(pruned(model))
    Transform()(once)  # raises where sparse and dense differ
    twice = Recover(model, {"x": x}, methods, samples=70)(once)
    Transform()(twice)
    first, second = (r.facts["outputs"]["y"] for r in (once, twice))
    assert second["mse_before"] == pytest.approx(first["mse_after"], rel=1e-3)
    assert second["mse_after"] < 1.05 * first["mse_after"] + 1e-6


def test_least_squares_works_on_the_repaired_layers_before():
    """Each layer is fitted on the repaired one before it: its own error is the least for that input."""
    model = with_batchnorm()
    sparse, x = pruned(model), images(200)
    repaired = Recover(model, {"x": x}, ["least-squares"], samples=200)(sparse)
    wanted = tensors(model, x, "d")
    kept = kept_channels(sparse, "w2")
    rows = np.moveaxis(tensors(repaired.model, x, "r"), 1, -1).reshape(-1, 12)
    rows = np.hstack([rows, np.ones((len(rows), 1))])
    target = np.moveaxis(wanted, 1, -1).reshape(-1, 12)[:, kept]
    best = target - rows @ np.linalg.lstsq(rows, target, rcond=None)[0]
    found = next(layer for layer in repaired.facts["layers"] if layer["node"] == "d")
    assert found["mse_after"] == pytest.approx(np.square(best).mean(), rel=1e-2)
    assert found["mse_after"] < 0.9 * found["mse_before"]


def test_same_seed_same_model():
    model = with_batchnorm()
    sparse, data = pruned(model), {"x": images(100)}
    runs = [Recover(model, data, ["least-squares"], samples=40, seed=s, threads=1)(sparse) for s in (3, 3, 4)]
    first, second, other = (r.model.proto.SerializeToString(deterministic=True) for r in runs)
    assert first == second != other


def test_a_small_checkpoint_changes_nothing():
    model = with_batchnorm()
    sparse = pruned(model)
    plan = stored_plan(sparse)
    found = []
    for budget in (0, 1 << 30):
        pair = ModelPair.of(planned_channels(sparse, plan), plan.removed, model, plan)
        feeds = [{"x": images(32, seed)} for seed in range(2)]
        sweep(pair, feeds, Settings(["least-squares", "batchnorm"], 0, 1, budget))
        found.append(pair.sparse)
    for name in found[0].constants:
        np.testing.assert_allclose(found[0].array(name), found[1].array(name), rtol=1e-4, atol=1e-6)


def test_a_fixed_batch_is_fed_whole():
    model = with_batchnorm()
    model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    model.proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    result = Recover(model, {"x": images(30)}, ["batchnorm"], samples=30)(pruned(model))
    assert result.facts["samples"] == 24
    with pytest.raises(DataError, match="fewer samples than one batch"):
        Recover(model, {"x": images(5)}, ["batchnorm"])(pruned(model))


def test_layers_in_bodies_are_named():
    body = """s = ReduceSum <keepdims = 0> (x)  c = Cast <to = 9> (s)  r = Relu (x)  y = If (c) <
        then_branch = kept () => (float[N, 4] t) { h = MatMul (r, w1)  k = Relu (h)  t = MatMul (k, w2) },
        else_branch = other () => (float[N, 4] e) { e = Identity (r) }>"""
    model = network(body, "N, 4", "N, 4", w1=(4, 12), w2=(12, 4))
    result = Recover(model, None, ["least-squares"])(pruned(model))
    assert [s["node"] for s in result.facts["skipped"]] == ["h", "t"]
    assert all("in the body of an If" in s["reason"] for s in result.facts["skipped"])


def test_weights_that_others_share_stay():
    body = "a = MatMul (x, w)  r = Relu (a)  h = MatMul (r, w1)  b = MatMul (h, w2)  y = MatMul (b, w)"
    model = network(body, "N, 4", "N, 4", w=(4, 4), w1=(4, 12), w2=(12, 4))
    x = np.random.default_rng(1).standard_normal((100, 4)).astype(np.float32)
    result = Recover(model, {"x": x}, samples=100)(pruned(model))
    assert [s["reason"] for s in result.facts["skipped"]] == ["other nodes share its weights"] * 2
    np.testing.assert_array_equal(result.model.array("w"), model.array("w"))
    assert result.facts["outputs"]["y"]["mse_after"] < result.facts["outputs"]["y"]["mse_before"]


def test_the_original_must_be_the_original():
    model, data = with_batchnorm(), {"x": images(20)}
    sparse = pruned(model)
    with pytest.raises(PlanError, match="nodes, the sparse model"):
        Recover(folded(), data)(sparse)
    other = model.copy()
    pads = next(a for a in other.proto.graph.node[0].attribute if a.name == "pads")
    pads.ints[:] = [0, 0, 2, 2]
    with pytest.raises(PlanError, match="differs from the sparse model at node"):
        Recover(other, data)(sparse)
    wide = with_batchnorm()
    wide.set_array("b3", np.zeros((1, 5), np.float32))
    with pytest.raises(PlanError, match="in its tensor 'b3'"):
        Recover(wide, data)(sparse)


@pytest.mark.parametrize(("first", "second"), [("i", "b"), ("b", "i"), ("i", "j")])
def test_a_constant_that_the_mask_splits_has_other_names_in_the_original(first, second):
    """The exporter wrote one bias for two layers; the layer that keeps its name may be either."""
    body = f"""i = Identity (b)  j = Identity (b)
        h = Conv (x, w1, {first})  r = Relu (h)
        g = Conv (r, w2, {second})  s = Relu (g)  y = Conv (s, w3, b3)"""
    shapes = {"w1": (12, 2, 1, 1), "w2": (12, 12, 1, 1), "w3": (3, 12, 1, 1), "b": (12,), "b3": (3,)}
    model = network(body, "N, 2, 6, 6", "N, 3, 6, 6", **shapes)
    data = {"x": images(40)[:, :2]}
    sparse = pruned(model)
    result = Recover(model, data, ["least-squares"])(sparse)
    assert result.facts["layers"]
    assert result.facts["outputs"]["y"]["mse_after"] < result.facts["outputs"]["y"]["mse_before"]
    assert pruned(model, data=data, recover=["least-squares"]).array("w1").shape == (12, 2, 1, 1)


def test_bad_options_and_bad_data_are_refused():
    model, data = with_batchnorm(), {"x": images(20)}
    sparse = pruned(model)
    with pytest.raises(UsageError, match="`methods` is 'magic'"):
        Recover(model, data, ["magic"])(sparse)
    with pytest.raises(UsageError, match="no method is given"):
        Recover(model, data, [])(sparse)
    with pytest.raises(UsageError, match="`samples` is 1"):
        Recover(model, data, samples=1)(sparse)
    with pytest.raises(NothingToDoError, match="nothing is removed"):
        Recover(model, data)(model)
    with pytest.raises(DataError, match="NaN or infinite"):
        Recover(model, {"x": images(20) * np.float32(1e38)}, ["batchnorm"])(sparse)


def test_command(tmp_path):
    model, x = with_batchnorm(), images(60)
    sparse = pruned(model)
    paths = [str(tmp_path / name) for name in ("model.onnx", "sparse.onnx", "x.npz", "out.onnx")]
    onnxprune.save(model, paths[0])
    onnxprune.save(sparse, paths[1])
    np.savez(paths[2], x=x)
    words = ["recover", paths[1], "--original", paths[0], "--data", paths[2], "-o", paths[3]]
    words += ["--method", "batchnorm", "--method", "least-squares", "--metric", "cosine", "--json"]
    result = CliRunner().invoke(program, words)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["methods"] == ["least-squares", "batchnorm"]
    assert facts["score_before"] < facts["score"] <= 1
    assert facts["outputs"]["y"]["mse_after"] < facts["outputs"]["y"]["mse_before"]
    written = onnxprune.load(paths[3])
    assert not removed_weights(written).any()
    assert CliRunner().invoke(program, [*words[:-1], "--samples", "20"]).exit_code == 0


def test_prune_repairs_as_recover_does():
    model, data = with_batchnorm(), {"x": images(70)}
    methods = ["batchnorm", "least-squares"]
    at_once = Prune(
        reduce_channels=0.3,
        round_to=1,
        criterion="l2",
        data=data,
        recover=methods,
        metric="cosine",
        seed=3,
        batch_size=16,
    )(model)
    sparse = Prune(reduce_channels=0.3, round_to=1)(model)
    after = Recover(model, data, methods, seed=3, batch_size=16)(sparse)
    for name in after.model.constants:
        np.testing.assert_array_equal(at_once.model.array(name), after.model.array(name))
    assert at_once.facts["recovery"]["layers"] == after.facts["layers"]
    assert at_once.facts["recovery"]["score"] > at_once.facts["recovery"]["score_before"]
    assert at_once.facts["macs"] == sparse.facts["macs"]
    with pytest.raises(UsageError, match="`recover` is 'magic'"):
        Prune(reduce_channels=0.3, recover=["magic"])(model)


def test_prune_in_two_rounds_recovers_towards_the_model_it_was_given():
    model, data = with_batchnorm(), {"x": images(70)}
    first = Prune(reduce_channels=0.2, round_to=1, data=data, recover=["least-squares"])(model).model
    second = Prune(reduce_channels=0.4, round_to=1, data=data, recover=["least-squares"])(first)
    Transform()(second.model)
    found = second.facts["recovery"]["outputs"]["y"]
    assert found["mse_after"] < found["mse_before"]


def test_prune_command_repairs(tmp_path):
    model = with_batchnorm()
    onnxprune.save(model, str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "x.npz", x=images(40))
    words = ["prune", str(tmp_path / "model.onnx"), "--reduce-channels", "0.3", "--round-to", "1"]
    words += ["--recover", "least-squares", "-o", str(tmp_path / "out.onnx")]
    result = CliRunner().invoke(program, [*words, "--data", str(tmp_path / "x.npz")])
    assert result.exit_code == 0, result.output
    assert "repaired with least-squares from 40 samples" in " ".join(result.output.split())
    result = CliRunner().invoke(program, [*words, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["recovery"]
    assert facts["synthetic"]
    assert facts["samples"] == 512


def trained_like(seed: int = 0) -> tuple[Model, np.ndarray]:
    """A network whose statistics are those of some data, and more of that data."""
    model, random = with_batchnorm(), np.random.default_rng(seed)
    colours = random.standard_normal((3, 3)) * 2

    def draw(count: int) -> np.ndarray:
        return (random.standard_normal((count, 6, 6, 3)) @ colours + 1).transpose(0, 3, 1, 2)

    model.set_array("offset", np.linspace(-1, 1, 12).astype(np.float32))
    x = draw(400).astype(np.float32)
    for reads, mean, variance in (("c", "mean", "var"), ("d", "mean2", "var2")):
        arriving = tensors(model, x, reads)
        model.set_array(mean, arriving.mean((0, 2, 3)).astype(np.float32))
        model.set_array(variance, arriving.var((0, 2, 3)).astype(np.float32))
    return model, draw(200).astype(np.float32)


def test_drawn_inputs_put_the_stored_statistics_behind_every_normalisation():
    model, _ = trained_like()
    feeds = noise(model, Session(model.proto), {}, 300, 100, 0)
    sparse = pruned(model)
    plan = stored_plan(sparse)
    channels, removed = removed_channels(sparse, plan)
    stand = SyntheticPair.on(ModelPair.of(channels, removed, model, plan), feeds, 1)
    x = np.concatenate([feed["x"] for feed in feeds])
    for name, scale, offset in (("n", "scale", "offset"), ("m", "scale2", "offset2")):
        found = tensors(stand.pair.original, x, name)
        np.testing.assert_allclose(found.mean((0, 2, 3)), model.array(offset), atol=1e-2)
        np.testing.assert_allclose(found.std((0, 2, 3)), np.abs(model.array(scale)), rtol=2e-2)
    left = stand.leave()
    for name in model.constants:
        np.testing.assert_array_equal(left.array(name), sparse.array(name))


@pytest.mark.parametrize("methods", [["least-squares"], ["bias"], ["scale"], ["least-squares", "batchnorm"]])
def test_without_data_less_comes_back_but_some(methods):
    model, x = trained_like()
    sparse = pruned(model)
    drawn = Recover(model, None, methods)(sparse)
    given = Recover(model, {"x": x}, methods)(sparse)
    assert drawn.facts["synthetic"]
    assert not given.facts["synthetic"]
    wanted = outputs(model, x)
    errors = [np.square(outputs(m, x) - wanted).mean() for m in (sparse, drawn.model, given.model)]
    assert errors[2] < errors[1] < errors[0]
    Transform()(drawn.model)


def test_drawn_inputs_look_like_pictures():
    model = network("y = Conv (x, w)", "N, 3, 16, 16", "N, 4, 16, 16", w=(4, 3, 1, 1))
    first, second, other = (noise(model, Session(model.proto), {}, 64, 32, seed) for seed in (1, 1, 2))
    x = np.concatenate([feed["x"] for feed in first])
    assert x.shape == (64, 3, 16, 16)
    np.testing.assert_array_equal(x[:32], second[0]["x"])
    assert not np.allclose(x[:32], other[0]["x"])
    np.testing.assert_allclose(x.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((1, 2, 3)), 1, rtol=1e-5)
    neighbours = (x[..., 1:] * x[..., :-1]).mean()
    assert 0.2 < neighbours < 0.95


def test_a_metric_needs_data():
    model = with_batchnorm()
    with pytest.raises(UsageError, match="cosine is measured on data"):
        Recover(model, metric="cosine")(pruned(model))


def test_changes_that_make_a_layer_worse_are_reverted(monkeypatch):
    """Every change of a method that promises a smaller error is covered: weights, biases, added nodes."""

    def spoil(stage):
        stage.pair.replace(stage.linear.weight, stage.pair.sparse.array(stage.linear.weight) * 2)
        stage.shift.add(stage.pair.sparse, np.full(len(stage.kept), 3.0))
        return {}

    monkeypatch.setitem(METHODS, "bias", (METHODS["bias"][0], spoil))
    for model in (with_batchnorm(), folded()):
        sparse = pruned(model)
        result = Recover(model, {"x": images(40)}, ["bias"], samples=40)(sparse)
        assert not result.modified
        assert {s["node"] for s in result.facts["skipped"]} == {"d", "y"}
        assert all(s["reason"].startswith("the error would rise from") for s in result.facts["skipped"])
        for name in sparse.constants:
            np.testing.assert_array_equal(result.model.array(name), sparse.array(name))
        assert [list(n.input) for n in result.model.nodes] == [list(n.input) for n in sparse.nodes]
