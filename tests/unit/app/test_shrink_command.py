"""The command `shrink`: its choices, its resumption after a kill, and its results."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import networks_on_disk as disk
import numpy as np
import pytest
from recipes import Told, network
from training_networks import stripes

from onnxprune.app.runner import read_state
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.runner.stages import Stages
from onnxprune.app.shrink import (
    ShrinkOptions,
    delivery,
    job,
    job_state,
    recipe_choice,
    shrink,
    shrink_forecast,
)
from onnxprune.app.shrink.plan_comparison import PlanComparison
from onnxprune.app.shrink.shrink_forecast import Pace
from onnxprune.errors import MissedError, OutOfReachError, TrainingError, UsageError
from onnxprune.evaluate.data import open_data
from onnxprune.ir import Model, load
from onnxprune.runtime import Session, execution
from onnxprune.support import time_limit

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model, samples with labels and without; nothing is trained."""
    monkeypatch.setattr(job, "epoch_seconds", lambda *_: 1e9)
    images, labels = stripes(128, 1)
    np.savez(tmp_path / "labelled.npz", image=images, labels=labels)
    np.savez(tmp_path / "bare.npz", image=images)
    disk.save(network(), tmp_path / "model.onnx")
    return tmp_path


def wanted(place, data: str = "labelled", **options) -> ShrinkOptions:
    options.setdefault("reduce_macs", 0.4)
    files = {"model": str(place / "model.onnx"), "output": str(place / "small.onnx")}
    return ShrinkOptions(**files, data=str(place / f"{data}.npz"), threads=1, **options)


def test_labels_are_learnt_from_where_there_are_some(place):
    both = "0.5*cross-entropy + 0.5*distill"
    for data, metric, loss in (("labelled", "top1", both), ("bare", "agreement", "distill")):
        asked = wanted(place, data)
        outlook = recipe_choice.Outlook.on(load(asked.model), asked.data)
        recipe = recipe_choice.recipe_for(asked, outlook, 3, True)
        assert (recipe.metric, recipe.finetune.loss, recipe.finetune.epochs) == (metric, loss, 3)
        assert (recipe.prune.criterion, recipe.recover.enabled) == ("obs", True)


def test_validation_samples_are_not_trained_on(place):
    asked = wanted(place)
    recipe = recipe_choice.recipe_for(
        asked, recipe_choice.Outlook.on(load(asked.model), asked.data), 0, False
    )
    data = RecipeData(recipe, load(asked.model), 1)
    whole = np.load(asked.data)["image"]
    parts = [
        {b.inputs["image"][k].tobytes() for b in data.dataset(name).batches(16) for k in range(b.size)}
        for name in ("train", "val")
    ]
    assert (len(parts[0]), len(parts[1])) == (102, 26)
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {image.tobytes() for image in whole}
    assert data.inputs("train") != data.inputs("val")


def test_the_result_is_dense_judged_and_announced(place):
    said = []
    facts = shrink(wanted(place), tell=said.append)
    assert "−40% MACs" in said[0]
    assert "first a result without training" in said[1]
    assert "sensitivities, about" in said[2]
    original, pruned = facts["rows"]
    assert pruned["macs"] <= 0.61 * original["macs"]
    assert pruned["size_bytes"] == (place / "small.onnx").stat().st_size
    assert {"score", "latency_ms", "params"} <= set(pruned)
    assert facts["batch_size"] == 1
    assert any("nothing was trained" in w for w in facts["warnings"])


def test_a_killed_job_goes_on(place, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Stages, "transform", killed)
        with pytest.raises(KeyboardInterrupt):
            shrink(wanted(place))
    told = Told()
    shrink(wanted(place), told)
    assert told.steps("kept")[:4] == ["baseline", "1-prune", "1-recover", "1-score"]
    assert "1-ana" in told.steps("start")
    again = Told()
    shrink(wanted(place), again)
    assert again.steps("start") == []


def test_training_takes_the_time_that_is_left(place, monkeypatch):
    monkeypatch.setattr(job, "epoch_seconds", lambda *_: 25.0)
    facts = shrink(wanted(place, minutes=2.0))
    assert 1 <= facts["epochs"] <= 0.85 * 120 / 25
    assert "1-finetune" in read_state(place / "small.onnx.work")["steps"]
    assert not facts["warnings"]


