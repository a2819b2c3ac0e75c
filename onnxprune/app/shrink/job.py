"""The order of the work: a first result the cheapest way, then better plans and training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.recipe import Recipe
from onnxprune.app.runner import read_state, run
from onnxprune.app.runner.journal import Listener, sha256
from onnxprune.app.runner.recipe_data import RecipeData, identity
from onnxprune.app.runner.run_forecast import kind_of
from onnxprune.app.runner.stages import can_rotate
from onnxprune.app.runner.time_limits import TimeLimits
from onnxprune.app.shrink.plan_comparison import Outcome, PlanComparison
from onnxprune.app.shrink.recipe_choice import ANA_SAMPLES, Outlook, ShrinkOptions, recipe_for
from onnxprune.app.shrink.shrink_forecast import MOST_EPOCHS, Pace, epoch_seconds
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.errors import (
    MissedError,
    NothingToDoError,
    OutOfReachError,
    PlanError,
    TrainingError,
    UsageError,
    VerificationError,
)
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import Model, load, opened, sized
from onnxprune.ir.output import write_model, write_text
from onnxprune.passes.basis_choice import RotateChoice
from onnxprune.passes.finetune import Finetune
from onnxprune.support.path_guard import NOTES
from onnxprune.support.processors import usable_processors
from onnxprune.train.losses import asks_teacher

Facts = dict[str, Any]
_BASIS_SHARE = 0.15
"""The part of the time that is left which a second plan, of the model as it is, may take."""
_TRIAL = 1.2
"""Time of such a plan with its repair, as a multiple of that of the first one."""
_ANA_SHARE = 0.25
"""The part of the time that is left which measuring sensitivities may take."""
_LEAST_PART = 0.1
"""The least part of an epoch that is worth training; of a part as many samples are drawn as fit."""
_TRAIN_SHARE = 0.85
"""The part of the time that is left which training may take: it may become slower."""
_END_SHARE = 1.2
"""Time kept for judging, proving and timing the result, as a multiple of that of the first one."""
_EARLY = 0.2
"""The part of the time within which the first plan is made dense, proven and timed at once."""
_END_OF_PLAN = 0.35
"""Time of proving and timing a result where it was not measured, as a part of that of plan and repair."""
_INT8_SHARE = 3.0
"""The same where quantisation follows: four models are judged and timed."""
_LATE = 1.5
"""A search that takes longer than its share, multiplied by this, is given up."""
_CLOSE = 0.02
"""A latency that misses its target by more is warned of."""


@dataclass
class _Job:
    """A job under way.

    Attributes:
        options: Its options.
        outlook: Findings about the model and the data.
        model: The original.
        notes: Decisions and durations, as they stand in the work folder.
        listen: Called with the event of every step.
        tell: Called with a sentence on a decision.
        shown: Names of the steps that events of this process have told of.
        earlier_s: Seconds that killed runs of the job have taken.
        begin: Reading of the monotonic clock at the start.
    """

    options: ShrinkOptions
    outlook: Outlook
    model: Model
    notes: Facts
    listen: Listener
    tell: Callable[[str], None] = lambda line: None
    shown: set[str] = field(default_factory=set)
    earlier_s: float = 0.0
    begin: float = field(default_factory=time.monotonic)

    @property
    def threads(self) -> int:
        return self.options.threads or usable_processors()

    @property
    def spent_s(self) -> float:
        """Seconds that the job has taken so far."""
        return self.earlier_s + time.monotonic() - self.begin

    @property
    def left_s(self) -> float:
        """Seconds that are left for better plans and for training."""
        return max(0.0, 60 * self.options.minutes - self.spent_s - float(self.notes.get("end_s", 0.0)))

    def recipe(self, epochs: int = 0) -> Recipe:
        """Return the recipe of the decisions made so far: without any, the cheapest."""
        recipe = recipe_for(self.options, self.outlook, epochs, bool(self.notes.get("by_curves")))
        rotate: RotateChoice = self.options.rotate
        if rotate == "auto":
            rotate = "always" if self.notes.get("rotated") and not self.notes.get("unrotated") else "never"
        prune = recipe.prune.model_copy(update={"rotate": rotate})
        bench = recipe.bench.model_copy(update={"runs": self.notes["bench_runs"]})
        tuning = recipe.finetune.model_copy(update={"samples": self.notes.get("samples")})
        parts: Facts = {"prune": prune, "bench": bench, "finetune": tuning}
        if few := self.notes.get("plan_samples"):
            parts["ana"] = recipe.ana.model_copy(update={"samples": few})
            parts["recover"] = recipe.recover.model_copy(update={"samples": few})
        return recipe.model_copy(update={"threads": self.threads, **parts})

    def run(self, finish: bool = True) -> tuple[Facts, MissedError | None]:
        """Do the steps of the recipe that are missing; return the facts, and the error of a missed floor."""
        answers = float(self.notes.get("answers_s", 0.0))
        limits = TimeLimits(train_s=max(self.left_s / self.rounds - answers, 1.0))
        try:
            return run(
                self.recipe(self.notes.get("epochs", 0)), self._relay, limits=limits, finish=finish
            ), None
        except MissedError as error:
            return error.facts, error

    def _relay(self, event: Facts) -> None:
        """Pass an event on, unless it tells again of a step that is done; repetitions are part of the job."""
        if event["event"] != "kept" or event["step"] not in self.shown:
            again = event["event"] == "start" and event["step"] in self.shown
            self.listen({k: v for k, v in event.items() if k != "because"} if again else event)
        self.shown |= {event["step"]} if event["event"] in ("kept", "done") else set()

    @property
    def rounds(self) -> int:
        """Number of iterations, if all are good."""
        recipe = self.recipe()
        return max(1, len(recipe.schedule.planned(recipe.budget.target)))

    def took_s(self, *kinds: str) -> float:
        """Return the seconds that steps of some kinds have taken, in one iteration where they are of one."""
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for name, step in read_state(self.options.folder)["steps"].items():
            found.get(kind_of(name), []).append(float(step["duration_s"]))
        return sum(mean(times) for times in found.values() if times)

    def keep(self) -> None:
        self.notes["spent_s"] = round(self.spent_s, 1)
        self.options.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.options.folder / NOTES, json.dumps(self.notes, indent=1) + "\n")


def shrink(
    options: ShrinkOptions,
    listen: Listener = lambda event: None,
    tell: Callable[[str], None] = lambda line: None,
    *,
    int8: bool = False,
) -> Facts:
    """Do the whole job, or the rest of an interrupted one.

    The first result takes the time that it takes. Better plans are looked for, and weights trained, as far as
    the forecast and then the clock allow.

    Args:
        options: The options.
        listen: Called with the event of every step, as by `run`.
        tell: Called with a sentence on the planned work and its duration, before it begins.
        int8: True if the caller will quantise, so that time is kept for it.

    Returns:
        Facts to report, ready for JSON.

    Raises:
        MissedError: The result is written, and is below the demanded score.
        OnnxpruneError: A step failed; the steps before stay in the work folder.
    """
    try:
        return _shrunk(options, listen, tell, int8)
    except OutOfReachError as error:
        hint = "ask for less, or see with `inspect` which axes are blocked"
        if "allow_inexact" in error.hint:
            hint += "; `allow_inexact` opens axes that are normalised"
        raise OutOfReachError(error.message, hint) from None


def _shrunk(options: ShrinkOptions, listen: Listener, tell: Callable[[str], None], int8: bool) -> Facts:
    """Do the job, see `shrink`."""
    begin = time.monotonic()
    model = opened(load(options.model), options.open_io)
    job = _Job(options, Outlook.on(model, options.data), model, {}, listen, tell, begin=begin)
    job.notes = _earlier(options)
    job.earlier_s = max(job.notes.get("spent_s", 0.0), _recorded(options) if job.notes else 0.0)
    job.notes = job.notes or _forecast(job)
    for line in _described(job):
        tell(line)
    job.keep()
    if "measured" not in job.notes:
        facts = _first(job)
        if job.spent_s < _EARLY * 60 * options.minutes:
            job.run()  # an early result, and the time of the end
        tell(_decide_plan(job, facts, int8))
    if "epochs" not in job.notes:
        _decide_training(job, _planned(job))
        if job.notes["epochs"]:
            tell(f"training: {job.notes['epochs']} epochs at most, {job.outlook.loss}; the best one is kept")
    return _delivered(job, *job.run())


def _first(job: _Job) -> Facts:
    """Return the facts of the first plan; a model that refuses its rotation is planned as it is."""
    try:
        return job.run(finish=False)[0]
    except (NothingToDoError, PlanError, VerificationError) as error:
        if job.options.rotate != "auto" or not job.notes["rotated"]:
            raise
        job.tell(f"not rotated: {error.message}")
        job.notes["rotated"] = False
        return job.run(finish=False)[0]


def _planned(job: _Job) -> Facts:
    """Return the facts of the iterations by the best plans there is time for, untrained."""
    facts = job.run(finish=False)[0]
    trials = PlanComparison(
        folder=job.options.folder,
        recipe=job.recipe(),
        model=job.model,
        threads=job.threads,
        metric=job.options.metric or job.outlook.suited.curves,
        by_reduction=not job.options.reductions(),
        listen=job._relay,
    )
    for way in _WAYS:
        if job.notes[way.planned] and way.note not in job.notes:
            outcome = _tried(job, trials, way, facts)
            job.notes |= {way.note: outcome.better} | ({way.late: True} if outcome.late else {})
            job.keep()
            facts = job.run(finish=False)[0] if outcome.better else facts
    return facts


@dataclass(frozen=True)
class _Way:
    """Another way to plan.

    Attributes:
        name: Name of its folder.
        planned: Note that there is time for it.
        note: Note of its outcome, true if it is better.
        late: Note that it was given up.
        share: The part of the time that is left which it may take.
        label: Its name in a sentence.
    """

    name: str
    planned: str
    note: str
    late: str
    share: float
    label: str


_WAYS = (
    _Way("own-basis", "compared", "unrotated", "uncompared", _BASIS_SHARE, "of the model as it is"),
    _Way("sensitivities", "measured", "by_curves", "unmeasured", _ANA_SHARE, "by sensitivities"),
)


def _tried(job: _Job, trials: PlanComparison, way: _Way, facts: Facts) -> Outcome:
    """Try another way, and tell its outcome."""
    before = dict(job.notes)
    job.notes |= {way.note: True}
    recipe = job.recipe()
    job.notes = before
    outcome = trials.tried(way.name, recipe, facts, _LATE * way.share * job.left_s)
    if outcome.score is None:
        why = "it took too long" if outcome.late else outcome.reason
        job.tell(f"no plan {way.label}: {why}")
        return outcome
    end = "is kept" if outcome.better else "is dropped"
    job.tell(
        f"the plan {way.label} {end}: {trials.metric} {outcome.score:.4g}, before it {outcome.other:.4g}"
    )
    return outcome


def _recorded(options: ShrinkOptions) -> float:
    """Return the seconds of the steps in the work folder."""
    try:
        return float(sum(step["duration_s"] for step in read_state(options.folder)["steps"].values()))
    except UsageError:
        return 0.0


def _earlier(options: ShrinkOptions) -> Facts:
    """Return the decisions of an earlier run of the same job; none where there was none."""
    try:
        notes = json.loads((options.folder / NOTES).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) and notes.get("job") == _identity(options) else {}


def _identity(options: ShrinkOptions) -> Facts:
    """Return the identity of a job, ready for JSON."""
    data = {name: identity(spec) for name, spec in (("data", options.data), ("val", options.val)) if spec}
    chosen: Facts = {
        "reductions": options.reductions(),
        "max_drop": options.max_drop,
        "minutes": options.minutes,
    }
    chosen |= {"latency_backend": options.latency_backend} if options.latency_backend else {}
    chosen |= {"metric": options.metric, **options.groups, "open_io": options.open_io, "seed": options.seed}
    found: Facts = json.loads(json.dumps({"model": sha256(options.model), "data": data, **chosen}))
    return found


def _forecast(job: _Job) -> Facts:
    """Time the model, and return the forecast of the measurements that depend on it."""
    options = job.options
    job.notes = {"bench_runs": 1}
    recipe = job.recipe()
    data = RecipeData(recipe, job.model, job.threads).dataset("calibration")
    pace = Pace.measured(job.model, data, job.threads)
    read = sized(job.model, dict(options.input_shapes), dict(options.dims))
    channels = find_channels(read, allow_inexact=options.allow_inexact)
    seconds = 60 * options.minutes
    samples = min(data.samples or ANA_SAMPLES, pace.plan_samples(seconds))
    free = options.rotate == "auto" and "latency" not in options.reductions()
    job.notes = {
        "job": _identity(options),
        "run_s": pace.run_s,
        "ana_s": pace.ana_s(channels, len(recipe.ana.ratios), samples),
        "rotated": free and can_rotate(read, options.exclude, options.only),
        "bench_runs": pace.bench_runs(seconds),
        "plan_samples": pace.plan_samples(seconds),
    }
    return job.notes


def _described(job: _Job) -> list[str]:
    """State the steps to come."""
    from onnxprune.app.figures import duration

    options, outlook = job.options, job.outlook
    demands = [f"−{amount:.0%} {kind}" for kind, amount in options.reductions().items()]
    demands += [f"at most {options.max_drop:g} of the metric lost"] if options.max_drop is not None else []
    choices = f"{outlook.suited.reason}, training by {outlook.loss}"
    judged = options.val or "a fifth of the data, which is not trained on"
    metric = options.metric or outlook.metric
    return [
        f"{options.model}: {', '.join(demands)}; {choices}; judged by {metric} on {judged}",
        f"{duration(60 * options.minutes)} in all: first a result without training, then better plans and"
        " training as time allows",
    ]


def _decide_plan(job: _Job, facts: Facts, int8: bool) -> str:
    """Note which searches for a better plan there is time for; return a sentence on them.

    The first result has shown the time of a plan with its repair, and that of the end. Time that training
    does not need belongs to the searches.
    """
    from onnxprune.app.figures import duration

    notes, plan = job.notes, job.took_s("prune", "recover")
    end = job.took_s("transform", "bench") or _END_OF_PLAN * plan
    notes["end_s"] = (_INT8_SHARE if int8 else _END_SHARE) * (end + job.took_s("score"))
    need = _training_need(job, facts)
    left, spare = job.left_s, max(0.0, job.left_s - need / _TRAIN_SHARE)
    trial = _TRIAL * plan
    compared = notes["rotated"] and trial < max(_BASIS_SHARE * left, spare)
    spare -= trial if compared else 0.0
    ana = notes["ana_s"] + job.took_s("recover") + plan * job.rounds
    measured = ana < max(_ANA_SHARE * left, spare)
    notes |= {"compared": compared, "measured": measured}
    job.keep()
    parts = [f"the plan of the model as it is, about {duration(trial)}"] if compared else []
    parts += [f"sensitivities, about {duration(ana)}"] if measured else []
    parts += [f"training, up to {duration(need)}"] if need else []
    done = f"first plan after {duration(job.spent_s)}"
    return f"{done}; next: {'; '.join(parts)}" if left and parts else f"{done}; no time is left for more"


def _training_need(job: _Job, facts: Facts) -> float:
    """Return the seconds that training can use at most; 0 where the model cannot be trained."""
    if not job.left_s:
        return 0.0
    try:
        epoch_s = _epoch_seconds(job, facts)
    except TrainingError as error:
        job.notes |= {"epochs": 0, "untrained": f"{error.message}; {error.hint}"}
        return 0.0
    job.notes["epoch_s"] = epoch_s
    if _TRAIN_SHARE * job.left_s < _LEAST_PART * job.rounds * epoch_s:
        return 0.0
    return min(job.left_s, job.rounds * MOST_EPOCHS * epoch_s)


def _decide_training(job: _Job, facts: Facts) -> None:
    """Note the number of epochs of each iteration that fit into the time."""
    job.notes.setdefault("epochs", 0)
    if job.left_s and "untrained" not in job.notes:
        epoch_s = job.notes.get("epoch_s") or _epoch_seconds(job, facts)
        job.notes["answers_s"] = _answers_s(job)
        free = job.left_s - job.rounds * job.notes["answers_s"]
        fitting = max(0.0, _TRAIN_SHARE * free / job.rounds / max(epoch_s, 1e-9))
        job.notes["epochs"] = round(min(MOST_EPOCHS, fitting)) if fitting >= 1 else 0
        if _LEAST_PART <= fitting < 1:
            data = RecipeData(job.recipe(1), job.model, job.threads).dataset("train")
            job.notes |= {"epochs": 1, "samples": max(1, int(fitting * data.count()))}
    job.keep()


def _answers_s(job: _Job) -> float:
    """Return the seconds that the teacher takes to answer all training samples."""
    recipe = job.recipe(1)
    if asks_teacher(recipe.finetune.loss) is False:
        return 0.0
    return RecipeData(recipe, job.model, job.threads).dataset("train").count() * float(job.notes["run_s"])


def _epoch_seconds(job: _Job, facts: Facts) -> float:
    """Return the seconds of an epoch of the sparse model, with the judging of its weights."""
    recipe, options = job.recipe(1), job.options
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
        seed=options.seed,
    )
    sparse = load(options.folder / str(facts["sparse"]))
    return epoch_seconds(step, sparse, data) + job.took_s("score") / 2


def _delivered(job: _Job, facts: Facts, missed: MissedError | None) -> Facts:
    """Write the result to its place and gather the facts to report."""
    options = job.options
    dense = load(options.folder / str(facts["dense"]))
    shapes = dict(sized(job.model, dict(options.input_shapes), dict(options.dims)).sizes)
    fits = same_interface(job.model, dense)
    how: Facts = {"data": options.data, "shapes": shapes or None} if fits else {}
    size = write_model(dense, options.output, inputs=[options.model], **how)
    state = read_state(options.folder)["steps"]
    steps = {name: step["facts"] for name, step in state.items()}
    found = {
        "model": options.model,
        "output": options.output,
        "folder": str(options.folder),
        "metric": steps["transform"]["metric"],
        "rows": _rows(steps, size),
        "batch_size": steps["bench"]["batch_size"],
        "threads": steps["bench"]["threads"],
        "epochs": job.notes.get("epochs", 0),
        "reason": "the latency is not reached" if _missed_latency(options, steps) else facts["reason"],
        "max_rel_error": steps["transform"]["max_rel_error"],
        "seconds": round(job.spent_s, 1),
        "warnings": _warnings(job, steps),
    }
    if missed is not None:
        hint = f"the best one is written, {options.output}: allow a larger --max-drop, or give more --minutes"
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
    warnings = []
    if not job.notes["epochs"]:
        why = job.notes.get("untrained", "there was no time left, give more --minutes")
        warnings.append(f"nothing was trained: {why}")
    if "unmeasured" in job.notes:
        warnings.append(
            "the plan follows no sensitivities: measuring them took too long, give more --minutes"
        )
    if missed := _missed_latency(job.options, steps):
        hint = "exclude less, or ask for more" if job.options.exclude or job.options.only else "ask for more"
        warnings.append(f"{missed}: {hint}")
    return warnings


def _missed_latency(options: ShrinkOptions, steps: Facts) -> str:
    """Return a sentence on a latency that is not reached; empty where it is, or was not asked for."""
    target, times = options.reductions().get("latency"), steps["bench"]["models"]
    reached = 1 - times["dense"]["latency_ms"] / times["original"]["latency_ms"]
    if target is None or reached >= target - _CLOSE:
        return ""
    return f"the latency fell by {reached:.1%}, not by {target:.1%}"


def judged_data(options: ShrinkOptions) -> Dataset:
    """Return the data by which a job judges."""
    model = load(options.model)
    recipe = recipe_for(options, Outlook.on(model, options.data), 0, False)
    return RecipeData(recipe, model, options.threads or usable_processors()).dataset("val")


def page_of(folder: Path) -> str | None:
    """Write the page of a job; return its path, ``None`` where the package for it is not installed."""
    from importlib.util import find_spec

    from onnxprune.app.report import collect, render

    if find_spec("jinja2") is None:
        return None
    write_text(folder / "report.html", render(collect(folder)))
    return str(folder / "report.html")
