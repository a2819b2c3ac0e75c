from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from recipes import RECIPE, Told, recipe_in, write_recipe

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.app.recipe import Recipe, read_recipe
from onnxprune.app.report import collect, render
from onnxprune.app.runner import STATE, read_state, run
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.runner.stages import Stages
from onnxprune.decisions.elements import check_pattern
from onnxprune.errors import DataError, MissedError, ModelError, OutputError, PlanError, UsageError
from onnxprune.evaluate.equivalence import verify
from onnxprune.ir import load
from onnxprune.passes import finetune
from onnxprune.runtime import Session
from onnxprune.support.staging import MARK

pytestmark = pytest.mark.slow


STEPS = ["baseline", "1-ana", "1-prune", "1-score", "2-ana", "2-prune", "2-score", "transform", "bench"]


LEFT_OUT = (STATE, ".lock", "report.html")  # they hold how long things took


def content(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The digest of every file a run leaves, but for its timings."""
    files = sorted(f for f in folder.rglob(pattern) if f.is_file() and f.name not in LEFT_OUT)
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def changed(recipe: Recipe, **sections: dict[str, object]) -> Recipe:
    updates = {name: getattr(recipe, name).model_copy(update=keys) for name, keys in sections.items()}
    return recipe.model_copy(update=updates)


def test_a_run_reaches_the_target_and_records_everything(tmp_path):
    recipe, told = recipe_in(tmp_path), Told()
    facts = run(recipe, told)
    assert told.steps("done") == STEPS
    assert facts["reason"] == "the target is reached"
    assert facts["best_iteration"] == 2
    assert facts["iterations"][-1]["macs_reduction"] == pytest.approx(0.5, abs=0.1)
    assert not facts["unchanged"]
    folder, state = tmp_path / "work", read_state(tmp_path / "work")
    assert list(state["steps"]) == STEPS
    assert state["result"]["dense"] == "dense.onnx"
    assert state["made_with"]["onnxprune"]
    recorded = {f: d for s in state["steps"].values() for f, d in s["files"].items()}
    assert recorded == content(folder)
    assert set(state["steps"]["bench"]["facts"]["models"]) == {"original", "1", "dense"}
    verify(load(folder / "iteration-2/sparse.onnx"), load(folder / "dense.onnx"))


def test_a_finished_run_is_left_alone(tmp_path):
    recipe, told = recipe_in(tmp_path), Told()
    first = run(recipe)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "work").rglob("*.onnx")}
    again = run(recipe, told)
    assert again["unchanged"]
    assert (again["steps_done"], again["steps_kept"]) == (0, len(STEPS))
    assert told.steps("start") == []
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert again["iterations"] == first["iterations"]


@pytest.mark.parametrize(
    ("sections", "redone", "why"),
    [
        ({"bench": {"runs": 2}}, ["bench"], "bench.runs was 1, is 2"),
        ({"ana": {"ratios": (0.25, 0.5)}}, ["1-ana", "1-prune"], "ana.ratios was [0.5], is [0.25, 0.5]"),
        (
            {"schedule": {"reductions": (0.25, 0.4, 0.5)}},
            ["2-prune", "2-score"],
            "prune.reduce_macs was 0.5, is 0.4",
        ),
    ],
)
def test_a_changed_recipe_repeats_the_touched_steps_with_a_message(tmp_path, sections, redone, why):
    recipe, told = recipe_in(tmp_path), Told()
    run(recipe)
    run(changed(recipe, **sections), told)
    assert told.steps("start")[: len(redone)] == redone
    assert why in next(e["because"] for e in told.events if e["event"] == "start")
    assert "baseline" in told.steps("kept")


LOADER = """\
import numpy
def val():
    held = numpy.load({path!r})
    yield {{"image": held["image"]}}, {{"labels": held["labels"]}}
"""


def test_data_from_a_callable_is_identified_by_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    recipe = recipe_in(tmp_path, "data.val=held_back:val")
    module, told = tmp_path / "held_back.py", Told()
    module.write_text(LOADER.format(path=str(tmp_path / "val.npz")))
    run(recipe)
    module.write_text(module.read_text() + "# changed\n")
    run(recipe, told)
    assert told.steps("done") == ["baseline", "1-score", "2-score", "transform"]
    assert told.events[0]["because"] == ["data.val.source is another"]


def test_a_shorter_schedule_drops_unneeded_steps(tmp_path):
    recipe = recipe_in(tmp_path)
    run(recipe)
    facts = run(changed(recipe, schedule={"reductions": (0.5,)}))
    assert set(facts["dropped"]) == {"2-ana", "2-prune", "2-score"}
    assert set(content(tmp_path / "work")) == {
        "dense.onnx",
        "iteration-1/analysis.json",
        "iteration-1/sparse.onnx",
    }


def test_a_file_that_was_changed_or_lost_is_made_again(tmp_path):
    recipe, told = recipe_in(tmp_path), Told()
    run(recipe)
    before = content(tmp_path / "work")
    (tmp_path / "work/iteration-1/sparse.onnx").write_bytes(b"not a model")
    (tmp_path / "work/dense.onnx").unlink()
    run(recipe, told)
    assert told.steps("done") == ["1-prune", "transform"]
    assert content(tmp_path / "work") == before


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run(recipe_in(folder))
    return content(folder / "work", "*.onnx")


@pytest.mark.parametrize("step", ["baseline", "1-prune", "2-ana", "transform", "bench"])
def test_a_run_interrupted_before_a_step_ends_the_same(tmp_path, step, whole):
    recipe = recipe_in(tmp_path)

    def stop(event):
        if event["event"] == "start" and event["step"] == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe, stop)
    told = Told()
    run(recipe, told)
    assert told.steps("done") == STEPS[STEPS.index(step) :]
    assert content(tmp_path / "work", "*.onnx") == whole


KILLS = 8


@pytest.mark.slow
def test_a_run_killed_at_random_times_ends_the_same(tmp_path):
    training = "epochs = 4\nbatch_size = 16\ncheckpoint_every = 2"
    path = write_recipe(tmp_path, RECIPE.replace("epochs = 0", training))
    begin = time.monotonic()
    started(path, tmp_path / "whole").wait()
    whole = time.monotonic() - begin
    times = random.Random(0)
    for _ in range(KILLS):
        process = started(path, tmp_path / "work")
        time.sleep(times.uniform(0.2, 1.0) * whole)
        process.kill()
        process.wait()
    last = started(path, tmp_path / "work")
    assert last.wait() == 0
    assert content(tmp_path / "work") == content(tmp_path / "whole")


def started(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "onnxprune", "run", str(recipe), "--folder", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_half_written_files_of_a_killed_run_are_removed(tmp_path):
    recipe = recipe_in(tmp_path)
    scratch = tmp_path / "work" / "iteration-1" / ".onnxprune-abcd_123"
    run(recipe)
    scratch.mkdir()
    (scratch / ".lock").write_bytes(MARK)
    (scratch / "sparse.onnx").write_bytes(b"half")
    run(recipe)
    assert not scratch.exists()


def test_two_runs_in_one_folder_are_refused(tmp_path):
    recipe = recipe_in(tmp_path)
    (tmp_path / "work").mkdir()
    with FileLock(tmp_path / "work" / ".lock"), pytest.raises(UsageError, match="another run is at work"):
        run(recipe)
    run(recipe)


def test_a_folder_with_something_else_is_refused(tmp_path):
    recipe = recipe_in(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match="something else"):
        run(recipe)
    (tmp_path / "work" / "diary.txt").rename(tmp_path / "work" / STATE)
    with pytest.raises(UsageError, match="cannot read"):
        run(recipe)


def test_a_full_disk_stops_a_run_cleanly_and_it_goes_on_later(tmp_path, monkeypatch):
    recipe, left = recipe_in(tmp_path), iter(range(4))
    sync = os.fsync

    def full(descriptor):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("onnxprune.ir.output.os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            run(recipe)
    assert not list((tmp_path / "work").rglob(".onnxprune-*"))
    run(recipe)
    assert read_state(tmp_path / "work")["result"]


def test_a_model_that_cannot_be_read(tmp_path):
    recipe = recipe_in(tmp_path)
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError):
        run(recipe)
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(ModelError):
        run(recipe)


def test_data_that_cannot_be_read_stops_a_run_and_nothing_that_was_done_is_lost(tmp_path):
    recipe, told = recipe_in(tmp_path), Told()
    run(recipe)
    good = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"train\.npz"):
        run(changed(recipe, ana={"samples": 8}))
    (tmp_path / "train.npz").write_bytes(good)
    run(recipe, told)
    assert told.steps("start") == []


def scripted(monkeypatch, *scores):
    """Let a run find these scores, the original's first."""
    left = iter(scores)
    monkeypatch.setattr(RecipeData, "score", lambda *_: next(left))
    monkeypatch.setattr(RecipeData, "noise", lambda *_: 0.0)


def test_an_iteration_below_the_floor_is_dropped(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.89, 0.5, 0.89, 0.9)
    facts = run(recipe_in(tmp_path, "stop.max_drop=0.02"))
    assert facts["best_iteration"] == 1
    assert facts["floor"] == pytest.approx(0.88)
    assert facts["reason"] == "iteration 2 fell below the floor of 0.88"
    assert facts["sparse"] == "iteration-1/sparse.onnx"
    assert [i["good"] for i in facts["iterations"]] == [True, False]


def test_half_a_step_is_tried_after_a_failure(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.89, 0.5, 0.885, 0.885, 0.9)
    facts = run(recipe_in(tmp_path, "stop.floor=0.88", "stop.retries=1"))
    first, dropped, retried = facts["iterations"]
    assert facts["best_iteration"] == 3
    assert retried["asked"] == pytest.approx((first["macs_reduction"] + dropped["asked"]) / 2)


def test_an_iteration_that_others_follow_may_be_worse_than_a_result(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.8, 0.89, 0.89, 0.9)
    facts = run(recipe_in(tmp_path, "stop.max_drop=0.02", "stop.early_drop=0.2"))
    assert facts["best_iteration"] == 2
    assert [i["good"] for i in facts["iterations"]] == [False, True]
    assert facts["reason"] == "the target is reached"


def test_an_iteration_without_a_result_returns_to_the_last_good_one(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.89, 0.8, 0.85, 0.89, 0.89, 0.9)
    listed = ("budget.reduce_macs=0.6", "schedule.reductions=[0.2,0.4,0.6]")
    facts = run(recipe_in(tmp_path, "stop.max_drop=0.02", "stop.early_drop=0.2", "stop.retries=1", *listed))
    first, _, dropped, retried = facts["iterations"]
    assert dropped["good"] is False
    assert retried["asked"] == pytest.approx((first["macs_reduction"] + 0.6) / 2)
    assert facts["best_iteration"] == 4


def test_an_iteration_below_even_the_lower_floor_is_dropped(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.6, 0.6, 0.9)
    with pytest.raises(MissedError, match="iteration 1 fell below the floor"):
        run(recipe_in(tmp_path, "stop.max_drop=0.02", "stop.early_drop=0.2"))


def test_sensitivity_may_be_measured_once_for_all_iterations(tmp_path):
    run(recipe_in(tmp_path, "ana.repeat=false"))
    steps = read_state(tmp_path / "work")["steps"]
    assert "2-ana" not in steps
    assert steps["2-prune"]["inputs"]["analysis"] == steps["1-prune"]["inputs"]["analysis"]


def test_the_limit_of_a_metric_where_smaller_is_better_is_a_ceiling(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.0, 0.1, 0.3, 0.1, 0.0)
    facts = run(recipe_in(tmp_path, "metric=kl", "stop.max_drop=0.2"))
    assert (facts["best_iteration"], facts["floor"]) == (1, pytest.approx(0.2))


def test_without_a_good_iteration_the_best_is_written_and_the_run_fails(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.1, 0.1, 0.9)
    with pytest.raises(MissedError, match=r"top1 0\.1, asked for 0\.88; iteration 1 fell") as missed:
        run(recipe_in(tmp_path, "stop.max_drop=0.02"))
    assert missed.value.exit_code == 1
    assert load(tmp_path / "work" / "dense.onnx").nodes
    assert read_state(tmp_path / "work")["result"]["missed"]
    page = render(collect(tmp_path / "work"), "md")
    assert "though below the floor" in page
    assert "fell below the floor of 0.88" in page


def test_a_floor_that_is_missed_by_less_than_the_noise_holds(tmp_path, monkeypatch):
    """One of a thousand digits is no reason to throw away an iteration."""
    scripted(monkeypatch, 0.985, 0.979, 0.979, 0.985)
    monkeypatch.setattr(RecipeData, "noise", lambda *_: 0.002)
    facts = run(recipe_in(tmp_path, "stop.floor=0.98", "schedule.iterations=1"))
    assert (facts["best_iteration"], facts["missed"]) == (1, False)
    assert facts["reason"] == "the target is reached, within noise of the floor of 0.98 (± 0.002)"
    monkeypatch.setattr(RecipeData, "noise", lambda *_: 0.0005)
    scripted_again = iter((0.979, 0.979, 0.985))
    monkeypatch.setattr(RecipeData, "score", lambda *_: next(scripted_again))
    with pytest.raises(MissedError, match=r"by more than its noise of 0\.0005"):
        run(recipe_in(tmp_path, "stop.floor=0.98", "schedule.iterations=1", "seed=1"))


def test_noise_is_that_of_differences_sample_by_sample(tmp_path):
    recipe = recipe_in(tmp_path)
    original = load(recipe.model)
    other = load(recipe.model)
    other.set_array("w3", other.array("w3")[::-1].copy())
    found = RecipeData(recipe, original, 1)
    answers = [Session(m.proto).run({"image": found_images(tmp_path)})["logits"] for m in (original, other)]
    labels = np.load(tmp_path / "val.npz")["labels"]
    ours, theirs = ((a.argmax(1) == labels).astype(float) for a in answers)
    wanted = np.std(theirs - ours, ddof=1) / np.sqrt(len(labels))
    assert found.noise(original) == 0
    assert found.noise(other) == pytest.approx(wanted)
    assert 0 < wanted < 0.2


def found_images(folder):
    return np.load(folder / "val.npz")["image"]


def test_the_page_names_the_error_that_stopped_a_run(tmp_path, monkeypatch):
    def failing(*_):
        raise DataError("the disk is on fire")

    recipe = recipe_in(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Stages, "bench", failing)
        with pytest.raises(DataError):
            run(recipe)
    for form in ("md", "html"):
        assert "the disk is on fire" in render(collect(tmp_path / "work"), form)
    run(recipe)
    assert "on fire" not in render(collect(tmp_path / "work"), "html")


def test_a_budget_out_of_reach_ends_with_the_last_iteration(tmp_path):
    recipe = recipe_in(tmp_path, "schedule.reductions=[0.3, 0.99]", "budget.reduce_macs=0.99")
    facts = run(recipe)
    assert facts["best_iteration"] == 1
    assert "out of reach" in facts["reason"]


def test_labels_are_not_needed(tmp_path):
    recipe = recipe_in(tmp_path, "metric=agreement", "ana.metric=kl")
    facts = run(recipe)
    assert 0 <= facts["iterations"][-1]["score"] <= 1


def test_training_is_part_of_the_loop_and_keeps_the_chosen_epoch(tmp_path):
    recipe = recipe_in(
        tmp_path, "finetune.epochs=1", "finetune.last_epochs=2", "finetune.loss=distill", "metric=kl"
    )
    run(recipe)
    steps = read_state(tmp_path / "work")["steps"]
    assert len(steps["1-finetune"]["facts"]["losses"]) == 1
    assert len(steps["2-finetune"]["facts"]["losses"]) == 2
    assert steps["2-finetune"]["facts"]["metric"] == "kl"
    told = Told()
    run(changed(recipe, finetune={"keep": "last"}), told)
    assert 'finetune.keep was "best", is "last"' in told.events[3]["because"]
    assert {"1-ana", "1-prune"} <= set(told.steps("kept"))


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    options = ("finetune.epochs=3", "finetune.checkpoint_every=2", "schedule.iterations=1")
    run(recipe_in(first, *options))
    recipe, seen = recipe_in(second, *options), []

    def stop(progress, report) -> None:
        if report.step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "_show", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    assert len(list((second / "work" / "iteration-1").glob("*.checkpoint"))) == 1
    monkeypatch.setattr(finetune, "_show", lambda progress, report: seen.append(report.step))
    run(recipe)
    assert seen == [5, 6]
    tuned = [folder / "work" / "iteration-1" / "tuned.onnx" for folder in (first, second)]
    assert tuned[0].read_bytes() == tuned[1].read_bytes()
    assert not list((second / "work" / "iteration-1").glob("*.checkpoint"))


def test_pruning_at_once_begins_with_the_original_and_ends_at_the_same_reduction(tmp_path):
    recipe, told = recipe_in(tmp_path), Told()
    plain = run(recipe)
    compared = changed(recipe, compare={"one_shot": True})
    assert run(compared, told)["iterations"] == plain["iterations"]
    assert told.steps("done") == ["one-shot-prune", "one-shot-score", "bench"]
    steps = read_state(tmp_path / "work")["steps"]
    assert steps["one-shot-prune"]["inputs"]["model"] == steps["1-prune"]["inputs"]["model"]
    wanted = steps["2-prune"]["inputs"]["prune"]["reduce_macs"]
    assert steps["one-shot-prune"]["inputs"]["prune"]["reduce_macs"] == wanted
    assert "one-shot" in steps["bench"]["facts"]["models"]
    assert run(compared)["unchanged"]


def test_pruning_at_once_trains_as_long_as_all_iterations(tmp_path):
    recipe = recipe_in(tmp_path, "finetune.epochs=1", "finetune.last_epochs=2", "compare.one_shot=true")
    run(changed(recipe, finetune={"early_schedule": "constant"}))
    steps = read_state(tmp_path / "work")["steps"]
    trained = {name: steps[f"{name}-finetune"] for name in ("1", "2", "one-shot")}
    once = trained.pop("one-shot")
    assert once["facts"]["steps"] == sum(t["facts"]["steps"] for t in trained.values())
    schedules = [t["inputs"]["finetune"]["schedule"] for t in (*trained.values(), once)]
    assert schedules == ["constant", "cosine", "cosine"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("budget.reduce_size=0.2", "prune.strategy=global"),
        ("budget.reduce_params=0.4", 'prune.keep_at_least={"c*" = 3}'),
        ("prune.criterion=activation", "ana.samples=16"),
        ("prune.strategy=search", "prune.evaluations=4", "ana.enabled=false", "ana.samples=16"),
        ("ana.mode=adaptive", "ana.precision=0.5"),
        pytest.param(("ana.method=fast", "ana.samples=32"), marks=pytest.mark.training),
    ],
)
def test_a_recipe_has_every_option_of_prune_and_ana(tmp_path, overrides):
    text = RECIPE.replace("reduce_macs = 0.5\n", "") if "budget" in overrides[0] else RECIPE
    recipe = read_recipe(write_recipe(tmp_path, text), [*overrides, "schedule.iterations=1"])
    assert run(recipe)["best_iteration"] == 1
    assert run(recipe)["unchanged"]


