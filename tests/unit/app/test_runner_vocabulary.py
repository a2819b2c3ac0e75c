"""Rows of a vocabulary that a recipe keeps: after the last iteration, with the map beside the dense model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import Net
from onnx import TensorProto

from onnxprune.app.recipe import Recipe, read_recipe
from onnxprune.app.runner import read_state, run
from onnxprune.errors import PlanError, UsageError
from onnxprune.runtime import Session

ROWS, WIDTH = 24, 16
RECIPE = """\
model = "net.onnx"
folder = "work"
threads = 1
metric = "kl"

[data]
train = "train.npz"
val = "val.npz"

[budget]
reduce_macs = 0.3

[schedule]
iterations = 1

[ana]
enabled = false

[finetune]
epochs = 0

[recover]
enabled = false

[bench]
runs = 1

[vocabulary]
"""


def network(*, normalised: bool = False) -> onnx.ModelProto:
    """Ids, a table, two layers, a score for each row; normalised scores keep all rows."""
    net = Net()
    ids = net.input("ids", ["N", 6], TensorProto.INT64)
    x = net.sized(net.op("Gather", net.weight(ROWS, WIDTH, fan=1), ids), ["N", 6, WIDTH])
    x = net.linear(net.relu(net.linear(x, 32)), WIDTH)
    y = net.add(net.op("MatMul", x, net.weight(WIDTH, ROWS, fan=WIDTH)), net.vector(ROWS))
    return net.model(net.op("Softmax", y, axis=-1) if normalised else y).proto


def recipe_in(folder: Path, keys: str, **how: bool) -> Recipe:
    """Write model, samples and recipe; row 3 is picked most, then 5, 7 and 9, then the others."""
    onnx.save(network(**how), folder / "net.onnx")
    random = np.random.default_rng(0)
    shares = np.asarray([{3: 40, 5: 20, 7: 20, 9: 20}.get(row, 0.5) for row in range(ROWS)])
    for name, samples in (("train", 64), ("val", 16)):
        np.savez(folder / f"{name}.npz", ids=random.choice(ROWS, (samples, 6), p=shares / shares.sum()))
    (folder / "rows.txt").write_text("0, 3\n23\n", "utf-8")
    (folder / "recipe.toml").write_text(RECIPE + keys, "utf-8")
    return read_recipe(folder / "recipe.toml")


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ('keep_rows = "rows.txt"', [0, 3, 23]),
        ("most = 4", [3, 5, 7, 9]),
        ('keep_rows = "rows.txt"\nmin_count = 20', [0, 3, 5, 7, 9, 23]),
    ],
)
def test_rows_go_after_the_last_iteration(tmp_path: Path, keys: str, kept: list[int]) -> None:
    recipe = recipe_in(tmp_path, keys)
    state = run(recipe)
    steps = read_state(tmp_path / "work")["steps"]
    assert list(steps)[-3:] == ["rows", "transform", "bench"]
    assert state["best_iteration"] == 1
    found = json.loads((tmp_path / "work" / "dense.ids.json").read_text("utf-8"))
    assert found == {"inputs": ["ids"], "rows_before": ROWS, "ids": kept}
    facts = steps["transform"]["facts"]
    assert facts["kept_rows"] == len(kept)
    assert facts["score"] == pytest.approx(steps["1-score"]["facts"]["score"], rel=1e-3)
    dense, sparse = (onnx.load(tmp_path / "work" / f) for f in ("dense.onnx", state["sparse"]))
    new = np.random.default_rng(1).integers(0, len(kept), (2, 6))
    (ours,) = Session(dense).run({"ids": new}).values()
    (theirs,) = Session(sparse).run({"ids": np.asarray(kept)[new]}).values()
    assert ours.shape[-1] == len(kept)
    assert np.abs(ours - theirs[..., kept]).max() <= 1e-4
    assert run(recipe)["unchanged"]


def test_rows_that_cannot_go_are_refused_before_the_first_iteration(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="rows of the vocabulary cannot go"):
        run(recipe_in(tmp_path, "most = 4", normalised=True))
    assert not (tmp_path / "work" / "iteration-1").exists()
    recipe = recipe_in(tmp_path, 'keep_rows = "rows.txt"')
    (tmp_path / "rows.txt").write_text(str(ROWS), "utf-8")
    with pytest.raises(UsageError, match=f"row {ROWS} does not exist"):
        run(recipe)
