"""Unused rows of a vocabulary: of the table, of the scores, and of the fed indices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import Net
from onnx import TensorProto

from onnxprune.app.cli import program
from onnxprune.errors import ModelError, PlanError, UsageError
from onnxprune.ir import VOCABULARY_KEY, Model, find_vocabulary
from onnxprune.passes import KeepRows, Prune, Transform
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