def test_criteria_that_look_at_data_are_redone_with_other_data(tmp_path):
    recipe, told = recipe_in(tmp_path, "prune.criterion=activation", "ana.enabled=false"), Told()
    run(recipe)
    run(changed(recipe, data={"calibration": str(tmp_path / "val.npz")}), told)
    assert told.steps("start")[0] == "1-prune"


def test_recovery_comes_before_the_score(tmp_path):
    run(recipe_in(tmp_path, "recover.enabled=true", "recover.samples=32", "schedule.iterations=1"))
    steps = read_state(tmp_path / "work")["steps"]
    assert list(steps) == ["baseline", "1-ana", "1-prune", "1-recover", "1-score", "transform", "bench"]
    assert "iteration-1/recovered.onnx" in content(tmp_path / "work")


@pytest.mark.parametrize(("scores", "kept"), [((0.8, 0.7), "sparse"), ((0.7, 0.8), "recovered")])
def test_the_best_stage_of_an_iteration_is_its_result(tmp_path, monkeypatch, scores, kept):
    """Also where a repair does harm."""
    scripted(monkeypatch, 0.9, *scores, 0.8, 0.9)
    facts = run(recipe_in(tmp_path, "recover.enabled=true", "recover.samples=32", "schedule.iterations=1"))
    assert facts["sparse"] == f"iteration-1/{kept}.onnx"
    assert facts["iterations"][0]["score"] == 0.8
    judged = read_state(tmp_path / "work")["steps"]["1-score"]["facts"]
    assert judged["stages"] == {"sparse": scores[0], "recovered": scores[1]}


