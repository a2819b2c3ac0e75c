from __future__ import annotations

import struct
from pathlib import Path

import pytest
from recipes import Told, recipe_in

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner import read_state, run
from onnxprune.app.runner.tracking import Tracking
from onnxprune.errors import UsageError

pytestmark = pytest.mark.slow


def logging(recipe: Recipe, **where: object) -> Recipe:
    return recipe.model_copy(update={"log": recipe.log.model_copy(update=where)})


def told_to_tensorboard(folder: Path) -> dict[tuple[str, int], float]:
    """Read event files: records of a length, its checksum, the event, its checksum."""
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for file in folder.iterdir():
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = events.Event.FromString(data[12 : 12 + size])
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
            data = data[16 + size :]
    return found


def test_tensorboard_gets_the_figures_of_the_state(tmp_path):
    pytest.importorskip("tensorboardX")
    run(recipe_in(tmp_path, "log.tensorboard=board", "compare.one_shot=true"))
    found, steps = told_to_tensorboard(tmp_path / "board"), read_state(tmp_path / "work")["steps"]
    for number in ("1", "2"):
        assert found["score", int(number)] == pytest.approx(steps[f"{number}-score"]["facts"]["score"])
        assert found["macs", int(number)] == steps[f"{number}-prune"]["facts"]["macs"]
    assert found["score", 0] == pytest.approx(steps["baseline"]["facts"]["score"])
    assert found["dense/macs", 0] == steps["transform"]["facts"]["macs"]
    assert found["one_shot/macs", 0] == steps["one-shot-prune"]["facts"]["macs"]
    assert found["latency_ms/dense", 0] > 0


def test_mlflow_goes_on_with_the_run_it_began(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder instead of a server
    recipe = logging(recipe_in(tmp_path), mlflow=(tmp_path / "runs").as_uri())

    def stop(event):
        if event["event"] == "start" and event["step"] == "2-prune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, stop)
    run(recipe)
    client = mlflow.MlflowClient(tracking_uri=recipe.log.mlflow)
    (experiment,) = client.search_experiments(filter_string="name = 'onnxprune'")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.data.params["budget.reduce_macs"] == "0.5"
    assert kept.info.status == "FINISHED"
    steps = read_state(tmp_path / "work")["steps"]
    history = client.get_metric_history(kept.info.run_id, "score")
    assert [(m.step, m.value) for m in history] == [
        (0, steps["baseline"]["facts"]["score"]),
        (1, steps["1-score"]["facts"]["score"]),
        (2, steps["2-score"]["facts"]["score"]),
    ]


def test_losses_are_counted_through_all_iterations():
    kept = []

    class Keeper:
        name = "keeper"

        def keep(self, figure):
            kept.append(figure)

    tracking = Tracking([Keeper()], lambda name, why: None)
    tracking.receive({"event": "kept", "step": "1-finetune", "facts": {"losses": [0.5, 0.25]}})
    tracking.receive({"event": "start", "step": "2-finetune"})
    tracking.receive({"event": "done", "step": "2-finetune", "facts": {"losses": [0.125]}})
    tracking.receive({"event": "done", "step": "one-shot-finetune", "facts": {"losses": [0.75]}})
    assert kept == [("loss", 0.125, 3), ("one_shot/loss", 0.75, 1)]


class Broken:
    name = "broken"

    def keep(self, figure):
        raise OSError("no room")


def test_a_tracker_that_fails_is_left_behind_and_named():
    lost = []
    tracking = Tracking([Broken()], lambda name, why: lost.append((name, why)))
    for _ in range(2):
        tracking.receive({"event": "done", "step": "1-score", "facts": {"score": 0.5}})
    assert lost == [("broken", "OSError: no room")]


def test_a_run_goes_on_without_its_tracker_with_a_message(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr("onnxprune.app.runner.tracking._TensorBoard.keep", Broken.keep)
    told = Told()
    assert run(recipe_in(tmp_path, "log.tensorboard=board"), told)["best_iteration"] == 2
    assert told.steps("untracked") == ["tensorboard"]


@pytest.mark.parametrize(("key", "library"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_a_missing_library_is_named_before_any_work(tmp_path, monkeypatch, key, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UsageError, match=library) as caught:
        run(recipe_in(tmp_path, f"log.{key}=somewhere"))
    assert f"onnxprune[{key}]" in caught.value.hint
    assert not (tmp_path / "work" / "state.json").exists()


def test_a_server_that_is_not_one_is_refused(tmp_path):
    pytest.importorskip("mlflow")
    with pytest.raises(UsageError, match="MLflow refuses nonsense://"):
        run(recipe_in(tmp_path, "log.mlflow=nonsense://"))
