"""Options that open blocked axes: each that `inspect` names brings the stated share into reach."""

from __future__ import annotations

import shlex
from pathlib import Path

import networks_on_disk as disk
import numpy as np
import onnx
import pytest
from helpers import Net
from onnx import numpy_helper, parser

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.openings import openings
from onnxprune.analysis.groups.reach import reach_of, staying_axes
from onnxprune.analysis.groups.selection import select_groups
from onnxprune.errors import NothingToDoError
from onnxprune.ir import Model, check, opened

ROWS, WIDTH, KEYS, LABELS = 12, 10, 14, 7


def decoder(layers: int = 2, normalised: str = "LayerNormalization<axis = -1>(x, scale)") -> Model:
    """Return a network that hands its keys on: a cache of each layer is an input and a longer output.

    Args:
        layers: Number of layers.
        normalised: The expression behind the table of words.
    """
    caches = "".join(f", float[n, p, {KEYS}] past_{k}_key" for k in range(layers))
    grown = "".join(f", float[n, q, {KEYS}] present_{k}_key" for k in range(layers))
    body = ["x = Gather(table, tokens)", f"h0 = {normalised}"]
    for k in range(layers):
        body += [
            f"k{k} = MatMul(h{k}, key{k})  present_{k}_key = Concat<axis = 1>(past_{k}_key, k{k})",
            f"m{k} = ReduceSum<keepdims = 1>(present_{k}_key, one)  b{k} = MatMul(m{k}, back{k})",
            f"h{k + 1} = Add(h{k}, b{k})",
        ]
    body.append(f"scores = MatMul(h{layers}, head)")
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (int64[n, s] tokens{caches})
        => (float[n, s, {LABELS}] scores{grown}) <int64[1] one = {{1}}> {{ {"  ".join(body)} }}"""
    proto = parser.parse_model(text)
    random = np.random.default_rng(2)
    shapes = {"table": (ROWS, WIDTH), "scale": (WIDTH,), "head": (WIDTH, LABELS)}
    shapes |= {f"key{k}": (WIDTH, KEYS) for k in range(layers)}
    shapes |= {f"back{k}": (KEYS, WIDTH) for k in range(layers)}
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    return check(Model(proto))


def found(model: Model) -> list[tuple[list[str], float]]:
    channels = find_channels(model)
    return [(opening.options, opening.reach.params) for opening in openings(channels, reach_of(channels))]


@pytest.mark.parametrize("layers", [1, 3])
def test_each_option_opens_the_share_that_is_stated(layers: int) -> None:
    model = decoder(layers)
    channels = find_channels(model)
    tried = openings(channels, reach_of(channels))
    for opening in tried:
        again = find_channels(opened(decoder(layers), opening.globs), allow_inexact=opening.allow_inexact)
        assert reach_of(again).params == opening.reach.params > reach_of(channels).params
    named = [option for opening in tried for option in opening.options]
    many = layers > 1
    for name in ("past_*", "present_*") if many else ("past_0_key", "present_0_key"):
        assert f"--open-io '{name}'" in named
    assert "--allow-inexact" in named


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.slow
def test_the_named_options_lead_to_a_dense_model(layers: int, tmp_path: Path) -> None:
    source, sparse, dense = (str(tmp_path / f"{name}.onnx") for name in ("model", "sparse", "dense"))
    onnx.save(decoder(layers).proto, source)
    for opening in disk.run("inspect", source, "--json").facts["openings"]:
        options = shlex.split(" ".join(opening["options"]))
        disk.run("prune", source, *options, "--reduce-channels", "0.3", "-o", sparse)
        facts = disk.run("transform", sparse, "-o", dense, "--json").facts
        assert facts["verdict"] == "agree"
        assert facts["params"] < facts["params_before"]


@pytest.mark.slow
def test_errors_about_nothing_to_prune_name_the_options_of_inspect(tmp_path: Path) -> None:
    net = Net()
    y = net.op("LayerNormalization", net.linear(net.input("x", ["N", 4]), 24), net.weight(24), axis=-1)
    source = disk.save(net.model(y).proto, tmp_path / "model.onnx")
    shown = disk.run("inspect", source).out
    told = disk.run("prune", source, "--reduce-macs", 0.3, "-o", tmp_path / "out.onnx").refused()
    named = [line for line in shown.splitlines() if line.startswith("--")]
    assert named
    assert all(line in " ".join(told.split()) for line in named)
    assert all(line in disk.run("init", source, "-o", tmp_path / "r.toml").refused() for line in named)


@pytest.mark.slow
def test_a_budget_out_of_reach_names_the_options_of_inspect(tmp_path: Path) -> None:
    source = disk.save(decoder().proto, tmp_path / "model.onnx")
    told = disk.run("prune", source, "--reduce-macs", 0.9, "-o", tmp_path / "out.onnx").refused()
    named = [line for line in disk.run("inspect", source).out.splitlines() if line.startswith("--")]
    assert named
    assert all(line in " ".join(told.split()) for line in named)


def test_groups_that_the_user_leaves_out_are_the_reason_then() -> None:
    net = Net()
    y = net.linear(net.linear(net.input("x", ["N", 4]), 24), 5)
    with pytest.raises(NothingToDoError) as caught:
        select_groups(find_channels(net.model(y)), exclude=["*"])
    assert caught.value.hint == "`exclude` and `only` leave none of its groups: '*'"


def test_an_output_behind_statistics_is_named_with_both_options() -> None:
    net = Net()
    x = net.linear(net.input("x", ["N", 4]), 24)
    y = net.op("LayerNormalization", x, net.weight(24), net.weight(24), axis=-1)
    options, share = found(net.model(y))[-1]
    assert {f"--open-io '{y}'", "--allow-inexact"} <= set(options)
    assert share == 1


def test_nothing_is_named_where_nothing_opens() -> None:
    net = Net()
    x = net.conv(net.input("x", ["N", 3, 8, 8]), 32)
    assert found(net.model(net.linear(net.op("Flatten", net.op("GlobalAveragePool", x)), 5))) == []
    net = Net()
    y = net.op("LRN", net.conv(net.input("x", ["N", 1, 8, 8]), 32), size=3)
    assert all("--allow-inexact" not in options for options, _ in found(net.model(y)))


def test_rows_that_the_caller_picks_are_named_with_their_option() -> None:
    reasons = {
        (axis.tensor, axis.axis): [block.reason for block in axis.reasons]
        for axis in staying_axes(find_channels(decoder()))
    }
    assert reasons["table", 0] == ["it picks elements of this axis by number (--keep-rows shortens it)"]
    assert any(reason.endswith("(--open-io opens it)") for reason in reasons["head", 1])
