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
from onnxprune.app.shrink import ShrinkOptions, job, shrink
from onnxprune.app.shrink.plan_comparison import PlanComparison
from onnxprune.app.shrink.shrink_forecast import Pace
from onnxprune.decisions.rotation import basis_of
from onnxprune.errors import PlanError
from onnxprune.evaluate.equivalence import CheckBudget
from onnxprune.ir import load
from onnxprune.passes import Rotate
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


def shrunk(folder: Path, told: Told, **options: object) -> list[str]:
    """Shrink the network without training; return the sentences told."""
    said: list[str] = []
    files = (str(folder / "net.onnx"), str(folder / "small.onnx"), str(folder / "train.npz"))
    shrink(ShrinkOptions(*files, reduce_macs=0.5, metric="cosine", threads=1, **options), told, said.append)  # type: ignore[arg-type]
    return said


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "epoch_seconds", lambda *_: 1e9)
    monkeypatch.setattr(Pace, "ana_s", lambda *_: 1e9)
    prepared(tmp_path, "auto")
    return tmp_path


def test_shrink_plans_once_in_each_basis_and_keeps_the_better(untrained: Path) -> None:
    told = Told()
    said = shrunk(untrained, told)
    assert any("the plan of the model as it is is dropped" in line for line in said)
    starts = told.steps("start")
    assert [starts.count(step) for step in ("baseline", "rotate", "1-prune", "1-recover")] == [1, 1, 2, 2]
    steps = read_state(untrained / "small.onnx.work")["steps"]
    assert "rotate" in steps
    assert basis_of(load(untrained / "small.onnx").metadata()) is not None
    again = Told()
    shrunk(untrained, again)
    assert again.steps("start") == []


def test_the_model_as_it_is_is_kept_where_its_plan_is_better(untrained: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        PlanComparison, "_score", lambda self, model: float(basis_of(model.metadata()) is None)
    )
    told = Told()
    said = shrunk(untrained, told)
    assert said[3] == "the plan of the model as it is is kept: cosine 1, before it 0"
    assert "rotate" not in read_state(untrained / "small.onnx.work")["steps"]
    assert basis_of(load(untrained / "small.onnx").metadata()) is None
    assert told.steps("start").count("1-prune") == 2


def test_a_model_that_refuses_its_rotation_is_shrunk_as_it_is(untrained: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise PlanError("the axes do not fit")

    monkeypatch.setattr(Rotate, "run", refused)
    said = shrunk(untrained, Told())
    assert "not rotated: the axes do not fit" in said
    assert basis_of(load(untrained / "small.onnx").metadata()) is None


def test_a_killed_trial_goes_on(untrained: Path, monkeypatch) -> None:
    def killed(*_: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PlanComparison, "_score", killed)
        with pytest.raises(KeyboardInterrupt):
            shrunk(untrained, Told())
    told = Told()
    shrunk(untrained, told)
    assert not {"1-prune", "1-recover", "rotate"} & set(told.steps("start"))
    assert "rotate" in read_state(untrained / "small.onnx.work")["steps"]