def test_a_held_back_set_without_a_say_chooses_no_stage(tmp_path, monkeypatch):
    scripted(monkeypatch, 0.9, 0.7, 0.7, 0.9)
    recover = ("recover.enabled=true", "recover.samples=32", "schedule.iterations=1")
    facts = run(recipe_in(tmp_path, *recover, "finetune.keep=last"))
    assert facts["sparse"] == "iteration-1/recovered.onnx"
    assert facts["iterations"][0]["score"] == 0.7


def test_a_training_that_does_harm_is_left_out_of_the_result(tmp_path):
    """A step size of a hundred: the recovered model before it is the result."""
    stages = ("recover.enabled=true", "recover.samples=64", "finetune.epochs=1", "finetune.lr=100")
    facts = run(recipe_in(tmp_path, *stages, "schedule.iterations=1", "finetune.clip_norm=inf"))
    judged = read_state(tmp_path / "work")["steps"]["1-score"]["facts"]
    assert facts["iterations"][0]["score"] == max(judged["stages"].values())
    assert set(judged["stages"]) == {"sparse", "recovered", "tuned"}


def test_the_state_is_readable_json(tmp_path):
    run(recipe_in(tmp_path))
    state = json.loads((tmp_path / "work" / STATE).read_text())
    assert state["recipe"]["budget"]["reduce_macs"] == 0.5
    assert all(step["duration_s"] >= 0 for step in state["steps"].values())