def test_the_minutes_hold_for_the_whole_job(place, monkeypatch):
    """The forecasts are wrong; the clock ends each optional step."""
    monkeypatch.setattr(job, "epoch_seconds", lambda *_: 0.0)
    monkeypatch.setattr(job, "MOST_EPOCHS", 100_000)
    monkeypatch.setattr(recipe_choice, "_STEPS", {"optimizer": "sgd", "lr": 1e-9, "ema": 0.5})
    shortest = shrink(wanted(place, minutes=0.001))
    steps = read_state(place / "small.onnx.work")["steps"]
    assert list(steps) == ["baseline", "1-prune", "1-score", "transform", "bench"]
    for text in ("there was no time left", "a cheaper one", "more than the 0.001 minutes"):
        assert any(text in w for w in shortest["warnings"])

    seconds = 3 * shortest["seconds"] + 3
    facts = shrink(wanted(place, minutes=seconds / 60))
    assert facts["seconds"] < 1.25 * seconds
    steps = read_state(place / "small.onnx.work")["steps"]
    assert 1 <= steps["1-finetune"]["facts"]["steps"] < 100_000


def test_sensitivities_that_take_too_long_are_given_up(place, monkeypatch):
    monkeypatch.setattr(job, "_LATE", 0.0)
    said = []
    facts = shrink(wanted(place), tell=said.append)
    assert "sensitivities, about" in said[2]
    assert "1-ana" not in read_state(place / "small.onnx.work")["steps"]
    assert any("too long" in w for w in facts["warnings"])
    again = Told()
    shrink(wanted(place), again)
    assert again.steps("start") == []


def test_part_of_an_epoch_is_trained_where_a_whole_one_takes_too_long(place, monkeypatch):
    monkeypatch.setattr(job, "epoch_seconds", lambda *_: 200.0)
    facts = shrink(wanted(place, minutes=2.0))
    assert facts["epochs"] == 1
    steps = read_state(place / "small.onnx.work")["steps"]["1-finetune"]["facts"]["steps"]
    assert 1 <= steps < 4  # of 102 samples


@pytest.mark.parametrize("worse", [True, False])
def test_a_plan_by_sensitivities_is_kept_unless_it_is_worse(place, monkeypatch, worse):
    scores = iter((0.3, 0.2) if worse else (0.2, 0.3))  # of the trial, and of the first plan: less is better
    monkeypatch.setattr(PlanComparison, "_score", lambda *_: next(scores))
    said = []
    shrink(wanted(place), tell=said.append)
    end = "dropped: kl 0.3, before it 0.2" if worse else "kept: kl 0.2, before it 0.3"
    assert f"the plan by sensitivities is {end}" in said
    steps = read_state(place / "small.onnx.work")["steps"]
    assert ("1-ana" in steps) != worse


def test_a_model_that_cannot_be_trained_is_shrunk_all_the_same(place, monkeypatch):
    def refused(*_):
        raise TrainingError("node 'x' cannot be trained through", "leave it")

    monkeypatch.setattr(job, "epoch_seconds", refused)
    facts = shrink(wanted(place))
    assert facts["warnings"] == ["nothing was trained: node 'x' cannot be trained through; leave it"]
    assert (place / "small.onnx").exists()


def test_a_limit_is_approached_step_by_step(place):
    asked = wanted(place, reduce_macs=None, max_drop=0.0)
    outlook = recipe_choice.Outlook.on(load(asked.model), asked.data)
    recipe = recipe_choice.recipe_for(asked, outlook, 0, False)
    assert recipe.schedule.planned(recipe.budget.target) == recipe_choice.RISING
    with pytest.raises(UsageError):
        recipe_choice.recipe_for(wanted(place, reduce_macs=None), outlook, 0, False)
    words = ("shrink", place / "model.onnx", "--data", place / "labelled.npz", "-o", place / "x.onnx")
    assert disk.run(*words).code == 2


