"""The order of the work: a first result without training, then as much training as there is time for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.recipe import Recipe
from onnxprune.app.runner import read_state, run
from onnxprune.app.runner.journal import Listener, sha256
from onnxprune.app.runner.recipe_data import RecipeData, identity
from onnxprune.app.shrink.recipe_choice import Outlook, ShrinkOptions, recipe_for
from onnxprune.app.shrink.shrink_forecast import Pace, epochs_within
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.errors import MissedError, TrainingError
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import Model, load, opened, sized
from onnxprune.ir.output import write_model, write_text
from onnxprune.passes.finetune import Finetune
from onnxprune.support.path_guard import NOTES
from onnxprune.support.processors import usable_processors
from onnxprune.train.losses import asks_teacher

Facts = dict[str, Any]
_ANA_SHARE = 0.4
"""The part of the time that measuring sensitivities may take."""
_TRAIN_SHARE = 0.85
"""The part of the time that is left which training may take: judging and proving come after."""
_CLOSE = 0.02
"""A latency that misses its target by more is warned of."""


@dataclass
class _Job:
    wanted: ShrinkOptions
    outlook: Outlook
    model: Model
    notes: Facts
    listen: Listener

    @property
    def threads(self) -> int:
        return self.wanted.threads or usable_processors()

    def recipe(self, epochs: int) -> Recipe:
        recipe = recipe_for(self.wanted, self.outlook, epochs, bool(self.notes["measured"]))
        return recipe.model_copy(update={"threads": self.threads})

    def keep(self) -> None:
        self.wanted.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.wanted.folder / NOTES, json.dumps(self.notes, indent=1) + "\n")


def shrink(
    wanted: ShrinkOptions,
    listen: Listener = lambda event: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Facts:
    """Do the whole job, or the rest of an interrupted one.

    Args:
        wanted: The options.
        listen: Called with the event of every step, as by `run`.
        tell: Called with a sentence on the planned work and its duration, before it begins.

    Returns:
        Facts to report, ready for JSON.

    Raises:
        MissedError: The result is written, and is below the demanded score.
        OnnxpruneError: A step failed; the steps before stay in the work folder.
    """
    model = opened(load(wanted.model), wanted.open_io)
    outlook = Outlook.on(model, wanted.data)
    job = _Job(wanted, outlook, model, {}, listen)
    job.notes = _earlier(wanted) or _forecast(job)
    for line in _described(job):
        tell(line)
    job.keep()
    missed: MissedError | None = None
    try:
        facts = run(job.recipe(0), listen)
    except MissedError as error:
        facts, missed = error.facts, error
    if "epochs" not in job.notes:
        _decide_training(job, facts)
    if job.notes["epochs"]:
        tell(f"training: {job.notes['epochs']} epochs at most, {outlook.loss}; the best one is kept")
        try:
            facts, missed = run(job.recipe(job.notes["epochs"]), listen), None
        except MissedError as error:
            facts, missed = error.facts, error
    return _delivered(job, facts, missed)


def _earlier(wanted: ShrinkOptions) -> Facts | None:
    """Return the decisions of an earlier run of the same job."""
    try:
        notes = json.loads((wanted.folder / NOTES).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return notes if isinstance(notes, dict) and notes.get("job") == _identity(wanted) else None


def _identity(wanted: ShrinkOptions) -> Facts:
    """Return the identity of a job, ready for JSON."""
    data = {name: identity(spec) for name, spec in (("data", wanted.data), ("val", wanted.val)) if spec}
    options: Facts = {
        "reductions": wanted.reductions(),
        "max_drop": wanted.max_drop,
        "minutes": wanted.minutes,
    }
    options |= {"latency_backend": wanted.latency_backend} if wanted.latency_backend else {}
    options |= {"metric": wanted.metric, **wanted.groups, "open_io": wanted.open_io, "seed": wanted.seed}
    found: Facts = json.loads(json.dumps({"model": sha256(wanted.model), "data": data, **options}))
    return found


def _forecast(job: _Job) -> Facts:
    """Time the model, and decide whether sensitivities are measured."""
    start, wanted = time.monotonic(), job.wanted
    recipe = recipe_for(wanted, job.outlook, 0, True)
    data = RecipeData(recipe, job.model, job.threads).dataset("calibration")
    pace = Pace.measured(job.model, data, job.threads)
    read = sized(job.model, dict(wanted.input_shapes), dict(wanted.dims))
    channels = find_channels(read, allow_inexact=wanted.allow_inexact)
    samples = min(data.samples or recipe.ana.samples or 512, recipe.ana.samples or 512)
    ana = pace.ana_s(channels, len(recipe.ana.ratios), samples)
    notes: Facts = {"job": _identity(wanted), "ana_s": ana, "repair_s": pace.repair_s(samples)}
    notes |= {"measured": ana < _ANA_SHARE * 60 * wanted.minutes, "spent_s": time.monotonic() - start}
    job.notes = notes
    return notes


def _described(job: _Job) -> list[str]:
    """State the steps to come."""
    from onnxprune.app.figures import duration

    wanted, notes, outlook = job.wanted, job.notes, job.outlook
    asked = [f"−{amount:.0%} {kind}" for kind, amount in wanted.reductions().items()]
    asked += [f"at most {wanted.max_drop:g} of the metric lost"] if wanted.max_drop is not None else []
    told = f"{outlook.suited.reason}; it is learnt by {outlook.loss}"
    judged = wanted.val or "a fifth of the data, which is not trained on"
    metric = wanted.metric or outlook.metric
    ana, measured = notes["ana_s"], notes["measured"]
    first = f"sensitivity about {duration(ana)}" if measured else "sensitivity not measured for want of time"
    left = max(0.0, 60 * wanted.minutes - notes["repair_s"] - (ana if measured else 0.0))
    return [
        f"{wanted.model}: {', '.join(asked)}; {told}; judged by {metric} on {judged}",
        f"{first}, repair about {duration(notes['repair_s'])}, then training for up to {duration(left)}",
    ]


def _decide_training(job: _Job, facts: Facts) -> None:
    """Note the number of epochs that fit into the time, or the reason why there is no training."""
    steps = read_state(job.wanted.folder)["steps"].values()
    left = 60 * job.wanted.minutes - job.notes["spent_s"] - sum(step["duration_s"] for step in steps)
    try:
        job.notes["epochs"] = _epochs(job, facts, _TRAIN_SHARE * left)
    except TrainingError as error:
        job.notes |= {"epochs": 0, "untrained": f"{error.message}; {error.hint}"}
    job.keep()


def _epochs(job: _Job, facts: Facts, seconds: float) -> int:
    """Return how many epochs there is time for, of every iteration."""
    recipe, wanted = job.recipe(1), job.wanted
    if seconds <= 0:
        return 0
    data = RecipeData(recipe, job.model, job.threads).dataset("train")
    tuning = recipe.finetune
    teacher = job.model if asks_teacher(tuning.loss) is not False else None
    step = Finetune(
        data=data,
        loss=tuning.loss,
        teacher=teacher,
        optimizer=tuning.optimizer,
        lr=tuning.lr,
        batch_size=tuning.batch_size,
        threads=job.threads,
        seed=wanted.seed,
    )
    sparse = load(wanted.folder / str(facts["sparse"]))
    rounds = max(1, len(recipe.schedule.planned(recipe.budget.target)))
    return epochs_within(step, sparse, data, seconds / rounds)


def _delivered(job: _Job, facts: Facts, missed: MissedError | None) -> Facts:
    """Write the result to its place and gather the facts to report."""
    wanted = job.wanted
    dense = load(wanted.folder / str(facts["dense"]))
    shapes = dict(sized(job.model, dict(wanted.input_shapes), dict(wanted.dims)).sizes)
    fits = same_interface(job.model, dense)
    how: Facts = {"data": wanted.data, "shapes": shapes or None} if fits else {}
    size = write_model(dense, wanted.output, inputs=[wanted.model], **how)
    state = read_state(wanted.folder)["steps"]
    steps = {name: step["facts"] for name, step in state.items()}
    found = {
        "model": wanted.model,
        "output": wanted.output,
        "folder": str(wanted.folder),
        "metric": steps["transform"]["metric"],
        "rows": _rows(steps, size),
        "batch_size": steps["bench"]["batch_size"],
        "threads": steps["bench"]["threads"],
        "epochs": job.notes.get("epochs", 0),
        "reason": facts["reason"],
        "max_rel_error": steps["transform"]["max_rel_error"],
        "warnings": _warnings(job, steps),
    }
    if missed is not None:
        hint = f"the best one is written, {wanted.output}: allow a larger --max-drop, or give more --minutes"
        raise MissedError(missed.message, hint, found)
    return found


def _rows(steps: Facts, size: int) -> list[Facts]:
    """Return the figures of the original and of the result."""
    cut, times = steps["transform"], steps["bench"]["models"]
    figures = ("macs", "params")
    original = {name: steps["baseline"][name] for name in (*figures, "size_bytes")}
    original |= {"model": "original", "score": cut["score_before"], **times["original"]}
    pruned = {name: cut[name] for name in figures} | {"size_bytes": size}
    return [original, pruned | {"model": "pruned", "score": cut["score"], **times["dense"]}]


def _warnings(job: _Job, steps: Facts) -> list[str]:
    """State the requests that were not met."""
    said = []
    if not job.notes["epochs"]:
        why = job.notes.get("untrained", "there was no time left, give more --minutes")
        said.append(f"nothing was trained: {why}")
    wanted = job.wanted.reductions().get("latency")
    times = steps["bench"]["models"]
    reached = 1 - times["dense"]["latency_ms"] / times["original"]["latency_ms"]
    if wanted is not None and reached < wanted - _CLOSE:
        said.append(f"the latency fell by {reached:.1%}, not by {wanted:.1%}: ask for more, or exclude less")
    return said


def judged_data(wanted: ShrinkOptions) -> Dataset:
    """Return the data by which a job judges."""
    model = load(wanted.model)
    recipe = recipe_for(wanted, Outlook.on(model, wanted.data), 0, False)
    return RecipeData(recipe, model, wanted.threads or usable_processors()).dataset("val")


def page_of(folder: Path) -> str | None:
    """Write the page of a job; return its path, ``None`` where the package for it is not installed."""
    from importlib.util import find_spec

    from onnxprune.app.report import collect, render

    if find_spec("jinja2") is None:
        return None
    write_text(folder / "report.html", render(collect(folder)))
    return str(folder / "report.html")
