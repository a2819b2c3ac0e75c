"""Trials of other plans, each in a work folder of its own; the better one is taken over into that of the job.

The steps that two ways share are done once: a trial begins with those of the job, and the job goes on with
the steps of a trial that is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner import run
from onnxprune.app.runner.journal import Facts, Listener
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.runner.stages import Round
from onnxprune.app.runner.take_over import take_over
from onnxprune.errors import MissedError, OnnxpruneError
from onnxprune.evaluate.metrics import Metric, baseline_outputs, evaluate, get_metric
from onnxprune.ir import Model, load
from onnxprune.runtime import Session
from onnxprune.support.time_limit import TimeUpError, time_limit

JUDGED = 2048
"""Samples of the validation data that plans are compared on."""
SHARED = ("baseline", "rotate")
"""Steps that do not depend on the plan."""
Rank = tuple[float, float]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        better: True if its plan was taken over.
        score: Its score; ``None`` where there is none.
        other: The score of the plan that it was compared with.
        reason: Why it is not better, where its score does not say so.
        late: True if it was given up because it took too long.
    """

    better: bool
    score: float | None = None
    other: float = math.nan
    reason: str = ""
    late: bool = False


@dataclass
class PlanComparison:
    """The comparison of plans on the validation data, each repaired and untrained.

    Attributes:
        folder: Work folder of the job.
        recipe: Recipe of the job; that of a trial may differ in any step.
        model: The original.
        threads: Threads to compute with.
        metric: Metric of the comparison.
        by_reduction: True where the quality is the limit, so that the plan that removes more is the better.
        listen: Called with the event of every step.
    """

    folder: Path
    recipe: Recipe
    model: Model
    threads: int
    metric: str
    by_reduction: bool
    listen: Listener
    _known: dict[Path, float] = field(default_factory=dict)

    def tried(self, name: str, recipe: Recipe, best: Facts, seconds: float) -> Outcome:
        """Plan and repair by another recipe, and take the steps over where the result is better.

        Args:
            name: Name of its folder.
            recipe: The recipe, which may name any folder.
            best: Facts of the run that is to be beaten.
            seconds: Time limit.
        """
        place = self.folder / "trials" / name
        own = recipe.model_copy(update={"folder": str(place)})
        take_over(place, self.folder, SHARED if recipe.prune.rotate == "always" else SHARED[:1])
        try:
            with time_limit(seconds):
                facts = _untrained(own, self.listen)
                rank = self._rank(place, facts)
        except TimeUpError:
            return Outcome(False, late=True)
        except OnnxpruneError as error:
            return Outcome(False, reason=error.message)
        better = rank < self._rank(self.folder, best)
        score, other = self._known[place], self._known[self.folder]
        if better:
            take_over(self.folder, place)
            self._known[self.folder] = score
        return Outcome(better, score, other)

    def _rank(self, folder: Path, facts: Facts) -> Rank:
        """Return the figures that plans are compared by; the smaller are the better."""
        best = next(i for i in facts["iterations"] if i["number"] == facts["best_iteration"])
        if folder not in self._known:
            place = folder / Round.iteration(best["number"]).folder
            self._known[folder] = self._score(load(place / "recovered.onnx"))
        reached = best["asked"] if self.by_reduction and best["good"] else 0.0
        return -reached, -self._judge.rank(self._known[folder])

    def _score(self, model: Model) -> float:
        material = RecipeData(self.recipe, self.model, self.threads)
        data = material.dataset("val").take(JUDGED)
        original = Session(self.model.proto, threads=self.threads)
        baseline = baseline_outputs(original, data) if self._judge.uses_baseline else None
        return evaluate(Session(model.proto, threads=self.threads), data, self._judge, baseline=baseline)

    @property
    def _judge(self) -> Metric:
        return get_metric(self.metric)


def _untrained(recipe: Recipe, listen: Callable[[Facts], None]) -> Facts:
    try:
        return run(recipe, listen, finish=False)
    except MissedError as error:
        return error.facts