def test_a_result_over_the_allowed_drop_is_written_and_fails_with_both_figures(place, monkeypatch):
    monkeypatch.setattr(RecipeData, "score", lambda self, model, *_: 0.9 if model is self.original else 0.1)
    monkeypatch.setattr(RecipeData, "noise", lambda *_: 0.0)
    monkeypatch.setattr(recipe_choice, "RISING", (0.4,))
    words = ("--data", place / "labelled.npz", "--max-drop", 0.1, "--threads", 1, "-o", place / "small.onnx")
    said = disk.run("shrink", place / "model.onnx", *words)
    assert said.code == 1
    assert "top1 0.1, asked for 0.8" in said.err
    assert (place / "small.onnx").exists()
    assert MissedError.exit_code == 1


def test_a_latency_that_is_missed_is_warned_of(place):
    asked = job_state.ShrinkJob(
        wanted(place, reduce_macs=None, reduce_latency=0.4), None, None, {"epochs": 1}, print
    )  # type: ignore[arg-type]
    times = {"original": {"latency_ms": 10.0}, "dense": {"latency_ms": 6.6}}
    said = delivery._warnings(asked, {"bench": {"models": times}})
    assert said == ["the latency fell by 34.0%, not by 40.0%: ask for more"]
    times["dense"]["latency_ms"] = 6.1
    assert not delivery._warnings(asked, {"bench": {"models": times}})


def test_four_models_side_by_side(place):
    words = ("--data", place / "labelled.npz", "--reduce-macs", 0.4, "--quantize", "int8", "--threads", 1)
    facts = disk.run("shrink", place / "model.onnx", *words, "-o", place / "small.onnx", "--json").facts
    assert [r["model"] for r in facts["rows"]] == ["original", "original, int8", "pruned", "pruned, int8"]
    assert all({"score", "latency_ms", "size_bytes"} <= set(row) for row in facts["rows"])
    quantised = load(facts["int8"])
    assert "QuantizeLinear" in {n.op_type for n in quantised.nodes}
    assert json.loads((place / "small.onnx.work" / "shrink.json").read_text())["epochs"] == 0


def test_a_provider_that_is_not_there_is_refused_before_any_work(place):
    words = ("--data", place / "labelled.npz", "--reduce-macs", 0.4, "-o", place / "small.onnx")
    before = disk.tree(place)
    said = disk.run("shrink", place / "model.onnx", *words, "--provider", "warp").refused()
    assert "no execution provider 'warp'" in said
    assert disk.tree(place) == before


def test_another_provider_times_again(place):
    others = [name for name in execution.available() if name != execution.CPU]
    if not others:
        pytest.skip("this onnxruntime has the CPU provider alone")
    shrink(wanted(place))
    told = Told()
    with execution.executing(execution.ExecutionConfig(others[0])):
        shrink(wanted(place), told)
    assert {"transform", "bench"} <= set(told.steps("start"))
    bench = read_state(place / "small.onnx.work")["steps"]["bench"]
    assert bench["inputs"]["provider"]["provider"] == others[0]
    assert bench["facts"]["backend"] == f"onnxruntime:{others[0]}"
    assert {"1-prune", "1-recover"} <= set(told.steps("kept"))


def test_options_of_a_provider_are_part_of_the_job(place):
    """A job that was stopped on one device is no job of another."""
    config = execution.ExecutionConfig(execution.CPU, {"arena_extend_strategy": "kSameAsRequested"})
    here = job_state.job_identity(wanted(place))
    with execution.executing(config):
        there = job_state.job_identity(wanted(place))
    assert there == here | {"provider": config.facts()}


def test_without_data_a_warning_calls_the_result_weaker(place):
    said = disk.run("shrink", place / "model.onnx", "--reduce-macs", 0.4, "-o", place / "small.onnx")
    assert said.code == 0
    assert "which is weaker" in said.out
    assert "no BatchNormalization is left" in said.out
    assert load(place / "small.onnx").nodes
    assert not (place / "small.onnx.work").exists()


def test_a_slow_machine_plans_on_fewer_samples_and_times_fewer_rounds():
    seconds = 120.0
    assert (Pace(1e-5).plan_samples(seconds), Pace(2e-3, load=1.5).plan_samples(seconds)) == (512, 256)
    assert (Pace(1e-2).plan_samples(seconds), Pace(1.0).plan_samples(seconds)) == (80, 32)
    assert Pace(1e-3).plan_samples(seconds) == 512 > Pace(1e-3, load=2.0).plan_samples(seconds) > 256
    assert Pace(1e-5).bench_runs(seconds) == 30
    assert Pace(1e-5, load=4.0).bench_runs(seconds) == 10
    assert (Pace(1e-3).judged(seconds), Pace(1.0).judged(seconds)) == (4000, 128)


