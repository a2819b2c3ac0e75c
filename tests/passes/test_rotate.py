"""Rotation: the same function in another basis, and a basis that loses less when it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net
from ideas import IDEAS

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.cli import program
from onnxprune.decisions.bases.recognition import recognised
from onnxprune.errors import NothingToDoError, UsageError
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import Model, check
from onnxprune.passes import Prune, Rotate, Transform
from onnxprune.passes import rotate as rotate_module
from onnxprune.runtime import Session

Array = np.ndarray[Any, np.dtype[Any]]
WIDTH, TOKENS, FEATURES = 16, 5, 6


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate_module, "_CHECK", CheckBudget(seconds=0.1))


@pytest.mark.parametrize("name", IDEAS)
@pytest.mark.usefixtures("quick")
def test_every_idea_is_rotated_exactly_or_refused_with_a_reason(name: str) -> None:
    result = Rotate(allow_unchanged=True)(check(Model(IDEAS[name].build())))
    assert all(entry["reason"] for entry in result.facts["refused"])
    if result.modified:
        assert result.facts["max_rel_error"] <= max(1e-4, IDEAS[name].tolerance)


def pre_norm(opset: int = 17, blocks: int = 2, *, shift: bool = True) -> Model:
    """A residual stream that is normalised wherever it is read, by LayerNormalization."""
    net = Net(opset=opset)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(blocks):
        y = net.linear(normalised(net, x, shift), 2 * WIDTH)
        x = net.add(x, net.linear(net.relu(y), WIDTH))
    return net.model(net.linear(normalised(net, x, shift), 3))


def normalised(net: Net, x: str, shift: bool = True) -> str:
    parameters = [net.vector(WIDTH, 0.5, 1.5), *([net.vector(WIDTH)] if shift else [])]
    return net.op("LayerNormalization", x, *parameters, axis=-1)


def samples(*shape: int, rank: int = 3) -> dict[str, Array]:
    """Samples that lie near a space of few dimensions, as those of real networks do."""
    random = np.random.default_rng(5)
    low = random.standard_normal((*shape[:-1], rank)) @ random.standard_normal((rank, shape[-1]))
    return {"x": (low + 0.05 * random.standard_normal(shape)).astype(np.float32)}


def outputs(model: Model, feeds: dict[str, Array]) -> Array:
    return next(iter(Session(model.proto, optimize=False).run(feeds).values()))


@pytest.mark.parametrize("opset", [17, 18, 23])
@pytest.mark.parametrize("shift", [True, False])
def test_layer_normalisation_is_absorbed_in_standard_operators(opset: int, shift: bool) -> None:
    model, data = pre_norm(opset, shift=shift), samples(40, TOKENS, FEATURES)
    result = Rotate(data=data)(model)
    assert result.facts["max_rel_error"] <= 1e-5
    assert len(result.facts["absorbed"]) == 3
    assert "LayerNormalization" not in {n.op_type for n in result.model.nodes}
    read = {name for node in result.model.nodes for name in node.input}
    assert {t.name for t in result.model.proto.graph.initializer} <= read
    onnx.checker.check_model(result.model.proto, full_check=True)
    before, after = outputs(model, data), outputs(result.model, data)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def spelled(net: Net, x: str, how: str) -> str:
    """A normalisation in arithmetic, as exporters write it before opset 17."""
    centred = x if how == "rms" else net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    again = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1])) if how == "twice" else centred
    square = net.op("Mul", again, again) if how == "square" else net.op("Pow", again, net.const(2.0))
    total = net.op("Add", net.op("ReduceMean", square, axes=[-1]), net.const(1e-5))
    if how.startswith("folded"):
        root = net.op("Reciprocal", net.op("Sqrt", total))
        factor = net.op("Mul", root, net.vector(WIDTH, 0.5, 1.5)) if how == "folded" else root
        mean = net.op("ReduceMean", x, axes=[-1])
        rest = net.op("Sub", net.vector(WIDTH), net.op("Mul", mean, factor))
        return net.op("Add", net.op("Mul", x, factor), rest)
    if how == "reciprocal":
        y = net.op("Mul", net.op("Reciprocal", net.op("Sqrt", total)), centred)
    elif how == "power":
        y = net.op("Mul", centred, net.op("Pow", total, net.const(-0.5)))
    else:
        y = net.op("Div", centred, net.op("Sqrt", total))
    y = net.op("Mul", net.vector(WIDTH, 0.5, 1.5), y)
    return y if how == "rms" else net.op("Add", y, net.vector(WIDTH))


def spelled_stream(how: str, *, post: bool = False) -> Model:
    net = Net(opset=13)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(2):
        y = net.add(x, net.linear(net.relu(net.linear(x if post else spelled(net, x, how), 24)), WIDTH))
        x = spelled(net, y, how) if post else y
    return net.model(net.linear(x if post else spelled(net, x, how), 3))


SPELLINGS = ["divided", "twice", "square", "reciprocal", "power", "rms", "folded", "folded without scale"]


@pytest.mark.parametrize("how", SPELLINGS)
def test_normalisations_that_are_spelled_out_are_read_as_one_operator(how: str) -> None:
    model, data = spelled_stream(how), samples(40, TOKENS, FEATURES)
    result = Rotate(data=data)(model)
    assert [a["size"] for a in result.facts["axes"]] == [WIDTH]
    assert len(result.facts["absorbed"]) == 3
    assert result.facts["max_rel_error"] <= 1e-5
    assert {n.op_type for n in result.model.nodes} <= {n.op_type for n in model.nodes} | {
        "Pow",
        "Div",
        "Sqrt",
        "ReduceMean",
    }
    onnx.checker.check_model(result.model.proto, full_check=True)
    before, after = outputs(model, data), outputs(result.model, data)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    options: dict[str, Any] = {"only": [result.facts["axes"][0]["group"]], "rotate": "never"}
    dense = Transform()(Prune(reduce_macs=0.2, data=data, **options)(result)).model
    assert WIDTH not in {d for t in dense.proto.graph.initializer for d in t.dims}


@pytest.mark.parametrize("part", ["mean", "factor", "shift"])
def test_sums_that_are_no_normalisation_are_left_alone(part: str) -> None:
    """``x·k + (shift − mean(x)·k)`` with one part exchanged: nothing is rotated, nothing changes."""
    net = Net(opset=13)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    y = net.op("Neg", net.linear(net.input("y", ["N", TOKENS, FEATURES]), WIDTH))
    means = {name: net.op("ReduceMean", t, axes=[-1]) for name, t in (("x", x), ("y", y))}

    def factor(t: str, mean: str) -> str:
        centred = net.op("Sub", t, mean)
        total = net.op(
            "Add", net.op("ReduceMean", net.op("Mul", centred, centred), axes=[-1]), net.const(1e-5)
        )
        return net.op("Mul", net.op("Reciprocal", net.op("Sqrt", total)), net.vector(WIDTH, 0.5, 1.5))

    k = factor(*((y, means["y"]) if part == "factor" else (x, means["x"])))
    shift = net.op("Tanh", y) if part == "shift" else net.vector(WIDTH)
    rest = net.op("Sub", shift, net.op("Mul", means["y" if part == "mean" else "x"], k))
    model = net.model(net.linear(net.op("Add", net.op("Mul", x, k), rest), 3))
    assert recognised(find_channels(model))[1] == {}


@pytest.mark.parametrize("how", ["divided", "folded"])
def test_normalisations_that_are_not_absorbed_stay_as_they_were(how: str) -> None:
    """A post-norm stream keeps its basis; another axis of the same file does not."""
    model = spelled_stream(how, post=True)
    net = Net(opset=13)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    x = spelled(net, net.add(x, net.linear(net.relu(net.linear(x, 24)), WIDTH)), how)
    x = net.linear(net.linear(x, 12), 20)
    mixed = net.model(net.linear(net.relu(x), 3))
    with pytest.raises(NothingToDoError):
        Rotate()(model)
    result = Rotate(data=samples(40, TOKENS, FEATURES))(mixed)
    assert [a["size"] for a in result.facts["axes"]] == [12]
    assert [n.op_type for n in result.model.nodes] == [n.op_type for n in mixed.nodes]
    onnx.checker.check_model(result.model.proto, full_check=True)


def test_a_rotated_stream_loses_less_when_cut() -> None:
    model, data = pre_norm(), samples(200, TOKENS, FEATURES)
    rotated = Rotate(data=data)(model).model
    wanted = outputs(model, data)
    errors = []
    for start, inexact in ((model, True), (rotated, False)):
        cut = Prune(
            reduce_macs=0.4,
            data=data,
            only=["MatMul_*"],
            allow_inexact=inexact,
            keep_at_least={"*": 2},
            rotate="never",
        )
        errors.append(float(np.square(outputs(cut(start).model, data) - wanted).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_rotated_models_are_pruned_exactly() -> None:
    data = samples(100, TOKENS, FEATURES)
    rotated = Rotate(data=data)(pre_norm())
    dense = Transform()(Prune(reduce_macs=0.4, data=data)(rotated)).model
    sizes = {d for t in dense.proto.graph.initializer for d in t.dims}
    assert WIDTH not in sizes


def bottleneck(pad: int = 1, post: str = "") -> Model:
    net = Net()
    x = net.bn(net.conv(net.input("x", ["N", 3, 8, 8]), WIDTH, bias=False))
    y = net.relu(net.bn(net.conv(x, 4 * WIDTH, 1, bias=False)))
    y = net.bn(net.conv(y, WIDTH, 1, bias=False))
    x = net.add(x, y)
    x = net.op(post, x) if post else x
    return net.model(net.relu(net.conv(x, 6, 3)))


def test_batch_normalisation_is_folded_into_linear_bottlenecks() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((50, 3, 8, 8)).astype(np.float32)}
    result = Rotate(data=data)(bottleneck())
    (axis,) = result.facts["axes"]
    assert axis["size"] == WIDTH
    assert axis["symmetry"] == "general linear"
    assert axis["condition"] <= 1e3
    assert len(result.facts["absorbed"]) == 2
    assert result.facts["max_rel_error"] <= 1e-5


def test_streams_behind_an_activation_are_refused_by_name() -> None:
    with pytest.raises(NothingToDoError, match="Relu"):
        Rotate()(bottleneck(post="Relu"))


def test_post_norm_is_refused_by_name() -> None:
    net = Net(opset=17)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(2):
        x = normalised(net, net.add(x, net.linear(net.relu(net.linear(x, 2 * WIDTH)), WIDTH)))
    with pytest.raises(NothingToDoError, match="post-norm"):
        Rotate()(net.model(net.linear(x, 3)))


def test_a_shift_before_padding_is_refused_by_name() -> None:
    net = Net(opset=17)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    x = net.transpose(normalised(net, x), 0, 2, 1)
    weights = net.weight(4, WIDTH, 3)
    model = net.model(net.op("Conv", x, weights, pads=[1, 1]))
    result = Rotate(allow_unchanged=True)(model)
    assert not result.modified
    assert any("pads" in entry["reason"] for entry in result.facts["refused"])


def test_a_pruned_model_is_not_rotated() -> None:
    sparse = Prune(reduce_macs=0.3)(bottleneck()).model
    with pytest.raises(UsageError, match="pruned already"):
        Rotate()(sparse)


def test_the_command_reports_axes_and_refusals(tmp_path: Path) -> None:
    source, out = tmp_path / "model.onnx", tmp_path / "rotated.onnx"
    onnx.save(pre_norm().proto, source)
    np.savez(tmp_path / "data.npz", **samples(20, TOKENS, FEATURES))
    words = ["rotate", str(source), "--data", str(tmp_path / "data.npz"), "-o", str(out)]
    told = CliRunner().invoke(program, [*words, "--json"])
    facts = json.loads(told.output)
    assert facts["max_rel_error"] <= 1e-4
    assert [a["symmetry"] for a in facts["axes"]] == ["orthogonal"]
    assert {entry["group"] for entry in facts["refused"]}
    out.unlink()
    assert "orthogonal" in CliRunner().invoke(program, words).output
    assert out.is_file()
