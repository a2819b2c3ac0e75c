"""The order of the steps, when to stop, and which iteration is the best."""

from __future__ import annotations

import contextlib
import platform
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from onnxprune.app.recipe import Recipe
from onnxprune.app.runner.journal import Facts, Journal, Listener, open_journal
from onnxprune.app.runner.recipe_data import RecipeData
from onnxprune.app.runner.run_forecast import Forecast, planned_steps
from onnxprune.app.runner.stages import DENSE, FIRST_ANALYSIS, ONE_SHOT, PATTERN, Round, Stages
from onnxprune.app.runner.time_limits import TimeLimits
from onnxprune.app.runner.tracking import tracking
from onnxprune.errors import MissedError, NothingToDoError, OnnxpruneError, PlanError
from onnxprune.ir import load, opened
from onnxprune.runtime import runtime_info
from onnxprune.support.path_guard import check_folder, check_readable
from onnxprune.support.processors import usable_processors
from onnxprune.support.progress import Task, task
from onnxprune.train.engines import candidates
from onnxprune.train.settings import parse_loss


@dataclass(frozen=True)
class Iteration:
    """One round of pruning and training.

    Attributes:
        number: Counted from 1; 0 is the original.
        target: The demanded reduction.
        reduction: The reached one.
        score: The metric on the validation data.
        model: Its sparse model, within the folder.
        good: True if it is not below the floor, or by no more than its noise.
        noise: Standard error of its score, compared with the original's; 0 where it was not needed.
    """

    number: int
    target: float
    reduction: float
    score: float
    model: str = ""
    good: bool = True
    noise: float = 0.0