class Machine:
    """The clocks of a machine on which this process gets a processor a fourth of the time."""

    def __init__(self):
        self.wall = self.own = 0.0

    def perf_counter(self):
        return self.wall

    def process_time(self):
        return self.own

    def run(self, _):
        self.wall, self.own = self.wall + 4.0, self.own + 1.0


@pytest.mark.parametrize("on_device", [False, True])
def test_waiting_for_a_processor_counts_once(place, monkeypatch, on_device):
    """The time of a run under load is its wall time, and not that multiplied by the load again."""
    machine, model = Machine(), network()
    config = execution.ExecutionConfig("Device") if on_device else execution.ExecutionConfig()
    session = SimpleNamespace(fixed_batch=None, run=machine.run, execution=config)
    data = open_data(place / "bare.npz", Session(model).inputs, ())
    monkeypatch.setattr(shrink_forecast, "time", machine)
    monkeypatch.setattr(shrink_forecast, "Session", lambda *_, **__: session)
    pace = Pace.measured(Model(model), data, 1)
    assert pace.loaded_s == pytest.approx(4.0 / 32)
    assert pace.load == pytest.approx(1.0 if on_device else 4.0)
    assert pace.repair_s() == pytest.approx(30 * 4.0 / 32)
    assert machine.wall == pytest.approx(2 * 4.0)  # of a slow model two runs are timed


def test_one_wait_for_a_processor_is_no_load(place, monkeypatch):
    """Runs of a small model are over before the load of the machine shows."""
    machine, model = Machine(), network()

    def run(feeds):
        machine.wall, machine.own = machine.wall + 5e-5, machine.own + 5e-5
        machine.wall += 0.03 if 2e-4 < machine.own < 2.5e-4 else 0.0

    session = SimpleNamespace(fixed_batch=None, run=run, execution=execution.ExecutionConfig())
    data = open_data(place / "bare.npz", Session(model).inputs, ())
    monkeypatch.setattr(shrink_forecast, "time", machine)
    monkeypatch.setattr(shrink_forecast, "Session", lambda *_, **__: session)
    assert Pace.measured(Model(model), data, 1).load < 1.2


@pytest.mark.parametrize(("run_s", "way"), [(1e-3, "samples"), (0.08, "repaired"), (0.5, "weights")])
def test_a_slow_model_is_planned_in_a_cheaper_way(place, monkeypatch, run_s, way):
    monkeypatch.setattr(Pace, "measured", classmethod(lambda cls, *_: cls(run_s)))
    said = []
    facts = shrink(wanted(place, minutes=2.0), tell=said.append)
    steps = read_state(place / "small.onnx.work")["steps"]
    assert ("1-recover" in steps) == (way != "weights")
    assert any("weights rank the channels" in line for line in said) == (way != "samples")
    assert any("a cheaper one" in w for w in facts["warnings"]) == (way != "samples")
    assert facts["rows"][1]["macs"] <= 0.61 * facts["rows"][0]["macs"]


class Clock:
    """A clock that planning moves on."""

    def __init__(self):
        self.now = time.monotonic()

    def monotonic(self):
        return self.now

    perf_counter, process_time = time.perf_counter, time.process_time


