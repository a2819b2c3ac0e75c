"""Low rank: the chains compute their factors, have the predicted costs, and are layers like any others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net, half_of_each, prune_exactly
from ideas import IDEAS
from onnx import TensorProto, helper

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.cli import program
from onnxprune.errors import NothingToDoError, PlanError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import Model, check
from onnxprune.passes import Factorize, Finetune, Prune, Transform
from onnxprune.passes import factorize as factorize_module
from onnxprune.runtime import Session
from onnxprune.scoring.layerwise.low_rank_kernels import composed

pytestmark = pytest.mark.slow


Array = np.ndarray[Any, np.dtype[Any]]
RANK = 2


def low(form: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """A kernel ``[groups, outputs, inputs, *kernel]`` that has the rank in this form."""
    groups, outputs, inputs, *places = shape
    random, none = np.random.default_rng(seed), [1] * len(places)
    vertical, horizontal = ([p if k == axis else 1 for k, p in enumerate(places)] for axis in (0, 1))
    sizes = {
        "svd": [places, none],
        "spatial": [vertical, horizontal],
        "tucker-2": [none, places, none],
    }[form]
    widths = [inputs, *[RANK] * (len(sizes) - 1), outputs]
    parts = [
        random.normal(size=(groups, b, a, *k)) / np.sqrt(a * np.prod(k))
        for a, b, k in zip(widths, widths[1:], sizes, strict=False)
    ]
    return composed(tuple(parts))


def product_of(net: Net, kind: str, weights: Array, **how: Any) -> str:
    """One matrix product; the weights are ``[outputs, inputs]``."""
    if kind == "left":
        return net.op("MatMul", net.const(weights, "w"), net.input("x", ["N", weights.shape[1], 5]))
    x = net.input("x", [weights.shape[1], "N"] if how.get("transA") else ["N", weights.shape[1]])
    if kind == "matmul":
        return net.op("MatMul", x, net.const(weights.T, "w"))
    if kind == "transposed":
        return net.op("MatMul", x, net.transpose(net.const(weights, "w"), 1, 0))
    values = weights if how.get("transB") else weights.T
    return net.op("Gemm", x, net.const(values, "w"), net.vector(len(weights)), **how)


MATRICES: dict[str, tuple[str, dict[str, Any]]] = {
    "matmul": ("matmul", {}),
    "left": ("left", {}),
    "transposed": ("transposed", {}),
    "gemm": ("gemm", {}),
    "gemm_factors": ("gemm", {"alpha": 0.5, "beta": 2.0, "transB": 1}),
    "gemm_turned": ("gemm", {"transA": 1, "alpha": -1.5}),
}


def judged(model: Model, original: Model, tolerance: float = 2e-5) -> None:
    """Compare two models on drawn inputs of another batch size."""
    shape = [d.dim_value or 3 for d in original.inputs[0].type.tensor_type.shape.dim]
    feeds = {original.inputs[0].name: np.random.default_rng(7).normal(size=shape).astype(np.float32)}
    (theirs,), (ours,) = (Session(m.proto).run(feeds).values() for m in (original, model))
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def checked(model: Model, **how: Any) -> Model:
    """Split all layers at the rank that they have: the same function, at the predicted cost."""
    result = Factorize(rank={"*": RANK}, **how)(model)
    judged(result.model, model)
    facts = result.facts
    assert not facts["exact"]
    assert facts["layers"]
    saved = sum(row["macs_before"] - row["macs"] for row in facts["layers"])
    assert facts["macs_before"] - facts["macs"] == saved > 0
    assert cost_of(find_channels(result.model)).figures()["macs"] == facts["macs"]
    saved = sum(row["params_before"] - row["params"] for row in facts["layers"])
    zeros = sum(name.endswith("__zero") for name in result.model.constants)  # older opsets need a bias
    assert facts["params_before"] - facts["params"] == saved - zeros
    assert [o.name for o in result.model.outputs] == [o.name for o in model.outputs]
    names = {node.name: list(node.output) for node in result.model.nodes}
    assert all(names[row["node"]] == list(by_name(model, row["node"]).output) for row in facts["layers"])
    return result.model


def by_name(model: Model, name: str) -> onnx.NodeProto:
    return next(node for node in model.nodes if node.name == name)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("name", MATRICES)
def test_matrix_products(name: str, opset: int) -> None:
    net, (kind, how) = Net(opset=opset), MATRICES[name]
    made = checked(net.model(product_of(net, kind, low("svd", (1, 9, 12))[0], **how)))
    assert sum(n.op_type in ("MatMul", "Gemm") for n in made.nodes) == 2
    assert not {"Transpose"} & {n.op_type for n in made.nodes}


def test_a_stack_of_matrices() -> None:
    net = Net()
    weights = low("svd", (3, 9, 12)).swapaxes(1, 2)
    checked(net.model(net.op("MatMul", net.input("x", ["N", 3, 5, 12]), net.const(weights))))


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((1, 8, 6, 3, 3), {}),
    "padded": ((1, 8, 6, 3, 5), {"pads": [1, 2, 0, 3]}),
    "strided": ((1, 8, 6, 3, 3), {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 1, 1, 1]}),
    "same_upper": ((1, 8, 6, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same_lower": ((1, 8, 6, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "grouped": ((2, 8, 6, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
}


@pytest.mark.parametrize("form", ["svd", "spatial", "tucker-2"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, form: str) -> None:
    shape, how = CONVOLUTIONS[name]
    net, kernel = Net(), low(form, shape)
    groups, outputs, inputs, *places = shape
    x = net.input("x", ["N", groups * inputs, 11, 13])
    w = net.const(kernel.reshape(groups * outputs, inputs, *places), "w")
    checked(net.model(net.op("Conv", x, w, net.vector(groups * outputs), **how)), form=[form])


def test_a_kernel_of_one_place_keeps_its_stride() -> None:
    net = Net()
    w = net.const(low("svd", (1, 9, 12, 1, 1)).reshape(9, 12, 1, 1))
    y = net.op("Conv", net.input("x", ["N", 12, 7, 8]), w, strides=[2, 3], pads=[1, 0, 0, 1])
    checked(net.model(y))


def test_depthwise_kernels_are_taken_apart_along_their_axes() -> None:
    net = Net()
    w = net.const(np.random.default_rng(0).normal(size=(6, 1, 5, 1)) @ np.ones((6, 1, 1, 5)))
    model = net.model(net.op("Conv", net.input("x", ["N", 6, 9, 9]), w, group=6, pads=[2] * 4))
    result = Factorize(rank={"*": 1})(model)
    assert result.facts["layers"][0]["form"] == "spatial"
    judged(result.model, model)


@pytest.mark.parametrize("form", ["svd", "tucker-2"])
@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes(axes: int, form: str) -> None:
    net, places = Net(), [3] * axes
    w = net.const(low(form, (1, 9, 8, *places))[0])
    y = net.op("Conv", net.input("x", ["N", 8, *[7] * axes]), w, pads=[1] * (2 * axes), strides=[2] * axes)
    checked(net.model(y), form=[form])


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("form", ["svd", "spatial", "tucker-2"])
def test_transposed_convolutions(form: str, group: int) -> None:
    net, kernel = Net(), low(form, (group, 8, 7, 3, 4))
    turned = np.flip(kernel, (3, 4)).swapaxes(1, 2).reshape(group * 7, 8, 3, 4)
    how = {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2], "group": group}
    x = net.input("x", ["N", group * 7, 5, 6])
    model = net.model(net.op("ConvTranspose", x, net.const(turned), net.vector(group * 8), **how))
    checked(model, form=[form])


def network(bias: bool = True, seed: int = 0) -> Model:
    """Three convolutions and a classifier."""
    net = Net(seed=seed)
    x = net.relu(net.conv(net.input("x", ["N", 3, 12, 12]), 16))
    x = net.relu(net.conv(x, 24, bias=bias)) if bias else net.relu(net.bn(net.conv(x, 24, bias=False)))
    return net.model(net.gemm(net.reshape(net.gap(net.relu(net.conv(x, 24))), -1, 24), 10))


def pictures(count: int, seed: int = 1) -> dict[str, Array]:
    """Pictures with a mean, that change slowly from place to place."""
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 3, 4, 4)) + 1.5
    return {"x": np.repeat(np.repeat(coarse, 3, 2), 3, 3).astype(np.float32)}


@pytest.fixture
def data(tmp_path: Path) -> str:
    place = tmp_path / "samples.npz"
    np.savez(place, **pictures(96))
    return str(place)


def squared_error(model: Model, original: Model, seed: int = 2) -> float:
    """The mean squared error of the output on other pictures."""
    (ours,), (theirs,) = (Session(m.proto).run(pictures(64, seed)).values() for m in (model, original))
    return float(np.square(ours - theirs).mean() / theirs.var())


@pytest.mark.parametrize("bias", [True, False])
def test_samples_make_better_ranks(data: str, bias: bool) -> None:
    """Each step lowers the error on samples that were not looked at: weights alone, samples, repair."""
    model = network(bias)
    found = []
    for how in ({}, {"data": data, "recover": ()}, {"data": data}):
        result = Factorize(reduce_macs=0.5, **how)(model)
        assert result.facts["macs_reduction"] >= 0.5
        found.append(squared_error(result.model, model))
    assert found[1] < 0.5 * found[0]
    assert found[2] < found[1]


def test_the_reported_error_is_that_of_the_file(data: str) -> None:
    model = network()
    result = Factorize(reduce_macs=0.4, data=data, samples=96)(model)
    assert result.facts["samples"] == 96
    feeds = pictures(96)
    (ours,), (theirs,) = (Session(m.proto).run(feeds).values() for m in (result.model, model))
    (error,) = result.facts["outputs"].values()
    assert error == pytest.approx(float(np.square(ours - theirs).mean()), rel=1e-3)
    assert error > 0


def test_budgets_hold_together() -> None:
    result = Factorize(reduce_macs=0.3, reduce_params=0.4)(network())
    assert result.facts["macs_reduction"] >= 0.3
    assert result.facts["params_reduction"] >= 0.4
    with pytest.raises(PlanError, match=r"remove no more than .* of the MACs, not 99\.0%"):
        Factorize(reduce_macs=0.99)(network())


def test_layers_are_chosen_by_name() -> None:
    model = network()
    names = [n.name for n in model.nodes if n.op_type == "Conv"]
    result = Factorize(reduce_macs=0.1, only=[names[1]])(model)
    assert [row["node"] for row in result.facts["layers"]] == [names[1]]
    result = Factorize(reduce_macs=0.1, exclude=[names[1]])(model)
    assert names[1] not in [row["node"] for row in result.facts["layers"]]
    result = Factorize(rank={names[2]: 5}, form=["spatial"])(model)
    assert [(row["node"], row["form"], row["ranks"]) for row in result.facts["layers"]] == [
        (names[2], "spatial", [5])
    ]
    with pytest.raises(PlanError, match="'nothing' matches no layer"):
        Factorize(rank={"nothing": 3})(model)


def test_a_rank_that_does_not_pay_is_refused() -> None:
    net = Net()
    model = net.model(net.op("Gemm", net.input("x", ["N", 12]), net.weight(12, 8, name="w"), net.vector(8)))
    with pytest.raises(PlanError, match="at the rank that is given") as refused:
        Factorize(rank={"w": 5})(model)
    assert "rank 5 costs no less than the layer; the largest rank that pays is 4" in str(refused.value.hint)
    Factorize(rank={"w": 4})(model)


def shared(net: Net) -> str:
    w = net.weight(12, 12, name="w")
    return net.op("MatMul", net.relu(net.op("MatMul", net.input("x", ["N", 12]), w)), w)


def quantised(net: Net) -> str:
    w = net.const(np.ones((12, 12), np.int8), "w")
    weights = net.op("DequantizeLinear", w, net.const(np.float32(0.1)), net.const(np.int8(0)))
    return net.op("MatMul", net.input("x", ["N", 12]), weights)


@pytest.mark.parametrize(
    ("build", "reason"), [(shared, "other nodes share its weights"), (quantised, "its weights are quantised")]
)
def test_layers_that_stay_whole_have_a_reason(build: Callable[[Net], str], reason: str) -> None:
    net = Net()
    model = net.model(build(net))
    with pytest.raises(NothingToDoError) as refused:
        Factorize(reduce_macs=0.1)(model)
    assert reason in str(refused.value.hint)
    copied = Factorize(reduce_macs=0.1, allow_unchanged=True)(model)
    assert copied.facts["unchanged"]
    assert {row["reason"] for row in copied.facts["left"]} == {reason}


@pytest.fixture
def answered(tmp_path: Path) -> str:
    """Samples with the answers of the network."""
    place, model = tmp_path / "answered.npz", network()
    np.savez(place, **pictures(96), **Session(model.proto).run(pictures(96)))
    return str(place)


def test_the_largest_reduction_within_a_drop(answered: str) -> None:
    """The drop is that of the repaired model; more is removed where more is allowed."""
    model, found = network(), []
    (answers,) = Session(model.proto).run(pictures(96)).values()
    for allowed in (0.003 * answers.var(), 0.1 * answers.var()):
        result = Factorize(max_drop=allowed, metric="mse", data=answered, samples=96)(model)
        facts = result.facts
        feeds = pictures(96)
        (ours,), (theirs,) = (Session(m.proto).run(feeds).values() for m in (result.model, model))
        assert facts["drop"] == pytest.approx(float(np.square(ours - theirs).mean()), rel=1e-3)
        assert facts["drop"] <= allowed
        over = [reduction for reduction, drop in facts["reductions_tried"] if drop > allowed]
        assert all(reduction >= facts["macs_reduction"] - 0.02 for reduction in over)
        found.append(facts["macs_reduction"])
    assert 0 < found[0] < found[1]
    with pytest.raises(PlanError, match="more than the 0 that is allowed"):
        Factorize(max_drop=0, metric="mse", data=answered, samples=96)(model)


def test_a_budget_holds_beside_the_largest_drop(answered: str) -> None:
    how: dict[str, Any] = {"metric": "mse", "data": answered, "samples": 96}
    with pytest.raises(PlanError, match="is allowed"):
        Factorize(max_drop=1e-6, reduce_macs=0.6, **how)(network())


def test_options_that_make_no_sense(data: str) -> None:
    with pytest.raises(UsageError, match="no reduction is given"):
        Factorize()(network())
    with pytest.raises(UsageError, match="samples"):
        Factorize(reduce_macs=0.3, recover=("bias",))(network())
    with pytest.raises(UsageError, match="`max_drop` is measured on samples"):
        Factorize(max_drop=0.3)(network())
    sparse = Prune(reduce_macs=0.3)(network()).model
    with pytest.raises(PlanError, match="a split would fill them"):
        Factorize(reduce_macs=0.3)(sparse)


def test_chains_are_pruned_like_other_layers() -> None:
    """The channels between the products of a chain are a group; half of each goes exactly."""
    low_rank = Factorize(reduce_macs=0.4)(network()).model
    before, channels = find_channels(network()), find_channels(low_rank)
    assert len(channels.groups) > len(before.groups)
    outcome = prune_exactly(low_rank, half_of_each(channels), channels)
    assert outcome.error <= 1e-5
    assert outcome.change > 1e-3
    dense = Transform()(Prune(reduce_macs=0.3)(low_rank))
    assert dense.facts["equal"]
    assert dense.facts["certificate"]["certified"]


def test_chains_are_trained(tmp_path: Path) -> None:
    place = tmp_path / "train.npz"
    np.savez(place, **pictures(32), labels=np.arange(32) % 10)
    low_rank = Factorize(reduce_macs=0.4)(network()).model
    tuned = Finetune(str(place), epochs=2, threads=1, engine="stock")(low_rank)
    assert tuned.facts["losses"][1] < tuned.facts["losses"][0]
    names = [name for name in low_rank.constants if name.endswith(("__in", "__core", "__out"))]
    assert names
    assert all((tuned.model.array(name) != low_rank.array(name)).any() for name in names)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factorize_module, "_CHECK", CheckBudget(seconds=0.05))


@pytest.mark.parametrize("name", list(IDEAS)[::12])
@pytest.mark.usefixtures("quick")
def test_ideas_are_split_or_refused_with_a_reason(name: str) -> None:
    try:
        result = Factorize(reduce_macs=0.02, allow_unchanged=True)(check(Model(IDEAS[name].build())))
    except PlanError as error:
        assert "remove no more than" in str(error)  # noqa: PT017
        return
    assert all(row["reason"] for row in result.facts["left"])
    if result.modified:
        assert result.facts["max_rel_error"] <= max(1e-4, IDEAS[name].tolerance)


def test_the_command(tmp_path: Path, data: str) -> None:
    """A file with external data, in a process of its own."""
    place, output = tmp_path / "model.onnx", tmp_path / "low.onnx"
    onnx.save(network().proto, place, save_as_external_data=True, location="model.data", size_threshold=0)
    words = [
        "factorize",
        str(place),
        "--reduce-macs",
        "0.4",
        "--data",
        data,
        "--samples",
        "64",
        "-o",
        str(output),
    ]
    run = [sys.executable, "-m", "onnxprune"]
    ended = subprocess.run([*run, *words, "--json"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert facts["macs_reduction"] >= 0.4
    assert facts["max_rel_error"] < 1e-4
    assert (tmp_path / "low.onnx").exists()
    (error,) = facts["outputs"].values()
    feeds = pictures(96)
    (ours,), (theirs,) = (Session(onnx.load(str(p))).run(feeds).values() for p in (output, place))
    assert np.square(ours - theirs).mean() == pytest.approx(error, rel=0.5)


def test_the_command_calls_it_an_approximation(tmp_path: Path) -> None:
    place, output = tmp_path / "model.onnx", tmp_path / "low.onnx"
    onnx.save(network().proto, place)
    words = ["factorize", str(place), "--rank", "Conv*=4", "--form", "spatial", "-o", str(output)]
    shown = CliRunner().invoke(program, words, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "approximate, not exact" in shown.stdout
    assert "no samples were given" in shown.stdout


def test_the_bodies_of_branches_stay() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="inside")],
        "body",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "other",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    net = Net()
    net.weight(12, 12, name="w")
    x, flag = net.input("x", ["N", 12]), net.input("flag", [], TensorProto.BOOL)
    net.nodes.append(helper.make_node("If", [flag], ["r"], name="If", then_branch=body, else_branch=other))
    net.types["r"] = net.types[x]
    model = net.model("r")
    with pytest.raises(NothingToDoError) as refused:
        Factorize(reduce_macs=0.1)(model)
    assert "'inside': it lies in the body" in str(refused.value.hint)


@pytest.mark.parametrize("form", ["svd", "tucker-2"])
def test_a_stated_size_of_the_result_is_kept(form: str) -> None:
    """Parts along one axis would state the size of the other one too: they are no form of such a layer."""
    net, kernel = Net(), low(form, (1, 8, 7, 3, 4))
    turned = np.flip(kernel, (3, 4)).swapaxes(1, 2).reshape(7, 8, 3, 4)
    how = {"strides": [2, 3], "output_shape": [11, 18]}
    made = net.op("ConvTranspose", net.input("x", ["N", 7, 5, 6]), net.const(turned), net.vector(8), **how)
    model = net.model(made)
    checked(model, form=[form])
    with pytest.raises(PlanError):
        Factorize(rank={"*": RANK}, form=["spatial"])(model)
    checked(model)