def test_overrides_reach_the_run(tmp_path):
    path = write_recipe(tmp_path)
    run(read_recipe(path, ["data.limit=8", "schedule.iterations=1"]))
    assert len(read_state(tmp_path / "work")["result"]["iterations"]) == 1


FACTORIZE = ("factorize.enabled=true", "factorize.reduce_macs=0.2", "factorize.form=['svd']")


def test_low_ranks_come_first_and_count_in_the_budget(tmp_path):
    """The reductions of all iterations count from the original; chains lose channels like other layers."""
    recipe, told = recipe_in(tmp_path, *FACTORIZE, "recover.enabled=true"), Told()
    facts, folder = run(recipe, told), tmp_path / "work"
    state = read_state(folder)
    assert told.steps("done")[:2] == ["baseline", "factorize"]
    split = state["steps"]["factorize"]["facts"]
    assert split["macs_reduction"] >= 0.2
    macs = [
        cost_of(find_channels(load(path))).figures()["macs"]
        for path in (tmp_path / "net.onnx", folder / "dense.onnx")
    ]
    assert facts["reason"] == "the target is reached"
    assert 1 - macs[1] / macs[0] == pytest.approx(0.5, abs=0.1)
    pruned = [s["facts"] for n, s in state["steps"].items() if n.endswith("-prune")]
    assert all(found["macs_before"] == macs[0] for found in pruned)
    assert state["result"]["iterations"][-1]["macs_reduction"] == pytest.approx(
        1 - macs[1] / macs[0], abs=1e-6
    )
    assert pruned[-1]["groups"]
    assert len(load(folder / "dense.onnx").nodes) == len(load(tmp_path / "net.onnx").nodes) + len(
        split["layers"]
    )
    assert run(recipe)["steps_done"] == 0
    render(collect(folder))


