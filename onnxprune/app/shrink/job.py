"""The order of the work: a first result the cheapest way, then better plans and training."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from onnxprune.analysis.groups.channels import find_channels
from onnxprune.app.runner.journal import Listener
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.runner.start_stages import can_rotate
from onnxprune.app.shrink.delivery import delivered
from onnxprune.app.shrink.first_plan import DESCRIBED, first_plan
from onnxprune.app.shrink.job_state import Facts, ShrinkJob, earlier_notes, job_identity, recorded_s
from onnxprune.app.shrink.plan_comparison import Outcome, PlanComparison
from onnxprune.app.shrink.recipe_choice import ANA_SAMPLES, Outlook, ShrinkOptions
from onnxprune.app.shrink.shrink_forecast import LEAST_SAMPLES, MOST_EPOCHS, Pace, epoch_seconds
from onnxprune.errors import (
    OutOfReachError,
    TrainingError,
)
from onnxprune.evaluate.metrics import get_metric
from onnxprune.ir import load, opened, sized
from onnxprune.passes.finetune import Finetune
from onnxprune.support.common_options import cost_label
from onnxprune.train.losses import asks_teacher

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
_INT8_SHARE = 3.0
"""The same where quantisation follows: four models are judged and timed."""
_LATE = 1.5
"""A search that takes longer than its share, multiplied by this, is given up."""


def shrink(
    options: ShrinkOptions,
    listen: Listener = lambda event: None,
    tell: Callable[[str], None] = lambda line: None,
    *,
    int8: bool = False,
) -> Facts:
    """Do the whole job, or the rest of an interrupted one.

    The first plan is made by the best way that fits into the time. Better plans are looked for, and weights
    trained, as far as the forecast and then the clock allow.

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
    if options.metric is not None:
        get_metric(options.metric)
    model = opened(load(options.model), options.open_io)
    job = ShrinkJob(options, Outlook.on(model, options.data), model, {}, listen, tell, begin=begin)
    job.notes = earlier_notes(options)
    job.earlier_s = max(job.notes.get("spent_s", 0.0), recorded_s(options) if job.notes else 0.0)
    job.notes = job.notes or _forecast(job)
    for line in _described(job):
        tell(line)
    job.keep()
    if "measured" not in job.notes:
        facts = first_plan(job)
        if job.spent_s < _EARLY * 60 * options.minutes:
            job.run()  # an early result, and the time of the end
        tell(_decide_plan(job, facts, int8))
    if "epochs" not in job.notes:
        _decide_training(job, _planned(job))
        if job.notes["epochs"]:
            count = job.notes["epochs"]
            epochs = "1 epoch" if count == 1 else f"{count} epochs"
            tell(f"training: {epochs} at most, {job.outlook.loss}; the best one is kept")
    return delivered(job, *job.run())


def _planned(job: ShrinkJob) -> Facts:
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


def _tried(job: ShrinkJob, trials: PlanComparison, way: _Way, facts: Facts) -> Outcome:
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


def _forecast(job: ShrinkJob) -> Facts:
    """Time the model, and return the forecast of the measurements that depend on it."""
    options = job.options
    job.notes = {"bench_runs": 1}
    recipe = job.recipe()
    data = RecipeData(recipe, job.model, job.threads).dataset("calibration")
    pace = Pace.measured(job.model, data, job.threads)
    read = sized(job.model, dict(options.input_shapes), dict(options.dims))
    channels = find_channels(read, allow_inexact=options.allow_inexact)
    seconds = 60 * options.minutes
    few = pace.plan_samples(seconds)
    samples = min(data.samples or ANA_SAMPLES, few)
    way = pace.way(samples, seconds)
    free = options.rotate == "auto" and "latency" not in options.reductions()
    job.notes = {
        "job": job_identity(options),
        "run_s": pace.loaded_s,
        "ana_s": pace.ana_s(channels, len(recipe.ana.ratios), samples),
        "rotated": free and can_rotate(read, options.exclude, options.only),
        "bench_runs": pace.bench_runs(seconds),
        "plan_samples": few if way == "samples" else min(few, LEAST_SAMPLES),
        "way": way,
        "repair_s": pace.repair_s(),
        "judged": pace.judged(seconds),
        "proof_s": pace.end_s(),
    }
    return job.notes


def _described(job: ShrinkJob) -> list[str]:
    """State the steps to come."""
    from onnxprune.app.figures import duration

    options, outlook = job.options, job.outlook
    demands = [f"−{amount:.0%} {cost_label(kind)}" for kind, amount in options.reductions().items()]
    demands += [f"at most {options.max_drop:g} of the metric lost"] if options.max_drop is not None else []
    choices = f"{outlook.suited.reason}, training by {outlook.loss}"
    judged = options.val or "a fifth of the data, which is not trained on"
    metric = options.metric or outlook.metric
    cheaper = DESCRIBED.get(job.way)
    few = [f"for this model that is little time: {cheaper}"] if cheaper else []
    return [
        f"{options.model}: {', '.join(demands)}; {choices}; judged by {metric} on {judged}",
        f"{duration(60 * options.minutes)} in all: first a result without training, then better plans and"
        " training as time allows",
        *few,
    ]


def _decide_plan(job: ShrinkJob, facts: Facts, int8: bool) -> str:
    """Note which searches for a better plan there is time for; return a sentence on them.

    The first result has shown the time of a plan with its repair, and that of the end. Time that training
    does not need belongs to the searches.
    """
    from onnxprune.app.figures import duration

    notes, plan = job.notes, job.took_s("prune", "recover")
    end = job.took_s("transform", "bench") or notes["proof_s"]
    notes["end_s"] = (_INT8_SHARE if int8 else _END_SHARE) * (end + job.took_s("score"))
    need = _training_need(job, facts)
    left, spare = job.left_s, max(0.0, job.left_s - need / _TRAIN_SHARE)
    trial = _TRIAL * plan
    rotated = notes["rotated"] and job.way == "samples"
    compared = rotated and trial < max(_BASIS_SHARE * left, spare)
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


def _training_need(job: ShrinkJob, facts: Facts) -> float:
    """Return the seconds that training can use at most; 0 where the model cannot be trained."""
    if not job.left_s:
        return 0.0
    try:
        epoch_s = _epoch_seconds(job, facts)
    except TrainingError as error:
        job.notes |= {"epochs": 0, "untrained": "; ".join(filter(None, (error.message, error.hint)))}
        return 0.0
    job.notes["epoch_s"] = epoch_s
    if _TRAIN_SHARE * job.left_s < _LEAST_PART * job.rounds * epoch_s:
        return 0.0
    return min(job.left_s, job.rounds * MOST_EPOCHS * epoch_s)


def _decide_training(job: ShrinkJob, facts: Facts) -> None:
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


def _answers_s(job: ShrinkJob) -> float:
    """Return the seconds that the teacher takes to answer all training samples."""
    recipe = job.recipe(1)
    if asks_teacher(recipe.finetune.loss) is False:
        return 0.0
    return RecipeData(recipe, job.model, job.threads).dataset("train").count() * float(job.notes["run_s"])


def _epoch_seconds(job: ShrinkJob, facts: Facts) -> float:
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