@dataclass
class _Loop:
    """A run under way, with its finished iterations.

    Attributes:
        recipe: The recipe.
        stages: The steps.
        path: The original, and the iterations that each went on from the one before.
        floor: Least value of the metric of a result; ``None`` for none.
        low: The same for an iteration that others follow.
        sign: 1 if more of the metric is better, else −1.
        pending: Reductions still to be tried.
        done: All iterations, dropped ones included.
        reason: The reason why it ended.
        final: The sparse model that is made dense, once it is known.
    """

    recipe: Recipe
    stages: Stages
    path: list[Iteration]
    floor: float | None
    low: float | None
    sign: int
    pending: deque[float]
    done: list[Iteration] = field(default_factory=list)
    reason: str = "the schedule is done"
    final: str = ""

    @classmethod
    def open(cls, recipe: Recipe, stages: Stages) -> _Loop:
        facts, stop = stages.baseline().facts, recipe.stop
        sign = 1 if facts["higher_is_better"] else -1

        def below(drop: float | None) -> float | None:
            limits = [stop.floor] if stop.floor is not None else []
            limits += [facts["score"] - sign * drop] if drop is not None else []
            return max(limits, key=lambda limit: sign * limit) if limits else None

        floor, low = below(stop.max_drop), below(stop.max_drop)
        if stop.early_drop is not None:
            low = facts["score"] - sign * stop.early_drop
        planned = deque(recipe.schedule.planned(recipe.budget.target))
        return cls(recipe, stages, [Iteration(0, 0.0, 0.0, facts["score"])], floor, low, sign, planned)

    def begin(self, stages: Stages) -> None:
        """Take the steps, and the reduction of the model that they begin with."""
        self.stages = stages
        self.path[0] = replace(self.path[0], reduction=stages.reduction)

    @property
    def last(self) -> Iteration:
        """The iteration to go on from."""
        return self.path[-1]

    @property
    def best(self) -> Iteration:
        """The furthest iteration that may be the result; the original if there is none."""
        return next(i for i in reversed(self.path) if i.good)

    @property
    def result(self) -> Iteration:
        """The iteration that is made dense: the best; where all missed the floor, that of the best score."""
        if self.best.number or not self.done:
            return self.best
        return max(self.done, key=lambda i: (self.sign * i.score, -i.number))

    def run(self) -> None:
        """Iterate until the target is reached, an iteration falls below the floor, or no channel can go."""
        retries = self.recipe.stop.retries
        while self.pending:
            target = self.pending.popleft()
            if target <= self.last.reduction:
                continue
            try:
                iteration = self._iterate(target)
            except (PlanError, NothingToDoError) as error:
                if not self.last.number:
                    raise
                self.reason = error.message
                return
            self.done.append(iteration)
            if iteration.good or (self.pending and self._reaches(iteration.score, self.low)):
                self.path.append(iteration)
                continue
            self.reason = f"iteration {iteration.number} fell below the floor of {self.floor:.6g}"
            self.reason += f" by more than its noise of {iteration.noise:.2g}" if iteration.noise else ""
            self.path = self.path[: self.path.index(self.best) + 1]
            self.pending = deque([(self.last.reduction + target) / 2] if retries else [])
            retries -= 1
        if self.best.target == self.recipe.budget.target:
            self.reason = "the target is reached"
            if not self._reaches(self.best.score, self.floor):
                self.reason += f", within noise of the floor of {self.floor:.6g} (± {self.best.noise:.2g})"

    def finish(self) -> None:
        """Make the best iteration dense and measure how fast all are."""
        final = self._final()
        self.stages.transform(self.stages.rows(final) if self.recipe.vocabulary.enabled else final, final)
        models = {str(i.number): i.model for i in self.done if i is not self.result}
        if self.recipe.compare.one_shot and self.best.number:
            models[ONE_SHOT.name] = self._at_once()
        dense = self.final if self.recipe.vocabulary.enabled else DENSE  # which takes the ids of the samples
        self.stages.bench(models | {"dense": dense}, self.final)

    def _final(self) -> str:
        """Return the model to be made dense: the result, with a pattern of zeros if the recipe has one."""
        recipe, stages, self.final = self.recipe, self.stages, self.result.model
        if not recipe.sparsify.enabled:
            return self.final
        sparse, entry = stages.sparsify(PATTERN, self.final)
        if entry.facts.get("unchanged"):
            self.reason += f"; no weight can follow the pattern {recipe.sparsify.pattern}"
            return self.final
        made = [sparse]
        epochs = recipe.sparsify.epochs
        epochs = self._epochs(recipe.budget.target) if epochs is None else epochs
        if epochs:
            made.append(stages.finetune(PATTERN, made[-1], epochs, True))
        model, score = stages.score(PATTERN, made if recipe.finetune.keep == "best" else made[-1:])
        noise = 0.0 if self._reaches(score, self.floor) else stages.noise(PATTERN, model)
        if self._reaches(score, self.floor, noise):
            self.final = model
        else:
            self.reason += f"; without the pattern {recipe.sparsify.pattern}, which fell to {score:.6g}"
        return self.final

    def facts(self) -> Facts:
        """Return how it went, ready for JSON."""
        of = f"{self.recipe.budget.of}_reduction"
        patterned = self.final not in ("", self.result.model)
        return {
            "reason": self.reason,
            "pattern": self.recipe.sparsify.pattern if patterned else None,
            "floor": self.floor,
            "missed": not self.best.number,
            "best_iteration": self.result.number,
            "sparse": self.final or self.result.model,
            "dense": DENSE,
            "iterations": [
                {"number": i.number, "asked": i.target, of: i.reduction, "score": i.score}
                | {"good": i.good, "noise": i.noise}
                for i in self.done
            ],
        }

    def check(self, facts: Facts) -> None:
        """Refuse to call a run done whose every result is below the floor.

        Raises:
            MissedError: With the facts of the run.
        """
        if not self.best.number:
            raise MissedError(
                f"no iteration stays above the floor: {self.recipe.metric} {self.result.score:.6g},"
                f" asked for {self.floor:.6g}; {self.reason}",
                f"the best one is written, {Path(str(self.recipe.folder)) / DENSE}: allow a larger"
                " stop.max_drop, train for more epochs, or begin with a smaller reduction",
                facts,
            )

    def _iterate(self, target: float) -> Iteration:
        recipe, stages, number = self.recipe, self.stages, len(self.done) + 1
        at, given = Round.iteration(number), self.last.model or stages.start or recipe.model
        analysis = self._analysis(at, given)
        model, pruned = stages.prune(at, given, analysis, target)
        made = self._mend(at, model, self._epochs(target), target == recipe.budget.target)
        model, score = stages.score(at, made)
        noise = 0.0 if self._reaches(score, self.floor) else stages.noise(at, model)
        good = self._reaches(score, self.floor, noise)
        reduction = pruned.facts.get(f"{recipe.budget.of}_reduction", target)
        return Iteration(number, target, reduction, score, model, good, noise)

    def _reaches(self, score: float, limit: float | None, noise: float = 0.0) -> bool:
        return limit is None or self.sign * score + noise >= self.sign * limit

    def _analysis(self, at: Round, given: str) -> str | None:
        """Return the file of the sensitivities to go by, measured anew or not."""
        if not self.recipe.ana.enabled:
            return None
        return self.stages.ana(at, given) if self.recipe.ana.repeat or not self.done else FIRST_ANALYSIS

    def _at_once(self) -> str:
        """Prune by the best iteration's reduction in one round, with as much training; return the file."""
        recipe, stages = self.recipe, self.stages
        analysis = FIRST_ANALYSIS if recipe.ana.enabled else None
        model, _ = stages.prune(ONE_SHOT, stages.start or recipe.model, analysis, self.best.target)
        epochs = sum(self._epochs(i.target) for i in self.path[1 : self.path.index(self.best) + 1])
        made = self._mend(ONE_SHOT, model, epochs, final=True)
        return stages.score(ONE_SHOT, made, stages.finals())[0]

    def _mend(self, at: Round, model: str, epochs: int, final: bool) -> list[str]:
        """Recover and finetune a pruned model.

        Returns:
            The files that may be the result: the pruned model and all models made of it, or the last of
            these alone where validation data must not influence the weights.
        """
        made = [model]
        if self.recipe.recover.enabled:
            made.append(self.stages.recover(at, made[-1]))
        if epochs:
            made.append(self.stages.finetune(at, made[-1], epochs, final))
        return made if self.recipe.finetune.keep == "best" else made[-1:]

    def _epochs(self, target: float) -> int:
        options = self.recipe.finetune
        final = target == self.recipe.budget.target and options.last_epochs is not None
        return (options.last_epochs if final else options.epochs) or 0


