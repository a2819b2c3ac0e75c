"""One shrink under way: its options, its decisions and the time it has taken."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner import read_state, run
from onnxprune.app.runner.journal import Listener, sha256
from onnxprune.app.runner.recipe_data import identity
from onnxprune.app.runner.run_files import provider_identity
from onnxprune.app.runner.run_forecast import kind_of
from onnxprune.app.runner.time_limits import TimeLimits
from onnxprune.app.shrink.recipe_choice import Outlook, ShrinkOptions, recipe_for
from onnxprune.app.shrink.shrink_forecast import Way
from onnxprune.errors import (
    MissedError,
    UsageError,
)
from onnxprune.ir import Model
from onnxprune.ir.output import write_text
from onnxprune.passes.basis_choice import RotateChoice
from onnxprune.support.path_guard import NOTES
from onnxprune.support.processors import usable_processors

Facts = dict[str, Any]


@dataclass
class ShrinkJob:
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
        """Threads to compute with."""
        return self.options.threads or usable_processors()

    @property
    def way(self) -> Way:
        """The way to plan."""
        way: Way = self.notes.get("way", "samples")
        return way

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
        if self.way != "samples":
            parts["prune"] = prune.model_copy(update={"criterion": "l2", "rotate": "never"})
            parts["recover"] = recipe.recover.model_copy(update={"enabled": self.way == "repaired"})
        if few := self.notes.get("plan_samples"):
            parts["ana"] = recipe.ana.model_copy(update={"samples": few})
            parts["recover"] = parts.get("recover", recipe.recover).model_copy(update={"samples": few})
        if judged := self.notes.get("judged"):
            parts["data"] = recipe.data.model_copy(update={"val_limit": judged})
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
        """Write the notes into the work folder."""
        self.notes["spent_s"] = round(self.spent_s, 1)
        self.options.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.options.folder / NOTES, json.dumps(self.notes, indent=1) + "\n")


def recorded_s(options: ShrinkOptions) -> float:
    """Return the seconds of the steps in the work folder."""
    try:
        return float(sum(step["duration_s"] for step in read_state(options.folder)["steps"].values()))
    except UsageError:
        return 0.0


def earlier_notes(options: ShrinkOptions) -> Facts:
    """Return the decisions of an earlier run of the same job; none where there was none."""
    try:
        notes = json.loads((options.folder / NOTES).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) and notes.get("job") == job_identity(options) else {}


def job_identity(options: ShrinkOptions) -> Facts:
    """Return the identity of a job, ready for JSON."""
    data = {name: identity(spec) for name, spec in (("data", options.data), ("val", options.val)) if spec}
    chosen: Facts = {
        "reductions": options.reductions(),
        "max_drop": options.max_drop,
        "minutes": options.minutes,
    }
    chosen |= {"latency_backend": options.latency_backend} if options.latency_backend else {}
    chosen |= provider_identity()
    chosen |= {"metric": options.metric, **options.groups, "open_io": options.open_io, "seed": options.seed}
    found: Facts = json.loads(json.dumps({"model": sha256(options.model), "data": data, **chosen}))
    return found