@pytest.mark.parametrize(
    ("plan_s", "repair_s", "way", "most"),
    [
        (50, 20, "samples", 70),
        (500, 20, "repaired", 102),
        (500, 90, "weights", 104),
        (90, 500, "weights", 110),
    ],
)
def test_a_plan_that_outlasts_its_limit_is_given_up(place, monkeypatch, plan_s, repair_s, way, most):
    """Of 120 seconds, plan and repair report every second; the forecasts say that both are quick."""
    clock, real = Clock(), {name: getattr(Stages, name) for name in ("prune", "recover")}
    for module in (time_limit, job_state):
        monkeypatch.setattr(module, "time", clock)

    done = set()

    def work(step, seconds):
        for _ in range(0 if step in done else seconds):
            clock.now += 1
            time_limit.check_time()
        done.add(step)

    def prune(self, *given):
        criterion = self.recipe.prune.criterion
        work(criterion, plan_s if criterion == "obs" else 1)
        return real["prune"](self, *given)

    def recover(self, *given):
        work(f"recover {self.recipe.prune.criterion}", repair_s)
        return real["recover"](self, *given)

    monkeypatch.setattr(Stages, "prune", prune)
    monkeypatch.setattr(Stages, "recover", recover)
    monkeypatch.setattr(job, "_decide_plan", lambda *_: "")
    monkeypatch.setattr(job, "_decide_training", lambda job, _: job.notes.setdefault("epochs", 0))
    monkeypatch.setattr(job, "_planned", lambda *_: {})
    said = []
    begin = clock.now
    shrink(wanted(place, minutes=2.0), tell=said.append)
    notes = json.loads((place / "small.onnx.work" / "shrink.json").read_text())
    assert notes["way"] == way
    assert clock.now - begin <= most
    assert sum("takes too long" in line for line in said) == {"samples": 0, "repaired": 1, "weights": 2}[way]
    assert (place / "small.onnx").exists()


def test_a_repaired_plan_is_not_given_up_because_judging_takes_long(place, monkeypatch):
    clock, real = Clock(), Stages.score
    for module in (time_limit, job_state):
        monkeypatch.setattr(module, "time", clock)

    def score(self, *given):
        clock.now += 100
        time_limit.check_time()
        return real(self, *given)

    monkeypatch.setattr(Stages, "score", score)
    said = []
    facts = shrink(wanted(place, minutes=2.0), tell=said.append)
    assert json.loads((place / "small.onnx.work" / "shrink.json").read_text())["way"] == "samples"
    assert not any("takes too long" in line for line in said)
    assert not any("cheaper" in text for text in facts["warnings"])


def test_a_metric_that_there_is_not_is_refused_before_any_work(place):
    with pytest.raises(UsageError, match="there is no metric"):
        shrink(wanted(place, metric="accuracy"))
    assert not wanted(place).folder.exists()


def test_the_batch_that_a_file_fixes_is_the_one_that_is_timed(place):
    model = network()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    disk.save(model, place / "model.onnx")
    assert shrink(wanted(place))["batch_size"] == 4


def test_few_samples_judge_where_each_takes_long(place):
    asked = wanted(place, val=str(place / "bare.npz"))
    few = job_state.ShrinkJob(asked, recipe_choice.Outlook.on(load(asked.model), asked.data), None, {}, print)
    few.notes = {"judged": 40, "bench_runs": 1}
    material = RecipeData(few.recipe(), load(asked.model), 1)
    assert (material.dataset("val").count(), material.dataset("train").count()) == (40, 128)
    few.notes = {"bench_runs": 1}
    assert material.inputs("val") != RecipeData(few.recipe(), load(asked.model), 1).inputs("val")


@pytest.mark.parametrize("asked", [1.4, 40, 0, -0.5])
def test_a_reduction_that_is_no_fraction_is_refused(place, asked):
    words = ("--data", place / "labelled.npz", "--reduce-macs", asked, "-o", place / "small.onnx")
    said = disk.run("shrink", place / "model.onnx", *words)
    assert said.code == 2
    assert f"a reduction of {asked:g} of MACs is no fraction" in said.err
    assert ("0.4 for 40 %" in said.err) == (asked == 40)


def test_a_budget_out_of_reach_is_refused_with_a_hint_that_shrink_understands(place):
    with pytest.raises(OutOfReachError, match="at most") as caught:
        shrink(wanted(place, reduce_macs=0.99))
    assert caught.value.hint == "ask for less, or see with `inspect` which axes are blocked"


def test_one_sample_cannot_both_train_and_judge(place):
    images, _ = stripes(1, 1)
    np.savez(place / "one.npz", image=images)
    before = disk.tree(place)
    words = ("--data", place / "one.npz", "--reduce-macs", 0.4, "-o", place / "small.onnx")
    said = disk.run("shrink", place / "model.onnx", *words).refused()
    assert "one sample in" in said
    assert "--val" in said
    assert disk.tree(place) == before


def test_help_begins_with_the_data_and_the_result():
    """In front of dozens of further options."""
    said = disk.run("shrink", "--help").out
    places = [
        said.index(f"\n  {option}") for option in ("--data", "-o", "--reduce-macs", "--quantize", "--json")
    ]
    assert places == sorted(places)
