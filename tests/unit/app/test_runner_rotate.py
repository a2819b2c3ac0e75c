"""Runs that begin with the rotated model where its plan is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import Net
from recipes import Told

from onnxprune.app.recipe import read_recipe
from onnxprune.app.report import collect
from onnxprune.app.runner import read_state, run
from onnxprune.decisions.rotation import basis_of
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import load
from onnxprune.passes import rotate as rotate_module
from onnxprune.runtime import Session

pytestmark = pytest.mark.slow


WIDTH, TOKENS, FEATURES = 16, 5, 6
RECIPE = """\
model = "net.onnx"
folder = "work"
metric = "cosine"
threads = 1
[data]
train = "train.npz"
val = "val.npz"
[budget]
reduce_macs = 0.5
[schedule]
iterations = 1
[ana]
enabled = false
[prune]
round_to = 1
rotate = "MODE"
[finetune]
epochs = EPOCHS
loss = "distill"
batch_size = 16
[bench]
runs = 1
"""


def network() -> onnx.ModelProto:
    """A residual stream that is normalised wherever it is read."""
    net = Net(opset=17)
    x = net.linear(net.input("x", ["N", TOKENS, FEATURES]), WIDTH)
    for _ in range(2):
        x = net.add(x, net.linear(net.relu(net.linear(_normalised(net, x), 2 * WIDTH)), WIDTH))
    return net.model(net.linear(_normalised(net, x), 3)).proto


def _normalised(net: Net, x: str) -> str:
    return net.op("LayerNormalization", x, net.vector(WIDTH, 0.5, 1.5), net.vector(WIDTH), axis=-1)


def prepared(folder: Path, mode: str, epochs: int = 0) -> Path:
    onnx.save(network(), folder / "net.onnx")
    random = np.random.default_rng(5)
    for name, count in (("train", 64), ("val", 32)):
        low = random.standard_normal((count, TOKENS, 3)) @ random.standard_normal((3, FEATURES))
        noise = 0.05 * random.standard_normal(low.shape)
        np.savez(folder / f"{name}.npz", x=(low + noise).astype(np.float32))
    path = folder / "recipe.toml"
    path.write_text(RECIPE.replace("MODE", mode).replace("EPOCHS", str(epochs)), "utf-8")
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotate_module, "_CHECK", CheckBudget(seconds=0.1))


def test_all_steps_follow_the_basis_that_was_chosen(tmp_path: Path) -> None:
    recipe, told = read_recipe(prepared(tmp_path, "auto")), Told()
    facts = run(recipe, told)
    assert told.steps("done")[:3] == ["baseline", "basis", "rotate"]
    folder = tmp_path / "work"
    steps = read_state(folder)["steps"]
    assert steps["basis"]["facts"]["kept"]
    assert steps["basis"]["facts"]["score_rotated"] < steps["basis"]["facts"]["score_unrotated"]
    rotated, dense = load(folder / "rotated.onnx"), load(folder / "dense.onnx")
    assert basis_of(dense.metadata()) == basis_of(rotated.metadata()) is not None
    feeds = {"x": np.load(tmp_path / "val.npz")["x"]}
    pairs = [(tmp_path / "net.onnx", folder / "rotated.onnx")]
    pairs += [(folder / facts["sparse"], folder / "dense.onnx")]
    for one, other in pairs:
        wanted, found = (next(iter(Session(load(f).proto).run(feeds).values())) for f in (one, other))
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    assert {w["group"] for w in collect(folder)["widths"]} >= set(steps["1-prune"]["facts"]["groups"])
    again = Told()
    run(recipe, again)
    assert again.steps("start") == []


@pytest.mark.slow
def test_training_goes_on_in_that_basis(tmp_path: Path) -> None:
    facts = run(read_recipe(prepared(tmp_path, "always", epochs=1)))
    steps = read_state(tmp_path / "work")["steps"]
    assert "rotate" in steps
    assert "basis" not in steps
    assert steps["1-finetune"]["facts"]["score_before"] > 0
    assert facts["best_iteration"] == 1