def test_low_ranks_that_meet_the_budget_alone_are_refused(tmp_path):
    with pytest.raises(PlanError, match="lower ranks alone remove"):
        run(recipe_in(tmp_path, *FACTORIZE, "budget.reduce_macs=0.1"))


def test_a_recipe_of_low_ranks_says_how_much(tmp_path):
    with pytest.raises(UsageError, match="give one of reduce_macs, reduce_params, max_drop, rank"):
        recipe_in(tmp_path, "factorize.enabled=true")


def test_low_ranks_go_with_a_budget_that_counts_from_the_original(tmp_path):
    path = write_recipe(tmp_path)
    path.write_text(path.read_text().replace("reduce_macs", "reduce_latency"))
    with pytest.raises(UsageError, match="the budget is of latency"):
        read_recipe(path, FACTORIZE)


SPARSIFY = ("sparsify.enabled=true", "sparsify.samples=32", "prune.round_to=4")


def test_zeros_within_weights_come_last_and_are_trained(tmp_path):
    recipe = recipe_in(tmp_path, *SPARSIFY, "sparsify.epochs=1")
    state, folder = run(recipe), tmp_path / "work"
    assert state["pattern"] == "2:4"
    assert state["sparse"].startswith("pattern/")
    steps = list(read_state(folder)["steps"])
    assert steps[-5:] == ["pattern-sparsify", "pattern-finetune", "pattern-score", "transform", "bench"]
    assert check_pattern(load(folder / "dense.onnx")).valid
    assert run(recipe)["steps_done"] == 0


