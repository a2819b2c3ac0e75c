"""Configurations beside a model follow its heads and widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from attention_networks import contrib, projections
from click.testing import CliRunner
from helpers import Net
from onnx import TensorProto

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.cli import program
from onnxprune.decisions.channels.configuration import CONFIG_KEY, configurations, rewritten, widths
from onnxprune.ir import Model, load
from onnxprune.passes import KeepRows, Prune, Transform
from onnxprune.search.plan_files import PlanFile

ROWS, HIDDEN, HEADS, WIDTH, INNER = 50, 32, 4, 8, 64
HUGGING = {
    "architectures": ["SomeModel"],
    "vocab_size": ROWS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 2,
    "intermediate_size": INNER,
    "rope_theta": 10000.0,
}
GENAI = {
    "model": {
        "vocab_size": ROWS,
        "decoder": {
            "head_size": WIDTH,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "inputs": {"a": "b"},
        },
    },
    "search": {"max_length": HEADS},
}


def decoder(spelled: bool = False, layers: int = 2) -> Model:
    """A table, layers of attention and a hidden layer without normalisation, scores."""
    net = Net()
    ids = net.input("ids", ["N", 6], TensorProto.INT64)
    x = net.sized(net.op("Gather", net.weight(ROWS, HIDDEN, fan=1), ids), ["N", 6, HIDDEN])
    for _ in range(layers):
        q, k, v = projections(net, x, HIDDEN, HIDDEN, HIDDEN)
        if spelled:
            q, k, v = (net.transpose(net.reshape(a, 0, 0, HEADS, WIDTH), 0, 2, 1, 3) for a in (q, k, v))
            scores = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2))
            y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
            y = net.reshape(net.transpose(y, 0, 2, 1, 3), 0, 0, HIDDEN)
        else:
            y = contrib(net, "MultiHeadAttention", q, k, v, shape=["N", 6, HIDDEN], num_heads=HEADS)
        x = net.add(x, net.linear(net.sized(y, ["N", 6, HIDDEN]), HIDDEN))
        x = net.add(x, net.linear(net.relu(net.linear(x, INNER)), HIDDEN))
    return net.model(net.op("MatMul", x, net.weight(HIDDEN, ROWS, fan=HIDDEN)))


def pruned(model: Model, **how: Any) -> dict[str, Any]:
    """The configurations of the dense model, by file name."""
    step = Prune(**{"reduce_channels": 0.5, "strategy": "uniform", "round_to": 1, **how})
    found: dict[str, Any] = Transform()(step(model)).facts["configurations"]
    return found


def noted(model: Model) -> Model:
    model.set_metadata(CONFIG_KEY, json.dumps({"config.json": HUGGING, "genai_config.json": GENAI}))
    return model


def test_heads_and_widths_of_both_formats() -> None:
    for spelled in (False, True):
        found = pruned(noted(decoder(spelled)))
        made = found["config.json"]["content"]
        assert made["hidden_size"] == HIDDEN // 2
        assert made["num_attention_heads"] == HEADS // 2
        assert made["intermediate_size"] == INNER // 2
        assert made["vocab_size"] == ROWS
        assert "head_dim" not in made  # it still follows: half the width, half the heads
        assert made["rope_theta"] == HUGGING["rope_theta"]
        inner = found["genai_config.json"]["content"]["model"]
        assert inner["decoder"] == {**GENAI["model"]["decoder"], "hidden_size": 16, "num_attention_heads": 2}
        assert found["genai_config.json"]["content"]["search"] == GENAI["search"]
        assert found["config.json"]["changes"]["num_attention_heads"] == (HEADS, HEADS // 2)


def halved(heads: list[str]) -> dict[str, Any]:
    """Options that halve some groups of heads and nothing else."""
    limits = dict.fromkeys(heads, HEADS // 2)
    return {"only": heads, "reduce_channels": 0.001, "keep_at_most": limits, "keep_at_least": limits}


def test_the_width_of_a_head_is_written_down_where_it_no_longer_follows() -> None:
    model = noted(decoder())
    heads = [g.name for g in find_channels(model).groups if g.size == HEADS]
    made = pruned(model, **halved(heads))["config.json"]["content"]
    assert made["num_attention_heads"] == HEADS // 2
    assert made["hidden_size"] == HIDDEN
    assert made["head_dim"] == WIDTH


def test_layers_that_differ_are_reported() -> None:
    model = noted(decoder())
    first = next(g.name for g in find_channels(model).groups if g.size == HEADS)
    found = pruned(model, **halved([first]))["config.json"]
    assert found["content"]["num_attention_heads"] == HEADS
    assert found["unclear"]["num_attention_heads"] == (HEADS, [2, 4])


def cut(model: Model, *blocks: str) -> dict[str, Any]:
    """The configurations of the dense model without some blocks, by file name."""
    channels = find_channels(model)
    removed = {name: [0] for name in blocks}
    return {
        name: rewritten(content, widths(channels, removed)) for name, content in configurations(model).items()
    }


def block_names(model: Model) -> list[str]:
    return [block.name for block in find_channels(model).blocks.removable]


def test_the_number_of_layers_follows_whole_layers() -> None:
    model = decoder(layers=3)
    genai = {"model": {"decoder": {"num_hidden_layers": 3, "num_attention_heads": HEADS}}}
    both = {"config.json": {**HUGGING, "num_hidden_layers": 3}, "genai_config.json": genai}
    model.set_metadata(CONFIG_KEY, json.dumps(both))
    names = block_names(model)
    assert len(names) == 6  # attention and hidden layer of each
    found = cut(model, *names[2:4])
    assert found["config.json"].changes["num_hidden_layers"] == (3, 2)
    assert found["config.json"].content["num_hidden_layers"] == 2
    assert found["genai_config.json"].changes == {"model.decoder.num_hidden_layers": (3, 2)}
    found = cut(model, *names[:2], *names[4:])
    assert found["config.json"].changes["num_hidden_layers"] == (3, 1)


def test_half_a_layer_is_reported() -> None:
    """The numbers of layers that are left, and of those that are as before."""
    model = noted(decoder())
    names = block_names(model)
    for gone, numbers in ((names[1:3], [0, 2]), (names[:1], [1, 2]), (names[:3], [0, 1])):
        found = cut(model, *gone)["config.json"]
        assert found.content["num_hidden_layers"] == 2
        assert found.unclear["num_hidden_layers"] == (2, numbers)


def test_a_layer_that_leaves_an_output_stays_in_the_count() -> None:
    """Programs feed and read one cache a layer: a layer whose cache is left still has one."""
    model = decoder()
    keys = [n.input[1] for n in model.nodes if n.op_type == "MultiHeadAttention"]
    for name in keys:
        shape = ["N", 6, HIDDEN]
        model.proto.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    model.edited()
    names = block_names(noted(model))
    found = cut(model, *names[:2])["config.json"]
    assert found.content["num_hidden_layers"] == 2
    assert found.unclear["num_hidden_layers"] == (2, [1, 2])


def test_the_count_follows_the_command_and_the_dense_model() -> None:
    model = noted(decoder())
    names = block_names(model)
    dense = Transform()(Prune(plan=PlanFile({}, blocks=tuple(names[:2])))(model))
    made = dense.facts["configurations"]["config.json"]
    assert made["content"]["num_hidden_layers"] == 1
    assert not [n for n in dense.model.nodes if n.op_type == "MultiHeadAttention"][1:]


def test_rows_of_the_vocabulary() -> None:
    dense = Transform()(KeepRows(range(20))(noted(decoder())))
    found = dense.facts["configurations"]
    assert found["config.json"]["changes"] == {"vocab_size": (ROWS, 20)}
    assert found["genai_config.json"]["changes"] == {"model.vocab_size": (ROWS, 20)}
    assert CONFIG_KEY not in dense.model.metadata()


def test_unrelated_numbers_of_a_configuration_stay() -> None:
    """A number that happens to be that of another axis is not taken for it."""
    model = decoder(layers=1)
    channels = find_channels(model)
    removed = {g.name: [0] for g in channels.groups if g.size == HEADS}
    found = widths(channels, removed)
    content = {
        "num_labels": HEADS,
        "num_attention_heads": HEADS,
        "hidden_size": [HEADS],
        "nested": [{"d_ff": 3}],
    }
    made = rewritten(content, found)
    assert made.content == {**content, "num_attention_heads": HEADS - 1}
    assert content["num_attention_heads"] == HEADS


def test_files_follow_from_command_to_command(tmp_path: Path) -> None:
    source, work, target = (tmp_path / name for name in ("source", "work", "target"))
    for folder in (source, work, target):
        folder.mkdir()
    onnx.save(decoder().proto, source / "model.onnx")
    (source / "config.json").write_text(json.dumps(HUGGING), "utf-8")
    (source / "genai_config.json").write_text("no JSON", "utf-8")

    def run(*arguments: object) -> Any:
        outcome = CliRunner().invoke(program, [*map(str, arguments)], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        return outcome

    prune = ["prune", source / "model.onnx", "--reduce-macs", "0.5", "--strategy", "uniform"]
    run(*prune, "-o", work / "sparse.onnx")
    assert not (work / "config.json").exists()
    assert list(configurations(load(work / "sparse.onnx"))) == ["config.json"]
    made = run("transform", work / "sparse.onnx", "-o", target / "model.onnx")
    written = json.loads((target / "config.json").read_text("utf-8"))
    assert written["num_attention_heads"] < HEADS
    assert "num_attention_heads" in made.stdout
    assert not (target / "genai_config.json").exists()


def test_a_file_that_lies_there_is_not_replaced(tmp_path: Path) -> None:
    onnx.save(decoder().proto, tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps(HUGGING), "utf-8")
    sparse = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(load(tmp_path / "model.onnx"))
    onnx.save(sparse.model.proto, tmp_path / "sparse.onnx")
    words = ["transform", str(tmp_path / "sparse.onnx"), "-o", str(tmp_path / "dense.onnx")]
    said = CliRunner().invoke(program, words, catch_exceptions=False).stdout
    assert json.loads((tmp_path / "config.json").read_text("utf-8")) == HUGGING
    flat = " ".join(said.split())
    assert "is there already, and has to say" in flat
    assert f"num_attention_heads {HEADS} → {HEADS // 2}" in flat
    facts = CliRunner().invoke(program, [*words, "--json"], catch_exceptions=False).stdout
    (entry,) = json.loads(facts)["configurations"]
    assert entry["written"] is False
    assert entry["changes"]["num_attention_heads"] == {"before": HEADS, "after": HEADS // 2}
    assert np.isfinite(json.loads(facts)["max_rel_error"])
