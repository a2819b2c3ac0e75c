"""Unused rows of a vocabulary: of the table, of the scores, and of the fed indices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net
from onnx import TensorProto

from onnxprune.app.cli import program
from onnxprune.errors import DataError, ModelError, PlanError, UsageError
from onnxprune.ir import VOCABULARY_KEY, Model, find_vocabulary, load
from onnxprune.passes import KeepRows, Prune, Transform
from onnxprune.passes.keep_rows import count_rows
from onnxprune.runtime import Session

ROWS, WIDTH = 40, 16
KEEP = [0, 3, 4, 9, 17, 18, 30, 39]


def language_model(
    *, tied: bool = False, biased: bool = True, ids: int = TensorProto.INT64, other: str = ""
) -> Model:
    """Ids, a table, two layers, scores for each row."""
    net = Net()
    tokens = net.input("ids", ["N", "L"], ids)
    table = net.weight(ROWS, WIDTH, fan=1, name="table")
    picked = net.op("Cast", tokens, to=TensorProto.INT64) if ids != TensorProto.INT64 else tokens
    x = net.sized(net.op("Gather", table, picked), ["N", "L", WIDTH])
    if other == "segments":
        kinds = net.op(
            "Gather", net.weight(2, WIDTH, fan=1), net.input("kinds", ["N", "L"], TensorProto.INT64)
        )
        x = net.sized(net.add(x, kinds), ["N", "L", WIDTH])
    x = net.linear(net.relu(net.linear(x, 24)), WIDTH)
    if tied:
        y = net.op("MatMul", x, net.transpose(table, 1, 0))
    else:
        y = net.op("MatMul", x, net.weight(WIDTH, ROWS, fan=WIDTH))
    y = net.add(y, net.vector(ROWS)) if biased else y
    if other == "compared":
        padding = net.op("Cast", net.op("Equal", picked, net.const(np.asarray(0))), to=TensorProto.FLOAT)
        y = net.add(y, net.unsqueeze(padding, 2))
    if other == "softmax":
        y = net.op("Softmax", y, axis=-1)
    net.nodes.append(onnx.helper.make_node("Identity", [y], ["scores"], name="scores"))
    net.types["scores"] = net.types[net.sized(y, ["N", "L", ROWS])]
    return net.model("scores")


def shape(model: Model, which: str) -> list[int]:
    value = next(v for v in (*model.inputs, *model.outputs) if v.name == which)
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("ids", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_the_table_and_of_the_scores(tied: bool, ids: int) -> None:
    """With the new numbers the new model returns for each row the scores of the old one."""
    model = language_model(tied=tied, ids=ids)
    sparse = KeepRows(KEEP)(model)
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    assert dense.facts["rows"] == KEEP
    assert shape(dense.model, "scores") == [0, 0, len(KEEP)]
    kind = np.int64 if ids == TensorProto.INT64 else np.int32
    new = np.random.default_rng(1).integers(0, len(KEEP), (2, 7)).astype(kind)
    (before,) = Session(model.proto).run({"ids": np.asarray(KEEP, kind)[new]}).values()
    (after,) = Session(dense.model.proto).run({"ids": new}).values()
    assert np.abs(before[..., KEEP] - after).max() < 1e-5


def test_with_a_budget_too() -> None:
    """First the rows, then as much of the rest as is asked for."""
    rows = KeepRows(KEEP)(language_model())
    sparse = Prune(reduce_params=0.8, round_to=1)(rows)
    dense = Transform()(sparse)
    assert dense.facts["equal"]
    assert dense.facts["rows"] == KEEP
    assert abs(dense.facts["params_reduction"] - 0.8) < 0.03
    assert VOCABULARY_KEY not in dense.model.metadata()


def test_rows_after_a_budget() -> None:
    """The rows are a group of their own then; the groups that the plan names keep their channels."""
    pruned = Prune(reduce_params=0.3, round_to=1)(language_model())
    dense = Transform()(KeepRows(KEEP)(pruned))
    assert dense.facts["equal"]
    assert dense.facts["rows"] == KEEP
    removed = {name: n for name, n in dense.facts["groups"].items() if n["before"] != ROWS}
    assert sorted(n["after"] for n in removed.values()) == sorted(
        n["after"] for n in pruned.facts["groups"].values()
    )


def test_only_the_largest_table_is_a_vocabulary() -> None:
    model = language_model(other="segments")
    assert find_vocabulary(model).inputs == ("ids",)
    dense = Transform()(KeepRows(KEEP)(model))
    assert dense.facts["equal"]
    kinds = [t.dims[0] for t in dense.model.constants.values() if len(t.dims) == 2 and t.dims[1] == WIDTH]
    assert 2 in kinds


def test_rows_do_not_go_by_themselves() -> None:
    """No budget touches a vocabulary, and zeros alone do not tell that the caller agrees."""
    model = language_model()
    plain = Transform()(Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(model))
    assert shape(plain.model, "scores") == [0, 0, ROWS]
    sparse = KeepRows(KEEP)(model).model
    sparse.set_metadata("onnxprune.plan", None)
    again = Transform(allow_unchanged=True)(sparse)
    assert shape(again.model, "scores") == [0, 0, ROWS]
    noted = Prune(reduce_channels=0.5, strategy="uniform", round_to=1)(KeepRows(KEEP)(model))
    assert shape(Transform()(noted).model, "scores") == [0, 0, len(KEEP)]


def test_numbers_that_are_compared_keep_their_meaning() -> None:
    with pytest.raises(ModelError, match=r"Equal '.*' computes with their numbers"):
        KeepRows(KEEP)(language_model(other="compared"))


def test_scores_that_are_normalised_stay() -> None:
    with pytest.raises(PlanError, match="cannot go") as refused:
        KeepRows(KEEP)(language_model(other="softmax"))
    assert "Softmax" in refused.value.hint


@pytest.mark.parametrize(
    ("rows", "said"), [([], "no row"), ([0, ROWS], f"row {ROWS} does not exist"), ([-1], "-1")]
)
def test_rows_that_do_not_exist(rows: list[int], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        KeepRows(rows)(language_model())


def test_a_model_without_a_table() -> None:
    net = Net()
    with pytest.raises(ModelError, match="no table"):
        KeepRows([0])(net.model(net.linear(net.input("x", [2, 8]), 4)))


def texts(rows: dict[int, int], samples: int = 4) -> dict[str, np.ndarray]:
    """Samples that pick each row so many times, of equal lengths."""
    ids = np.repeat(list(rows), list(rows.values()))
    return {"ids": np.random.default_rng(0).permutation(ids).reshape(samples, -1)}


COUNTED = {1: 2, 5: 9, 8: 3, 20: 4, 39: 2}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("how", "kept", "covered"),
    [
        ({"min_count": 3}, [5, 8, 20], 16 / 20),
        ({"min_count": 1}, [1, 5, 8, 20, 39], 1.0),
        ({"most": 2}, [5, 20], 13 / 20),
        ({"most": 4}, [1, 5, 8, 20], 18 / 20),
        ({"most": 3, "keep": [0, 39]}, [0, 5, 39], 11 / 20),
        ({"most": 4, "min_count": 4, "keep": [2]}, [2, 5, 8, 20], 16 / 20),
    ],
)
def test_rows_by_counts(
    tmp_path: Path, how: dict[str, Any], kept: list[int], covered: float, tied: bool
) -> None:
    np.savez(tmp_path / "texts.npz", **texts(COUNTED))
    model = language_model(tied=tied)
    sparse = KeepRows(data=str(tmp_path / "texts.npz"), **how)(model)
    assert sparse.facts["settings"]["picks_covered"] == pytest.approx(covered)
    assert sparse.facts["settings"]["kept_rows"] == len(kept)
    dense = Transform()(sparse)
    assert dense.facts["rows"] == kept
    assert dense.facts["equal"]
    assert shape(dense.model, "scores") == [0, 0, len(kept)]


def test_rows_of_special_tokens_stay(tmp_path: Path) -> None:
    """As the files beside the model name them; other added tokens may go."""
    place = tmp_path / "model.onnx"
    onnx.save(language_model().proto, place)
    np.savez(tmp_path / "texts.npz", **texts(COUNTED))
    added = [{"id": 3, "special": True}, {"id": 6, "special": False}, {"id": 99, "special": True}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}), "utf-8")
    names = {"pad_token_id": 0, "model": {"eos_token_id": [2, 30]}, "vocab_size": ROWS, "bos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps(names), "utf-8")
    (tmp_path / "generation_config.json").write_text("not json", "utf-8")
    listed = {"added_tokens_decoder": {"4": {"special": True}, "7": {"special": False}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(listed), "utf-8")
    sparse = KeepRows(data=str(tmp_path / "texts.npz"), most=7)(load(place))
    assert sparse.facts["settings"]["special_rows"] == 5
    assert Transform()(sparse).facts["rows"] == [0, 2, 3, 4, 5, 20, 30]
    with pytest.raises(UsageError, match="5 rows stay in any case, and 4 are asked for"):
        KeepRows(data=str(tmp_path / "texts.npz"), most=4)(load(place))
    plain = KeepRows([5, 9])(load(place))
    assert Transform()(plain).facts["rows"] == [5, 9]


def test_counts_that_mean_nothing(tmp_path: Path) -> None:
    model = language_model()
    with pytest.raises(UsageError, match="counted on samples"):
        KeepRows(most=4)(model)
    np.savez(tmp_path / "texts.npz", **texts({1: 4}))
    with pytest.raises(UsageError, match="pick none so often"):
        KeepRows(data=str(tmp_path / "texts.npz"), min_count=9)(model)
    with pytest.raises(DataError, match=r"picks row 40 of a table of 40 rows"):
        count_rows([np.asarray([[0, ROWS]])], ROWS, "texts")
    assert count_rows([np.asarray([[0, -1, -ROWS]])], ROWS, "texts")[[0, ROWS - 1]].tolist() == [2, 1]


@pytest.mark.slow
def test_the_command_counts_rows(tmp_path: Path) -> None:
    place, data = tmp_path / "model.onnx", tmp_path / "texts.npz"
    onnx.save(language_model().proto, place)
    np.savez(data, **texts(COUNTED))
    sparse, dense = str(tmp_path / "s.onnx"), str(tmp_path / "d.onnx")
    words = ["prune", str(place), "--data", str(data), "--keep-rows-most", "3", "-o", sparse]
    for command in (words, ["transform", sparse, "-o", dense]):
        ended = subprocess.run(
            [sys.executable, "-m", "onnxprune", *command], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "d.ids.json").read_text("utf-8"))["ids"] == [5, 8, 20]


def test_commands_write_a_map(tmp_path: Path) -> None:
    place, listed = tmp_path / "model.onnx", tmp_path / "rows.txt"
    onnx.save(language_model().proto, place)
    listed.write_text("\n".join(map(str, KEEP)) + "\n", "utf-8")
    sparse, dense = str(tmp_path / "s.onnx"), str(tmp_path / "d.onnx")

    def facts(*arguments: str) -> dict[str, object]:
        outcome = CliRunner().invoke(program, [*arguments, "--json"], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
        found: dict[str, object] = json.loads(outcome.stdout)
        return found

    facts("prune", str(place), "--keep-rows", str(listed), "-o", sparse)
    made = facts("transform", sparse, "-o", dense)
    assert made["id_map"] == str(tmp_path / "d.ids.json")
    assert json.loads((tmp_path / "d.ids.json").read_text("utf-8")) == {
        "inputs": ["ids"],
        "rows_before": ROWS,
        "ids": KEEP,
    }
    assert facts("verify", sparse, dense)["equal"]


def wide_model(*outputs: str, places: str = "") -> Model:
    """As many features as rows; a second table for places on request."""
    net = Net()
    table = net.weight(ROWS, ROWS, fan=1, name="table")
    x = net.op("Gather", table, net.input("ids", ["N", "L"], TensorProto.INT64))
    if places:
        other = table if places == "the same" else net.weight(ROWS, ROWS, fan=1, name="places")
        x = net.add(x, net.op("Gather", other, net.input("at", ["N", "L"], TensorProto.INT64)))
    features = net.relu(net.linear(x, ROWS))
    made = {"features": features, "scores": net.linear(features, ROWS)}
    return net.model(*(made[name] for name in outputs))


def test_features_as_many_as_rows_stay() -> None:
    dense = Transform()(KeepRows(KEEP)(wide_model("features", "scores"))).model
    widths = [o.type.tensor_type.shape.dim[-1].dim_value for o in dense.outputs]
    assert widths == [ROWS, len(KEEP)]


def test_two_tables_of_as_many_rows_are_not_one_vocabulary() -> None:
    with pytest.raises(ModelError, match="'ids' and 'at' pick from different tables of 40 rows"):
        KeepRows(KEEP)(wide_model("scores", places="another"))
    assert find_vocabulary(wide_model("scores", places="the same")).inputs == ("ids", "at")