def test_a_pattern_that_no_weight_can_follow_is_left_out(tmp_path):
    state = run(recipe_in(tmp_path, *SPARSIFY, "sparsify.pattern=3:7"))
    assert state["pattern"] is None
    assert "no weight can follow the pattern 3:7" in state["reason"]


def test_a_pattern_that_costs_more_than_the_floor_is_left_out(tmp_path, monkeypatch):
    recipe = recipe_in(tmp_path, *SPARSIFY, "stop.max_drop=0.3")
    monkeypatch.setattr(Stages, "noise", lambda *_: 0.0)
    score = Stages.score
    monkeypatch.setattr(
        Stages, "score", lambda s, at, *more: (score(s, at, *more)[0], 0.0 if at.name == "pattern" else 1.0)
    )
    state = run(recipe)
    assert state["pattern"] is None
    assert state["sparse"].startswith("iteration-")
    assert "without the pattern 2:4, which fell to 0" in state["reason"]


@pytest.mark.parametrize("options", [(), FACTORIZE], ids=["plain", "split"])
def test_a_missing_fact_of_any_step_is_told_or_made_again(tmp_path, options):
    recipe = recipe_in(tmp_path, "stop.max_drop=0.001", *options)  # a floor that is missed asks for the noise
    with suppress(MissedError):
        run(recipe, Told())
    place = tmp_path / "work" / STATE
    text, refused = place.read_text(), set()
    steps = json.loads(text)["steps"]
    assert any(name.endswith("-noise") for name in steps)
    for step, key in [(s, k) for s, entry in steps.items() for k in entry["facts"]]:
        damaged = json.loads(text)
        del damaged["steps"][step]["facts"][key]
        place.write_text(json.dumps(damaged))
        with suppress(MissedError):
            try:
                run(recipe, Told())
            except (UsageError, PlanError) as error:
                clear = "is damaged" in error.message or "are not known" in error.message
                refused.add((step.rpartition("-")[2], key, clear))
    assert {("score", "model", True), ("noise", "standard_error", True)} <= refused
    assert all(clear for *_, clear in refused)
