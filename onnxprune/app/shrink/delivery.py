"""The result of a shrink: the file, its figures, the requests that were not met."""

from __future__ import annotations

from pathlib import Path

from onnxprune.app.runner import read_state
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.shrink.first_plan import DESCRIBED
from onnxprune.app.shrink.job_state import Facts, ShrinkJob, earlier_notes
from onnxprune.app.shrink.recipe_choice import Outlook, ShrinkOptions, recipe_for
from onnxprune.decisions.channels.dense_interface import same_interface
from onnxprune.errors import (
    MissedError,
)
from onnxprune.evaluate.data import Dataset
from onnxprune.ir import load, sized
from onnxprune.ir.output import write_model, write_text
from onnxprune.support.processors import usable_processors

_OVER = 1.25
"""A job that takes longer than its minutes, multiplied by this, ends with a warning."""
_CLOSE = 0.02
"""A latency that misses its target by more is warned of."""


def delivered(job: ShrinkJob, facts: Facts, missed: MissedError | None) -> Facts:
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


def _warnings(job: ShrinkJob, steps: Facts) -> list[str]:
    """State the requests that were not met."""
    warnings = []
    if not job.notes["epochs"]:
        why = job.notes.get("untrained", "there was no time left, give more --minutes")
        warnings.append(f"nothing was trained: {why}")
    if job.way in DESCRIBED:
        warnings.append(f"the plan is a cheaper one, give more --minutes: {DESCRIBED[job.way]}")
    if job.spent_s > _OVER * 60 * job.options.minutes:
        warnings.append(f"more than the {job.options.minutes:g} minutes were needed: {job.spent_s / 60:.2g}")
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
    few = {"val_limit": earlier_notes(options).get("judged")}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=few)})
    return RecipeData(recipe, model, options.threads or usable_processors()).dataset("val")


def page_of(folder: Path) -> str | None:
    """Write the page of a job; return its path, ``None`` where the package for it is not installed."""
    from importlib.util import find_spec

    from onnxprune.app.report import collect, render

    if find_spec("jinja2") is None:
        return None
    write_text(folder / "report.html", render(collect(folder)))
    return str(folder / "report.html")