def run(
    recipe: Recipe,
    listen: Listener = lambda event: None,
    *,
    limits: TimeLimits | None = None,
    finish: bool = True,
) -> Facts:
    """Do all steps of a recipe that are not done yet.

    Args:
        recipe: Recipe to follow, its paths absolute.
        listen: Called with an event as a step begins (``start``), ends (``done``) or is found done
            (``kept``), with the seconds of all steps to come (``remaining_s``) once they are known.
        limits: Seconds that single steps may take.
        finish: False for the iterations alone: nothing is made dense, proven or timed, and the steps of an
            earlier recipe stay.

    Returns:
        Record of the run, ready for JSON; the same is in ``state.json`` in the folder.

    Raises:
        MissedError: The result is written, and below the floor.
        OnnxpruneError: A step failed. The steps before stay done.
        TimeUpError: A step took longer than it may.
    """
    check_readable(_reads(recipe))
    check_folder(Path(str(recipe.folder)), _reads(recipe))
    original = opened(load(recipe.model), recipe.open_io)
    with task("run", total=len(planned_steps(recipe))) as progress, contextlib.ExitStack() as stack:
        relay = _EventRelay(listen, progress, Forecast(planned_steps(recipe)))
        journal = stack.enter_context(open_journal(Path(str(recipe.folder)), relay))
        relay.track = stack.enter_context(tracking(recipe, journal.header, relay.report_failure))
        threads = recipe.threads or journal.header.get("threads") or usable_processors()
        material = RecipeData(recipe, original, int(threads))
        if recipe.finetune.epochs or recipe.finetune.last_epochs:
            candidates(recipe.finetune.engine)  # that it is missing should show now, not in an hour
        kept = journal.header.get("result")
        journal.header |= {"recipe": recipe.model_dump(mode="json"), "threads": threads, "result": None}
        journal.header.setdefault("made_with", _versions())
        stages = Stages(recipe, journal, material, limits=limits or TimeLimits())
        loop = _Loop.open(recipe, stages)
        with _recording_stop(journal):
            loop.begin(loop.stages.rotated().factorized())
            loop.run()
            if finish:
                loop.finish()
        others = finish and set(journal.entries) - set(journal.visited)
        dropped = journal.forget_others() if others else []
        unchanged = not journal.worked and not dropped and kept is not None
        journal.header["result"] = loop.facts()
        if journal.worked:
            journal.header["made_with"] = _versions()
        journal.save()
    worked = {"steps_done": journal.worked, "steps_kept": len(journal.visited) - journal.worked}
    facts = {"folder": recipe.folder, "unchanged": unchanged, "dropped": dropped, **worked, **loop.facts()}
    loop.check(facts)
    return facts


@contextlib.contextmanager
def _recording_stop(journal: Journal) -> Iterator[None]:
    """Record the error that stops a run in the state of its folder, for the page."""
    journal.header.pop("stopped", None)
    try:
        yield
    except OnnxpruneError as error:
        journal.header["stopped"] = error.message
        journal.save()
        raise


def _reads(recipe: Recipe) -> list[str]:
    """Return everything a recipe names that is read."""
    data = recipe.data
    found = [
        recipe.model,
        data.train,
        data.val,
        data.calibration,
        data.test,
        recipe.metric,
        recipe.ana.metric,
        recipe.vocabulary.keep_rows,
    ]
    return [name for name in (*found, *(term.name for term in parse_loss(recipe.finetune.loss))) if name]


@dataclass
class _EventRelay:
    """Passes events on, each with the estimated duration of all steps to come."""

    listen: Listener
    progress: Task
    forecast: Forecast
    track: Listener = lambda event: None

    def __call__(self, event: Facts) -> None:
        self.forecast.receive(event)
        self.track(event)
        if event["event"] != "start":
            self.progress.advance(1, note=event["step"])
        self.listen({**event, "remaining_s": self.forecast.remaining_s()})

    def report_failure(self, tracker: str, why: str) -> None:
        """Send the event of a tracker that has failed."""
        self.listen({"event": "untracked", "step": tracker, "because": [why]})


def _versions() -> Facts:
    """Return the facts needed to repeat a run, beside recipe and data."""
    runtime = runtime_info()
    return {
        "onnxprune": version("onnxprune"),
        runtime.package: runtime.version,
        "onnx": version("onnx"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
